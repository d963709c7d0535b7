"""ESC-50: 2,000 five-second clips of 50 environmental sounds in five official folds.

Two layouts are read: the release (meta/esc50.csv and audio/*.wav) and a flat one (meta.csv and audio/*, with a
licence for each clip). File names are {fold}-{freesound clip}-{take}-{target}: takes of one clip are one group.
"""

import os
from collections import Counter
from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.manifest import Row, read_table, shorten
from ossicle.errors import DataError

_SOURCE = "get ESC-50 from the GitHub repository karolpiczak/ESC-50 and give the folder that holds meta and audio"
_TABLES = ("meta/esc50.csv", "meta.csv")
_COLUMNS = ("filename", "fold", "category")
_FOLDS = ("1", "2", "3", "4", "5")
_CLIPS_PER_FOLD = 400


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
        raise DataError(f"{path} has no {' or '.join(_TABLES)} with a folder audio beside it; {_SOURCE}")
    lines = read_table(table)
    _check(table.name, lines)
    there = set(os.listdir(path / "audio"))
    clips = [_clip(path, row) for row in lines]
    kept = [clip for clip in clips if clip.name in there]
    if not kept:
        raise DataError(f"none of the {len(clips)} clips of {table.name} is in {path / 'audio'}; {_SOURCE}")
    return kept, _notices(clips, kept)


def _check(name: str, lines: list[Row]) -> None:
    absent = [column for column in _COLUMNS if column not in lines[0].cells]
    if absent:
        raise DataError(f"{name} has no column {', '.join(absent)}; {_SOURCE}")
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
    if faults:
        raise DataError(f"{name} is not ESC-50's: {len(faults)} fault(s): {shorten(faults)}; {_SOURCE}")


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


def _notices(clips: list[Clip], kept: list[Clip]) -> list[str]:
    notices = []
    names = {clip.name for clip in kept}
    missing = [clip for clip in clips if clip.name not in names]
    if missing:
        folds = Counter(clip.split for clip in missing)
        counts = ", ".join(f"{count} of fold {fold}" for fold, count in sorted(folds.items()))
        files = shorten([clip.name for clip in missing])
        notices.append(f"{len(missing)} of {len(clips)} sound files are not there ({counts}): {files}; left out")
    for fold, count in sorted(Counter(clip.split for clip in kept).items()):
        if count != _CLIPS_PER_FOLD:
            notices.append(f"fold {fold} has {count} clips, the release has {_CLIPS_PER_FOLD}")
    return notices
