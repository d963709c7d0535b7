"""`ossicle data DATA`: what a data set holds, and every sound that is missing from it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ossicle import terminal
from ossicle.contracts import Clip
from ossicle.data import open_data
from ossicle.files import write_atomic


def data(
    where: Annotated[str, typer.Argument(metavar="DATA", help="Sounds, as for train.")],
    missing: Annotated[
        Path | None, typer.Option(help="A text file for the names of all sounds that are not there, one a line.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, missing sounds included.")] = False,
) -> None:
    """Show what a data set holds: clips, labels, captions, recordings and licences of every split. No sound is read."""
    dataset = open_data(where)
    for notice in dataset.notices:
        terminal.note(notice)
    if missing is not None:
        lines = "".join(f"{name}\n" for name in dataset.missing)
        write_atomic(missing, lambda part: part.write_text(lines, encoding="utf-8"))
    splits = {name: held([c for c in dataset.clips if c.split == name]) for name in _names(dataset.clips)}
    if as_json:
        print(json.dumps({"name": dataset.name, "splits": splits, "missing": dataset.missing}))
        return
    counted, rows = ("clips", "labels", "captions", "recordings"), []
    for name, row in splits.items():
        licences = ", ".join(f"{licence} ({count:,})" for licence, count in row["licences"].items())
        rows.append((name or "none", *(f"{row[key]:,}" for key in counted), licences))
    terminal.table(("split", *counted, "licences"), rows, right=counted)
    told = f", written to {missing}" if missing is not None else ""
    terminal.say(f"{len(dataset.missing):,} sounds are not there{told}")


def held(clips: Sequence[Clip]) -> dict[str, Any]:
    """What some clips hold: how many, of how many labels, with how many captions, from how many recordings."""
    licences = Counter(clip.licence or "not stated" for clip in clips)
    return {
        "clips": len(clips),
        "labels": len({label for clip in clips for label in clip.labels}),
        "captions": sum(len(clip.captions) for clip in clips),
        "recordings": len({clip.group or str(clip.path) for clip in clips}),
        "licences": dict(licences.most_common()),
    }


def _names(clips: Sequence[Clip]) -> list[str]:
    return sorted({clip.split for clip in clips})
