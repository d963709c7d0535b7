"""Result rows on disk: tables in the formats people open."""

import csv
import html
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from ossicle.contracts import Prediction
from ossicle.errors import UsageError
from ossicle.files import write_atomic

COLUMNS = ("path", "start", "end", "label", "score", "caption", "error", "model", "scores", "tags")
# Those that hold more than one value: JSON in a csv.
NESTED = ("scores", "tags")
RAVEN_COLUMNS = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Begin Path", "File Offset (s)", "Label", "Score", "Error"),
)
# What models at 16 kHz hear; Raven draws no selection without a band.
RAVEN_HIGH_HZ = 8000
# Raven draws no selection without a length either.
RAVEN_SHORTEST_S = 0.001
PARQUET_ROWS = 4096
# Kinds without a column for the file.
ONE_RECORDING = {".txt": "an Audacity label track", ".srt": "a subtitle file", ".vtt": "a subtitle file"}


def check_out(out: Path, files: int) -> None:
    """Say before any work is done that an output cannot be.

    Args:
        out: the file wanted.
        files: sound files whose rows it will hold.

    Raises:
        UsageError: if it is a folder, of no known kind, or labels or subtitles of several files.
    """
    suffix = _suffix(out)
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file in it, such as {out / 'rows.csv'}")
    if suffix in ONE_RECORDING and files > 1:
        raise UsageError(
            f"{out}: {ONE_RECORDING[suffix]} belongs to one recording but {files} files were given; "
            "give one file, or write .csv, .jsonl, .parquet or .selections"
        )


def write_rows(rows: Iterable[Prediction], out: Path) -> None:
    """Write result rows, whole or not at all; times are rounded to milliseconds.

    The kind follows from the suffix: .csv (scores and tags as JSON in a cell), .jsonl (tags as lists), .parquet (scores
    as a map, tags as a list of structs), .txt (Audacity label track of one file), .srt and .vtt (subtitles of one
    file), .selections or .selections.txt (Raven selection table); the last four have no place for scores and tags.
    Text that is not Unicode, as in a path of odd bytes, is escaped.

    Args:
        rows: in the order wanted; read as a stream, except for those of one file.
        out: the file to make or replace; folders are made as needed.

    Raises:
        UsageError: see `check_out`.
        CheckpointError: if it cannot be written; an earlier file stays.
    """
    suffix = _suffix(out)
    if suffix in ONE_RECORDING:
        rows = list(rows)
    check_out(out, len({row.path for row in rows}) if isinstance(rows, list) else 1)
    if FORMATS[suffix] is not _write_raven:  # its times are sums over files, rounded once they are summed
        rows = map(_rounded, rows)
    write_atomic(out, lambda part: FORMATS[suffix](rows, part))


def _suffix(out: Path) -> str:
    for suffix in sorted(FORMATS, key=len, reverse=True):
        if out.name.lower().endswith(suffix):
            return suffix
    raise UsageError(f"{out}: rows cannot be written as '{out.suffix}'; choose one of {' '.join(FORMATS)}")


def _rounded(row: Prediction) -> Prediction:
    end = None if row.end is None else round(row.end, 3)
    tags = [(name, score, round(first, 3), round(last, 3)) for name, score, first, last in row.tags]
    return replace(row, start=round(row.start, 3), end=end, tags=tags)


def from_json(cells: Mapping[str, Any]) -> Prediction:
    """A row as it was before it became JSON, which has lists where a row has tuples; it may have no tags yet."""
    row = Prediction(**cells)
    row.tags = [(str(name), float(score), float(start), float(end)) for name, score, start, end in row.tags]
    return row


def _text(part: Path) -> TextIO:
    return part.open("w", encoding="utf-8", errors="backslashreplace", newline="")


class _Lines:
    """Lines that end in a line feed, for the csv module: it quotes a carriage return only if its own lines end in one.

    Args:
        file: open for writing.
    """

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, row: str) -> int:
        """Write one row."""
        return self.file.write(row.removesuffix("\r\n") + "\n")


def _write_csv(rows: Iterable[Prediction], part: Path) -> None:
    with _text(part) as file:
        table = csv.writer(_Lines(file))
        table.writerow(COLUMNS)
        for row in rows:
            table.writerow([_plain(name, getattr(row, name)) for name in COLUMNS])


def _plain(name: str, value: Any) -> Any:
    """A cell as csv takes it; what is empty is an empty cell."""
    if name not in NESTED:
        return value
    return json.dumps(value, ensure_ascii=False) if value else None


