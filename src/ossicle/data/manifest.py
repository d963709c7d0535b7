"""Tables of sound files: csv, tsv, jsonl, json and parquet, with the columns of Clotho, AudioCaps and WavCaps.

A row names one stretch of one file, with a label, labels (separated by ;) or captions. Rows of the same stretch
are joined when they carry captions, as AudioCaps writes its references, and are a fault when they carry labels.
"""

import csv
import io
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ossicle.contracts import Clip
from ossicle.errors import DataError
from ossicle.sound import audio

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
PATH_COLUMNS = ("file_name", "filename", "path", "file", "audio")
_LABEL_COLUMNS = ("label", "labels", "category", "class")
_SPLIT_COLUMNS = ("split", "fold", "subset")
_START_COLUMNS = ("start", "start_s", "start_time")
_END_COLUMNS = ("end", "end_s", "end_time")
_LICENCE_COLUMNS = ("licence", "license")
_GROUP_COLUMNS = ("group", "recording", "youtube_id")
_CAPTION = re.compile(r"captions?_?\d*")
_AUDIOCAPS_SECONDS = 10
SHOWN = 5


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        line: its number in the file, counted from 1 with the heading included.
        cells: value by column name (lower case, words joined by _).
    """

    line: int
    cells: dict[str, Any]


class Missing(str):
    """A notice of sound files that are not there.

    Args:
        text: what to tell.
        names: all of them; the text has the first few.
    """

    names: tuple[str, ...]

    def __new__(cls, text: str, names: Sequence[str] = ()) -> "Missing":
        """The text, with the names as an attribute."""
        notice = super().__new__(cls, text)
        notice.names = tuple(names)
        return notice


def shorten(items: Sequence[str]) -> str:
    """Write a list into a message: the first five, then how many more."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def holds(folder: Path) -> str:
    """Write into a message what a folder holds."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return f"holds {shorten(names)}" if names else "is empty"


def sounds(folder: Path) -> list[Path]:
    """The sound files below a folder, sorted; unlike audio.find, none is fine."""
    try:
        return audio.find([folder])
    except DataError:
        return []


def read_table(path: Path, fallback: str = "") -> list[Row]:
    """Read a csv, tsv, jsonl, json or parquet file.

    Args:
        path: the file; its suffix says the format. A csv may use , ; or tab and may be UTF-8 or UTF-16.
        fallback: the encoding of a csv that is neither.

    Raises:
        DataError: if the file is absent, empty, not what its suffix says, or names a column twice.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path.name} is not a table ossicle reads; give one of {', '.join(SUFFIXES)}")
    try:
        if suffix == ".parquet":
            rows = _read_parquet(path)
        elif suffix in (".json", ".jsonl"):
            rows = _read_json(path) if suffix == ".json" else _read_jsonl(path)
        else:
            rows = _read_csv(path, fallback)
    except FileNotFoundError:
        raise DataError(f"{path} is not there; give the path of an existing table") from None
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{path.name} cannot be read as {suffix[1:]}: {error}; save it again as UTF-8") from error
    if not rows:
        raise DataError(f"{path.name} has no rows; one row per sound file is wanted")
    return rows


def _read_csv(path: Path, fallback: str) -> list[Row]:
    text = _decode(path.read_bytes(), fallback)
    heading = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(",;\t", key=heading.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: list[str] = []
    rows = []
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if not columns:
            columns = _columns(values)
        elif len(values) > len(columns):
            raise ValueError(
                f"line {reader.line_num} has {len(values)} cells but the heading has {len(columns)}; "
                f'put cells that contain "{delimiter}" into double quotes'
            )
        else:
            padded = values + [""] * (len(columns) - len(values))
            rows.append(Row(reader.line_num, dict(zip(columns, padded, strict=True))))
    return rows


def _decode(data: bytes, fallback: str = "") -> str:
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        if not fallback:
            raise
        return data.decode(fallback)


def _columns(names: Sequence[str]) -> list[str]:
    columns = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names]
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise ValueError(f"the heading names {', '.join(twice)} twice; keep one")
    return columns


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(_decode(path.read_bytes()).split("\n"), start=1):
        if line.strip():
            rows.append(_json_row(number, json.loads(line)))
    return rows


