"""A folder of label folders: `birds/wren/a.wav` has the label `wren`.

One level of `train`, `valid`, `test` folders above the label folders is read as the official split.
"""

import os
from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.finder import sounds
from ossicle.data.notices import shorten
from ossicle.data.table import SUFFIXES, normal
from ossicle.errors import DataError
from ossicle.sound import audio

_SPLITS = (
    "train",
    "training",
    "dev",
    "development",
    "val",
    "valid",
    "validation",
    "test",
    "testing",
    "eval",
    "evaluation",
)


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a folder of label folders into clips.

    Args:
        path: the folder. Hidden folders are passed over; sound files may lie at any depth below their label. Links
            are followed.

    Returns:
        The clips, sorted by label folder and file name, and notices about empty label folders, loose files, and what
        was passed over.

    Raises:
        DataError: if there is no label folder with sound files in it, or links lead from two labels or splits to one
            sound.
    """
    parents = _folders(path)
    if not parents:
        raise DataError(f"{path} has no label folders; put the files into one folder per label, or add a metadata.csv")
    if all(folder.name.lower() in _SPLITS and _folders(folder) for folder in parents):
        labels = {label: split.name for split in parents for label in _folders(split)}
    else:
        labels = dict.fromkeys(parents, "")
    clips: list[Clip] = []
    empty: list[str] = []
    for folder, split in labels.items():
        files = sounds(folder)
        clips += [Clip(file, labels=(normal(folder.name),), split=split, name=_name(file, path)) for file in files]
        if not files:
            empty.append(_name(folder, path))
    if not clips:
        raise DataError(f"{path} has no sound files in its folders {shorten(empty)}; add some")
    _check_not_a_table(path, clips)
    used = {clip.path for clip in clips}
    passed: list[str] = []
    loose = [_name(file, path) for file in sounds(path, passed) if file not in used]
    clips, twice = _once(clips)
    notices = passed + twice
    notices += [f"{len(empty)} label folder(s) without sound files: {shorten(empty)}"] if empty else []
    if loose:
        notices.append(f"{len(loose)} sound file(s) lie outside the label folders and are left out: {shorten(loose)}")
    return clips, notices


def labelled(path: Path) -> bool:
    """Whether a folder has label folders, with sounds in them or without."""
    return bool(_folders(path))


def _folders(path: Path) -> list[Path]:
    shown = (item for item in path.iterdir() if item.is_dir() and not item.name.startswith((".", "__")))
    return sorted(item for item in shown if not audio.leads_back(item))


def _once(clips: list[Clip]) -> tuple[list[Clip], list[str]]:
    """The clips without those that links lead to again; a sound in training and validation would tell nothing.

    Raises:
        DataError: if a sound is in two labels or splits.
    """
    parents = {parent: os.path.realpath(parent) for parent in {clip.path.parent for clip in clips}}
    known: dict[str, Clip] = {}
    again: list[str] = []
    torn: list[str] = []
    for clip in clips:
        file = clip.path
        real = os.path.realpath(file) if file.is_symlink() else os.path.join(parents[file.parent], file.name)
        first = known.setdefault(real, clip)
        if first is not clip:
            same = (first.labels, first.split) == (clip.labels, clip.split)
            (again if same else torn).append(f"{clip.name} is {first.name}")
    if torn:
        raise DataError(f"{len(torn)} sound(s) lie in two labels or splits by links: {shorten(torn)}; keep one of each")
    notices = [f"{len(again)} sound(s) are there again by links and were left out: {shorten(again)}"] if again else []
    return list(known.values()), notices


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _check_not_a_table(path: Path, clips: list[Clip]) -> None:
    """A single folder beside a table is a data set with a manifest, not a label."""
    labels = {label for clip in clips for label in clip.labels}
    tables = sorted(item.name for item in path.iterdir() if item.suffix.lower() in SUFFIXES and item.is_file())
    if len(labels) == 1 and tables:
        raise DataError(
            f"{path} has the table {tables[0]} beside its only folder '{labels.pop()}', which is hardly a label; "
            f"write name:{path} for a known data set, or else give the table itself, {path / tables[0]}"
        )
