"""`ossicle merge DIR... --out DIR`: several captioners' LoRAs to one."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ossicle import terminal
from ossicle.deliver import merge as merging
from ossicle.errors import UsageError

DENSITY = 0.5


def merge(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="Captioner folders that share their mapper.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    how: Annotated[str, typer.Option(help=f"One of {', '.join(merging.WAYS)}.")] = "cat",
    weights: Annotated[
        list[float] | None, typer.Option(help="One for each folder, in order; their mean if none is given.")
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help=f"Share of values that {', '.join(merging.DENSE)} keep; {DENSITY} if not given."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Merge the LoRAs of captioners that were trained over one mapper."""
    if density is not None and how in merging.WAYS and how not in merging.DENSE:
        raise UsageError(f"--density is for {', '.join(merging.DENSE)} and does nothing with --how {how}; leave it out")
    kept = DENSITY if density is None else density
    told = merging.merge(folders, out, how=how, weights=weights, density=kept)
    if as_json:
        print(json.dumps(told))
        return
    shown = ", ".join(f"{w:.3g}" for w in told["weights"])
    terminal.say(f"{len(folders)} LoRAs to one of rank {told['rank']} ({how}, weights {shown})")
    terminal.say(
        f"its correction differs from the weighted sum of theirs by {told['difference']:.1e} of the largest value"
    )
    terminal.say(f"captioner in {out}")