def _read_json(path: Path) -> list[Row]:
    content = json.loads(_decode(path.read_bytes()))
    if isinstance(content, dict):
        content = content.get("data")  # WavCaps: {"num_captions_per_audio": 1, "data": [...]}
    if not isinstance(content, list):
        raise ValueError('a list of objects, or an object with such a list as "data", is wanted')
    return [_json_row(number, item) for number, item in enumerate(content, start=1)]


def _json_row(line: int, item: object) -> Row:
    if not isinstance(item, dict):
        raise ValueError(f'row {line} is {type(item).__name__}, an object such as {{"file_name": …}} is wanted')
    return Row(line, dict(zip(_columns(list(item)), item.values(), strict=True)))


def _read_parquet(path: Path) -> list[Row]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    columns = _columns(table.column_names)
    records = table.rename_columns(columns).to_pylist()
    return [Row(number, record) for number, record in enumerate(records, start=1)]


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a table into clips.

    Args:
        path: the table. Sound files are looked for beside it, in `audio` beside it, then by name in the folders below.

    Returns:
        The clips in the table's order, and notices about rows left out because their sound file is not there.

    Raises:
        DataError: if a column is missing, a cell is unusable, a stretch is listed twice with labels,
            or none of the sound files is there.
    """
    table = read_table(path)
    _check_columns(path.name, table)
    finder = Finder(path.parent)
    clips: dict[tuple[Path, float, float | None], Clip] = {}
    faults: list[str] = []
    missing: list[str] = []
    for row in table:
        try:
            clip = _clip(row, finder)
        except ValueError as error:
            faults.append(f"line {row.line}: {error}")
            continue
        if clip is None:
            missing.append(_names(row)[0])
            continue
        key = (clip.path, clip.start, clip.end)
        if key not in clips:
            clips[key] = clip
        elif clip.captions and clip.labels == clips[key].labels and clip.split == clips[key].split:
            clips[key] = replace(clips[key], captions=clips[key].captions + clip.captions)
        else:
            faults.append(f"line {row.line}: {clip.name} is listed before; keep one row, several labels joined by ;")
    if faults:
        raise DataError(f"{path.name}: {len(faults)} unusable row(s): {shorten(faults)}")
    return list(clips.values()), _missing(path.name, missing, len(table))


def _check_columns(name: str, table: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(column for row in table for column in row.cells))
    found = f"it has {', '.join(columns)}"
    if not any(column in columns for column in (*PATH_COLUMNS, "id", "youtube_id")):
        raise DataError(f"{name} has no column with the sound file; {found}; name one of them {PATH_COLUMNS[0]}")
    known = any(column in _LABEL_COLUMNS or _CAPTION.fullmatch(column) for column in columns)
    if not known:
        raise DataError(f"{name} has no label, labels or caption column; {found}; add the one you want to learn")


def _missing(name: str, missing: Sequence[str], total: int) -> list[str]:
    if not missing:
        return []
    names = list(dict.fromkeys(missing))
    text = f"{name}: {len(missing)} of {total} rows name a sound file that is not there: {shorten(names)}"
    if len(missing) == total:
        raise DataError(f"{text}; put the files beside the table, or write their paths relative to it")
    return [Missing(f"{text}; these rows are left out", names)]


def _clip(row: Row, finder: "Finder") -> Clip | None:
    """The row's clip, or None when its sound file is not there."""
    cells = row.cells
    names = _names(row)
    path = finder.named(names) or finder.stemmed(stems(cells))
    captions = _captions(cells)
    labels = _labels(cells, optional=bool(captions))
    start, end = (0.0, None) if "youtube_id" in cells else _seconds(cells)
    if path is None:
        return None
    return Clip(
        path=path,
        start=start,
        end=end,
        labels=labels,
        captions=captions,
        split=_text(cells, _SPLIT_COLUMNS),
        group=_text(cells, _GROUP_COLUMNS),
        licence=_text(cells, _LICENCE_COLUMNS),
        name=finder.name(path, names),
    )


def _names(row: Row) -> list[str]:
    """The file names a row offers, best first; WavCaps rows have both the original name and an id."""
    cells = {k: v.get("path") if isinstance(v, dict) else v for k, v in row.cells.items()}
    names = [str(cells[column]) for column in PATH_COLUMNS if cells.get(column)]
    names = names or [_text(cells, ("id",)) or _text(cells, ("youtube_id",))]
    if not names[0].strip():
        raise ValueError("no sound file is named")
    return names


