"""ESC-50: 2,000 five-second clips of 50 environmental sounds in five official folds.

Two layouts are read: the release (meta/esc50.csv and audio/*.wav) and a flat one (meta.csv and audio/*, with a
licence for each clip). File names are {fold}-{freesound clip}-{take}-{target}: takes of one clip are one group.
"""

from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.release import Release
from ossicle.data.table import Row
from ossicle.errors import DataError

_FOLDS = ("1", "2", "3", "4", "5")
_RELEASE = Release(
    "ESC-50",
    "get ESC-50 from the GitHub repository karolpiczak/ESC-50 and give the folder that holds meta and audio",
    dict.fromkeys(_FOLDS, 400),
    split="fold",
)
_TABLES = ("meta/esc50.csv", "meta.csv")
_COLUMNS = ("filename", "fold", "category")


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a folder with ESC-50 into clips; `split` is the fold.

    Args:
        path: the folder with meta/esc50.csv or meta.csv, and audio.

    Returns:
        The clips in the table's order, and notices about clips that are missing. A folder with some folds is fine.

    Raises:
        DataError: if the layout is not ESC-50's, rows contradict their file names, or no sound file is there.
    """
    table = next((path / name for name in _TABLES if (path / name).is_file()), None)
    if table is None or not (path / "audio").is_dir():
        raise DataError(f"{path} has no {' or '.join(_TABLES)} with a folder audio beside it; {_RELEASE.source}")
    lines = _RELEASE.table(table, _COLUMNS)
    _check(table.name, lines)
    return _RELEASE.present([_clip(path, row) for row in lines])


def _check(name: str, lines: list[Row]) -> None:
    faults: list[str] = []
    seen: set[str] = set()
    for row in lines:
        file, fold = row.cells["filename"], row.cells["fold"]
        fields = Path(file).stem.split("-")
        if fold not in _FOLDS:
            faults.append(f"line {row.line}: fold '{fold}' is not one of {', '.join(_FOLDS)}")
        elif len(fields) != 4 or fields[0] != fold or fields[3] != row.cells.get("target", fields[3]):
            faults.append(f"line {row.line}: {file} does not agree with its fold and target")
        elif file in seen:
            faults.append(f"line {row.line}: {file} is listed twice")
        seen.add(file)
    _RELEASE.refuse(name, faults)


def _clip(path: Path, row: Row) -> Clip:
    cells = row.cells
    file = cells["filename"]
    licence = cells.get("licence", "")
    return Clip(
        path=path / "audio" / file,
        labels=(cells["category"],),
        split=cells["fold"],
        group=Path(file).stem.split("-")[1],
        licence="" if licence == "?" else licence,
        name=file,
    )
