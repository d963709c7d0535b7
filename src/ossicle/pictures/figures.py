"""The papers' figures on one's own sounds: tokens, scaling, attention.

Tokens by t-SNE are Fig. 2 of PETL of AST, accuracy against trainable parameters its Fig. 3 and 4, attention over the
spectrogram is Fig. 3 of the Look-Aside Adapter. Each as .png, .svg, .pdf, or as .html whose points have names.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from ossicle.adapters.base import Adapted
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.layers import Attention
from ossicle.contracts import Context
from ossicle.errors import UsageError
from ossicle.files import write_atomic
from ossicle.pictures import plots, spectrogram

MARKERS = "osD^vP*X<>ph"
NAMED_CLASSES = 20
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Point:
    """A system in the scaling picture.

    Args:
        name: of the system.
        parameters: that it trains.
        accuracy: 0 to 1.
        series: points of one series are joined.
    """

    name: str
    parameters: int
    accuracy: float
    series: str = ""


def embed(vectors: Floats, *, seed: int = 0) -> Floats:
    """t-SNE to two dimensions, after a principal component start.

    Args:
        vectors: (clips, width).
        seed: of the optimisation.

    Returns:
        (clips, 2).

    Raises:
        UsageError: for fewer than four clips.
    """
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        raise UsageError(f"t-SNE of {len(vectors)} clips shows nothing; give at least 4")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    placed: Floats = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
    return placed


def tokens(panels: dict[str, Floats], labels: Sequence[str], names: Sequence[str], out: Path) -> None:
    """Draw clips by where t-SNE puts them, a panel for each model, coloured by class.

    Args:
        panels: title to (clips, 2).
        labels: class of each clip.
        names: name of each clip, told in .html when pointed at.
        out: where to write.
    """
    classes = sorted(set(labels))
    colours = colormaps["tab20"]
    figure = Figure(figsize=(5.2 * len(panels) + 1.6, 5), layout="constrained")
    told = {}
    for number, (axes, (title, places)) in enumerate(zip(_row(figure, len(panels)), panels.items(), strict=True)):
        for i, (place, label) in enumerate(zip(places, labels, strict=True)):
            kind = classes.index(label)
            key = f"p{number}_{i}"
            axes.plot(
                *place, MARKERS[kind // 20 % len(MARKERS)], color=colours(kind % 20), markersize=4.5,
                markeredgewidth=0.3, markeredgecolor="black", gid=key,
            )  # fmt: skip
            told[key] = f"{names[i]}: {label}"
        axes.set(title=title, xticks=[], yticks=[])
    if len(classes) <= NAMED_CLASSES:
        drawn = figure.axes[-1]
        for kind in range(len(classes)):
            drawn.plot([], [], MARKERS[kind // 20], color=colours(kind % 20), label=f"class {kind}")
        legend = drawn.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
        for text, label in zip(legend.get_texts(), classes, strict=True):  # as it is: "_x" hides itself, "$x$" is maths
            text.set(text=label, parse_math=False)
    save(figure, out, told)


def scaling(points: Sequence[Point], out: Path) -> None:
    """Draw accuracy against trainable parameters on a logarithmic axis.

    Args:
        points: systems; those of one series are joined in order of size.
        out: where to write.

    Raises:
        UsageError: if there is no point.
    """
    if not points:
        raise UsageError("there is nothing to draw: no row has both an accuracy and trainable parameters")
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.add_subplot()
    told = {}
    for number, series in enumerate(dict.fromkeys(p.series for p in points)):
        own = sorted((p for p in points if p.series == series), key=lambda p: p.parameters)
        colour, marker = colormaps["tab10"](number % 10), MARKERS[number % len(MARKERS)]
        sizes, heights = [max(1, p.parameters) for p in own], [100 * p.accuracy for p in own]
        axes.plot(sizes, heights, "-" if series else "", color=colour, alpha=0.6, label=series or None)
        for i, point in enumerate(own):
            key = f"s{number}_{i}"
            axes.plot(sizes[i], heights[i], marker, color=colour, gid=key)
            told[key] = f"{point.name}: {point.parameters:,} parameters, {heights[i]:.1f} %"
            if not series:
                axes.annotate(
                    point.name, (sizes[i], heights[i]), (4, 3), textcoords="offset points", fontsize=7, parse_math=False
                )
    axes.set(xscale="log", xlabel="trainable parameters without the head", ylabel="accuracy (%)")
    axes.grid(True, alpha=0.3)
    if any(p.series for p in points):
        axes.legend(fontsize=8)
    save(figure, out, told)


@torch.no_grad()
def attention(
    encoder: Encoder, wave: Tensor, block: int, seconds: Sequence[float], *, adapted: bool
) -> tuple[Floats, Floats]:
    """Where the tokens of some moments look, mean over heads and over the rows of their column.

    Args:
        encoder: with or without an adapter.
        wave: (samples,) at the encoder's rate.
        block: which block's attention, from 0.
        seconds: the moments.
        adapted: with the active adapter, or without any.

    Returns:
        Attention to the grid's tokens (moments, freq, time), each moment summing to 1 with what goes to extra tokens,
        and the front end's frames (frames, mels).

    Raises:
        UsageError: if there is no such block, or a moment lies outside the clip.
    """
    length = _check_moments(encoder, wave, block, seconds)
    seen: list[tuple[Tensor, Context]] = []
    module = _attention(encoder, block)
    hook = module.register_forward_pre_hook(lambda _, given: seen.append((given[0], given[1])))
    try:
        device = next(encoder.stem.parameters()).device
        frames, _ = encoder.listen(wave[None].to(device))
        adapter = None if adapted else (None,)
        encoder.encode(frames, adapter=adapter, layers=(block + 1,))
    finally:
        hook.remove()
    x, context = seen[0]
    weights = module.weights(x, context).mean(dim=1)[0].cpu()
    grid = context.grid
    own = weights[grid.extra :, weights.shape[-1] - grid.freq * grid.time :]  # columns in front are prefix and extra
    shape = (grid.freq, grid.time) if grid.order == "freq" else (grid.time, grid.freq)
    maps = own.reshape(*shape, *shape)
    maps = maps if grid.order == "freq" else maps.permute(1, 0, 3, 2)
    columns = [min(grid.time - 1, int(s / length * grid.time)) for s in seconds]
    return torch.stack([maps[:, c].mean(dim=0) for c in columns]).numpy(), frames[0].cpu().numpy()


def heard_s(encoder: Encoder, wave: Tensor) -> float:
    """Seconds that the encoder's frames stand for: the clip's, or those of a fixed number of frames."""
    target = getattr(encoder.frontend, "target_frames", None)
    hop_s: float = encoder.frontend.hop_s  # type: ignore[assignment]
    return wave.shape[-1] / encoder.rate_hz if target is None else target * hop_s


def _check_moments(encoder: Encoder, wave: Tensor, block: int, seconds: Sequence[float]) -> float:
    """Length of what is heard in seconds."""
    if not 0 <= block < encoder.depth:
        raise UsageError(f"{encoder.name} has blocks 0 to {encoder.depth - 1} but got {block}")
    length = heard_s(encoder, wave)
    shorter = min(length, wave.shape[-1] / encoder.rate_hz)
    outside = next((s for s in seconds if not 0 <= s < shorter), None)
    if outside is not None or not seconds:
        raise UsageError(f"time {outside} s is outside the {shorter:.2f} s that are heard; give times within them")
    return length


def _attention(encoder: Encoder, block: int) -> Attention:
    """A block's attention under whatever wraps it."""
    module: nn.Module = encoder.blocks[block]
    module = module.base if isinstance(module, Adapted) else module
    attn = module.attn
    found: Attention = attn.base if isinstance(attn, Adapted) else attn  # type: ignore[assignment]
    return found


