"""One self-contained HTML page of what a model heard: picture, player, waveform and classes of every sound.

The page asks the network for nothing and runs no script, which its content security policy also forbids, so a file
name or label that looks like markup stays text.
"""

import base64
import html
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
from ossicle.pictures import plots

EMBEDDED_BYTES = 2_000_000
BARS = 5
COLUMNS = 360
MIME = {
    ".mp3": "audio/mpeg", ".wav": "audio/wav", ".wave": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg",
    ".oga": "audio/ogg", ".opus": "audio/ogg", ".m4a": "audio/mp4", ".m4b": "audio/mp4", ".mp4": "audio/mp4",
    ".aac": "audio/aac", ".webm": "audio/webm",
}  # fmt: skip

POLICY = (
    "default-src 'none'; img-src data:; media-src data: file: 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)

STYLE = """
:root { color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --line: #d8dce3; --text: #1b2029; --soft: #525b69; --accent: #1f62a8;
  --rest: #7f93ad; --track: #e9ecf1; --good: #0b6339; --good-back: #e1f3e8; --bad: #97201b; --bad-back: #fce8e6;
  --plain: #49515e; --plain-back: #eceff3; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12151a; --card: #1b2027; --line: #353c47; --text: #e9ecf1; --soft: #a9b2c0; --accent: #6fb0f2;
  --rest: #6c7f99; --track: #2a313b; --good: #93e0b5; --good-back: #143527; --bad: #ffb6ac; --bad-back: #44211e;
  --plain: #c5ccd7; --plain-back: #2c333d; }
  .card img { filter: brightness(0.9); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.page { max-width: 76rem; margin: 0 auto; padding: clamp(1rem, 4vw, 2.5rem); }
h1 { margin: 0; font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; letter-spacing: -0.01em; }
.verdict { margin: 0.4rem 0 0; font-size: 1.15rem; color: var(--soft); }
.verdict strong { color: var(--text); }
.facts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem 1.5rem;
  margin: 1.5rem 0 2rem; padding: 1.1rem 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
@media (min-width: 44rem) { .facts { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (min-width: 70rem) { .facts { grid-template-columns: repeat(6, minmax(0, 1fr)); } }
.facts dt { font-size: 0.8rem; color: var(--soft); }
.facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.facts small { display: block; font-size: 0.8rem; font-weight: 400; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1.25rem; }
.card { display: flex; flex-direction: column; gap: 0.9rem; min-width: 0; padding: 1.1rem 1.25rem 1.25rem;
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.top { display: flex; flex-wrap: wrap; align-items: baseline; justify-content: space-between; gap: 0.35rem 0.75rem; }
h2 { margin: 0; min-width: 0; font-size: 1.1rem; line-height: 1.3; overflow-wrap: anywhere; }
.badge { padding: 0.1rem 0.6rem; border-radius: 999px; font-size: 0.8rem; font-weight: 600; color: var(--plain);
  background: var(--plain-back); }
.badge.right { color: var(--good); background: var(--good-back); }
.badge.wrong { color: var(--bad); background: var(--bad-back); }
.card img { display: block; width: 100%; height: auto; background: #fff; border-radius: 8px; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: 4rem; color: var(--accent); background: var(--track);
  border-radius: 8px; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; margin-top: 0.25rem;
  font-size: 0.8rem; color: var(--soft); }
audio { display: block; width: 100%; height: 2.75rem; }
.said { margin: 0; font-style: italic; overflow-wrap: anywhere; }
.note { margin: 0; font-size: 0.875rem; color: var(--soft); }
.bars { margin: 0; padding: 0; list-style: none; display: grid; gap: 0.4rem; }
.bars li { display: grid; grid-template-columns: min(9rem, 36%) minmax(3rem, 1fr) 3.4rem; align-items: center;
  gap: 0.75rem; font-size: 0.9rem; }
.bars .name { overflow-wrap: anywhere; line-height: 1.25; }
.bars .track { height: 0.7rem; background: var(--track); border-radius: 4px; overflow: hidden; }
.bars .fill { display: block; height: 100%; min-width: 1px; background: var(--rest); }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; color: var(--soft); }
.bars li:first-child { font-weight: 600; }
.bars li:first-child .fill { background: var(--accent); }
.bars li:first-child .value { color: var(--text); }
.failed { align-self: start; border-color: var(--bad); }
.failed p { margin: 0; overflow-wrap: anywhere; }
a { color: var(--accent); }
footer { margin-top: 2rem; font-size: 0.85rem; color: var(--soft); }
footer p { margin: 0.2rem 0; overflow-wrap: anywhere; }
"""


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
        features: (frames, mels) log power of the whole sound.
        duration_s: its length.
        took_s: what the model needed for it.
        expected: the class it is known to be; None if that is not known or not a class of the model.
    """

    row: Prediction
    wave: ArrayLike | None = None
    features: ArrayLike | None = None
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
    """How many sounds of known class were named rightly, such as "6 of 7 right"; failed ones count as not right."""
    known = [item for item in items if item.expected is not None]
    return f"{sum(item.right for item in known)} of {len(known)} right" if known else ""


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
    foot = "".join(f"<p>{_text(note)}</p>" for note in [*notes, f"Made with ossicle {ossicle.__version__}."])
    return _document(title, _header(items, model, took_s), cards, foot)


def save(text: str, path: Path) -> None:
    """Write a page to disk, whole or not at all.

    Raises:
        CheckpointError: if it cannot be written.
    """
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))


def _document(title: str, header: str, cards: str, foot: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<div class="page">
<header>
<h1>{_text(title)}</h1>
{header}
</header>
<main class="cards">
{cards}
</main>
<footer>{foot}</footer>
</div>
</body>
</html>
"""


def _text(value: object) -> str:
    """Text for HTML, between tags or in a quoted attribute; bytes of a file name that are no text become "?"."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"), quote=True)


def _words(label: str) -> str:
    return _text(label.replace("_", " "))


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _header(items: Sequence[Item], model: Model, took_s: float) -> str:
    good = [item for item in items if item.row.error is None]
    failed = len(items) - len(good)
    trained = model.adapter_parameters + model.head_parameters
    share = trained / max(1, model.backbone_parameters)
    spent = f"{sum(item.duration_s for item in good):.1f} s of sound"
    said = [verdict(items)] if verdict(items) else []
    said += [f"{failed} could not be read"] if failed else []
    line = f'<p class="verdict"><strong>{_text(", ".join(said))}</strong></p>' if said else ""
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
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(more)}</small></dd></div>"
        for name, value, more in facts
    )
    return f'{line}\n<dl class="facts">{rows}</dl>'


def _card(number: int, item: Item, folder: Path) -> str:
    name = _text(item.path.name)
    heading = f'<h2 id="sound-{number}"><bdi>{name}</bdi></h2>'
    if item.row.error is not None:
        reason = _text(item.row.error.replace(item.row.path, item.path.name))
        return f"""<article class="card failed" aria-labelledby="sound-{number}">
<div class="top">{heading}<span class="badge wrong">could not be read</span></div>
<p>{reason}</p>
</article>"""
    parts = [_caption(item), _spectrogram(item), _waveform(item), _player(item, folder), _bars(item)]
    shown = "\n".join(part for part in parts if part)
    return f"""<article class="card" aria-labelledby="sound-{number}">
<div class="top">{heading}{_badge(item)}</div>
{shown}
</article>"""


def _caption(item: Item) -> str:
    return f'<p class="said">{_text(item.row.caption)}</p>' if item.row.caption else ""


def _badge(item: Item) -> str:
    if item.expected is None:
        return '<span class="badge">not a class the model knows</span>'
    if item.right:
        return '<span class="badge right">right</span>'
    return f'<span class="badge wrong">wrong, it is {_words(item.expected)}</span>'


def _spectrogram(item: Item) -> str:
    if item.features is None:
        return ""
    png = base64.b64encode(plots.spectrogram_png(item.features, item.duration_s, "")).decode("ascii")
    alt = f"Spectrogram of {item.path.name}, {item.duration_s:.2f} seconds in {np.shape(item.features)[1]} mel bands"
    return f'<img src="data:image/png;base64,{png}" alt="{_text(alt)}">'


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
    label = _text(f"Waveform of {item.path.name}, {item.duration_s:.2f} seconds, peak {peak:.2f} of full scale")
    return f"""<figure>
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
        return f'<p class="note">Browsers do not play {_text(item.path.suffix or "such")} files.</p>'
    try:
        source = _source(item.path, mime, folder)
    except (OSError, ValueError):
        return '<p class="note">The sound is not where it was; there is nothing to play.</p>'
    label = _text(f"Play {item.path.name}")
    return f'<audio controls preload="metadata" aria-label="{label}" src="{_text(source)}"></audio>'


def _source(path: Path, mime: str, folder: Path) -> str:
    if path.stat().st_size > EMBEDDED_BYTES:
        return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _bars(item: Item) -> str:
    rows = "".join(
        f'<li><span class="name">{_words(label)}</span><span class="track" aria-hidden="true">'
        f'<span class="fill" style="width:{min(1.0, max(0.0, share)):.2%}"></span></span>'
        f'<span class="value">{_percent(share)}</span></li>\n'
        for label, share in best(item.row, BARS)
    )
    return f'<ol class="bars" aria-label="Best classes, most probable first">\n{rows}</ol>'
