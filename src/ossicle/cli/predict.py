"""`ossicle predict DIR PATH... --out F`: labels for files, folders and globs, by an adapter or a tagger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ossicle import terminal
from ossicle.cli.evaluate import checked_precision
from ossicle.predict.predictor import Predictor, predict_to_file
from ossicle.recipe import build
from ossicle.share import zoo
from ossicle.sound import audio
from ossicle.tasks import tag


def predict(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="Adapter folder, the name of one that ships, or a tagger such as mn04 or yamnet."
        ),
    ],
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Sound files, folders or quoted globs.")],
    out: Annotated[
        Path, typer.Option(help="Result file: .csv .jsonl .parquet .txt (Audacity) .selections.txt (Raven).")
    ],
    window: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds per row; the recipe's window if not given, of a tagger 2.")
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(
            min=0.05, help="Seconds from one row to the next; the window if not given, of a tagger half of it."
        ),
    ] = None,
    channel: Annotated[
        int | None, typer.Option(min=0, help="Of files with several: 1 is the first, 0 averages; the recipe's usually.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows at a time.")] = 16,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "float32",
) -> None:
    """Label sounds; one row per window. A stopped run goes on with the same command."""
    if name := zoo.backbone(adapter):
        task: Any = _tagger(name)
        window = tag.WINDOW_S if window is None else window
        predictor = Predictor(
            task, name, window, hop_s=window / 2 if hop is None else hop, batch=batch,
            precision=checked_precision(precision), channel=channel or 0,
        )  # fmt: skip
    else:
        loaded = build.load(adapter, kinds=["classify"])
        task, predictor = loaded.task, predictor_of(loaded, window, hop, channel, batch, precision)
    extras = {"backbone": task.encoder.digest, "labels": task.labels}
    raise typer.Exit(to_file(predictor, paths, out, extras))


def _tagger(name: str) -> tag.Tagger:
    with terminal.waiting(f"loading {name}"):
        return tag.load(name)


def predictor_of(
    loaded: build.Loaded, window: float | None, hop: float | None, channel: int | None, batch: int, precision: str
) -> Predictor:
    """A predictor as the options say; what was not given is the recipe's."""
    recipe = loaded.recipe
    return Predictor(
        loaded.task, loaded.name, recipe.task.window_s if window is None else window,
        hop_s=hop, batch=batch, precision=checked_precision(precision),
        channel=recipe.data.channel if channel is None else channel,
    )  # fmt: skip


def found(paths: list[str]) -> list[Path]:
    """The sound files of paths, folders and globs; what was passed over is told on stderr."""
    passed: list[str] = []
    files = audio.find(paths, passed)
    for line in passed:
        terminal.note(line)
    return files


def to_file(predictor: Predictor, paths: list[str], out: Path, extras: Mapping[str, object]) -> int:
    """Rows of files, folders and globs in one table; 1 if some could not be read, else 0."""
    files = found(paths)
    with terminal.waiting(f"0 of {len(files)} files") as tell:
        summary = predict_to_file(
            predictor, files, out, extras=extras,
            progress=lambda done: tell(f"{done} of {len(files)} files"),
        )  # fmt: skip
    terminal.say(f"{summary.rows} rows for {summary.files} files in {out}; {summary.failed} could not be read")
    return 1 if summary.failed else 0
