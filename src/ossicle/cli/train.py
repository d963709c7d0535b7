"""`ossicle train classify DATA --out DIR`: an adapter on the user's own sounds."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ossicle import build, config
from ossicle.data import Dataset, open_data
from ossicle.data.manifest import shorten

train = typer.Typer(help="Train an adapter.", no_args_is_help=True)


@train.callback()
def _group() -> None:
    """Train an adapter on labelled sounds."""


@train.command("classify")
def classify(
    data: Annotated[
        str, typer.Argument(help="Folder of label folders, a folder with metadata.csv, a manifest, or esc50:PATH.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the adapter.")],
    backbone: Annotated[str | None, typer.Option(help="A name from `ossicle models`.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Text such as 'lora(rank=8)+norm()', or a name from `ossicle adapters`.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML recipe.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, such as train.epochs=3; may be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an earlier run in --out stopped.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a classifier on labelled sounds."""
    given = {"backbone": {"name": backbone}, "adapter": {"spec": adapter}}
    tables = {name: {k: v for k, v in table.items() if v} for name, table in given.items()}
    if resume and recipe is None and (out / build.RECIPE).is_file():
        recipe = out / build.RECIPE
    chosen = config.read(recipe, change or [], tables)
    manifest = build.train(chosen, opened(data), out, resume=resume, quiet=as_json)
    unreadable = manifest["data"]["unreadable"]
    if unreadable:
        _note(f"{len(unreadable)} file(s) could not be read and were left out: {shorten(unreadable)}")
    _tell(manifest, out, as_json)
    raise typer.Exit(1 if unreadable else 0)


def _tell(manifest: dict[str, Any], out: Path, as_json: bool) -> None:
    """What was trained and how well it does."""
    if as_json:
        print(json.dumps(manifest))
        return
    console = Console()
    share = manifest["parameters"]["adapter"] / manifest["parameters"]["backbone"]
    console.print(f"trained {manifest['parameters']['adapter']:,} adapter parameters ({share:.2%} of the backbone)")
    for name, scores in manifest["scores"].items():
        shown = ", ".join(f"{key} {value:.3f}" for key, value in scores.items() if key != "classes_absent")
        console.print(f"{name}: {shown}")
    console.print(f"adapter in {out}", markup=False, soft_wrap=True)


def opened(data: str) -> Dataset:
    """The data set, its notices printed to stderr."""
    dataset = open_data(data)
    for notice in dataset.notices:
        _note(notice)
    return dataset


def _note(text: str) -> None:
    Console(stderr=True).print(f"note: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)
