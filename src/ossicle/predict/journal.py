"""The journal of a run: rows of finished files on disk, which a killed run goes on from."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from ossicle.contracts import Prediction
from ossicle.errors import CheckpointError, UsageError
from ossicle.predict.results import from_json

Stamp = tuple[int, int]


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
                yield from (from_json(row) for row in json.loads(file.readline())["rows"])

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
