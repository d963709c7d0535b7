"""EPIC-SOUNDS: 44 classes of sounds people make in kitchens, as stretches of long recordings.

Labels are public for training and validation only, so validation is what is tested on.
"""

from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.release import Release
from ossicle.data.table import Row
from ossicle.sound.audio import SUFFIXES

LICENCE = "CC BY-NC 4.0"
_RELEASE = Release(
    "EPIC-SOUNDS",
    "get the tables from the GitHub repository epic-kitchens/epic-sounds-annotations and the sound of the EPIC-KITCHENS"
    " videos, and give a folder that holds the tables and a folder audio with one file a video",
    {"train": 60_055, "val": 8_035},
)
_TABLES = {"train": "EPIC_Sounds_train.csv", "val": "EPIC_Sounds_validation.csv"}
_COLUMNS = ("annotation_id", "video_id", "start_timestamp", "stop_timestamp", "class")


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a folder with EPIC-SOUNDS into clips with splits train and val; `group` is the video.

    Args:
        path: the folder with EPIC_Sounds_train.csv, EPIC_Sounds_validation.csv and audio/{video_id}.wav (or another
            sound format).

    Returns:
        The clips in the tables' order, and notices about what is missing.

    Raises:
        DataError: if a table or column is absent, a time cannot be read, or no sound file is there.
    """
    audio = path / "audio"
    found = {f.stem: f for f in sorted(audio.iterdir()) if f.suffix.lower() in SUFFIXES} if audio.is_dir() else {}
    clips = []
    for split, name in _TABLES.items():
        lines = _RELEASE.table(path / name, _COLUMNS)
        faults = [f"line {row.line}: {why}" for row in lines if (why := _fault(row.cells))]
        _RELEASE.refuse(name, faults)
        clips += [_clip(found.get(row.cells["video_id"], audio / row.cells["video_id"]), row, split) for row in lines]
    return _RELEASE.present(clips)


def _fault(cells: dict[str, str]) -> str:
    try:
        start, end = seconds(cells["start_timestamp"]), seconds(cells["stop_timestamp"])
    except ValueError:
        return f"{cells['start_timestamp']} or {cells['stop_timestamp']} is not a time like 00:01:02.345"
    return "" if 0 <= start < end else f"{cells['annotation_id']} ends at {end} s before it begins at {start} s"


def seconds(text: str) -> float:
    """Seconds of hours:minutes:seconds."""
    hours, minutes, rest = text.split(":")
    return round(int(hours) * 3600 + int(minutes) * 60 + float(rest), 3)


def _clip(file: Path, row: Row, split: str) -> Clip:
    cells = row.cells
    return Clip(
        path=file,
        start=seconds(cells["start_timestamp"]),
        end=seconds(cells["stop_timestamp"]),
        labels=(cells["class"],),
        split=split,
        group=cells["video_id"],
        licence=LICENCE,
        name=cells["annotation_id"],
    )
