"""The papers' tables: one TOML a row, our numbers beside the printed ones, nothing invented.

A column is a data set, data-set@k for k clips a class, or data-set/score for another score than accuracy. Every row of
a table shares the recipe of its column (`COLUMN.toml` beside the rows) and adds its own preset, rates and printed
figures. Two modes: `as-written`, and `parity`, which also does what the paper's code did.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ossicle import backbones
from ossicle.backbones import seq2seq
from ossicle.data import Dataset
from ossicle.errors import AdapterError, CheckpointError, DataError, UnknownNameError, UsageError, WeightsError
from ossicle.files import write_atomic
from ossicle.metrics.caption import score as captions
from ossicle.recipe import backbone, config
from ossicle.recipe.config import Recipe, TagsTable
from ossicle.reproduce import protocols

Mode = Literal["as-written", "parity"]
MODES = ("as-written", "parity")
# What the protocol sets for every run; --folds, --test-folds and --seeds change it.
FIXED = ("train.seed", "data.train", "data.val", "data.test", "data.hold_out")
_BESIDE = Path(__file__).resolve().parent / "papers"  # in an installed package
ROOT = _BESIDE if _BESIDE.is_dir() else Path(__file__).resolve().parents[3] / "recipes" / "papers"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        key: its file's stem.
        label: as the paper calls it.
        preset: adapter preset.
        parity: preset of the parity mode.
        printed: column to the printed figure in percent, 0 where the paper prints none.
        tables: recipe tables of its own.
        on: data set to recipe tables of the row for that data set alone.
        modes: mode to recipe tables of the row in that mode alone.
    """

    key: str
    label: str
    preset: str
    parity: str
    printed: Mapping[str, float]
    tables: Mapping[str, Any]
    on: Mapping[str, Mapping[str, Any]]
    modes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class Cell:
    """What became of one row on one column.

    Args:
        row: the row's label.
        preset: the adapter that was used.
        column: the data set, with @k for few-shot.
        printed: the paper's figure in percent.
        ours: `protocols.summary` of the finished runs, in percent, or None.
        best: `protocols.best_epoch`, in percent, where the paper chooses an epoch by the test folds.
        score: which score it is.
        reason: why it was not run; empty if it was.
        parameters: trainable, without a classifier's head.
        notes: what differs from the paper's way.
    """

    row: str
    preset: str
    column: str
    printed: float | None
    ours: dict[str, Any] | None = None
    best: tuple[int, float] | None = None
    score: str = "accuracy"
    reason: str = ""
    parameters: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """What the user changes.

    Args:
        mode: as-written or parity.
        backbone: another backbone than the paper's; empty keeps it.
        folds: the folds at hand; empty wants all.
        tests: folds to test on; empty takes all.
        seeds: empty takes the paper's.
        changes: "train.epochs=3" texts.
    """

    mode: Mode = "as-written"
    backbone: str = ""
    folds: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    changes: tuple[str, ...] = ()


def tables() -> list[str]:
    """Names such as A/table1."""
    return sorted({f"{file.parent.name}/{file.stem.partition('_')[0]}" for file in ROOT.glob("*/*_*.toml")})


def rows(table: str) -> list[Row]:
    """The rows of a table in the paper's order.

    Raises:
        UnknownNameError: with the nearest table.
    """
    if table not in tables():
        raise UnknownNameError("table", table, tables())
    paper, _, name = table.partition("/")
    files = sorted((ROOT / paper).glob(f"{name}_*.toml"))
    return [row for _, row in sorted((_row(file) for file in files), key=lambda pair: pair[0])]


def data_sets(table: str) -> list[str]:
    """The data sets of a table's columns.

    Raises:
        UnknownNameError: with the nearest table.
    """
    columns = (column for row in rows(table) for column in row.printed)
    return list(dict.fromkeys(column.partition("@")[0].partition("/")[0] for column in columns))


def _row(file: Path) -> tuple[int, Row]:
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    own: dict[str, Any] = {key: raw[key] for key in ("train", "task", "backbone") if key in raw}
    preset = raw["preset"]
    key = file.stem.partition("_")[2]
    row = Row(
        key, raw["row"], preset, raw.get("parity", preset), raw["printed"], own, raw.get("on", {}), raw.get("modes", {})
    )
    return raw["order"], row


