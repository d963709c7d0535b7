"""Candidates and references as text by id: Clotho and AudioCaps csv, aac-metrics' csv, COCO's and other JSON lists."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossicle.data.manifest import Row, read_table, shorten
from ossicle.errors import DataError

IDS = ("file_name", "filename", "fname", "file", "audio", "path", "image_id", "audio_id", "id", "name", "audiocap_id")
CANDIDATES = ("caption_predicted", "candidate", "candidates", "cands", "preds", "prediction", "predicted", "caption")
LISTS = ("captions", "references", "mrefs", "refs", "caption_references")
_NUMBERED = re.compile(r"(?:caption|reference|caption_reference)_?\d+")


@dataclass(frozen=True)
class Said:
    """What a system said.

    Args:
        captions: one for each id; an empty one is what the system said.
        failed: id to why the system said nothing.
    """

    captions: dict[str, str]
    failed: dict[str, str]


def candidates(path: Path) -> Said:
    """One caption per id. A row with an error and no caption, as `ossicle caption` writes it, is no empty caption.

    Raises:
        DataError: if the table cannot be read, has no id or caption column, a row has no caption or several, an id
            comes twice, or there is not one word in all captions.
    """
    rows = read_table(path)
    column = next((c for c in CANDIDATES if any(c in row.cells for row in rows)), None)
    if column is None:
        raise DataError(f"{path.name} has no column of captions; name it one of {', '.join(CANDIDATES)}")
    said = Said({}, {})
    twice, wrong = [], []
    for row in rows:
        name, value, error = identity(path, row), row.cells.get(column), string(row.cells.get("error")).strip()
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        twice += [f"{name} (line {row.line})"] if name in said.captions or name in said.failed else []
        if error and not string(value).strip():
            said.failed[name] = error
            continue
        wrong += [] if isinstance(value, str | int | float) and value == value else [f"{name} (line {row.line})"]
        said.captions[name] = string(value)
    if twice:
        raise DataError(f"{path.name} has {len(twice)} id(s) more than once: {shorten(twice)}; keep one caption each")
    if wrong:
        told = f"{path.name} has {len(wrong)} row(s) whose {column} is not one text: {shorten(wrong)}"
        raise DataError(f'{told}; give one caption each, "" where the system said nothing')
    if not any(text.strip() for text in said.captions.values()):
        told = f"{path.name} has no caption: of {len(rows)} row(s) {len(said.failed)} have an error"
        raise DataError(f"{told}, the others are empty; give what a captioner wrote")
    return said


def references(path: Path) -> dict[str, list[str]]:
    """The captions of each id, from several columns, a list, or several rows; empty cells mean absent.

    Raises:
        DataError: if the table cannot be read, has no id or caption column, or an id has no caption.
    """
    rows = read_table(path)
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(identity(path, row), []).extend(_captions(row.cells))
    empty = [name for name, texts in found.items() if not texts]
    if empty:
        raise DataError(f"{path.name} has {len(empty)} id(s) without a caption: {shorten(empty)}; add one or drop them")
    return found


def _captions(cells: dict[str, Any]) -> list[str]:
    lists: Sequence[Any] = next((cells[c] for c in LISTS if isinstance(cells.get(c), list)), ())
    numbered = [cells[c] for c in cells if _NUMBERED.fullmatch(c)]
    texts = [string(v) for v in (lists or numbered or [cells.get("caption", cells.get("reference"))])]
    return [text for text in texts if text.strip()]


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
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
