"""A folder of label folders: `birds/wren/a.wav` has the label `wren`.

One level of `train`, `valid`, `test` folders above the label folders is read as the official split.
"""

from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.manifest import SUFFIXES, shorten
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
        path: the folder. Hidden folders are passed over; sound files may lie at any depth below their label.

    Returns:
        The clips, sorted by label folder and file name, and notices about empty label folders and loose files.

    Raises:
        DataError: if there is no label folder with sound files in it.
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
        files = _sounds(folder)
        clips += [Clip(file, labels=(folder.name,), split=split, name=_name(file, path)) for file in files]
        if not files:
            empty.append(_name(folder, path))
    if not clips:
        raise DataError(f"{path} has no sound files in its folders {shorten(empty)}; add some")
    _check_not_a_table(path, clips)
    used = {clip.path for clip in clips}
    loose = [_name(file, path) for file in _sounds(path) if file not in used]
    notices = [f"{len(empty)} label folder(s) without sound files: {shorten(empty)}"] if empty else []
    if loose:
        notices.append(f"{len(loose)} sound file(s) lie outside the label folders and are left out: {shorten(loose)}")
    return clips, notices


def _folders(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith((".", "__")))


def _sounds(path: Path) -> list[Path]:
    try:
        return audio.find([path])
    except DataError:  # it holds no sound; the caller says so in the words of a data set
        return []


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
