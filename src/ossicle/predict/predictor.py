"""Rows for any number of sound files of any length, in bounded memory, and a run that goes on after a kill."""

import hashlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

import ossicle
from ossicle.adapters import store
from ossicle.contracts import Answerer, Batch, Clip, Prediction
from ossicle.devices import Precision, resolve
from ossicle.errors import AudioError, DataError, Interrupted, UsageError
from ossicle.predict import results
from ossicle.predict.journal import Journal, stamp
from ossicle.sound import audio
from ossicle.training.evaluate import predict_rows

# Windows of one length wait for others of theirs until this many batches of others went by.
PATIENCE = 16
PROBES_AHEAD = 8
BATCHES_AHEAD = 2
# Front ends' rates divide it: it tells which windows will have equally many samples; what was loaded is checked again.
RATE_HZ = 48_000

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass
class _File:
    """A file on its way, with the rows it has by window."""

    path: Path
    spans: list[tuple[float, float]]
    rows: dict[int, Prediction] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return len(self.rows) == max(1, len(self.spans))


@dataclass
class _Window:
    """One window of a file: its clip and its place in file and stream."""

    file: _File
    index: int
    number: int
    clip: Clip

    @property
    def samples(self) -> int:
        start, end = self.file.spans[self.index]
        return round(end * RATE_HZ) - round(start * RATE_HZ)


class _Loaded:
    """A task with its next batch collated ahead, in another thread; all else is the task's own.

    Args:
        task: whose `collate` is called now.
        lock: so that only one thread collates.
        clips: the batch.
    """

    def __init__(self, task: Answerer, lock: threading.Lock, clips: Sequence[Clip]) -> None:
        self.kind, self.predict, self.parts = task.kind, task.predict, task.parts
        self.unreadable: dict[str, str] = {}
        self.clips = clips
        self._task, self._lock = task, lock
        self._ready: Batch | None = None
        try:
            ready = self._collate(clips) if clips else None
            self._ready = ready if ready is not None and _fits(clips, ready) else None
        except (AudioError, DataError):
            pass  # comes again, with the clip it belongs to
        self.batch = 1 if self._ready is None else len(clips)

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        """What was collated ahead, once; then the task's own."""
        ready, self._ready = self._ready, None
        return self._collate(clips) if ready is None else ready

    def _collate(self, clips: Sequence[Clip]) -> Batch:
        paths = {str(clip.path) for clip in clips}
        with self._lock:
            told = self._task.unreadable
            try:
                return self._task.collate(clips, None)
            except DataError as err:
                raise AudioError(told.get(str(clips[0].path), str(err))) from err
            finally:
                self.unreadable |= {path: told.pop(path) for path in paths if path in told}


def _fits(clips: Sequence[Clip], batch: Batch) -> bool:
    """Whether rows can be made at once: equal lengths, and at most one unreadable window of a file.

    A task notes only one text for each file that it could not read.
    """
    bad = [clip.path for clip in clips if not any(clip is kept for kept in batch.clips)]
    equal = batch.lengths is None or len(set(batch.lengths.tolist())) == 1
    return equal and len(bad) == len(set(bad))


