"""`ossicle predict DIR PATH... --out F`: labels for files, folders and globs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ossicle import audio, build
from ossicle import predict as prediction
from ossicle.cli.evaluate import checked_precision


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
    batch: Annotated[int, typer.Option(min=1, help="Windows at a time.")] = 16,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "float32",
) -> None:
    """Label sounds; one row per window. A stopped run goes on with the same command."""
    loaded = build.load(adapter, kind="classify")
    raise typer.Exit(to_file(loaded, paths, out, window, hop, batch, precision, {"labels": loaded.task.labels}))


def to_file(
    loaded: build.Loaded,
    paths: list[str],
    out: Path,
    window: float | None,
    hop: float | None,
    batch: int,
    precision: str,
    extras: dict[str, object],
) -> int:
    """Rows of files, folders and globs in one table; 1 if some could not be read, else 0."""
    files = audio.find(paths)
    predictor = prediction.Predictor(
        loaded.task, loaded.name, loaded.recipe.task.window_s if window is None else window,
        hop_s=hop, batch=batch, precision=checked_precision(precision),
    )  # fmt: skip
    with Console(stderr=True).status(f"0 of {len(files)} files") as status:
        summary = prediction.predict_to_file(
            predictor, files, out,
            extras={"backbone": loaded.task.encoder.digest, **extras},
            progress=lambda done: status.update(f"{done} of {len(files)} files"),
        )  # fmt: skip
    text = f"{summary.rows} rows for {summary.files} files in {out}; {summary.failed} could not be read"
    Console().print(text, markup=False, soft_wrap=True)
    return 1 if summary.failed else 0
