"""Result rows on disk: tables in the formats people open, and the journal a killed run goes on from."""

import csv
import html
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self, TextIO

from filelock import FileLock, Timeout

from ossicle.contracts import Prediction
from ossicle.errors import CheckpointError, UsageError
from ossicle.files import write_atomic

COLUMNS = ("path", "start", "end", "label", "score", "caption", "error", "model", "scores")
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

Stamp = tuple[int, int]


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

    The kind follows from the suffix: .csv (the scores as one JSON column), .jsonl, .parquet (scores as a map), .txt
    (Audacity label track of one file), .srt and .vtt (subtitles of one file), .selections or .selections.txt (Raven
    selection table). Text that is not Unicode, as in a path of odd bytes, is escaped.

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
        rows = (replace(row, start=round(row.start, 3), end=_rounded(row.end)) for row in rows)
    write_atomic(out, lambda part: FORMATS[suffix](rows, part))


def _suffix(out: Path) -> str:
    for suffix in sorted(FORMATS, key=len, reverse=True):
        if out.name.lower().endswith(suffix):
            return suffix
    raise UsageError(f"{out}: rows cannot be written as '{out.suffix}'; choose one of {' '.join(FORMATS)}")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


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
            scores = json.dumps(row.scores, ensure_ascii=False) if row.scores else None
            table.writerow([scores if name == "scores" else getattr(row, name) for name in COLUMNS])


def _write_jsonl(rows: Iterable[Prediction], part: Path) -> None:
    with _text(part) as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def _write_parquet(rows: Iterable[Prediction], part: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, text = pa.float64(), pa.string()
    kinds = {"start": number, "end": number, "score": number, "scores": pa.map_(text, number)}
    schema = pa.schema([(name, kinds.get(name, text)) for name in COLUMNS])
    source = iter(rows)
    with pq.ParquetWriter(part, schema) as table:
        while chunk := list(islice(source, PARQUET_ROWS)):
            cells = [{name: _unicode(value) for name, value in asdict(row).items()} for row in chunk]
            table.write_table(pa.Table.from_pylist(cells, schema=schema))


def _unicode(value: Any) -> Any:
    """A cell as parquet takes it: maps as pairs, and only text that is Unicode."""
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


def stamp(path: Path) -> Stamp | None:
    """Size and time of change in nanoseconds; None for a file that is not there."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_size, state.st_mtime_ns


@dataclass(frozen=True)
class Entry:
    """A finished file of a journal.

    Args:
        offset: of its line.
        stamp: of the sound file when its rows were made.
        rows: how many.
        failed: how many of them are errors.
        unread: the file could not be read at all.
    """

    offset: int
    stamp: Stamp | None
    rows: int
    failed: int
    unread: bool


class Journal:
    """The rows of the files that are finished, one line each after a header, appended and flushed file by file.

    A last line that was cut off by a kill is dropped. Rows stay on disk; only where they lie is kept in memory. Open
    it with `with`: it is locked as long as it is open.

    Args:
        path: of the journal, beside the output.
        header: everything that rows follow from apart from the sound; a journal is only gone on with if it is equal.
    """

    def __init__(self, path: Path, header: Mapping[str, object]) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self._header = json.dumps({"journal": 1, **header}, sort_keys=True).encode() + b"\n"
        self._lock = FileLock(f"{path}.lock")

    def __enter__(self) -> Self:
        """Lock the journal and read or begin it.

        Raises:
            UsageError: if another run writes it, or it is of a run with other settings.
            CheckpointError: if it cannot be written.
        """
        with self._told():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._acquire()
            try:
                size = self._read() if self.path.exists() else 0
                self._file = self.path.open("ab", buffering=0)
                self._file.truncate(size)
                self._size = size
                if not size:
                    self._append(self._header)
            except BaseException:
                self._release()
                raise
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()
        self._release()

    def has(self, path: Path, now: Stamp | None) -> bool:
        """Whether a file is finished and unchanged; one that could not be read at all is worth another try."""
        entry = self.entries.get(str(path))
        return entry is not None and now is not None and entry.stamp == now and not entry.unread

    def add(self, path: Path, made: Stamp | None, rows: Sequence[Prediction]) -> None:
        """Note a file as finished.

        Raises:
            CheckpointError: if it cannot be written, such as on a full disk; what was there stays.
        """
        size, mtime_ns = made or (None, None)
        record = {"path": str(path), "size": size, "mtime_ns": mtime_ns, "rows": [asdict(row) for row in rows]}
        line = json.dumps(record).encode() + b"\n"
        with self._told():
            offset = self._append(line)
        self.entries[str(path)] = _entry(offset, record)

    def rows(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """The rows of finished files, in the order of `paths`."""
        with self.path.open("rb") as file:
            for path in paths:
                file.seek(self.entries[str(path)].offset)
                yield from (Prediction(**row) for row in json.loads(file.readline())["rows"])

    def delete(self) -> None:
        """Remove it once its rows are in the output."""
        with self._told():
            self._file.close()
            self.path.unlink(missing_ok=True)

    def _read(self) -> int:
        """Find the finished files; returns the bytes that are whole."""
        with self.path.open("rb") as file:
            first = file.readline()
            if first != self._header:
                if self._header.startswith(first):
                    return 0
                raise UsageError(self._mismatch(first))
            size = len(first)
            for line in file:
                try:
                    record = json.loads(line) if line.endswith(b"\n") else {}
                    self.entries[record["path"]] = _entry(size, record)
                except (ValueError, KeyError, TypeError):
                    break
                size += len(line)
        return size

    def _mismatch(self, first: bytes) -> str:
        remedy = f"delete {self.path} to begin anew, or choose another --out"
        wanted = json.loads(self._header)
        try:
            found = json.loads(first)
            keys = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            parts = [f"{key} {found.get(key)} (now {wanted.get(key)})" for key in keys]
        except (ValueError, TypeError, AttributeError):
            return f"{self.path} is there but is no journal; {remedy}"
        return f"{self.path} is of a run that was stopped and had {', '.join(parts)}; {remedy}"

    def _append(self, line: bytes) -> int:
        """Write a line through to the system; returns where it lies."""
        offset = self._size
        written = self._file.write(line) or 0
        self._size += written
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes could be written: no space left")
        return offset

    def _acquire(self) -> None:
        with suppress(NotImplementedError):  # a file system without locks
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise UsageError(
                    f"another run is writing {self.path}; wait until it is done, or choose another --out"
                ) from None

    def _release(self) -> None:
        if self._lock.is_locked:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The system's refusals in words."""
        try:
            yield
        except OSError as err:
            reason = err.strerror or str(err)
            raise CheckpointError(
                f"cannot write {self.path}: {reason}; finished files are kept: free some space or check the "
                "permissions, then run the same command again"
            ) from err


def _entry(offset: int, record: dict[str, Any]) -> Entry:
    rows, known = record["rows"], record["size"] is not None
    failed = sum(row["error"] is not None for row in rows)
    unread = len(rows) == 1 and failed == 1 and rows[0]["end"] is None
    return Entry(offset, (record["size"], record["mtime_ns"]) if known else None, len(rows), failed, unread)
