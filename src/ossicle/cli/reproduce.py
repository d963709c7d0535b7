"""`ossicle reproduce A/table1`: our numbers beside the paper's."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ossicle import terminal
from ossicle.cli.train import opened
from ossicle.data import DATASETS, Dataset
from ossicle.errors import DataError, UnknownNameError, UsageError
from ossicle.reproduce import tables
from ossicle.reproduce.tables import Cell, Options


def reproduce(
    table: Annotated[str, typer.Argument(help="Such as A/table1; 'list' names all.")],
    data: Annotated[list[str] | None, typer.Option(help="A data set such as esc50:PATH; may be repeated.")] = None,
    rows: Annotated[list[str] | None, typer.Option(help="Only these rows; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for runs and results.")] = Path("reproduce"),
    mode: Annotated[str, typer.Option(help="as-written, or parity: as the paper's code ran.")] = "as-written",
    backbone: Annotated[str, typer.Option(help="Another backbone than the paper's.")] = "",
    folds: Annotated[list[str] | None, typer.Option(help="The folds at hand, if not all; may be repeated.")] = None,
    test_folds: Annotated[list[str] | None, typer.Option(help="Test on these folds only; may be repeated.")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="Seeds; the paper's if not given; may be repeated.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, such as train.epochs=3; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cells as JSON.")] = False,
) -> None:
    """Run a paper's table; what cannot be run is marked, what is finished is not run again."""
    if table == "list":
        if data or rows or backbone or folds or test_folds or seeds or change or as_json:
            raise UsageError("'list' takes no options; leave them out, or name one of the tables it lists")
        print("\n".join(tables.tables()))
        return
    sets: dict[str, Dataset | DataError] = {}
    for text in data or []:
        name = text.partition(":")[0]
        if name not in DATASETS:
            raise UnknownNameError("data set", name, DATASETS)
        if name not in (used := tables.data_sets(table)):
            raise UsageError(
                f"{table} has no column of {name}, so --data {text} does nothing; it uses {', '.join(used)}"
            )
        sets[name] = _opened(text)
    options = Options(
        tables.checked_mode(mode), backbone, tuple(folds or ()), tuple(test_folds or ()), tuple(seeds or ()),
        tuple(change or ()),
    )  # fmt: skip
    cells = tables.reproduce(table, sets, out / table.replace("/", "_"), options, rows or [])
    if as_json:
        print(json.dumps([vars(cell) for cell in cells]))
        return
    _show(cells)
    terminal.say(f"written to {out / table.replace('/', '_')}")


def _opened(text: str) -> Dataset | DataError:
    """A data set; or, where its folder holds the release but no sound, what is missing."""
    try:
        return opened(text)
    except DataError as error:
        if not Path(text.partition(":")[2]).expanduser().is_dir():
            raise
        return error


def _show(cells: list[Cell]) -> None:
    rows = []
    for cell in cells:
        ours = tables.figure(cell) or "not run"
        paper = "" if cell.printed is None else f"{cell.printed:.2f}"
        parameters = "" if cell.parameters is None else f"{cell.parameters:,}"
        rows.append((cell.row, cell.column, paper, ours, parameters))
    terminal.table(("row", "data", "paper", "ours", "trainable"), rows, right=("paper", "trainable"))
    for reason in dict.fromkeys(cell.reason for cell in cells if cell.reason):
        count = sum(cell.reason == reason for cell in cells)
        terminal.say(f"not run ({count}): {reason}")
    for note in dict.fromkeys(note for cell in cells if cell.ours for note in cell.notes):
        terminal.say(f"differs from the paper: {note}")
