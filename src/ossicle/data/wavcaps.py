"""WavCaps: 403,050 sounds of four sources, each with one caption that a language model wrote.

Its exclusion lists name clips that are in other data sets, such as the test clips of AudioCaps and Clotho.
"""

import json
from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.captions import string
from ossicle.data.finder import sounds
from ossicle.data.notices import holds
from ossicle.data.release import Release
from ossicle.data.table import Row
from ossicle.errors import DataError
from ossicle.sound import audio

LICENCE = "WavCaps licence (academic use only)"
_RELEASE = Release(
    "WavCaps",
    "get json_files from the GitHub repository XinhaoMei/WavCaps (with git lfs) or, with the sounds, from the Hugging"
    " Face data set cvssp/WavCaps, unpack them and give the folder that holds json_files and the sounds, {id}.flac",
    {},
)
_TABLES = {
    "freesound": "fsd_final.json", "bbc": "bbc_final.json", "soundbible": "sb_final.json",
    "audioset": "as_final.json",
}  # fmt: skip
_LISTS = (
    "blacklist_exclude_all_ac.json",
    "blacklist_exclude_test_ac.json",
    "blacklist_exclude_ub8k_esc50_vggsound.json",
)
_POINTER = b"version https://git-lfs"


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a folder with WavCaps into clips with splits freesound, bbc, soundbible and audioset.

    Args:
        path: the folder with one or more of fsd_final.json, bbc_final.json, sb_final.json and as_final.json and the
            sounds, {id}.flac or another format, all at any depth. As ids of two sources may be alike, a folder's
            name, such as FreeSound_flac, says whose sounds it holds. Clips on an exclusion list that is there are
            left out.

    Returns:
        The clips in the tables' order, and notices about what is missing or left out.

    Raises:
        DataError: if no table is there, a table or list cannot be read, a row has no id or caption, or no sound file
            is there.
    """
    files = _files(path)
    tables = {split: files[name] for split, name in _TABLES.items() if name in files}
    if not tables:
        names = ", ".join(_TABLES.values())
        raise DataError(f"{path} has none of {names} and {holds(path)}, so it is not WavCaps; {_RELEASE.source}")
    lines = {split: _read(file) for split, file in tables.items()}
    lists = {name: _excluded(files[name]) for name in _LISTS if name in files}
    passed: list[str] = []
    found = _index(path, passed)
    clips = []
    for split, part in lines.items():
        kept = [row for row in part if not any(_id(row) in excluded.get(split, ()) for excluded in lists.values())]
        clips += [_clip(path, row, split, found) for row in kept]
    left_out = _left_out(lines, lists)
    clips, notices = _RELEASE.present(clips)
    return clips, left_out + notices + passed


def _files(path: Path) -> dict[str, Path]:
    """The tables and lists below a folder by name, the first of each; hidden folders are passed over."""
    wanted = {*_TABLES.values(), *_LISTS}
    found: dict[str, Path] = {}
    for folder, names in audio.walk(path):
        for name in wanted.intersection(names):
            found.setdefault(name, folder / name)
    for name, file in found.items():
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise DataError(f"{name} is a Git LFS pointer, not the file itself; fetch it with git lfs pull")
    return found


def _read(table: Path) -> list[Row]:
    lines = _RELEASE.table(table, ("id", "caption"))
    cells = [(row, column) for row in lines for column in ("id", "caption")]
    faults = [f"line {row.line}: no {name}" for row, name in cells if not string(row.cells.get(name)).strip()]
    _RELEASE.refuse(table.name, faults)
    return lines


def _id(row: Row) -> str:
    return _plain(row.cells["id"])


def _plain(identity: object) -> str:
    """An id without AudioSet's suffix."""
    return string(identity).strip().removesuffix(".wav")


def _excluded(file: Path) -> dict[str, set[str]]:
    """The ids on an exclusion list by split; the lists name the subsets AudioSet and FreeSound."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {
            split: {_plain(i) for key in content if _owner(key) == split for i in content[key]} for split in _TABLES
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file.name} is not an object of lists of ids ({error}); {_RELEASE.source}") from error


def _owner(folder: str) -> str:
    return next((split for split in _TABLES if split in folder.lower()), "")


def _index(path: Path, passed: list[str]) -> dict[tuple[str, str], Path]:
    """Sound files by whose they are, as the nearest folder that names a subset says, and name without suffix."""
    found: dict[tuple[str, str], Path] = {}
    for file in sounds(path, passed):
        folders = reversed(file.relative_to(path).parts[:-1])
        owner = next((split for folder in folders if (split := _owner(folder))), "")
        found.setdefault((owner, file.stem), file)
    return found


def _clip(path: Path, row: Row, split: str, found: dict[tuple[str, str], Path]) -> Clip:
    stem = _id(row)
    return Clip(
        path=found.get((split, stem)) or found.get(("", stem)) or path / split / f"{stem}.flac",
        captions=(string(row.cells["caption"]).strip(),),
        split=split,
        licence=LICENCE,
        name=f"{split}/{stem}",
    )


def _left_out(lines: dict[str, list[Row]], lists: dict[str, dict[str, set[str]]]) -> list[str]:
    if not lists:
        return ["no exclusion list is there: some clips may be test clips of AudioCaps, Clotho and other data sets"]
    ids = [(split, _id(row)) for split, part in lines.items() for row in part]
    on = {name: {(s, i) for s, i in ids if i in listed.get(s, ())} for name, listed in lists.items()}
    total = len(set().union(*on.values()))
    if not total:
        return []
    counts = ", ".join(f"{len(named)} by {name}" for name, named in on.items())
    return [f"{total} of {len(ids)} clips are left out as other data sets have them, to test on too: {counts}"]
