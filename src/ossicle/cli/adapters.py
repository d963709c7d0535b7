"""`ossicle adapters`: the adapters one chooses from, or the papers' rows, with their exact trainable parameters."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ossicle import terminal
from ossicle.errors import AdapterError

if TYPE_CHECKING:
    from ossicle.adapters.presets import Preset

BACKBONE = "whisper-tiny.en"
PAPER_BACKBONE = "ast-base"
PAPER_CLASSES = (10, 31, 35, 50)
# A sensible size of each kind, in the order in which to try them, and when it is for.
CHOICES: dict[str, str] = {
    "probe()": "begin here: only the head trains, on features computed once; hard to beat with few clips",
    "lora(rank=8,blocks=top:2)+norm()": "next, without a GPU: --set task.cache_versions=2 computes what is below once",
    "lora(rank=8)+norm()": "next, with a GPU; can be merged into the weights, and exported to PEFT",
    "bottleneck(rank=32)+norm()": "more parameters than lora, for many clips",
    "convpass(rank=32)+norm()": "a bottleneck that also sees the tokens beside each",
    "lookaside(attn=time,mlp=time,rank=16)": "sees the moments beside each; on patch backbones freq sees bands",
    "hydra(rank=32)+norm()": "two bottlenecks, one beside and one after each MLP",
    "norm(which=all)": "the fewest in every block: scales and shifts of the norms",
    "bitfit()": "every bias",
    "prefix(tokens=24)+norm()": "new keys and values for attention",
    "prompts(tokens=25,deep=true)+norm()": "new tokens in the sequence; needs many clips and long training",
    "full()": "everything trains, as a control; for many clips and a GPU",
}
HOW = (
    "Counted on {backbone} as the papers count. Paper A: without head, and without the final norm except for full,"
    " linear and bitfit; its linear row has the head. Paper E: with its head on 44 classes. The papers' figures are for"
    " a base-size backbone; in full, their position tables are shorter. --json also shows each adapter's text."
)


def adapters(
    backbone: Annotated[
        str | None, typer.Option(help=f"A name from `ossicle models`; {BACKBONE}, or {PAPER_BACKBONE} with --papers.")
    ] = None,
    papers: Annotated[bool, typer.Option("--papers", help="The rows of the papers' tables, by name.")] = False,
    adapter: Annotated[list[str] | None, typer.Option(help="Count this text too; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List adapters with what they train on a backbone. No weights are needed."""
    from ossicle.adapters.presets import PRESETS, Preset

    own = "given on the command line"
    if papers:
        backbone = backbone or PAPER_BACKBONE
        rows = [_row_or_error(backbone, name, preset) for name, preset in PRESETS.items()]
        rows += [row(backbone, text, Preset(text, own)) for text in adapter or []]
    else:
        backbone = backbone or BACKBONE
        rows = [_choice_or_error(backbone, text, when) for text, when in CHOICES.items()]
        rows += [choice(backbone, text, own) for text in adapter or []]
    if as_json:
        print(json.dumps(rows))
    elif papers:
        _show_papers(backbone, rows)
    else:
        _show_choices(backbone, rows)


def _show_choices(backbone: str, rows: list[dict[str, Any]]) -> None:
    fit = [r for r in rows if r["error"] is None]
    if fit:
        terminal.say(f"On {backbone}, which has {fit[0]['backbone_parameters']:,} parameters; the head comes on top.")
        terminal.say()
        cells = [(r["text"], f"{r['trainable']:,}", _share(r), r["when"]) for r in fit]
        terminal.table(("adapter", "trainable", "share", "when"), cells, right=("trainable", "share"))
        terminal.say()
    for r in rows:
        if r["error"] is not None:
            terminal.prose(f"Does not fit: {r['text']}: {r['error']}")
    terminal.prose(
        "Train one with `ossicle train classify DATA --adapter TEXT --out DIR`. `ossicle adapters --adapter TEXT`"
        " counts any other text, --papers lists the rows of the papers' tables."
    )


def _show_papers(backbone: str, rows: list[dict[str, Any]]) -> None:
    slips = list(dict.fromkeys(r["slip"] for r in rows if r["slip"]))
    cells = []
    for r in rows:
        if r["error"] is None:
            mark = f" [{slips.index(r['slip']) + 1}]" if r["slip"] else ""
            cells.append((r["name"], f"{r['trainable']:,}", _share(r), r["paper"] + mark, r["row"]))
    terminal.table(("name", "trainable", "share", "paper", "row"), cells, right=("trainable", "share"))
    for number, slip in enumerate(slips, start=1):
        terminal.say(f"[{number}] the paper's slip: {slip}")
    for error in dict.fromkeys(r["error"].partition(" but ")[2] for r in rows if r["error"]):
        names = [r["name"] for r in rows if r["error"] and r["error"].endswith(error)]
        terminal.prose(f"Do not fit: {', '.join(names)}: {error}")
    terminal.prose(HOW.format(backbone=backbone))


def _share(r: dict[str, Any]) -> str:
    return f"{r['trainable'] / r['backbone_parameters']:.2%}"


def _choice_or_error(backbone: str, text: str, when: str) -> dict[str, Any]:
    try:
        return choice(backbone, text, when)
    except AdapterError as error:
        return {"text": text, "backbone": backbone, "when": when, "error": str(error)}


def choice(backbone: str, text: str, when: str) -> dict[str, Any]:
    """Counts of one adapter: all that trains but the head, and with the head of a mean-pooled classifier.

    Raises:
        UnknownNameError: for an unknown backbone, adapter or option.
        AdapterError: if the adapter does not fit the backbone.
    """
    from ossicle.adapters.count import count

    counted = count(backbone, text)
    return {
        "text": text, "backbone": backbone, "when": when, "trainable": counted.total,
        "final_norm": counted.final_norm,
        "with_head": {str(classes): counted.with_head(classes) for classes in PAPER_CLASSES},
        "backbone_parameters": counted.backbone, "error": None,
    }  # fmt: skip


def _row_or_error(backbone: str, name: str, preset: "Preset") -> dict[str, Any]:
    try:
        return row(backbone, name, preset)
    except AdapterError as error:
        known = {"name": name, "text": preset.text, "backbone": backbone, "paper": preset.paper, "row": preset.row}
        return {**known, "slip": preset.slip, "error": str(error)}


def row(backbone: str, name: str, preset: "Preset") -> dict[str, Any]:
    """Counts of one of the papers' rows, as the paper counts and with the head of a mean-pooled classifier.

    Raises:
        UnknownNameError: for an unknown backbone, adapter or option.
        AdapterError: if the adapter does not fit the backbone.
    """
    from ossicle.adapters.count import count

    counted = count(backbone, preset.text)
    return {
        "name": name, "text": preset.text, "backbone": backbone, "paper": preset.paper, "row": preset.row,
        "trainable": preset.head + (counted.total if preset.counts_norm else counted.adapter),
        "final_norm": counted.final_norm,
        "with_head": {str(classes): counted.with_head(classes) for classes in PAPER_CLASSES},
        "backbone_parameters": counted.backbone, "slip": preset.slip, "error": None,
    }  # fmt: skip
