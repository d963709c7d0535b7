"""UrbanSound8K: 8,732 stretches of up to four seconds of ten city sounds, in ten official folds.

Use the folds as they are: they keep stretches of one recording together. Report the mean over all ten.
"""

from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.release import Release
from ossicle.data.table import Row

LICENCE = "CC BY-NC 3.0"
_COUNTS = (873, 888, 925, 990, 936, 823, 838, 806, 816, 837)
_RELEASE = Release(
    "UrbanSound8K",
    "get it from urbansounddataset.weebly.com and give the folder that holds metadata and audio",
    {str(fold): count for fold, count in enumerate(_COUNTS, start=1)},
    split="fold",
)
_COLUMNS = ("slice_file_name", "fsid", "fold", "classid", "class")


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a folder with UrbanSound8K into clips; `split` is the fold, `group` the Freesound recording.

    Args:
        path: the folder with metadata/UrbanSound8K.csv and audio/fold1 to fold10.

    Returns:
        The clips in the table's order, and notices about what is missing.

    Raises:
        DataError: if the layout is not UrbanSound8K's, rows contradict their file names, or no sound file is there.
    """
    lines = _RELEASE.table(path / "metadata" / "UrbanSound8K.csv", _COLUMNS)
    faults = [f"line {row.line}: {why}" for row in lines if (why := _fault(row.cells))]
    _RELEASE.refuse("UrbanSound8K.csv", faults)
    return _RELEASE.present([_clip(path, row) for row in lines])


def _fault(cells: dict[str, str]) -> str:
    """File names are {recording}-{class}-{occurrence}-{slice}.wav."""
    fields = cells["slice_file_name"].split("-")
    if cells["fold"] not in _RELEASE.counts:
        return f"fold '{cells['fold']}' is not one of 1 to 10"
    if len(fields) != 4 or fields[0] != cells["fsid"] or fields[1] != cells["classid"]:
        return f"{cells['slice_file_name']} does not agree with its fsID and classID"
    return ""


def _clip(path: Path, row: Row) -> Clip:
    cells = row.cells
    file = cells["slice_file_name"]
    return Clip(
        path=path / "audio" / f"fold{cells['fold']}" / file,
        labels=(cells["class"],),
        split=cells["fold"],
        group=cells["fsid"],
        licence=LICENCE,
        name=file,
    )
