"""`ossicle predict DIR PATH... --out F`: labels for files, folders and globs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ossicle import terminal
from ossicle.cli.evaluate import checked_precision
from ossicle.predict.predictor import Predictor, predict_to_file
from ossicle.recipe import build
from ossicle.sound import audio


def predict(
    adapter: Annotated[str, typer.Argument(metavar="DIR", help="Adapter folder or the name of one that ships.")],
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Sound files, folders or quoted globs.")],
    out: Annotated[
        Path, typer.Option(help="Result file: .csv .jsonl .parquet .txt (Audacity) .selections.txt (Raven).")
    ],
    window: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds per row; the recipe's window if not given.")
    ] = None,
    hop: Annotated[
        float | None, typer.Option(min=0.05, help="Seconds from one row to the next; the window if not given.")
    ] = None,
    channel: Annotated[
        int | None, typer.Option(min=0, help="Of files with several: 1 is the first, 0 averages; the recipe's usually.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows at a time.")] = 16,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "float32",
) -> None:
    """Label sounds; one row per window. A stopped run goes on with the same command."""
    loaded = build.load(adapter, kind="classify")
    predictor = predictor_of(loaded, window, hop, channel, batch, precision)
    extras = {"backbone": loaded.task.encoder.digest, "labels": loaded.task.labels}
    raise typer.Exit(to_file(predictor, paths, out, extras))


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


def to_file(predictor: Predictor, paths: list[str], out: Path, extras: Mapping[str, object]) -> int:
    """Rows of files, folders and globs in one table; 1 if some could not be read, else 0."""
    files = audio.find(paths)
    with terminal.waiting(f"0 of {len(files)} files") as tell:
        summary = predict_to_file(
            predictor, files, out, extras=extras,
            progress=lambda done: tell(f"{done} of {len(files)} files"),
        )  # fmt: skip
    terminal.say(f"{summary.rows} rows for {summary.files} files in {out}; {summary.failed} could not be read")
    return 1 if summary.failed else 0