def reproduce(
    table: str, data: Mapping[str, Dataset | DataError], out: Path, options: Options, wanted: Sequence[str] = ()
) -> list[Cell]:
    """Run what can be run of a table; finished runs are not run again.

    Args:
        table: such as A/table1.
        data: data set by name, or why there is none.
        out: where runs and results go.
        options: what the user changes.
        wanted: keys or labels of rows; empty takes all.

    Raises:
        UnknownNameError: for an unknown table, row or backbone.
        UsageError: for options that do not fit.
    """
    _check(options)
    chosen = rows(table)
    names = [name for row in chosen for name in (row.key, row.label)]
    strange = next((name for name in wanted if name not in names), None)
    if strange is not None:
        raise UnknownNameError("row", strange, names)
    known = _earlier(table, out, options)
    cells = []
    for row in chosen:
        if wanted and row.key not in wanted and row.label not in wanted:
            continue
        for column, printed in row.printed.items():
            cells.append(_cell(table, row, column, printed, data, out, options))
            earlier = known.get((row.label, column))
            if cells[-1].ours or earlier is None or not earlier.ours:  # what was found once is not lost
                known[row.label, column] = cells[-1]
            places = [(r.label, c) for r in chosen for c in r.printed]
            _save(table, [known[place] for place in places if place in known], out, options)
    return cells


def _check(options: Options) -> None:
    if options.backbone:
        backbones.names_of(options.backbone)
    fixed = next((key for change in options.changes for key in FIXED if change.partition("=")[0].strip() == key), None)
    if fixed is not None:
        raise UsageError(f"--set {fixed}: the protocol sets it for every run; use --folds, --test-folds and --seeds")


def _cell(
    table: str, row: Row, column: str, printed: float, data: Mapping[str, Dataset | DataError], out: Path,
    options: Options,
) -> Cell:  # fmt: skip
    name, _, score = column.partition("@")[0].partition("/")
    shared = tomllib.loads((ROOT / table.partition("/")[0] / f"{name}.toml").read_text(encoding="utf-8"))
    recipe = recipe_of(row, column, shared, options)
    protocol = shared["protocol"]
    cell = Cell(row.label, recipe.adapter.spec, column, printed or None, score=score or "accuracy")
    folds = (options.folds or protocol["folds"]) if "folds" in protocol else ()
    cell.notes = [*shared.get("differs", []), *_changed(options, bool(folds))]
    there = data.get(name)
    if not isinstance(there, Dataset):
        cell.reason = f"data: give --data {name}:PATH" if there is None else f"data: {there}"
        return cell
    recipe, absent = _scored(recipe)
    if cell.score in absent:
        cell.reason = f"{cell.score}: {absent[cell.score]}"
        return cell
    try:
        plan = protocols.runs(
            recipe, folds=folds, tests=options.tests,
            seeds=options.seeds or protocol["seeds"], validation=protocol.get("validation", "none"),
        )  # fmt: skip
        _check_weights(recipe)
        folder = out / f"{row.key}_{name}{column.partition('@')[2]}{_variant(options)}"
        done = [protocols.run(one, there, folder) for one in plan]
    except (WeightsError, DataError, AdapterError, UnknownNameError, CheckpointError) as error:
        cell.reason = str(error)
        return cell
    total = protocols.summary(done, cell.score)
    percent = ("mean", "std_folds", "std_seeds")
    cell.ours = {k: v * 100 if k in percent and v is not None else v for k, v in total.items()}
    best = protocols.best_epoch(done, cell.score)
    cell.best = None if best is None else (best[0], best[1] * 100)
    counts = done[0]["parameters"]
    cell.parameters = sum(counts.get(part, 0) for part in ("adapter", "mapper", "llm_trained"))
    return cell


def _scored(recipe: Recipe) -> tuple[Recipe, dict[str, str]]:
    """A recipe with those caption metrics that can run here, and why the others cannot."""
    if not isinstance(recipe.task, TagsTable):
        return recipe, {}
    said = {"0": "a dog barks", "1": "rain falls"}
    names = recipe.task.metrics
    absent = captions.score(said, {key: [text] for key, text in said.items()}, names).absent
    task = recipe.task.model_copy(update={"metrics": [name for name in names if name not in absent]})
    return recipe.model_copy(update={"task": task}), absent


def _check_weights(recipe: Recipe) -> None:
    """Before anything else: are the weights there; raises WeightsError if not."""
    backbone.frozen(recipe)
    if isinstance(recipe.task, TagsTable) and recipe.task.llm:
        seq2seq.is_one(recipe.task.llm)