def attention_maps(
    rows: dict[str, Floats], frames: Floats, peaks_hz: Floats, length: float, seconds: Sequence[float], out: Path
) -> None:
    """Draw attention over the spectrogram: a row for each model, a column for each moment.

    Args:
        rows: title to (moments, freq, time) from `attention`.
        frames: (frames, mels).
        peaks_hz: (mels,) the frequency of each band.
        length: of the frames in seconds.
        seconds: the moments, marked by a line.
        out: where to write.
    """
    figure = Figure(figsize=(3.4 * len(seconds) + 0.8, 2.6 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), len(seconds), squeeze=False)
    top = float(np.quantile(np.concatenate([maps.ravel() for maps in rows.values()]), 0.99))  # peaks are narrow
    extent = (0.0, length, 0.0, float(frames.shape[1]))
    ticks = spectrogram.ticks_khz(peaks_hz)
    for line, (title, maps) in zip(grid, rows.items(), strict=True):
        for axes, moment, one in zip(line, seconds, maps, strict=True):
            axes.imshow(frames.T, origin="lower", aspect="auto", cmap="Greys", extent=extent)
            shown = axes.imshow(
                one, origin="lower", aspect="auto", cmap="YlOrRd", extent=extent, vmin=0.0, vmax=top,
                alpha=0.85 * np.clip(one / top, 0.0, 1.0) ** 0.5, interpolation="nearest",
            )  # fmt: skip
            axes.axvline(moment, color="#0072b2", linewidth=1.5)
            axes.set(title=f"{title}, from {moment:g} s", xlabel="time (s)")
            axes.set_yticks([share * frames.shape[1] for _, share in ticks], [name for name, _ in ticks])
        line[0].set(ylabel="frequency (kHz)")
    figure.colorbar(shown, ax=list(grid.flat), label="attention", shrink=0.8, extend="max")
    save(figure, out, {})


def check(out: Path) -> None:
    """Raise a UsageError, before any work, for a suffix that is neither a picture's nor .html."""
    if out.suffix.lower() not in (*plots.FORMATS, ".html"):
        raise UsageError(f"--out {out} is no picture; end it with one of {', '.join(plots.FORMATS)}, .html")


def save(figure: Figure, out: Path, told: dict[str, str]) -> None:
    """Write a figure; an .html page holds it as vectors, with the name of every point in `told`.

    Raises:
        UsageError: for another suffix.
    """
    if out.suffix.lower() != ".html":
        plots.save(figure, out)
        return
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    svg = re.sub(r"^.*?(?=<svg)", "", drawn.getvalue(), flags=re.S)
    for key, text in told.items():
        svg = svg.replace(f'<g id="{key}">', f'<g id="{key}"><title>{html.escape(text)}</title>', 1)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    code = base64.b64encode(image.getvalue()).decode()
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Ossicle</title>'
        "<style>body{margin:1rem;font-family:sans-serif}svg{max-width:100%;height:auto}</style>"
        f'<body>{svg}<p><a download="{html.escape(out.stem)}.png" href="data:image/png;base64,{code}">as PNG</a></p>'
    )
    write_atomic(out, lambda part: part.write_text(page, encoding="utf-8"))


def _row(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0])
