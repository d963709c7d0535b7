"""Data sets: from a folder, a table or a known name to clips."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data import (
    audiocaps,
    clotho,
    epic_sounds,
    esc50,
    fluent_speech,
    folders,
    fsdd,
    labels,
    manifest,
    speech_commands,
    urbansound8k,
    wavcaps,
)
from ossicle.errors import DataError, UnknownNameError

DATASETS: dict[str, Callable[[Path], tuple[list[Clip], list[str]]]] = {
    "audiocaps": audiocaps.rows,
    "clotho": clotho.rows,
    "epic-sounds": epic_sounds.rows,
    "esc50": esc50.rows,
    "fluent-speech": fluent_speech.rows,
    "fsdd": fsdd.rows,
    "speech-commands": speech_commands.rows,
    "urbansound8k": urbansound8k.rows,
    "wavcaps": wavcaps.rows,
}

_METADATA = tuple(f"metadata{suffix}" for suffix in manifest.SUFFIXES)


@dataclass(frozen=True)
class Dataset:
    """Clips under one name.

    Args:
        name: the known name, or the base name of the folder or table; never a path.
        clips: all clips, every split.
        notices: what the user should know, one line each: files that are missing or were left out.
    """

    name: str
    clips: tuple[Clip, ...]
    notices: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Every sound that a table names and that is not there, by its name in the table."""
        return tuple(name for note in self.notices if isinstance(note, manifest.Missing) for name in note.names)


def open_data(text: str) -> Dataset:
    """Open a data set.

    Args:
        text: a folder of label folders, a folder with metadata.csv or metadata.jsonl, a manifest (csv, tsv, jsonl,
            json, parquet), a Raven selection table or Audacity label track (txt), or `name:path` for a known data set.

    Raises:
        UnknownNameError: if `name` is not in DATASETS.
        DataError: if nothing is there or it is not usable.
    """
    name, colon, rest = text.partition(":")
    if not text:
        raise DataError("no data was named; give a folder of label folders, a table, or name:path")
    path = _path(text)
    try:
        if colon and name in DATASETS:
            return _known(name, rest)
        if os.path.isdir(path):
            return _folder(path)
        if os.path.isfile(path):
            return _table(path)
    except OSError as error:
        raise DataError(f"'{text}' cannot be read: {error.strerror}; check its permissions") from error
    if colon and len(name) > 1 and "/" not in name and "\\" not in name:  # one letter is a Windows drive
        raise UnknownNameError("data set", name, DATASETS)
    if text in DATASETS:
        raise DataError(f"'{text}' says which data set but not where it is; write {text}:PATH")
    raise DataError(f"'{text}' is not there; give a folder of label folders, a table, or name:path")


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # unlike Path.expanduser, leaves an unknown ~user alone


def _known(name: str, rest: str) -> Dataset:
    path = _path(rest)
    if not rest or not os.path.isdir(path):
        raise DataError(f"'{name}:{rest}' does not name a folder; write {name}:PATH with the folder it lies in")
    clips, notices = DATASETS[name](path)
    return Dataset(name, tuple(clips), tuple(notices))


def _dataset(name: str, clips: Sequence[Clip], notices: Sequence[str]) -> Dataset:
    """A data set of the user's own, and what is odd about its labels."""
    return Dataset(name, tuple(clips), (*notices, *labels.notices(clips)))


def _folder(path: Path) -> Dataset:
    table = next((path / name for name in _METADATA if (path / name).is_file()), None)
    clips, notices = manifest.per_recording(path) if table is None and not folders.labelled(path) else ([], [])
    if not clips:
        clips, notices = folders.rows(path) if table is None else manifest.rows(table)
    return _dataset(path.resolve().name, clips, notices)


def _table(path: Path) -> Dataset:
    clips, notices = manifest.rows(path)
    general = path.stem.lower() in ("meta", "metadata")
    name = path.resolve().parent.name if general else path.stem
    return _dataset(name, clips, notices)
