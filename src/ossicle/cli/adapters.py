"""`ossicle adapters`: presets under the papers' row names with their exact trainable parameters."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ossicle.adapters.count import count
from ossicle.adapters.presets import PRESETS

PAPER_BACKBONE = "ast-base"
PAPER_CLASSES = (10, 31, 35, 50)


def adapters(
    backbone: Annotated[str, typer.Option(help="A name from `ossicle models`.")] = PAPER_BACKBONE,
    adapter: Annotated[list[str] | None, typer.Option(help="Count this text too; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List adapters with what they train on a backbone. No weights are needed."""
    rows = [row(backbone, name, p.text, p.row, p.paper) for name, p in PRESETS.items()]
    rows += [row(backbone, text, text, "", "") for text in adapter or []]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("name", "adapter", "trainable", "+ final norm", "of backbone", "paper, AST-base", "row")
    for r in rows:
        share = f"{r['trainable'] / r['backbone_parameters']:.2%}"
        cells = [f"{r['trainable']:,}", f"{r['final_norm']:,}", share, r["paper"], r["row"]]
        table.add_row(r["name"], r["text"], *cells)
    Console().print(table)


def row(backbone: str, name: str, text: str, paper_row: str, paper: str) -> dict[str, Any]:
    """Counts of one adapter: without head and final norm as the papers print them, and with both."""
    counted = count(backbone, text)
    return {
        "name": name, "text": text, "backbone": backbone,
        "trainable": counted.adapter, "final_norm": counted.final_norm,
        "with_head": {str(classes): counted.with_head(classes) for classes in PAPER_CLASSES},
        "backbone_parameters": counted.backbone, "paper": paper, "row": paper_row,
    }  # fmt: skip
