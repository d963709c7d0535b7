"""A classifier's rows on disk beside the labels of their files: what `ossicle score classify` scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ossicle.data.captions import IDS, string
from ossicle.data.manifest import Row, read_table, shorten
from ossicle.data.match import match
from ossicle.errors import DataError

LABELS = ("label", "labels", "category", "class")
WANTED = "give what `ossicle predict` wrote"


@dataclass(frozen=True)
class Predicted:
    """What was predicted of the labelled files.

    Args:
        scores: file, as the table of labels names it, to the mean score of each class the adapter of its rows knows.
        failed: file to why it could not be read.
        notes: what a reader of the scores should know.
    """

    scores: Mapping[str, Mapping[str, float]]
    failed: Mapping[str, str]
    notes: Sequence[str]


def labels(truth: Path) -> dict[str, str]:
    """File to label, as a table names them.

    Raises:
        DataError: if it cannot be read, or a row has no file, a file again, or no label.
    """
    found: dict[str, str] = {}
    for row in read_table(truth):
        name = next(filter(None, (string(row.cells.get(column)).strip() for column in IDS)), "")
        label = next(filter(None, (string(row.cells.get(column)).strip() for column in LABELS)), "")
        told = "names no file; give a column such as file_name" if not name else ""
        told = told or (f"names {name} again; keep one row for each file" if name in found else "")
        told = told or (f"has no label; give a column {LABELS[0]}" if not label else "")
        if told:
            raise DataError(f"{truth.name} line {row.line} {told}")
        found[name] = label
    return found


def predicted(predictions: Path, labels: Mapping[str, str]) -> Predicted:
    """Mean scores of each labelled file's rows.

    Raises:
        DataError: naming files without a label and labels without a file; if no file could be read; or if one file has
            rows of several adapters.
    """
    rows: dict[str, list[Row]] = {}
    for row in read_table(predictions):
        rows.setdefault(string(row.cells.get("path")).strip(), []).append(row)
    found = match(rows, labels)
    faults = found.faults("prediction(s) have no label", "labelled file(s) have no prediction")
    if faults:
        raise DataError(faults)
    scores: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    for path, own in rows.items():
        good = [row for row in own if not string(row.cells.get("error"))]
        if good:
            scores[found.pairs[path]] = _mean(f"{predictions.name}: {path}", good)
        else:
            failed[found.pairs[path]] = string(own[0].cells.get("error"))
    if not scores:
        raise DataError(f"{predictions.name} has no file that could be read; see its error column")
    read = {path: own for path, own in rows.items() if found.pairs[path] in scores}
    return Predicted(scores, failed, [*_windows(read), *_known(scores)])


def _mean(where: str, rows: Sequence[Row]) -> dict[str, float]:
    """The mean of a file's rows; all of one adapter, or it would be no mean of anything."""
    models = sorted({string(row.cells.get("model")) for row in rows})
    if len(models) > 1:
        raise DataError(f"{where} has rows of {len(models)} adapters: {shorten(models)}; keep those of one")
    parts = [_scores(where, row) for row in rows]
    other = next((row for row, part in zip(rows, parts, strict=True) if part.keys() != parts[0].keys()), None)
    if other is not None:
        raise DataError(
            f"{where} has other classes in line {other.line} than in line {rows[0].line}; keep one adapter's"
        )
    return {label: float(np.mean([part[label] for part in parts])) for label in parts[0]}


def _scores(where: str, row: Row) -> dict[str, float]:
    value = row.cells.get("scores")
    try:
        found = json.loads(value) if isinstance(value, str) and value else dict(value or {})
        scores = {str(label): float(p) for label, p in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{where} line {row.line} has no readable scores ({error}); {WANTED}") from None
    if not scores:
        raise DataError(f"{where} line {row.line} has neither scores nor an error; {WANTED}")
    return scores


def _windows(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Says where a file's mean is not over all of its windows."""
    bad = {path: sum(bool(string(row.cells.get("error"))) for row in own) for path, own in rows.items()}
    names = [path for path, count in bad.items() if count]
    told = f"{sum(bad.values())} window(s) of {shorten(names)} could not be read; the mean is over the others"
    return [told] if names else []


def _known(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Says where files were named by adapters that know different classes."""
    kinds: dict[frozenset[str], str] = {}
    for name, own in scores.items():
        kinds.setdefault(frozenset(own), name)
    told = shorten([f"{len(kind)} of {name}" for kind, name in kinds.items()])
    everything = len(frozenset().union(*kinds))
    note = f"rows know different classes ({told}), {everything} in all; what a row does not know has score 0"
    return [note] if len(kinds) > 1 else []
