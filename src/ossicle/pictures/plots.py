"""Pictures for reports: training curve and confusion matrix.

Everything goes through matplotlib's objects; pyplot's global state is never touched, so threads may draw.
Colours are told apart by colour-blind readers and in grey print.
"""

import io
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ossicle.errors import DataError, UsageError
from ossicle.files import write_atomic

_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#767676"  # Okabe and Ito's safe colours
_MAX_LABEL = 24
_COUNTED_CLASSES = 60
FORMATS = (".png", ".svg", ".pdf")


def training_curve(metrics_jsonl: Path, out: Path) -> None:
    """Draw losses and validation scores by epoch.

    Args:
        metrics_jsonl: one json object per line with epoch, train_loss and any val_loss, val_<score>, lr.
        out: where to write; .png, .svg or .pdf.

    Raises:
        DataError: if the file is absent, holds no epochs, or a line is not json (a cut last line is passed over).
        UsageError: if the suffix of `out` is another.
    """
    rows = _read_metrics(metrics_jsonl)
    scores = sorted({key for row in rows for key in row if key.startswith("val_") and key != "val_loss"})
    figure = Figure(figsize=(10 if scores else 5.5, 4), layout="constrained")
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    _line(axes[0], rows, "train_loss", "training", _BLUE, "o")
    _line(axes[0], rows, "val_loss", "validation", _ORANGE, "s")
    axes[0].set(title="Loss", ylabel="loss")
    if scores:
        styles = ((_BLUE, "o"), (_ORANGE, "s"), (_GREEN, "^"), (_GREY, "D"))
        for index, key in enumerate(scores):
            _line(axes[1], rows, key, _words(key), *styles[index % len(styles)])
        axes[1].set(title=f"Validation scores{_best(rows, scores)}", ylabel="score (0 to 1)")
    for ax in axes:
        _finish(ax)
    save(figure, out)


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path} is not there; a training run writes it into its folder")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(dict(json.loads(line)))
        except ValueError as error:
            if number < len(lines):
                raise DataError(f"{path.name} line {number} is not a json object: {error}; mend the line") from error
    rows = [row for row in rows if "epoch" in row]
    if not rows:
        raise DataError(f"{path.name} has no line with an epoch; train at least one epoch first")
    return rows


def _points(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    found = [(row["epoch"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    return [(epoch, value) for epoch, value in found if math.isfinite(value)]


def _line(ax: Axes, rows: Sequence[dict[str, Any]], key: str, name: str, colour: str, marker: str) -> None:
    points = _points(rows, key)
    if points:
        epochs, values = zip(*points, strict=True)
        size = 5 if len(points) <= 40 else 0
        ax.plot(epochs, values, color=colour, marker=marker, markersize=size, linewidth=1.8, label=name)


def _words(key: str) -> str:
    text = key.removeprefix("val_").replace("_", " ")
    return text.replace("map", "mAP").replace("f1", "F1")


def _best(rows: Sequence[dict[str, Any]], scores: Sequence[str]) -> str:
    """The best value of the first score, for the title."""
    key = "val_accuracy" if "val_accuracy" in scores else scores[0]
    points = _points(rows, key)
    if not points:
        return ""
    epoch, value = max(points, key=lambda point: point[1])
    return f" (best {_words(key)} {value:.3f}, epoch {epoch})"


def _finish(ax: Axes) -> None:
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)


def confusion_matrix(matrix: NDArray[np.integer], labels: Sequence[str], out: Path) -> None:
    """Draw which class was taken for which, coloured by the share of each true class.

    Args:
        matrix: (classes, classes) counts; row = true class, column = predicted class.
        labels: class names.
        out: where to write; .png, .svg or .pdf.

    Raises:
        UsageError: if shapes do not fit or the suffix of `out` is another.
    """
    classes = len(labels)
    if not classes or matrix.shape != (classes, classes):
        raise UsageError(f"a matrix {matrix.shape} does not go with {classes} labels; give one label per class")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    few = classes <= 12
    side = min(28.0, max(3.2, classes * (0.55 if few else 0.27)))
    size = 10.0 if few else max(4.0, min(10.0, side / classes * 38))
    big = max(11.0, side * 1.25)  # a large figure is shown smaller
    figure = Figure(figsize=(side + 2.9, side + 2.2), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(classes)
    names = [_cut(label) for label in labels]
    turn = 0 if classes <= 3 and max(map(len, names)) <= 10 else (45 if few else 90)
    ax.set_xticks(ticks, names, rotation=turn, fontsize=size, parse_math=False)
    for tick in ax.get_xticklabels() if turn == 45 else ():
        tick.set(ha="right", rotation_mode="anchor")
    ax.set_yticks(ticks, names, fontsize=size, parse_math=False)
    ax.set_xlabel("predicted class", fontsize=big)
    ax.set_ylabel("true class", fontsize=big)
    right, rows = int(np.trace(matrix)), int(matrix.sum())
    scored = f"{right} of {rows} clips correct ({right / rows:.1%})" if rows else "no clips"
    ax.set_title(f"Confusion matrix: {scored}", fontsize=big + 2, pad=12)
    _share_bar(figure, ax, image, big)
    _grid(ax, classes)
    if classes <= _COUNTED_CLASSES:
        _write_counts(ax, matrix, shares, size)
    save(figure, out)


def _cut(label: str) -> str:
    return label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "…"


def _share_bar(figure: Figure, ax: Axes, image: AxesImage, size: float) -> None:
    bar = figure.colorbar(image, ax=ax, fraction=0.04, pad=0.02, shrink=0.7, format=lambda value, _: f"{value:.0%}")
    bar.set_label("share of the true class's clips", fontsize=size - 1)
    bar.ax.tick_params(labelsize=size - 2)


def _grid(ax: Axes, classes: int) -> None:
    ax.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="#e4e4e4", linewidth=0.6)
    ax.tick_params(which="both", length=0)


def _write_counts(ax: Axes, matrix: NDArray[np.integer], shares: NDArray[np.floating], size: float) -> None:
    """Counts in the cells that are not empty, smaller where they have many digits."""
    size *= min(1.0, 3 / len(str(matrix.max())))
    for row, column in np.argwhere(matrix):
        colour = "white" if shares[row, column] > 0.5 else "#222222"
        ax.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=size)


def _render(figure: Figure, form: str) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a label in a script the font lacks
        figure.savefig(buffer, format=form, dpi=120, bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()


def save(figure: Figure, out: Path) -> None:
    """Write a figure whole or not at all.

    Raises:
        UsageError: for a suffix that is no picture's.
        CheckpointError: if it cannot be written.
    """
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"{out.name} is not a picture ossicle writes; end it with one of {', '.join(FORMATS)}")
    data = _render(figure, out.suffix[1:].lower())
    write_atomic(out, lambda part: part.write_bytes(data))
