"""Clotho 2.1: 5,929 sounds of 15 to 30 seconds from Freesound with five captions each.

Four file names occur in two splits, with other sounds, so a sound is looked for in its split's folder first.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from ossicle.contracts import Clip
from ossicle.data.finder import Finder
from ossicle.data.notices import holds
from ossicle.data.release import Release
from ossicle.data.table import Row, read_table
from ossicle.errors import DataError

LICENCE = "Clotho licence (Tampere University, research use); the sound's own is not known"
_RELEASE = Release(
    "Clotho",
    "get the captions, the metadata and the sound archives from zenodo.org/record/4783391, unpack the archives and give"
    " the folder that holds the tables and the folders development, validation and evaluation",
    {"development": 3_839, "validation": 1_045, "evaluation": 1_045},
)
_SHORT = {"development": "train", "validation": "val", "evaluation": "test"}
_FOLDERS = {*_SHORT, *_SHORT.values()}
_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
_CREATIVE_COMMONS = re.compile(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z+-]+)/(\d+\.\d+)", re.IGNORECASE)


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a folder with Clotho into clips with splits development, validation and evaluation.

    Args:
        path: the folder with one or more of clotho_captions_development.csv (or clotho_train.csv) and so on, and the
            sound files in development, validation and evaluation, or anywhere below. Where
            clotho_metadata_development.csv and so on are there, `licence` and `group`, the Freesound recording, are
            read from them.

    Returns:
        The clips in the tables' order, and notices about what is missing.

    Raises:
        DataError: if no table is there or one lacks a column, a file has not five captions or is listed twice, or no
            sound file is there.
    """
    tables = {split: table for split in _SHORT if (table := _table(path, split)) is not None}
    if not tables:
        names = ", ".join(f"clotho_captions_{split}.csv" for split in _SHORT)
        raise DataError(f"{path} has none of {names} and {holds(path)}, so it is not Clotho; {_RELEASE.source}")
    lines = {split: _read(table) for split, table in tables.items()}
    listed = Counter(row.cells["file_name"].strip() for part in lines.values() for row in part)
    finder = Finder(path)
    found = []
    for split, part in lines.items():
        about = _metadata(path, split)
        faults: list[str] = []
        for row in part:
            name = row.cells["file_name"].strip()
            try:
                file = _find(finder, split, row.cells["file_name"], elsewhere=listed[name] == 1)
            except ValueError as error:
                faults.append(f"line {row.line}: {error}")
                continue
            found.append(_clip(file or path / split / name, row, split, about.get(name, {})))
        _RELEASE.refuse(tables[split].name, faults)
    clips, notices = _RELEASE.present(found)
    return clips, notices + finder.passed + _notices(clips, [split for split in _SHORT if split not in tables])


def short_licence(text: str) -> str:
    """The short name of a Creative Commons address, such as CC-BY-3.0; other text as it is."""
    match = _CREATIVE_COMMONS.search(text)
    if match is None:
        return text.strip()
    kind = match[1].upper()
    return f"CC0-{match[2]}" if kind == "ZERO" else f"CC-{kind}-{match[2]}"


def _table(path: Path, split: str) -> Path | None:
    names = (f"clotho_captions_{split}.csv", f"clotho_{_SHORT[split]}.csv")
    return next((path / name for name in names if (path / name).is_file()), None)


def _read(table: Path) -> list[Row]:
    lines = _RELEASE.table(table, ("file_name", *_CAPTIONS))
    faults = []
    seen: set[str] = set()
    for row in lines:
        name, captions = row.cells["file_name"].strip(), _captions(row.cells)
        if not name:
            faults.append(f"line {row.line}: the file_name cell is empty")
        elif len(captions) != len(_CAPTIONS):
            faults.append(f"line {row.line}: {name} has {len(captions)} caption(s), five are wanted")
        elif name in seen:
            faults.append(f"line {row.line}: {name} is listed before")
        seen.add(name)
    _RELEASE.refuse(table.name, faults)
    return lines


def _captions(cells: dict[str, Any]) -> tuple[str, ...]:
    return tuple(text for column in _CAPTIONS if (text := cells[column].strip()))


def _metadata(path: Path, split: str) -> dict[str, dict[str, Any]]:
    """What clotho_metadata_<split>.csv, latin-1 in the release, says of each file."""
    file = path / f"clotho_metadata_{split}.csv"
    lines = read_table(file, fallback="latin-1") if file.is_file() else []
    return {row.cells.get("file_name", "").strip(): row.cells for row in lines}


def _find(finder: Finder, split: str, name: str, *, elsewhere: bool) -> Path | None:
    """The sound in a folder of its split, or `elsewhere` in one that is no other split's."""
    forms = dict.fromkeys((name, name.strip()))
    file = finder.named([f"{folder}/{form}" for folder in (split, _SHORT[split]) for form in forms])
    if file is not None or not elsewhere:
        return file
    file = finder.named([name])
    return None if file is None or _FOLDERS & {*file.relative_to(finder.root).parts[:-1]} else file


def _clip(file: Path, row: Row, split: str, about: dict[str, Any]) -> Clip:
    recording = about.get("sound_id", "").strip()
    return Clip(
        path=file,
        captions=_captions(row.cells),
        split=split,
        group=recording if recording.isdecimal() else "",  # the release has some that say Not found
        licence=short_licence(about.get("license", "")) or LICENCE,
        name=row.cells["file_name"].strip(),
    )


def _notices(clips: list[Clip], absent: list[str]) -> list[str]:
    unknown = sum(clip.licence == LICENCE for clip in clips)
    notices = [f"there is no table of {' or '.join(absent)}"] if absent else []
    if unknown:
        notices.append(
            f"{unknown} sound(s) have no known licence: no clotho_metadata_*.csv beside the table names them"
        )
    return notices
