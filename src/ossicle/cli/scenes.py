"""`ossicle scenes DATA --out DIR --count N`: captioned scenes made from labelled sounds."""

from pathlib import Path
from typing import Annotated

import typer

from ossicle import terminal
from ossicle.cli.train import opened
from ossicle.data import scenes as making
from ossicle.data.manifest import shorten
from ossicle.data.splits import select


def scenes(
    data: Annotated[str, typer.Argument(help="Labelled sounds, as for train.")],
    out: Annotated[Path, typer.Option(help="Folder for audio and metadata.jsonl.")],
    count: Annotated[int, typer.Option(min=1, help="Scenes wanted.")],
    seed: Annotated[int, typer.Option(min=0, help="Chooses sounds, times and words.")] = 0,
    split: Annotated[list[str] | None, typer.Option(help="Only these splits or folds; may be repeated.")] = None,
    licence: Annotated[list[str] | None, typer.Option(help="Only clips under these; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="Length of a scene, 4 to 60.")] = 10.0,
) -> None:
    """Make captioned scenes from labelled sounds. A stopped run goes on with the same command."""
    clips = select(opened(data).clips, split or None, licence or None)
    unusable: list[str] = []
    with terminal.waiting(f"0 of {count} scenes") as tell:
        made = making.make(
            clips, out, count, seed=seed, seconds=seconds,
            progress=lambda done: tell(f"{done} of {count} scenes"), notice=unusable.append,
        )  # fmt: skip
    if unusable:
        terminal.note(f"{len(unusable)} clip(s) could not be used: {shorten(unusable)}")
    terminal.say(f"{len(made)} scenes in {out}")
    raise typer.Exit(1 if unusable else 0)
