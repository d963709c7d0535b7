"""Speech Commands v0.02: 105,829 recordings of one second, 35 words, official validation and test lists.

Two layouts are read: the release (a folder for each word, validation_list.txt and testing_list.txt), and a part of it
as meta.csv (filename, label, split) with a folder audio. File names are {speaker}_nohash_{take}: a speaker is a group.
"""

import os
from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.release import Release
from ossicle.errors import DataError
from ossicle.sound.audio import SUFFIXES

LICENCE = "CC BY 4.0"
_RELEASE = Release(
    "Speech Commands",
    "get speech_commands_v0.02.tar.gz from storage.googleapis.com/download.tensorflow.org/data, unpack it and give the"
    " folder that holds the words",
    {"train": 84_843, "val": 9_981, "test": 11_005},
)
_LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a folder with Speech Commands into clips with splits train, val and test.

    Args:
        path: the folder with a folder for each word and both lists, or with meta.csv and audio.

    Returns:
        The clips sorted by word and name, and notices about what differs from the release.

    Raises:
        DataError: if the lists or words are not there.
    """
    if (path / "meta.csv").is_file():
        return _RELEASE.present(_part(path))
    listed = {name: split for split, file in _LISTS.items() for name in _read_list(path / file)}
    names = [name for word in _words(path) for name in word]
    there = set(names)
    clips = [_clip(path / name, name, listed.get(name, "train")) for name in names]
    absent = [name for name in listed if name not in there]
    clips += [_clip(path / name, name, listed[name]) for name in absent]
    return _RELEASE.present(clips)


def _clip(file: Path, name: str, split: str) -> Clip:
    word, _, base = name.rpartition("/")
    speaker = base.partition("_nohash_")[0]
    return Clip(path=file, labels=(word,), split=split, group=speaker, licence=LICENCE, name=name)


def _words(path: Path) -> list[list[str]]:
    """Names word/file of every word; folders that begin with _ hold noise."""
    words = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(("_", ".")))
    return [
        [f"{word}/{name}" for name in sorted(os.listdir(path / word)) if Path(name).suffix.lower() in SUFFIXES]
        for word in words
    ]


def _read_list(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        raise DataError(f"{file.parent} has no {file.name}, so it is not {_RELEASE.title}; {_RELEASE.source}") from None


def _part(path: Path) -> list[Clip]:
    lines = _RELEASE.table(path / "meta.csv", ("filename", "label", "split"))
    faults = []
    for row in lines:
        if row.cells["split"] not in _SPLITS:
            faults.append(f"line {row.line}: split '{row.cells['split']}' is not one of {', '.join(_SPLITS)}")
        elif row.cells["filename"].partition("/")[0] != row.cells["label"]:
            faults.append(f"line {row.line}: {row.cells['filename']} does not lie in a folder {row.cells['label']}")
    _RELEASE.refuse("meta.csv", faults)
    names = [(row.cells["filename"], _SPLITS[row.cells["split"]]) for row in lines]
    return [_clip(path / "audio" / name, name, split) for name, split in names]