class Predictor:
    """Any task over files: long ones in windows, batches filled across files, bad ones as error rows.

    Only windows of equally many samples share a batch, so neighbours never change a result beyond the rounding of
    float32 sums; windows are decoded one by one, so a recording of many hours never lies in memory.

    Args:
        task: what predicts.
        model: the name of the adapter or the tagger, put in every row.
        window_s: seconds of a window, taken to the millisecond; a file no longer than this is one window.
        hop_s: seconds from one window to the next; None is `window_s`. A rest at a file's end becomes a shorter
            window of at least half a second, for which it may begin earlier.
        batch: windows at a time.
        precision: of the model.
        channel: of files with several: 1 is the first, 0 averages all.

    Raises:
        UsageError: if a length is not positive, the hop is longer than the window, the batch is below 1 or the channel
            is negative.
    """

    def __init__(
        self,
        task: Answerer,
        model: str,
        window_s: float,
        hop_s: float | None = None,
        batch: int = 16,
        precision: Precision = "float32",
        channel: int = 0,
    ) -> None:
        hop_s = window_s if hop_s is None else hop_s
        if not 0 < hop_s <= window_s < math.inf or hop_s < 0.001:
            raise UsageError(f"windows of {window_s} s every {hop_s} s came; wanted 0.001 s or more and hop <= window")
        if batch < 1:
            raise UsageError(f"a batch of {batch} windows was asked for; give 1 or more")
        if channel < 0:
            raise UsageError(f"channel {channel} was asked for; give 1 for the first, or 0 for the mean of all")
        self.task, self.model, self.batch, self.precision = task, model, batch, precision
        self.channel = channel
        self.window_s, self.hop_s = round(window_s, 3), round(hop_s, 3)
        self._lock = threading.Lock()

    def header(self) -> dict[str, object]:
        """Everything of this predictor that rows follow from, with a digest of the trained weights."""
        digest = hashlib.blake2b(digest_size=16)
        for key, value in sorted(store.collect(self.task.parts()).items()):
            digest.update(key.encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        return {
            "version": ossicle.__version__, "task": self.task.kind, "model": self.model, "weights": digest.hexdigest(),
            "window_s": self.window_s, "hop_s": self.hop_s, "precision": resolve(self.precision),
            "channel": self.channel,
        }  # fmt: skip

    def files(self, paths: Iterable[Path]) -> Iterator[tuple[Path, list[Prediction]]]:
        """Rows of every file, in the order of `paths`, each as soon as it and those before it are complete.

        A file that cannot be read has one row with `error`, start 0 and end None; a window that fails has its own
        error row. Files and windows ahead are read in threads while the model works.

        Args:
            paths: sound files; drawn from as needed.

        Yields:
            The path as given and its rows by start.
        """
        waiting: deque[_File] = deque()
        with _thread() as prober, _thread() as loader:
            opened = _ahead(prober, self._open, paths, PROBES_AHEAD)
            groups = self._groups(opened, waiting)
            for group, loaded in _ahead(loader, self._load, groups, BATCHES_AHEAD):
                rows = predict_rows(loaded, loaded.clips, batch=loaded.batch, precision=self.precision)
                for window, row in zip(group, rows, strict=True):
                    window.file.rows[window.index] = self._row(window, row)
                while waiting and waiting[0].done:
                    file = waiting.popleft()
                    yield file.path, [file.rows[index] for index in range(len(file.rows))]

    def _open(self, path: Path) -> _File:
        """Probe a file and cut it; one that cannot be read is complete at once."""
        path = Path(path)
        try:
            return _File(path, self._spans(audio.probe(path).duration_s))
        except AudioError as err:
            return _File(path, [], {0: Prediction(str(path), error=_line(str(err)), model=self.model)})

    def _spans(self, duration_s: float) -> list[tuple[float, float]]:
        """The windows of a file, on whole milliseconds but for the last end."""
        spans = [
            (round(start, 3), round(end, 3)) for start, end in audio.windows(duration_s, self.window_s, self.hop_s)
        ]
        return audio.rested([*spans[:-1], (spans[-1][0], duration_s)], self.window_s)

    def _groups(self, opened: Iterable[tuple[Path, _File]], waiting: deque[_File]) -> Iterator[list[_Window]]:
        """Full batches of equally long windows; smaller ones at the end and where others waited too long."""
        groups: dict[int, list[_Window]] = {}
        number = 0
        for _, file in opened:
            waiting.append(file)
            if file.done:
                number += 1
                yield []  # so that it is passed on
            for index in range(len(file.spans)):
                window = _Window(file, index, number, self._clip(file, index))
                number += 1
                group = groups.setdefault(window.samples, [])
                group.append(window)
                if len(group) == self.batch:
                    yield groups.pop(window.samples)
                yield from self._stale(groups, number)
            yield from self._stale(groups, number)
        yield from groups.values()

    def _stale(self, groups: dict[int, list[_Window]], number: int) -> Iterator[list[_Window]]:
        """The groups that window `number` should not go before."""
        while groups and number - next(iter(groups.values()))[0].number >= PATIENCE * self.batch:
            yield groups.pop(next(iter(groups)))

    def _clip(self, file: _File, index: int) -> Clip:
        """A window's clip; the last one is read to the file's end, so that a file that was cut off is found out."""
        start, end = file.spans[index]
        return Clip(file.path, start, None if index == len(file.spans) - 1 else end, channel=self.channel)

    def _load(self, group: list[_Window]) -> _Loaded:
        return _Loaded(self.task, self._lock, [window.clip for window in group])

    def _row(self, window: _Window, row: Prediction) -> Prediction:
        """A task's row as the row of a window."""
        file = window.file
        start, last = file.spans[window.index]
        error = row.error
        numbers = [row.score or 0.0, *row.scores.values(), *(number for tag in row.tags for number in tag[1:])]
        if error is None and not all(map(math.isfinite, numbers)):
            error = f"{file.path}: the model gave a score that is not a number; try float32 precision or train again"
        if error is None:
            return replace(row, path=str(file.path), start=start, end=last, model=self.model)
        end = None if len(file.spans) == 1 else last
        return Prediction(str(file.path), start, end, error=_line(error), model=self.model)


def _line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def _thread() -> Iterator[ThreadPoolExecutor]:
    """One thread that drops what it has not begun when its work is no longer wanted."""
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, call: Callable[[In], Out], items: Iterable[In], depth: int
) -> Iterator[tuple[In, Out]]:
    """Each item with what was called of it, while the next `depth` are being worked on."""
    queue: deque[tuple[In, Future[Out]]] = deque()
    for item in items:
        queue.append((item, pool.submit(call, item)))
        if len(queue) > depth:
            first, future = queue.popleft()
            yield first, future.result()
    for first, future in queue:
        yield first, future.result()


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Args:
        files: all of them, those from an earlier, stopped run included.
        rows: written.
        failed: files with at least one error row.
    """

    files: int
    rows: int
    failed: int


def predict_to_file(
    predictor: Predictor,
    paths: Iterable[Path],
    out: Path,
    *,
    extras: Mapping[str, object] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Predict files into one table; killed at any time, the same call goes on where it stopped.

    Finished files are kept in `OUT.journal` until all are, then `out` is written whole and the journal deleted.

    Args:
        predictor: what predicts.
        paths: sound files; one named twice counts once.
        out: the table; see `results.write_rows` for its kinds.
        extras: more that rows follow from, such as the digest of the base model; JSON values.
        progress: called with the number of files that are finished.

    Returns:
        What was done.

    Raises:
        UsageError: if there is no file, `out` cannot be, or its journal is of a run with other settings.
        CheckpointError: if the journal or the table cannot be written; the journal stays.
        Interrupted: on Ctrl-C; the journal stays.
    """
    given = list(dict.fromkeys(map(Path, paths)))
    if not given:
        raise UsageError(f"no sound files were given for {out}; give files, folders or globs")
    results.check_out(out, len(given))
    journal = Journal(out.with_name(f"{out.name}.journal"), {**predictor.header(), **(extras or {})})
    try:
        with journal:
            _finish(predictor, given, journal, progress)
            results.write_rows(journal.rows(given), out)
            journal.delete()
    except KeyboardInterrupt:
        kept = sum(str(path) in journal.entries for path in given)
        raise Interrupted(
            f"stopped with {kept} of {len(given)} files finished and kept in {journal.path}; "
            "the same command goes on from there"
        ) from None
    entries = [journal.entries[str(path)] for path in given]
    return Summary(len(given), sum(entry.rows for entry in entries), sum(entry.failed > 0 for entry in entries))


def _finish(
    predictor: Predictor, given: Sequence[Path], journal: Journal, progress: Callable[[int], None] | None
) -> None:
    """Predict what the journal does not have yet."""
    stamps = {path: stamp(path) for path in given}
    todo = [path for path in given if not journal.has(path, stamps[path])]
    done = len(given) - len(todo)
    if progress is not None:
        progress(done)
    for path, rows in predictor.files(todo):
        journal.add(path, stamps[path], rows)
        done += 1
        if progress is not None:
            progress(done)
