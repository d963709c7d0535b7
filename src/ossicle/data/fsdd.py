"""Free Spoken Digit Dataset: ten English digits, six speakers, 50 takes each; takes 0 to 4 are the official test part.

File names are {digit}_{speaker}_{take}. Speakers are the same in both parts.
"""

import os
import re
from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.release import Release
from ossicle.errors import DataError
from ossicle.sound.audio import SUFFIXES

LICENCE = "CC BY-SA 4.0"
_RELEASE = Release(
    "FSDD",
    "get it from the GitHub repository Jakobovski/free-spoken-digit-dataset and give the folder that holds recordings",
    {"train": 2_700, "test": 300},
)
_FOLDERS = ("recordings", "audio")
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)")
_TEST_TAKES = 5


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a folder with FSDD into clips with splits train and test.

    Args:
        path: the folder that holds recordings (or audio).

    Returns:
        The clips sorted by name, and notices about what differs from the release.

    Raises:
        DataError: if there is no such folder or no recording in it.
    """
    folder = next((path / name for name in _FOLDERS if (path / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{path} has no folder {' or '.join(_FOLDERS)}, so it is not FSDD; {_RELEASE.source}")
    clips, strange = [], []
    for file in sorted(folder / name for name in os.listdir(folder)):
        match = _NAME.fullmatch(file.stem)
        if file.suffix.lower() not in SUFFIXES:
            continue
        if match is None:
            strange.append(f"{file.name} is not named digit_speaker_take")
            continue
        split = "test" if int(match[3]) < _TEST_TAKES else "train"
        clips.append(Clip(path=file, labels=(match[1],), split=split, licence=LICENCE, name=file.name))
    _RELEASE.refuse(folder.name, strange)
    return _RELEASE.present(clips)
