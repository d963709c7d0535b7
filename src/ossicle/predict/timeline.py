"""One time axis in a page: what a front end heard, and below it the tags that a model named, each at its time."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ossicle.contracts import Tag
from ossicle.pictures import spectrogram
from ossicle.pictures.spectrogram import Spectrogram
from ossicle.predict.page import percent, text, words

NAMES = 8
TOLD = 3


@dataclass(frozen=True)
class Bar:
    """Where one tag was heard.

    Args:
        name: of the tag.
        score: its highest.
        parts: score, start and end of each stretch, in order and without overlap.
    """

    name: str
    score: float
    parts: tuple[tuple[float, float, float], ...]

    @property
    def spans(self) -> list[tuple[float, float]]:
        """Start and end of each stretch, those that touch taken together."""
        found: list[tuple[float, float]] = []
        for _, start, end in self.parts:
            if found and start <= found[-1][1]:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return found


def bars(tags: Sequence[Tag], seconds: float) -> list[Bar]:
    """The strongest tags within 0 to `seconds`, at most `NAMES`, strongest first.

    A tag may be heard several times. Where its stretches overlap, as those of overlapping windows do, the higher score
    counts.
    """
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name, score, start, end in tags:
        start, end = max(0.0, start), min(seconds, end)
        if start < end:
            found.setdefault(name, []).append((score, start, end))
    strongest = sorted(found.items(), key=lambda pair: -max(pair[1])[0])[:NAMES]
    return [Bar(name, max(parts)[0], tuple(_apart(parts))) for name, parts in strongest]


def _apart(parts: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Stretches that do not overlap, each with the highest score there."""
    edges = np.unique([second for _, start, end in parts for second in (start, end)])
    levels = np.full(len(edges) - 1, -1.0)
    for score, start, end in parts:
        first, last = np.searchsorted(edges, (start, end))
        levels[first:last] = levels[first:last].clip(min=score)
    found: list[tuple[float, float, float]] = []
    for level, start, end in zip(levels.tolist(), edges.tolist(), edges[1:].tolist(), strict=False):
        if level < 0:
            continue
        if found and found[-1][0] == level and found[-1][2] == start:
            found[-1] = (level, found[-1][1], end)
        else:
            found.append((level, start, end))
    return found


def shown(name: str, heard: Spectrogram | None, tags: Sequence[Tag], seconds: float) -> str:
    """The spectrogram with its axes, and the timeline of the tags below; either may be absent.

    Args:
        name: of the sound.
        heard: what a front end made of it.
        tags: in seconds of the sound.
        seconds: its length; 0 where it is not known, then the last tag's end.

    Raises:
        UsageError: if `heard` is no spectrogram.
    """
    seconds = seconds or max((end for *_, end in tags), default=0.0)
    parts = [_picture(name, heard, seconds)] if heard is not None else []
    if named := bars(tags, seconds):
        parts.append(_timeline(named, seconds))
    return f'<div class="scene">\n{"".join(parts)}</div>' if parts else ""


def _picture(name: str, heard: Spectrogram, seconds: float) -> str:
    png = base64.b64encode(spectrogram.png(heard, seconds)).decode("ascii")
    peaks = np.asarray(heard.peaks_hz) / 1000
    told = f"{seconds:.2f} seconds, {peaks[0]:.2f} to {peaks[-1]:.1f} kHz in {len(peaks)} mel bands"
    alt = text(f"Spectrogram of {name}, {told}")
    marks = "".join(
        f'<span style="bottom:{at:.2%}">{mark}</span>' for mark, at in spectrogram.ticks_khz(heard.peaks_hz)
    )
    return f"""<div class="heard"><div class="khz" aria-hidden="true"><span class="unit">kHz</span>{marks}</div>
<img src="data:image/png;base64,{png}" alt="{alt}"></div>
{_seconds(seconds)}
"""


def _seconds(seconds: float) -> str:
    marks = "".join(f'<span style="left:{at:.2%}">{mark}</span>' for mark, at in spectrogram.ticks_s(seconds))
    return f'<div class="seconds" aria-hidden="true"><span class="unit">s</span>{marks}</div>'


def _timeline(named: Sequence[Bar], seconds: float) -> str:
    ticks = spectrogram.ticks_s(seconds)
    step = ticks[1][1] if len(ticks) > 1 else 1.0
    rows = "".join(_row(bar, seconds) for bar in named)
    return f"""<div class="head"><span class="badge">tags, not judged</span></div>
<ol class="tags" aria-label="Tags over time, strongest first" style="--step:{step:.4%}">
{rows}</ol>
{_seconds(seconds)}
"""


def _row(bar: Bar, seconds: float) -> str:
    drawn = "".join(
        f'<span class="bar" aria-hidden="true" title="{words(bar.name)} {percent(score)}, {start:.2f} to {end:.2f} s" '
        f'style="left:{start / seconds:.2%};width:{(end - start) / seconds:.2%};opacity:{_opacity(score):.2f}"></span>'
        for score, start, end in bar.parts
    )
    return (
        f'<li>{drawn}<span class="name">{words(bar.name)}</span><span class="value">{percent(bar.score)}</span>'
        f'<span class="told">, {_told(bar.spans)}</span></li>\n'
    )


def _opacity(score: float) -> float:
    return 0.25 + 0.75 * min(1.0, max(0.0, score))


def _told(spans: Sequence[tuple[float, float]]) -> str:
    """Times in words, for who cannot see the bars."""
    told = [f"{start:.2f} to {end:.2f} s" for start, end in spans[:TOLD]]
    told += [f"{len(spans) - TOLD} more times"] if len(spans) > TOLD else []
    return ", ".join(told)
