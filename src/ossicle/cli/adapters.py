"""`ossicle adapters`: presets under the papers' row names with their exact trainable parameters."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ossicle.adapters.count import count
from ossicle.adapters.presets import PRESETS, Preset

PAPER_BACKBONE = "ast-base"
PAPER_CLASSES = (10, 31, 35, 50)


def adapters(
    backbone: Annotated[str, typer.Option(help="A name from `ossicle models`.")] = PAPER_BACKBONE,
    adapter: Annotated[list[str] | None, typer.Option(help="Count this text too; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List adapters with what they train on a backbone. No weights are needed."""
    rows = [row(backbone, name, preset) for name, preset in PRESETS.items()]
    rows += [row(backbone, text, Preset(text, "")) for text in adapter or []]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("name", "adapter", "trainable", "of backbone", "paper", "row")
    for r in rows:
        share = f"{r['trainable'] / r['backbone_parameters']:.2%}"
        table.add_row(r["name"], r["text"], f"{r['trainable']:,}", share, r["paper"], r["row"])
    Console().print(table)
    Console().print(
        f"Counted as the paper counts, on {backbone}: without head, and without the final norm except for full, linear"
        " and bitfit. The paper's figures are for AST-base with shorter position tables; its linear row has the head."
    )


def row(backbone: str, name: str, preset: Preset) -> dict[str, Any]:
    """Counts of one adapter, as the paper counts and with the head of a mean-pooled classifier."""
    counted = count(backbone, preset.text)
    return {
        "name": name, "text": preset.text, "backbone": backbone,
        "trainable": counted.total if preset.counts_norm else counted.adapter, "final_norm": counted.final_norm,
        "with_head": {str(classes): counted.with_head(classes) for classes in PAPER_CLASSES},
        "backbone_parameters": counted.backbone, "paper": preset.paper, "row": preset.row,
    }  # fmt: skip
