"""`ossicle plot tokens | scaling | attention`: the papers' figures on one's own sounds and results."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from ossicle import terminal
from ossicle.cli.train import opened
from ossicle.contracts import Clip
from ossicle.data.clips import load_waves
from ossicle.data.splits import on_channel, select
from ossicle.errors import AudioError, DataError
from ossicle.pictures import figures
from ossicle.pictures.figures import Point
from ossicle.recipe import backbone, build
from ossicle.sound import audio
from ossicle.tasks.features import FeatureStore

plot = typer.Typer(help="Draw figures.", no_args_is_help=True)
Adapter = Annotated[str, typer.Argument(metavar="DIR", help="Adapter folder or the name of one that ships.")]
Out = Annotated[Path, typer.Option(help="A .png, .svg, .pdf or .html file.")]


@plot.callback()
def _group() -> None:
    """Draw the papers' figures on your own sounds and results."""


@plot.command("tokens")
def tokens(
    adapter: Adapter,
    data: Annotated[str, typer.Argument(help="Labelled sounds, as for train.")],
    out: Out,
    split: Annotated[list[str] | None, typer.Option(help="Only these splits or folds; may be repeated.")] = None,
    classes: Annotated[list[str] | None, typer.Option(help="Only these classes; may be repeated.")] = None,
    pooling: Annotated[str, typer.Option(help="mean, cls or extra.")] = "mean",
    limit: Annotated[int, typer.Option(min=2, help="At most this many clips of each class.")] = 20,
) -> None:
    """Draw clips by t-SNE of their last tokens, frozen and adapted."""
    figures.check(out)
    loaded = build.load(adapter)
    clips = _some(select(opened(data).clips, split or None, None), classes or [], limit)
    clips = on_channel(clips, loaded.recipe.data.channel)
    shortest = loaded.recipe.task.shortest_s
    frozen = backbone.single(backbone.frozen(loaded.recipe), "plot tokens")
    with tempfile.TemporaryDirectory() as own:  # what an adapter changed must not lie in the frozen encoder's cache
        stores = {
            "frozen": FeatureStore(frozen, (frozen.depth,), pooling, shortest_s=shortest),
            "adapted": FeatureStore(
                loaded.task.encoder, (frozen.depth,), pooling, shortest_s=shortest, root=Path(own)
            ),
        }  # fmt: skip
        found = {title: store.get(clips) for title, store in stores.items()}
    good = [i for i, vector in enumerate(found["frozen"]) if not isinstance(vector, AudioError)]
    if len(good) < len(clips):
        terminal.note(f"{len(clips) - len(good)} clips could not be read")
    panels = {title: figures.embed(np.stack([np.asarray(v[i]) for i in good])) for title, v in found.items()}
    labels, names = zip(*((clips[i].labels[0], clips[i].name or clips[i].path.name) for i in good), strict=True)
    figures.tokens(panels, labels, names, out)
    terminal.say(f"{len(good)} clips in {out}")


def _some(clips: list[Clip], classes: list[str], limit: int) -> list[Clip]:
    """The first clips of each class.

    Raises:
        DataError: if no clip has a class that is wanted.
    """
    counts: dict[str, int] = {}
    chosen = []
    for clip in clips:
        label = clip.labels[0] if clip.labels else ""
        if label and (not classes or label in classes) and counts.get(label, 0) < limit:
            counts[label] = counts.get(label, 0) + 1
            chosen.append(clip)
    absent = [label for label in classes if label not in counts]
    if absent or not chosen:
        raise DataError(f"no clip has the class {', '.join(absent) or '(any)'}; check --classes and --split")
    return chosen


@plot.command("scaling")
def scaling(
    results: Annotated[list[Path], typer.Argument(help="Result files of `ossicle reproduce` or the benchmarks.")],
    out: Out,
) -> None:
    """Draw accuracy against trainable parameters."""
    figures.check(out)
    points = [point for file in results for point in _points(file)]
    figures.scaling(points, out)
    terminal.say(f"{len(points)} systems in {out}")


def _points(file: Path) -> list[Point]:
    """Systems of a result file; those without parameters or accuracy are passed over.

    Raises:
        DataError: if it is no such file.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        rows: list[dict[str, Any]] = raw["cells"] if "cells" in raw else raw["rows"]
        if "cells" in raw:
            return [
                Point(row["row"], row["parameters"], row["ours"]["mean"] / 100, _series(row["row"], row["column"]))
                for row in rows
                if row["ours"] and row["parameters"]
            ]
        return [Point(row["preset"], row["adapter_parameters"], row["accuracy"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is no result of `ossicle reproduce` or of a benchmark: {type(error).__name__}: {error}"
        ) from error


def _series(row: str, column: str) -> str:
    """Rows such as "lora RR 64" of one column are one curve."""
    name, found, _ = row.partition(" RR ")
    return f"{name}, {column}" if found else ""


@plot.command("attention")
def attention(
    adapter: Adapter,
    file: Annotated[Path, typer.Argument(help="A sound file.")],
    out: Out,
    at: Annotated[list[float], typer.Option(help="Seconds from the start; may be repeated.")],
    block: Annotated[int, typer.Option(help="Block, from 0; the last if not given.")] = -1,
) -> None:
    """Draw where moments look, over the spectrogram, frozen and adapted."""
    figures.check(out)
    loaded = build.load(adapter)
    encoder, task = backbone.single(loaded.task.encoder, "plot attention"), loaded.recipe.task
    end = min(task.window_s, audio.probe(file).duration_s)
    clip = Clip(file, end=end, channel=loaded.recipe.data.channel)
    wave = load_waves([clip], encoder.rate_hz, shortest_s=task.shortest_s, fewest=encoder.fewest)[0]
    if isinstance(wave, AudioError):
        raise wave
    number = encoder.depth - 1 if block == -1 else block
    with torch.no_grad():
        maps = {
            "frozen": figures.attention(
                backbone.single(backbone.frozen(loaded.recipe), "plot attention"), wave, number, at, adapted=False
            ),
            "adapted": figures.attention(encoder, wave, number, at, adapted=True),
        }
    front: Any = encoder.frontend
    frames, length, peaks = maps["frozen"][1], figures.heard_s(encoder, wave), front.peaks_hz().numpy()
    figures.attention_maps({title: found for title, (found, _) in maps.items()}, frames, peaks, length, at, out)
    terminal.say(f"block {number}, {len(at)} moments in {out}")
