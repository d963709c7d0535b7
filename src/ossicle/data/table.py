"""Rows of a table, whatever it was saved as: csv, tsv, tab-separated txt, jsonl, json and parquet.

This is the only place that reads a csv. A quote that is not closed, or that is closed lines later, takes other rows
into one cell: that is an error with its line, never a shorter table.
"""

import ast
import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossicle.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
# What Raven and Audacity save; a text file is no table unless it is named as one.
TEXT_SUFFIXES = (".txt", ".selections")
_LABEL_TRACK = re.compile(r"\d+(?:[.,]\d+)?\t\d+(?:[.,]\d+)?(?:\t|$)")
_SEPARATOR = re.compile(r'"?sep=(.)"?\s*')
# A list of texts as Python and JSON write it once each text is an S; backslashes are left alone.
_QUOTED = re.compile(r"""'[^'\\]*'|"[^"\\]*\"""")
_LIST = re.compile(r"\[\s*(?:S\s*(?:,\s*S\s*)*,?\s*)?\]")
_SPACED = re.compile(r"\[\s*S(?:\s+S)+\s*\]")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        line: its number in the file, counted from 1 with the heading included.
        cells: value by column name (lower case, words joined by _).
    """

    line: int
    cells: dict[str, Any]


def read_table(path: Path, fallback: str = "") -> list[Row]:
    """Read a csv, tsv, txt, jsonl, json or parquet file.

    Args:
        path: the file; its suffix says the format. A csv may use , ; or tab and may be UTF-8 or UTF-16. A txt is a
            table with tabs, or an Audacity label track, which has no heading.
        fallback: the encoding of a csv that is neither.

    Raises:
        DataError: if the file is absent, empty, not what its suffix says, names a column twice, or has a quote that is
            not closed in its row.
    """
    suffix = path.suffix.lower()
    if suffix not in (*SUFFIXES, *TEXT_SUFFIXES):
        raise DataError(f"{path.name} is not a table ossicle reads; give one of {', '.join(SUFFIXES)}")
    try:
        if suffix == ".parquet":
            rows = _read_parquet(path)
        elif suffix in (".json", ".jsonl"):
            rows = _read_json(path) if suffix == ".json" else _read_jsonl(path)
        else:
            rows = _read_csv(_decode(path.read_bytes(), fallback), tabs=suffix in TEXT_SUFFIXES)
    except FileNotFoundError:
        raise DataError(f"{path} is not there; give the path of an existing table") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} cannot be read as {suffix[1:]}: {error}; save it again as UTF-8") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path.name} cannot be read as {suffix[1:]}: {error}") from error
    if not rows:
        raise DataError(f"{path.name} has no rows; one row per sound file is wanted")
    return rows


def normal(text: str) -> str:
    """Text in the composed form (NFC): an é is one character, whichever system wrote it."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def listed(value: Any) -> list[str] | None:
    """The texts of a cell that is a list, or a list written as text such as "['a', 'b']"; None for anything else.

    Raises:
        ValueError: if it is a list written without commas, as numpy does: nobody can say what was meant.
    """
    if isinstance(value, str):
        text = value.strip()
        shape = _QUOTED.sub("S", text)
        if _SPACED.fullmatch(shape):
            raise ValueError(f"{text} is a list written without commas; join its parts by ;")
        value = ast.literal_eval(text) if _LIST.fullmatch(shape) else None
    if not isinstance(value, list):
        return None
    return [normal(str(item)).strip() for item in value if item is not None and str(item).strip()]


# --- csv -------------------------------------------------------------------------------------------------------------


def _read_csv(text: str, *, tabs: bool) -> list[Row]:
    lines = text.split("\n")
    number = next((n for n, line in enumerate(lines) if line.strip()), 0)
    delimiter = "\t" if tabs else ""
    if declared := _SEPARATOR.fullmatch(lines[number]):
        delimiter, number = declared[1], number + 1
        lines[number - 1] = ""
    heading = re.sub(r'"[^"]*"', "", lines[number] if number < len(lines) else "")
    delimiter = delimiter or max(",;\t", key=heading.count)
    columns: list[str] = []
    if tabs and _LABEL_TRACK.match(lines[number]):
        columns, lines = ["start", "end", "label"], ["" if line.startswith("\\") else line for line in lines]
    elif tabs and "\t" not in lines[number]:
        raise ValueError("a table with tabs between its columns is wanted; save it as .csv if it has others")
    rows = []
    for first, last, values in _records("\n".join(lines), delimiter):
        if not columns:
            columns = _columns(values)
            continue
        _check_one_row(first, last, values, len(columns), delimiter)
        rows.append(Row(first, _cells(first, values, columns, delimiter)))
    return rows