def recipe_of(row: Row, column: str, shared: Mapping[str, Any], options: Options) -> Recipe:
    """The recipe of a row on a column: the column's tables, those of the mode, the row's own, the user's changes.

    Raises:
        UsageError: if a setting does not exist.
    """
    name, _, few = column.partition("/")[0].partition("@")
    merged: dict[str, Any] = {}
    own = (row.tables, row.on.get(name, {}), row.modes.get(options.mode, {}))
    for layer in (shared.get("recipe", {}), shared.get(options.mode, {}), *own):
        for table, values in layer.items():
            merged[table] = {**merged.get(table, {}), **values}
    if options.backbone:
        merged["backbone"] = {"name": options.backbone}
        merged["task"].pop("layers", None)
        if not _class_token(options.backbone):
            merged["task"].pop("pooling", None)
    spec = row.parity if options.mode == "parity" else row.preset
    merged["adapter"] = {"spec": spec}
    merged["data"] = {"source": name, "hold_out": 0.0, **merged.get("data", {})}
    if few:
        merged["data"] |= {"per_class": int(few), "per_class_from": "first" if options.mode == "parity" else "seeded"}
    return config.read(None, options.changes, merged)


def _changed(options: Options, folds: bool) -> list[str]:
    """What is not the paper's way, in words; on official splits there are no folds to choose."""
    notes = []
    if options.backbone:
        pooled = "" if _class_token(options.backbone) else ", and the mean of all tokens"
        notes = [f"backbone {options.backbone}, with its own front end and lengths{pooled}"]
    notes += [f"folds {' '.join(options.folds)} only"] if folds and options.folds else []
    notes += [f"tested on fold {' '.join(options.tests)}"] if folds and options.tests else []
    return [*notes, *options.changes]


def _class_token(backbone: str) -> bool:
    return all(hasattr(backbones.skeleton(name).stem, "extra") for name in backbones.names_of(backbone))


def _variant(options: Options) -> str:
    """What tells the files of another mode or backbone apart."""
    return ("" if options.mode == "as-written" else "_parity") + (f"_{options.backbone}" if options.backbone else "")


def _stem(table: str, options: Options) -> str:
    return table.replace("/", "_") + _variant(options)


def _earlier(table: str, out: Path, options: Options) -> dict[tuple[str, str], Cell]:
    """Cells that an earlier call on other rows wrote."""
    file = out / f"{_stem(table, options)}.json"
    if not file.is_file():
        return {}
    try:
        cells = [Cell(**cell) for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); take it away, finished runs stay") from error
    return {(cell.row, cell.column): cell for cell in cells}


def _save(table: str, cells: Sequence[Cell], out: Path, options: Options) -> None:
    """Write what is known so far as json and markdown."""
    stem = _stem(table, options)
    result = {"table": table, "mode": options.mode, "cells": [vars(cell) for cell in cells]}
    texts = {f"{stem}.json": json.dumps(result, indent=1) + "\n", f"{stem}.md": markdown(table, cells, options.mode)}
    for name, text in texts.items():
        write_atomic(out / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))  # type: ignore[misc]


def markdown(table: str, cells: Sequence[Cell], mode: str) -> str:
    """The table with ours beside the paper's."""
    lines = [f"# {table}, {mode}", "", "| row | data | paper | ours | trainable | |", "|---|---|---|---|---|---|"]
    for cell in cells:
        paper = "" if cell.printed is None else f"{cell.printed:.2f}"
        count = "" if cell.parameters is None else f"{cell.parameters:,}"
        rest = "; ".join(cell.notes) if cell.ours else f"*not run*: {cell.reason}"
        lines.append(f"| {cell.row} | {cell.column} | {paper} | {figure(cell)} | {count} | {rest} |")
    return "\n".join(lines) + "\n"


def figure(cell: Cell) -> str:
    """Our number as text: mean ± deviation over folds, or seeds, and how many; empty if not run.

    Where the paper chooses the epoch by the test folds that figure stands behind the last epoch's.
    """
    if cell.ours is None:
        return ""
    deviation = cell.ours["std_folds"] if cell.ours["std_folds"] is not None else cell.ours["std_seeds"]
    spread = "" if deviation is None else f" ± {deviation:.2f}"
    best = "" if cell.best is None else f"; {cell.best[1]:.2f} after epoch {cell.best[0]}, best on the test parts"
    return f"{cell.ours['mean']:.2f}{spread} ({cell.ours['folds']} test part(s), {cell.ours['seeds']} seed(s)){best}"


def checked_mode(text: str) -> Mode:
    """A mode the user wrote.

    Raises:
        UsageError: for another word.
    """
    if text not in MODES:
        raise UsageError(f"mode '{text}' is not known; choose as-written or parity")
    return text  # type: ignore[return-value]
