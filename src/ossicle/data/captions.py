"""Candidates and references as text by id: Clotho and AudioCaps csv, aac-metrics' csv, COCO's and other JSON."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ossicle.data.notices import shorten
from ossicle.data.table import Row, listed, normal, read_table
from ossicle.errors import DataError

# COCO's own first: its rows may also carry the name of a file, which a system's answers do not.
IDS = ("image_id", "file_name", "filename", "fname", "file", "audio", "path", "audio_id", "id", "name", "audiocap_id")
CANDIDATES = ("caption_predicted", "candidate", "candidates", "cands", "preds", "prediction", "predicted", "caption")
LISTS = ("captions", "references", "mrefs", "refs", "caption_references")
_NUMBERED = re.compile(r"(?:caption|reference|caption_reference)_?\d+")


@dataclass(frozen=True)
class Said:
    """What a system said.

    Args:
        captions: one for each id; an empty one is what the system said.
        failed: id to why the system said nothing.
        tags: id to name and score of each tag that its caption comes with, where it comes with any.
    """

    captions: dict[str, str]
    failed: dict[str, str]
    tags: dict[str, list[tuple[str, float]]] = field(default_factory=dict)


def candidates(path: Path) -> Said:
    """One caption per id. A row with an error and no caption, as `ossicle caption` writes it, is no empty caption.

    Raises:
        DataError: if the table cannot be read, has no id or caption column, a row has no caption or several, an id
            comes twice, or there is not one word in all captions.
    """
    rows = read_table(path)
    said = Said({}, {})
    twice, wrong = [], []
    for row in rows:
        name, error = identity(path, row), string(row.cells.get("error")).strip()
        twice += [f"{name} (line {row.line})"] if name in said.captions or name in said.failed else []
        column = next((c for c in (*CANDIDATES, "captions") if c in row.cells), None)
        if error and not string(row.cells.get(column or "")).strip():
            said.failed[name] = error
            continue
        if column is None and row is rows[0]:
            raise DataError(f"{path.name} has no column of captions; name it one of {', '.join(CANDIDATES)}")
        value = row.cells.get(column or "")
        texts = [] if column is None or value is None or value != value else _texts(path, row, column)
        wrong += [] if len(texts) == 1 else [f"{name} (line {row.line})"]
        said.captions[name] = texts[0] if texts else ""
        heard = _tags(row.cells.get("tags"))
        said.tags.update({name: heard} if heard else {})
    if twice:
        raise DataError(f"{path.name} has {len(twice)} id(s) more than once: {shorten(twice)}; keep one caption each")
    if wrong:
        told = f"{path.name} has {len(wrong)} row(s) whose caption is not one text: {shorten(wrong)}"
        raise DataError(f'{told}; give one caption each, "" where the system said nothing')
    if not any(text.strip() for text in said.captions.values()):
        told = f"{path.name} has no caption: of {len(rows)} row(s) {len(said.failed)} have an error"
        raise DataError(f"{told}, the others are empty; give what a captioner wrote")
    return said


def _tags(cell: Any) -> list[tuple[str, float]]:
    """Tags as rows of `ossicle caption` have them: lists, structs in parquet, JSON in csv; none of anything else.

    A column of that name in other people's tables holds keywords.
    """
    try:
        rows = json.loads(cell) if isinstance(cell, str) else cell
    except (ValueError, RecursionError):
        return []
    rows = [[row.get("name"), row.get("score")] if isinstance(row, dict) else row for row in _list(rows)]
    good = all(len(_list(row)) >= 2 and isinstance(row[0], str) and _is_score(row[1]) for row in rows)
    return [(normal(row[0]), float(row[1])) for row in rows] if good else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def references(path: Path, *, nameless: bool = False) -> dict[str, list[str]]:
    """The captions of each id, from several columns, a list, or several rows; empty cells mean absent.

    Args:
        path: the table.
        nameless: a row without an id is an item of its own.

    Raises:
        DataError: if the table cannot be read, has no id or caption column, or an id has no caption.
    """
    rows = read_table(path)
    found: dict[str, list[str]] = {}
    for row in rows:
        name = f"line {row.line}" if nameless and not _named(row) else identity(path, row)
        found.setdefault(name, []).extend(_captions(path, row))
    empty = [name for name, texts in found.items() if not texts]
    if empty:
        raise DataError(f"{path.name} has {len(empty)} id(s) without a caption: {shorten(empty)}; add one or drop them")
    return found


def _captions(path: Path, row: Row) -> list[str]:
    whole = next((c for c in LISTS if row.cells.get(c)), None)
    columns: list[str] = [c for c in row.cells if _NUMBERED.fullmatch(c)]
    if whole or not columns:
        columns = [whole or ("caption" if "caption" in row.cells else "reference")]
    return [text for column in columns for text in _texts(path, row, column) if text.strip()]


def _texts(path: Path, row: Row, column: str) -> list[str]:
    """The captions of a cell: its text, or all of a list."""
    value = row.cells.get(column)
    try:
        texts = listed(value)
    except ValueError as error:
        raise DataError(f"{path.name} line {row.line}: {error}") from None
    return [string(value)] if texts is None else texts


def _named(row: Row) -> bool:
    return any(string(row.cells.get(column)).strip() for column in ("youtube_id", *IDS))


def identity(path: Path, row: Row) -> str:
    """What names an item: AudioCaps' video and start, or a file as it is given, with its folder."""
    video, start = string(row.cells.get("youtube_id")), string(row.cells.get("start_time"))
    if video:
        return f"{video}_{start}" if start else video
    for column in IDS:
        text = string(row.cells.get(column)).strip()
        if text:
            return text
    raise DataError(f"{path.name} line {row.line} names no item; give a column such as file_name or id")


def string(value: Any) -> str:
    """A cell as text; absent and not-a-number are empty."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else normal(str(value))
