"""`ossicle adapters`: presets under the papers' row names with their exact trainable parameters."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ossicle.adapters.count import count
from ossicle.adapters.presets import PRESETS, Preset
from ossicle.errors import AdapterError

PAPER_BACKBONE = "ast-base"
PAPER_CLASSES = (10, 31, 35, 50)
HOW = (
    "Counted on {backbone} as the papers count. Paper A: without head, and without the final norm except for full,"
    " linear and bitfit; its linear row has the head. Paper E: with its head on 44 classes. The papers' figures are for"
    " a base-size backbone; in full, their position tables are shorter. --json also shows each adapter's text."
)


def adapters(
    backbone: Annotated[str, typer.Option(help="A name from `ossicle models`.")] = PAPER_BACKBONE,
    adapter: Annotated[list[str] | None, typer.Option(help="Count this text too; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List adapters with what they train on a backbone. No weights are needed."""
    rows = [_row_or_error(backbone, name, preset) for name, preset in PRESETS.items()]
    rows += [row(backbone, text, Preset(text, "given on the command line")) for text in adapter or []]
    if as_json:
        print(json.dumps(rows))
        return
    _show(backbone, rows)


def _show(backbone: str, rows: list[dict[str, Any]]) -> None:
    console = Console()
    table = Table("name", "trainable", "share", "paper", "row", box=None, pad_edge=False)
    for column in table.columns[:4]:
        column.no_wrap = True
    slips = list(dict.fromkeys(r["slip"] for r in rows if r["slip"]))
    for r in rows:
        if r["error"] is None:
            mark = f" [{slips.index(r['slip']) + 1}]" if r["slip"] else ""
            share = f"{r['trainable'] / r['backbone_parameters']:.2%}"
            table.add_row(r["name"], f"{r['trainable']:,}", share, r["paper"] + mark.replace("[", "\\["), r["row"])
    console.print(table)
    for number, slip in enumerate(slips, start=1):
        console.print(f"\\[{number}] the paper's slip: {slip}")
    for error in dict.fromkeys(r["error"].partition(" but ")[2] for r in rows if r["error"]):
        names = [r["name"] for r in rows if r["error"] and r["error"].endswith(error)]
        console.print(f"Do not fit: {', '.join(names)}: {error}")
    console.print(HOW.format(backbone=backbone))


def _row_or_error(backbone: str, name: str, preset: Preset) -> dict[str, Any]:
    try:
        return row(backbone, name, preset)
    except AdapterError as error:
        known = {"name": name, "text": preset.text, "backbone": backbone, "paper": preset.paper, "row": preset.row}
        return {**known, "slip": preset.slip, "error": str(error)}


def row(backbone: str, name: str, preset: Preset) -> dict[str, Any]:
    """Counts of one adapter, as the paper counts and with the head of a mean-pooled classifier.

    Raises:
        UnknownNameError: for an unknown backbone, adapter or option.
        AdapterError: if the adapter does not fit the backbone.
    """
    counted = count(backbone, preset.text)
    return {
        "name": name, "text": preset.text, "backbone": backbone, "paper": preset.paper, "row": preset.row,
        "trainable": preset.head + (counted.total if preset.counts_norm else counted.adapter),
        "final_norm": counted.final_norm,
        "with_head": {str(classes): counted.with_head(classes) for classes in PAPER_CLASSES},
        "backbone_parameters": counted.backbone, "slip": preset.slip, "error": None,
    }  # fmt: skip
