"""One self-contained HTML page of what a model heard: picture, tags over time, caption, player and classes of a sound.

The page asks the network for nothing and runs no script, which its content security policy also forbids, so a file
name or label that looks like markup stays text.
"""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import ArrayLike, NDArray

import ossicle
from ossicle.contracts import Prediction
from ossicle.files import write_atomic
from ossicle.pictures.spectrogram import Spectrogram
from ossicle.predict import timeline
from ossicle.predict.page import document, percent, text, words

EMBEDDED_BYTES = 2_000_000
BARS = 5
COLUMNS = 360
MIME = {
    ".mp3": "audio/mpeg", ".wav": "audio/wav", ".wave": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg",
    ".oga": "audio/ogg", ".opus": "audio/ogg", ".m4a": "audio/mp4", ".m4b": "audio/mp4", ".mp4": "audio/mp4",
    ".aac": "audio/aac", ".webm": "audio/webm",
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """What is said of the model in the header.

    Args:
        name: of the adapter folder.
        backbone: its name.
        adapter: the adapter's text, such as "lora(rank=8)".
        adapter_parameters: trained in the backbone.
        head_parameters: trained on top of it.
        backbone_parameters: of the frozen model.
        file_bytes: size of the trained weights on disk.
    """

    name: str
    backbone: str
    adapter: str
    adapter_parameters: int
    head_parameters: int
    backbone_parameters: int
    file_bytes: int


@dataclass(frozen=True)
class Item:
    """One sound and what the model heard.

    Args:
        row: the result; with `error` set nothing else is needed.
        wave: (samples,) in [-1, 1] of the whole sound.
        features: the whole sound as the model's front end hears it.
        duration_s: its length.
        took_s: what the model needed for it.
        expected: the class it is known to be; None if that is not known or not a class of the model.
    """

    row: Prediction
    wave: ArrayLike | None = None
    features: Spectrogram | None = None
    duration_s: float = 0.0
    took_s: float = 0.0
    expected: str | None = None

    @property
    def path(self) -> Path:
        """The sound file."""
        return Path(self.row.path)

    @property
    def right(self) -> bool:
        """Whether the best class is the expected one."""
        return self.expected is not None and [label for label, _ in best(self.row, 1)] == [self.expected]


def best(row: Prediction, count: int) -> list[tuple[str, float]]:
    """The classes with the highest probabilities, best first; none for an error row."""
    scores = {} if row.error is not None else row.scores
    return sorted(scores.items(), key=lambda pair: -pair[1])[:count]


def verdict(items: Sequence[Item]) -> str:
    """How many sounds of known class got their label, as "6 of 7 labels right"; failed ones count as not right."""
    known = [item for item in items if item.expected is not None]
    return f"{sum(item.right for item in known)} of {len(known)} labels right" if known else ""


def html_report(
    items: Sequence[Item],
    *,
    title: str,
    model: Model,
    took_s: float,
    folder: Path | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Write the page.

    Args:
        items: in the order they are shown.
        title: the headline.
        model: what listened.
        took_s: seconds for all sounds together.
        folder: where the page will lie; sounds above 2 MB are linked from there, smaller ones are inside the page.
        notes: lines for the foot, such as where the sounds are from and their licence.

    Returns:
        A whole HTML document.

    Raises:
        UsageError: if features are given that are no spectrogram.
    """
    cards = "\n".join(_card(number, item, folder or Path()) for number, item in enumerate(items, start=1))
    foot = "".join(f"<p>{text(note)}</p>" for note in [*notes, f"Made with ossicle {ossicle.__version__}."])
    return document(title, _header(items, model, took_s), cards, foot)


def save(page: str, path: Path) -> None:
    """Write a page to disk, whole or not at all.

    Raises:
        CheckpointError: if it cannot be written.
    """
    write_atomic(path, lambda part: part.write_text(page, encoding="utf-8"))


def _header(items: Sequence[Item], model: Model, took_s: float) -> str:
    good = [item for item in items if item.row.error is None]
    failed = len(items) - len(good)
    trained = model.adapter_parameters + model.head_parameters
    share = trained / max(1, model.backbone_parameters)
    spent = f"{sum(item.duration_s for item in good):.1f} s of sound"
    said = [verdict(items)] if verdict(items) else []
    said += [f"{failed} could not be read"] if failed else []
    line = f'<p class="verdict"><strong>{text(", ".join(said))}</strong></p>' if said else ""
    facts = [
        ("Model", model.name, model.adapter),
        ("Backbone, frozen", model.backbone, f"{model.backbone_parameters:,} parameters"),
        ("Trained parameters", f"{trained:,}", f"{share:.2%} of the backbone: adapter {model.adapter_parameters:,}, "
         f"head {model.head_parameters:,}"),
        ("Size of what was trained", f"{model.file_bytes / 1000:,.0f} KB", "adapter and head on disk"),
        ("Sounds", f"{len(items)}", spent),
        ("Time taken", f"{took_s:.1f} s", "to listen to all of them"),
    ]  # fmt: skip
    rows = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(more)}</small></dd></div>"
        for name, value, more in facts
    )
    return f'{line}\n<dl class="facts">{rows}</dl>'


def _card(number: int, item: Item, folder: Path) -> str:
    name = text(item.path.name)
    heading = f'<h2 id="sound-{number}"><bdi>{name}</bdi></h2>'
    if item.row.error is not None:
        reason = text(item.row.error.replace(item.row.path, item.path.name))
        return f"""<article class="card failed" aria-labelledby="sound-{number}">
<div class="top">{heading}<span class="badge wrong">could not be read</span></div>
<p>{reason}</p>
</article>"""
    scene = timeline.shown(item.path.name, item.features, item.row.tags, item.duration_s)
    parts = [scene, _caption(item), _waveform(item), _player(item, folder), _bars(item)]
    shown = "\n".join(part for part in parts if part)
    return f"""<article class="card" aria-labelledby="sound-{number}">
<div class="top">{heading}{_badge(item)}</div>
{shown}
</article>"""


def _caption(item: Item) -> str:
    if not item.row.caption:
        return ""
    return f'<div><span class="badge">caption, not judged</span><p class="said">{text(item.row.caption)}</p></div>'


def _badge(item: Item) -> str:
    if item.expected is None:
        return '<span class="badge">label: not a class the model knows</span>'
    if item.right:
        return '<span class="badge right">label right</span>'
    return f'<span class="badge wrong">label wrong, it is {words(item.expected)}</span>'


def _waveform(item: Item) -> str:
    """The outline of the sound, scaled to its own peak, as an inline picture."""
    if item.wave is None:
        return ""
    low, high = _peaks(np.asarray(item.wave, dtype=np.float32))
    peak = float(np.abs([low, high]).max())
    scale = 30 / (peak or 1.0)
    there = [f"{x},{32 - scale * float(y):.1f}" for x, y in enumerate(high)]
    back = [f"{x},{32 - scale * float(y):.1f}" for x, y in enumerate(low)]
    points = " ".join([*there, *reversed(back)])
    label = text(f"Waveform of {item.path.name}, {item.duration_s:.2f} seconds, peak {peak:.2f} of full scale")
    return f"""<figure class="wave">
<svg viewBox="0 0 {max(1, len(high) - 1)} 64" preserveAspectRatio="none" role="img" aria-label="{label}">
<polygon points="{points}" fill="currentColor" stroke="currentColor" vector-effect="non-scaling-stroke"/>
</svg>
<figcaption><span>{item.duration_s:.2f} s, peak {peak:.2f} of full scale</span>
<span>heard in {item.took_s:.2f} s</span></figcaption>
</figure>"""


def _peaks(wave: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest sample of at most `COLUMNS` equal stretches."""
    if not len(wave):
        wave = np.zeros(1, dtype=np.float32)
    starts = np.linspace(0, len(wave), min(COLUMNS, len(wave)), endpoint=False).astype(int)
    return np.minimum.reduceat(wave, starts), np.maximum.reduceat(wave, starts)


def _player(item: Item, folder: Path) -> str:
    """A player with the sound inside, or linked if it is big."""
    mime = MIME.get(item.path.suffix.lower())
    if mime is None:
        return f'<p class="note">Browsers do not play {text(item.path.suffix or "such")} files.</p>'
    try:
        source = _source(item.path, mime, folder)
    except (OSError, ValueError):
        return '<p class="note">The sound is not where it was; there is nothing to play.</p>'
    label = text(f"Play {item.path.name}")
    return f'<audio controls preload="metadata" aria-label="{label}" src="{text(source)}"></audio>'


def _source(path: Path, mime: str, folder: Path) -> str:
    if path.stat().st_size > EMBEDDED_BYTES:
        return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _bars(item: Item) -> str:
    rows = "".join(
        f'<li><span class="name">{words(label)}</span><span class="track" aria-hidden="true">'
        f'<span class="fill" style="width:{min(1.0, max(0.0, share)):.2%}"></span></span>'
        f'<span class="value">{percent(share)}</span></li>\n'
        for label, share in best(item.row, BARS)
    )
    return f'<ol class="bars" aria-label="Best classes, most probable first">\n{rows}</ol>'
