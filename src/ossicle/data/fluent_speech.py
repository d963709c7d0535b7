"""Fluent Speech Commands: 30,043 spoken commands of 97 speakers; 31 intents of action, object and location."""

from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.release import Release
from ossicle.data.table import Row

LICENCE = "Fluent Speech Commands licence (academic research only)"
_RELEASE = Release(
    "Fluent Speech Commands",
    "get it from fluent.ai (free for research after asking) and give the folder that holds data and wavs",
    {"train": 23_132, "val": 3_118, "test": 3_793},
)
_TABLES = {"train": "train_data.csv", "val": "valid_data.csv", "test": "test_data.csv"}
_COLUMNS = ("path", "speakerid", "action", "object", "location")


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a folder with Fluent Speech Commands into clips with splits train, val and test.

    Args:
        path: the folder with data/train_data.csv, data/valid_data.csv, data/test_data.csv and wavs.

    Returns:
        The clips in the tables' order, and notices about what is missing. A label is action_object_location.

    Raises:
        DataError: if a table or column is absent, or no sound file is there.
    """
    tables = {split: _RELEASE.table(path / "data" / file, _COLUMNS) for split, file in _TABLES.items()}
    return _RELEASE.present([_clip(path, row, split) for split, lines in tables.items() for row in lines])


def _clip(path: Path, row: Row, split: str) -> Clip:
    cells = row.cells
    return Clip(
        path=path / cells["path"],
        labels=("_".join(cells[part] for part in ("action", "object", "location")),),
        split=split,
        group=cells["speakerid"],
        licence=LICENCE,
        name=cells["path"],
    )
