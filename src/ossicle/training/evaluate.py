"""Rows for clips, by any task: long clips in windows, bad files as error rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ossicle.contracts import Answerer, Clip, Prediction, Task
from ossicle.data.clips import reason
from ossicle.devices import Precision, autocast
from ossicle.errors import AudioError, DataError
from ossicle.sound.audio import probe, rested, windows


def bound(clips: Sequence[Clip], window_s: float | None) -> list[Clip]:
    """The clips, with the end filled in from the header of every whole file that is longer than a window."""
    return [clip if window_s is None or clip.end is not None else _bounded(clip, window_s) for clip in clips]


def _bounded(clip: Clip, window_s: float) -> Clip:
    try:
        end = probe(clip.path).duration_s
    except AudioError:
        return clip
    return replace(clip, end=end) if end - clip.start > window_s else clip


def cut(clip: Clip, window_s: float | None) -> list[Clip]:
    """The windows of a clip whose end is known; the clip itself if it is no longer than one."""
    if window_s is None or clip.end is None or clip.end - clip.start <= window_s:
        return [clip]
    spans = rested(windows(clip.end - clip.start, window_s, window_s), window_s)
    return [replace(clip, start=clip.start + a, end=clip.start + b) for a, b in spans]


def heard(task: Task, clips: Sequence[Clip]) -> tuple[list[Clip], dict[str, str]]:
    """The clips that a task could take, and by the names of the others why not; clips of a file in doubt are tried."""
    kept: list[Clip] = []
    bad: dict[str, str] = {}
    for clip in clips:
        try:
            if str(clip.path) in task.unreadable:
                task.collate([clip], None)
            kept.append(clip)
        except (AudioError, DataError) as error:
            bad[clip.name or clip.path.name] = reason(clip, task.unreadable.get(str(clip.path), str(error)))
    return kept, bad


def predict_rows(task: Answerer, clips: Sequence[Clip], *, batch: int, precision: Precision) -> list[Prediction]:
    """One row per clip, in order; a clip that cannot be read gets a row with its error."""
    modules = task.parts().values()
    for module in modules:
        module.eval()
    device = next(p for module in modules for p in module.parameters()).device
    rows: dict[int, Prediction] = {}
    for first in range(0, len(clips), batch):
        chunk = clips[first : first + batch]
        try:
            loaded = task.collate(chunk, None)
            with torch.no_grad(), autocast(precision):
                made = task.predict(loaded.to(device))
        except (AudioError, DataError) as err:
            rows |= _one_by_one(task, chunk, first, batch, precision, err)
            continue
        positions = [i for i, clip in enumerate(chunk, first) if any(clip is c for c in loaded.clips)]
        rows |= dict(zip(positions, made, strict=True))
    return [rows.get(i) or _error(task, clip) for i, clip in enumerate(clips)]


def _one_by_one(
    task: Answerer, chunk: Sequence[Clip], first: int, batch: int, precision: Precision, err: Exception
) -> dict[int, Prediction]:
    """A batch that failed as a whole, clip by clip, so that one bad clip costs only itself."""
    if len(chunk) == 1:
        row = _error(task, chunk[0])
        return {first: row if isinstance(err, DataError) else replace(row, error=str(err))}
    return {
        first + i: predict_rows(task, [clip], batch=1, precision=precision)[0] for i, clip in enumerate(chunk)
    }  # fmt: skip


def _error(task: Answerer, clip: Clip) -> Prediction:
    text = task.unreadable.get(str(clip.path), f"{clip.path.name} could not be read")
    return Prediction(path=str(clip.path), start=clip.start, end=clip.end, error=text)


def evaluate(
    task: Task, clips: Sequence[Clip], *, batch: int, precision: Precision, window_s: float | None = None
) -> tuple[list[Prediction], dict[str, Any]]:
    """Rows and scores of labelled clips; the probabilities of a long clip are the mean over its windows.

    Raises:
        DataError: if no clip could be read.
    """
    pieces = [cut(clip, window_s) for clip in bound(clips, window_s)]
    flat = predict_rows(task, [p for group in pieces for p in group], batch=batch, precision=precision)
    rows, at = [], 0
    for group in pieces:
        rows.append(average(task, flat[at : at + len(group)]))
        at += len(group)
    return rows, task.score(clips, rows)


def average(task: Task, rows: Sequence[Prediction]) -> Prediction:
    """One row for the windows of one clip; a window that could not be read is left out."""
    good = [row for row in rows if row.error is None]
    return rows[0] if len(rows) == 1 or not good else task.average(good)