def _records(text: str, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """First line, last line and values of every row that is not blank."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may hold the scores or tags of an hour
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    first = 1
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(_unclosed(first, reader.line_num, f" ({error})")) from None
        if any(value.strip() for value in values):
            yield first, reader.line_num, values
        first = reader.line_num + 1


def _unclosed(first: int, last: int, why: str) -> str:
    where = f"line {first}" if last <= first else f"line {first} to line {last}"
    return (
        f'{where}: a double quote is opened and not closed where its cell ends{why}; close it there, or write "" for a '
        'quote that is part of the text and put the whole cell into "…"'
    )


def _cells(line: int, values: list[str], columns: Sequence[str], delimiter: str) -> dict[str, str]:
    extra = values[len(columns) :]
    if any(value.strip() for value in extra):
        raise ValueError(
            f"line {line} has {len(values)} cells but the heading has {len(columns)}; "
            f'put cells that contain "{delimiter}" into double quotes'
        )
    padded = values + [""] * (len(columns) - len(values))
    return dict(zip(columns, padded, strict=False))


def _check_one_row(first: int, last: int, values: Sequence[str], columns: int, delimiter: str) -> None:
    """A cell may hold several lines, but not lines that are rows of their own: their quote was closed too late."""
    if first == last:
        return
    usual = _shape(values[0].split("\n")[0].split(delimiter)[0])
    for value in values:
        for number, line in enumerate(value.split("\n") if "\n" in value else ()):
            cells = [_shape(cell) for cell in line.split(delimiter)]
            full = number > 0 and len(cells) >= columns and cells[0] == usual != "text"
            if len(cells) > 1 and (full or delimiter == "\t" or "file" in cells):
                raise ValueError(_unclosed(first, last, ", so that it takes in rows of its own"))


def _shape(cell: str) -> str:
    """What a cell looks like: a file's name, a number, one word or text."""
    text = cell.strip().strip('"')
    if re.search(r"\.[A-Za-z]\w{1,3}$", text):
        return "file"
    return "number" if re.fullmatch(r"[\d.]+", text) else "text" if re.search(r"\s", text) or not text else "word"


def _columns(names: Sequence[str]) -> list[str]:
    columns = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names]
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise ValueError(f"the heading names {', '.join(twice)} twice; keep one")
    return columns


def _decode(data: bytes, fallback: str = "") -> str:
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        if not fallback:
            raise
        return data.decode(fallback)


# --- json and parquet ------------------------------------------------------------------------------------------------


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(_decode(path.read_bytes()).split("\n"), start=1):
        if line.strip():
            try:
                item = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}; one whole JSON object a line is wanted") from None
            rows.append(_json_row(number, item))
    return rows


def _read_json(path: Path) -> list[Row]:
    content = json.loads(_decode(path.read_bytes()))
    items = _items(content) if isinstance(content, dict) else content
    if not isinstance(items, list):
        keys = f"an object of {', '.join(list(content)[:5])}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f'it is {keys}; a list of objects, such a list as "data" or "annotations", or an object of captions by '
            "file name is wanted"
        )
    return [_json_row(number, item) for number, item in enumerate(items, start=1)]


def _items(content: dict[str, Any]) -> list[Any] | None:
    """The rows in an object: WavCaps' "data", COCO's "annotations", or captions or cells by id; None if in none."""
    if isinstance(content.get("data"), list):
        return list(content["data"])
    if isinstance(content.get("annotations"), list):
        return _coco(content)
    rows = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            rows.append({"id": key, **value})
        elif isinstance(value, str):
            rows.append({"id": key, "caption": value})
        elif (texts := _texts(value)) is not None:
            rows.append({"id": key, "captions": texts})
        else:
            return None
    return rows or None


def _texts(value: Any) -> list[str] | None:
    """Captions in a list, of text or of objects with a caption; None for other lists and where there is none."""
    items = value if isinstance(value, list) else []
    found = [item.get("caption") if isinstance(item, Mapping) else item for item in items]
    texts = [text for text in found if isinstance(text, str)]
    return texts if texts and len(texts) == len(found) else None


def _coco(content: dict[str, Any]) -> list[Any]:
    """COCO's annotations, each with the file name that its list of images, audios or files has."""
    files: dict[str, str] = {}
    for key in ("images", "audios", "audio", "files", "sounds"):
        for item in content[key] if isinstance(content.get(key), list) else ():
            if isinstance(item, Mapping) and isinstance(item.get("file_name"), str):
                files[str(item.get("id"))] = item["file_name"]
    rows = []
    for item in content["annotations"]:
        if not isinstance(item, Mapping):
            return list(content["annotations"])  # refused with its row
        identity = next((item[k] for k in ("image_id", "audio_id", "file_id", "sound_id") if k in item), None)
        if identity is None:
            rows.append(dict(item))
            continue
        cells = {key: value for key, value in item.items() if key != "id"}  # its id is the annotation's
        named = {"file_name": files[str(identity)]} if str(identity) in files else {}
        rows.append({**named, **cells, "image_id": identity})
    return rows


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