def stems(cells: dict[str, Any]) -> list[str]:
    """File names without suffix that follow from a row's ids, the most exact first."""
    names = [PurePosixPath(_text(cells, (column,))).stem for column in ("id", "audiocap_id") if cells.get(column)]
    video, start = _text(cells, ("youtube_id",)), _text(cells, ("start_time",))
    if video and start.isdecimal():
        first, last = int(start), int(start) + _AUDIOCAPS_SECONDS
        tails = (f"_{first}_{last}", f"_{first * 1000}_{last * 1000}", f"_{first}")
        names += [prefix + video + tail for tail in tails for prefix in ("Y", "")]
    return names + ([f"Y{video}", video] if video else [])


def _text(cells: dict[str, Any], columns: Sequence[str]) -> str:
    for column in columns:
        value = cells.get(column)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # parquet writes folds with gaps as 1.0
        if value is not None and value == value and str(value).strip():
            return str(value).strip()
    return ""


def _labels(cells: dict[str, Any], *, optional: bool) -> tuple[str, ...]:
    columns = [column for column in _LABEL_COLUMNS if column in cells]
    for column in columns:
        value = cells[column]
        parts = value if isinstance(value, list) else _text(cells, (column,)).split(";")
        labels = tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
        if labels:
            return labels
    if columns and "labels" not in columns and not optional:
        raise ValueError(f"the {columns[0]} cell is empty; fill it or drop the row")
    return ()


def _captions(cells: dict[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    for column, value in cells.items():
        if _CAPTION.fullmatch(column):
            parts = value if isinstance(value, list) else [_text(cells, (column,))]
            found += [str(part).strip() for part in parts if part is not None and str(part).strip()]
    return tuple(found)


def _seconds(cells: dict[str, Any]) -> tuple[float, float | None]:
    limits: list[float | None] = []
    for columns in (_START_COLUMNS, _END_COLUMNS):
        text = _text(cells, columns)
        try:
            limits.append(float(text) if text else None)
        except ValueError:
            raise ValueError(f"{columns[0]} is '{text}', a number of seconds is wanted") from None
    start, end = limits[0] or 0.0, limits[1]
    if not (math.isfinite(start) and start >= 0 and (end is None or start < end < math.inf)):
        raise ValueError(f"start {start} and end {end} are not a stretch; 0 <= start < end is wanted")
    return start, end


class Finder:
    """Finds the sound files of a table.

    Args:
        root: the table's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, list[Path]] | None = None
        self._stems: dict[str, list[Path]] = {}

    def named(self, names: Sequence[str]) -> Path | None:
        """The first of some file names that is there, or None."""
        for name in names:
            for form in dict.fromkeys((name, name.strip(), name.strip().replace("\\", "/"))):
                for path in (self.root / form, self.root / "audio" / form):
                    if os.path.isfile(path):  # unlike Path.is_file, false for names too long or with NUL
                        return path
        for name in names:
            parts = PurePosixPath(name.strip().replace("\\", "/")).parts
            hits = self._index().get(parts[-1], []) if parts else []
            found = self._only(name, [hit for hit in hits if hit.parts[-len(parts) :] == parts])
            if found is not None:
                return found
        return None

    def stemmed(self, stems: Sequence[str]) -> Path | None:
        """The first file below the folder with one of these names, whatever its suffix."""
        if stems:
            self._index()
        for stem in stems:
            path = self._only(stem, self._stems.get(stem, []))
            if path is not None:
                return path
        return None

    def name(self, path: Path, given: Sequence[str] = ()) -> str:
        """The file's name in the data set: as given or relative to the table, never a path of this machine."""
        for name in given:
            form = PurePosixPath(name.strip().replace("\\", "/"))
            if not form.is_absolute() and path.parts[-len(form.parts) :] == form.parts:
                return form.as_posix()
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return path.name

    def _only(self, name: str, hits: Sequence[Path]) -> Path | None:
        if len(hits) > 1:
            listed = shorten([self.name(hit) for hit in hits])
            raise ValueError(f"{name} may be any of {listed}; write the path relative to the table")
        return hits[0] if hits else None

    def _index(self) -> dict[str, list[Path]]:
        if self._names is None:
            self._names = {}
            for path in sounds(self.root):  # where there is none, the rows without one are counted
                self._names.setdefault(path.name, []).append(path)
                self._stems.setdefault(path.stem, []).append(path)
        return self._names
