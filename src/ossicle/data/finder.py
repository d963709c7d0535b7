"""The sound files of a table: found by path, by name or by id, in whichever form of Unicode they are written."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ossicle.data.notices import shorten
from ossicle.data.table import normal
from ossicle.errors import DataError
from ossicle.sound import audio


def sounds(folder: Path, passed: list[str] | None = None) -> list[Path]:
    """The sound files below a folder, sorted; unlike audio.find, none is fine. `passed` gets what it gets there."""
    try:
        return audio.find([folder], passed)
    except DataError:
        return []


def recording(table: Path, beside: Mapping[str, Path]) -> Path | None:
    """The sound that a table's name is about: a.wav for a.Table.1.selections.txt, a.BirdNET.results.csv, a.txt."""
    stem = normal(table.name)
    while "." in stem:
        stem = stem.rpartition(".")[0]
        if stem in beside:
            return beside[stem]
    return None


def beside(folder: Path) -> dict[str, Path]:
    """The sounds that lie in a folder itself, by their names with and without ending."""
    files = [file for file in sorted(folder.iterdir(), reverse=True) if file.suffix.lower() in audio.SUFFIXES]
    return {normal(name): file for file in files for name in (file.stem, file.name)}


class Finder:
    """Finds the sound files of a table.

    Args:
        root: the table's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passed: list[str] = []
        self._names: dict[str, list[Path]] | None = None
        self._stems: dict[str, list[Path]] = {}

    def named(self, names: Sequence[str]) -> Path | None:
        """The first of some file names that is there, or None."""
        for name in names:
            plain = (name, name.strip(), name.strip().replace("\\", "/"))
            forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD") for text in plain]
            for text in dict.fromkeys((*plain, *forms)):
                for path in (self.root / text, self.root / "audio" / text):
                    if os.path.isfile(path):  # unlike Path.is_file, false for names too long or with NUL
                        return path
        for name in names:
            parts = _parts(name)
            hits = self._index().get(parts[-1], []) if parts else []
            found = self._only(name, [hit for hit in hits if _parts(str(hit))[-len(parts) :] == parts])
            if found is not None:
                return found
        return None

    def stemmed(self, stems: Sequence[str]) -> Path | None:
        """The first file below the folder with one of these names, whatever its suffix."""
        if stems:
            self._index()
        for stem in stems:
            path = self._only(stem, self._stems.get(normal(stem), []))
            if path is not None:
                return path
        return None

    def near(self, name: str) -> str:
        """What to say of a file of another folder, case or ending that a name that is not there may mean, or ""."""
        parts = _parts(name)
        if not parts:
            return ""
        last, files = parts[-1].casefold(), [path for paths in self._index().values() for path in paths]
        for same in (
            lambda path: path.name.casefold() == last,
            lambda path: path.stem.casefold() in (last, PurePosixPath(last).stem),
        ):
            if hits := [path for path in files if same(PurePosixPath(normal(path.name)))]:
                return f"{self.name(hits[0])} is there, the table says {name.strip()}"
        return ""

    def name(self, path: Path, given: Sequence[str] = ()) -> str:
        """The file's name in the data set: as given or relative to the table, never a path of this machine."""
        for name in given:
            form = PurePosixPath(name.strip().replace("\\", "/"))
            if not form.is_absolute() and _parts(str(path))[-len(form.parts) :] == _parts(str(form)):
                return form.as_posix()
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return path.name

    def _only(self, name: str, hits: Sequence[Path]) -> Path | None:
        if len(hits) > 1:
            listed = shorten([self.name(hit) for hit in hits])
            raise ValueError(f"{name} may be any of {listed}; write the path relative to the table")
        return hits[0] if hits else None

    def _index(self) -> dict[str, list[Path]]:
        if self._names is None:
            self._names = {}
            for path in sounds(self.root, self.passed):  # where there is none, the rows without one are counted
                self._names.setdefault(normal(path.name), []).append(path)
                self._stems.setdefault(normal(path.stem), []).append(path)
        return self._names


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(normal(name.strip().replace("\\", "/"))).parts
