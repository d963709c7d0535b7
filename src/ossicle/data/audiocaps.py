"""AudioCaps: 51,308 ten-second clips of YouTube videos, one caption each for training, five for validation and test.

The release is text: audiocap_id, youtube_id, start_time and caption. Those who fetch the sound name it in many ways,
so it is found below the folder by any name that follows from a row's ids.
"""

from pathlib import Path
from typing import Any

from ossicle.contracts import Clip
from ossicle.data.finder import Finder
from ossicle.data.manifest import stems
from ossicle.data.notices import holds
from ossicle.data.release import Release
from ossicle.data.table import Row
from ossicle.errors import DataError

LICENCE = "captions MIT; sound from YouTube, no licence stated"
_SECONDS = 10
_RELEASE = Release(
    "AudioCaps",
    "get the folder dataset of the GitHub repository cdjkim/audiocaps and the sound of its YouTube clips and give the"
    " folder that holds both; name the sounds Y{youtube_id}_{start}_{end}.wav, {youtube_id}.wav or {audiocap_id}.wav",
    {"train": 49_838, "val": 495, "test": 975},
)
_SPLITS = ("train", "val", "test")
_NAMES = ("{}.csv", "audiocaps_{}.csv", "dataset/{}.csv")
_COLUMNS = ("youtube_id", "start_time", "caption")


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a folder with AudioCaps into clips with splits train, val and test; `group` is the video.

    Args:
        path: the folder with one or more of train.csv, val.csv and test.csv (or audiocaps_train.csv and so on), and
            the sound files at any depth.

    Returns:
        The clips in the tables' order, rows of one clip joined, and notices about what is missing.

    Raises:
        DataError: if no table is there or one lacks a column, a row cannot be used, or no sound file is there.
    """
    tables = {split: table for split in _SPLITS if (table := _table(path, split)) is not None}
    if not tables:
        raise DataError(
            f"{path} has no train.csv, val.csv or test.csv and {holds(path)}, so it is not AudioCaps; {_RELEASE.source}"
        )
    finder = Finder(path)
    clips, notices = _RELEASE.present([c for split, file in tables.items() for c in _clips(split, file, finder)])
    absent = [split for split in _SPLITS if split not in tables]
    return clips, notices + finder.passed + ([f"there is no table of {' or '.join(absent)}"] if absent else [])


def _table(path: Path, split: str) -> Path | None:
    return next((file for name in _NAMES if (file := path / name.format(split)).is_file()), None)


def _clips(split: str, table: Path, finder: Finder) -> list[Clip]:
    faults: list[str] = []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in _RELEASE.table(table, _COLUMNS):
        if why := _fault(row.cells):
            faults.append(f"line {row.line}: {why}")
        groups.setdefault((row.cells["youtube_id"].strip(), row.cells["start_time"].strip()), []).append(row)
    _RELEASE.refuse(table.name, faults)
    clips = []
    for (video, start), lines in groups.items():
        try:
            found = finder.stemmed([stem for row in lines for stem in stems(row.cells)])
        except ValueError as error:
            faults.append(f"line {lines[0].line}: {error}")
            continue
        wanted = finder.root / split / f"Y{video}_{start}_{int(start) + _SECONDS}.wav"
        clips.append(
            Clip(
                path=found or wanted,
                captions=tuple(row.cells["caption"].strip() for row in lines),
                split=split,
                group=video,
                licence=LICENCE,
                name=f"{video}_{start}",
            )
        )
    _RELEASE.refuse(table.name, faults)
    return clips


def _fault(cells: dict[str, Any]) -> str:
    empty = [column for column in _COLUMNS if not cells[column].strip()]
    if empty:
        return f"the {empty[0]} cell is empty"
    if not cells["start_time"].strip().isdecimal():
        return f"start_time '{cells['start_time']}' is not a whole number of seconds"
    return ""