def _write_jsonl(rows: Iterable[Prediction], part: Path) -> None:
    with _text(part) as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def _write_parquet(rows: Iterable[Prediction], part: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, text = pa.float64(), pa.string()
    tag = pa.struct([("name", text), ("score", number), ("start", number), ("end", number)])
    kinds = {"start": number, "end": number, "score": number, "scores": pa.map_(text, number), "tags": pa.list_(tag)}
    schema = pa.schema([(name, kinds.get(name, text)) for name in COLUMNS])
    source = iter(rows)
    with pq.ParquetWriter(part, schema) as table:
        while chunk := list(islice(source, PARQUET_ROWS)):
            cells = [{name: _unicode(value) for name, value in asdict(row).items()} for row in chunk]
            table.write_table(pa.Table.from_pylist(cells, schema=schema))


def _unicode(value: Any) -> Any:
    """A cell as parquet takes it: maps as pairs, tags as structs, and only text that is Unicode."""
    if isinstance(value, list):
        return [dict(zip(("name", "score", "start", "end"), map(_unicode, tag), strict=True)) for tag in value]
    if isinstance(value, dict):
        return [(_unicode(key), one) for key, one in value.items()]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _write_audacity(rows: Iterable[Prediction], part: Path) -> None:
    with _text(part) as file:
        for row in rows:
            end = row.start if row.end is None else row.end
            file.write(f"{row.start:.3f}\t{end:.3f}\t{_caption(row)}\n")


def _caption(row: Prediction) -> str:
    """What a label track says of a window: label and score, the caption, or the error."""
    if row.error is not None:
        return f"error: {_cell(row.error)}"
    if row.label is None:
        return _cell(row.caption or "")
    return _cell(row.label) + ("" if row.score is None else f" {row.score:.3f}")


def _write_raven(rows: Iterable[Prediction], part: Path) -> None:
    """Begin Time counts on from file to file, as in Raven when it opens them as one sequence."""
    path, offset, reach = "", 0.0, 0.0
    with _text(part) as file:
        file.write("\t".join(RAVEN_COLUMNS) + "\n")
        for number, row in enumerate(rows, 1):
            if row.path != path:
                path, offset, reach = row.path, offset + reach, 0.0
            end = max(row.end or 0.0, row.start + RAVEN_SHORTEST_S)
            reach = max(reach, row.end or 0.0)
            score = "" if row.score is None else f"{row.score:.6f}"
            said = (row.caption if row.label is None else row.label) or ""
            cells = (
                *(str(number), "Spectrogram 1", "1", f"{offset + row.start:.3f}", f"{offset + end:.3f}"),
                *("0", str(RAVEN_HIGH_HZ), row.path, f"{row.start:.3f}", said, score, row.error or ""),
            )
            file.write("\t".join(map(_cell, cells)) + "\n")


def _cell(text: str) -> str:
    """Text without what would end a cell or a line."""
    return " ".join(text.split()) if any(mark in text for mark in "\t\n\r") else text


def _write_srt(rows: Iterable[Prediction], part: Path) -> None:
    """SubRip: numbered stretches with a comma before the milliseconds."""
    with _text(part) as file:
        for number, row in enumerate(rows, 1):
            file.write(f"{number}\n{_span(row).replace('.', ',')}\n{_caption(row)}\n\n")


def _write_vtt(rows: Iterable[Prediction], part: Path) -> None:
    """WebVTT: the same with a heading and a point."""
    with _text(part) as file:
        file.write("WEBVTT\n\n")
        for row in rows:
            text = html.escape(_caption(row), quote=False)  # also so that no cue holds -->
            file.write(f"{_span(row)}\n{text}\n\n")


def _span(row: Prediction) -> str:
    """00:00:01.500 --> 00:00:03.000; a row without an end lasts a millisecond."""
    end = row.end if row.end is not None and row.end > row.start else row.start + 0.001
    times = [divmod(round(seconds * 1000), 3_600_000) for seconds in (row.start, end)]
    return " --> ".join(f"{h:02}:{ms // 60_000:02}:{ms // 1000 % 60:02}.{ms % 1000:03}" for h, ms in times)


FORMATS: dict[str, Callable[[Iterable[Prediction], Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
    ".txt": _write_audacity,
    ".srt": _write_srt,
    ".vtt": _write_vtt,
    ".selections": _write_raven,
    ".selections.txt": _write_raven,
}
