"""Tables of sound files as clips: the columns of Clotho, AudioCaps and WavCaps, of Raven, BirdNET and DCASE.

A row names one stretch of one file, with a label, labels (separated by ;) or captions. Rows of the same stretch are
joined when they carry captions, as AudioCaps writes its references. Rows with labels are joined where the table says
where clips begin and end, as BirdNET writes several birds of one moment, and are a fault where a clip is a whole file.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ossicle.contracts import Clip
from ossicle.data import stretch
from ossicle.data.finder import Finder, beside, recording, sounds
from ossicle.data.notices import SHOWN, Missing, holds, shorten
from ossicle.data.table import SUFFIXES, TEXT_SUFFIXES, Row, listed, normal, read_table
from ossicle.errors import DataError

__all__ = ["PATH_COLUMNS", "SHOWN", "SUFFIXES", "Finder", "Missing", "Row", "holds", "read_table", "rows", "shorten"]

PATH_COLUMNS = (
    *("file_name", "filename", "path", "file", "audio", "filepath", "file_path", "fname", "audio_file", "audio_path"),
    *("audio_filepath", "begin_file", "begin_path"),
)
_ID_COLUMNS = ("id", "youtube_id", "image_id", "audio_id")
_STEM_COLUMNS = ("id", "audiocap_id", "image_id", "audio_id")
_LABEL_COLUMNS = (
    *("label", "labels", "category", "class", "event_label", "species", "common_name", "scientific_name"),
    "annotation",
)
_SPLIT_COLUMNS = ("split", "fold", "subset")
_LICENCE_COLUMNS = ("licence", "license")
_GROUP_COLUMNS = ("group", "recording", "youtube_id")
_CAPTION = re.compile(r"captions?_?\d*")
_AUDIOCAPS_SECONDS = 10


def rows(path: Path) -> tuple[list[Clip], list[str]]:
    """Turn a table into clips.

    Args:
        path: the table. Sound files are looked for beside it, in `audio` beside it, then by name in the folders below.
            A table of one recording, such as a Raven selection table, need not name it: it is the sound beside the
            table that has its name.

    Returns:
        The clips in the table's order, and notices about rows left out because their sound file is not there, columns
        that look like times and are not understood, and selections without a label.

    Raises:
        DataError: if a column is missing, a cell is unusable, a whole file is listed twice with labels,
            or none of the sound files is there.
    """
    return _Manifest(path).clips()


def per_recording(folder: Path) -> tuple[list[Clip], list[str]]:
    """Clips of a folder where each recording has a table of its own beside it, as Raven and Audacity save them.

    Returns:
        The clips, none where there is no such table; and notices, also of recordings without a table.

    Raises:
        DataError: as `rows` does.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in TEXT_SUFFIXES and file.is_file())
    lying = beside(folder) if files else {}
    tables = {file: sound for file in files if (sound := recording(file, lying)) is not None}
    clips: list[Clip] = []
    notices: list[str] = []
    for table in tables:
        found, told = rows(table)
        clips += found
        notices += told
    named = set(tables.values())
    if tables and (bare := [file.name for file in sounds(folder) if file not in named]):
        notices.append(f"{len(bare)} sound(s) have no table beside them and are left out: {shorten(bare)}")
    return clips, notices


class _Manifest:
    """One table on its way to clips."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.table = read_table(path)
        self.columns = list(dict.fromkeys(column for row in self.table for column in row.cells))
        whole = "youtube_id" in self.columns  # a sound file of AudioCaps is the ten seconds themselves
        self.stretches = stretch.Stretches() if whole else stretch.find(path.name, self.table)
        self.selections = {"selection", "view"} <= set(self.columns)
        self.finder = Finder(path.parent)
        self.given = self._recording(path)
        self.notices = list(self.stretches.notices)
        self._check_columns()

    def clips(self) -> tuple[list[Clip], list[str]]:
        found: dict[tuple[Path, float, float | None], Clip] = {}
        faults: list[str] = []
        missing: list[tuple[str, ...]] = []
        bare: list[str] = []
        for row in self.table:
            try:
                if self.selections and not _labels(row.cells, optional=True):
                    bare.append(f"line {row.line}")
                    continue
                clip = self._clip(row)
            except ValueError as error:
                faults.append(f"line {row.line}: {error}")
                continue
            if clip is None:
                missing.append(tuple(self._names(row)))
                continue
            key = (clip.path, clip.start, clip.end)
            known = found.setdefault(key, clip)
            if known is not clip:
                found[key] = self._joined(known, clip, row, faults)
        if faults:
            raise DataError(f"{self.name}: {len(faults)} unusable row(s): {shorten(faults)}")
        if bare:
            self.notices.append(f"{self.name}: {len(bare)} selection(s) without a label are left out: {shorten(bare)}")
        self._tell_missing(missing)
        self._tell_counting(list(found.values()))
        return list(found.values()), self.notices + [f"{self.name}: {note}" for note in self.finder.passed]

    def _joined(self, known: Clip, clip: Clip, row: Row, faults: list[str]) -> Clip:
        """Two rows of one stretch as one clip; a fault where that is more likely a mistake."""
        if clip.captions and known.captions:
            return replace(known, captions=known.captions + clip.captions)
        part = clip.start > 0 or clip.end is not None
        if (
            part
            and clip.labels
            and known.labels
            and clip.split == known.split
            and not (clip.captions or known.captions)
        ):
            return replace(known, labels=tuple(dict.fromkeys(known.labels + clip.labels)))
        faults.append(f"line {row.line}: {clip.name} is listed before; keep one row, several labels joined by ;")
        return known

    def _clip(self, row: Row) -> Clip | None:
        """The row's clip, or None when its sound file is not there."""
        cells = row.cells
        names = self._names(row)
        path = self.finder.named(names) or self.finder.stemmed(stems(cells))
        captions = _captions(cells)
        labels = _labels(cells, optional=bool(captions))
        start, end = self.stretches.of(cells)
        if path is None:
            return None
        return Clip(
            path=path,
            start=start,
            end=end,
            labels=labels,
            captions=captions,
            split=_text(cells, _SPLIT_COLUMNS),
            group=_text(cells, _GROUP_COLUMNS),
            licence=_text(cells, _LICENCE_COLUMNS),
            name=self.finder.name(path, names),
        )

    def _names(self, row: Row) -> list[str]:
        """The file names a row offers, best first; WavCaps rows have both the original name and an id."""
        if self.given:
            return [self.given]
        cells = {k: v.get("path") if isinstance(v, dict) else v for k, v in row.cells.items()}
        names = [str(cells[column]) for column in PATH_COLUMNS if cells.get(column)]
        names = names or [next((text for column in _ID_COLUMNS if (text := _text(cells, (column,)))), "")]
        if not names[0].strip():
            raise ValueError("no sound file is named")
        return names

    def _recording(self, path: Path) -> str:
        """The sound that a table is about by its own name, where it has stretches and names no file; "" otherwise."""
        naming = PATH_COLUMNS if self.selections else (*PATH_COLUMNS, *_ID_COLUMNS)
        if any(column in self.columns for column in naming) or not self.stretches:
            return ""
        sound = recording(path, beside(path.parent))
        if sound is not None:
            return sound.name
        raise DataError(
            f"{path.name} has no column with the sound file, and no sound that is called {path.name.partition('.')[0]} "
            f"lies beside it; put the recording beside the table, or name the files in a column {PATH_COLUMNS[0]}"
        )

    def _check_columns(self) -> None:
        found = f"it has {', '.join(self.columns)}"
        if not self.given and not any(column in self.columns for column in (*PATH_COLUMNS, *_ID_COLUMNS)):
            raise DataError(
                f"{self.name} has no column with the sound file; {found}; name one of them {PATH_COLUMNS[0]}"
            )
        labels = [column for column in self.columns if column in _LABEL_COLUMNS]
        if not labels and not any(_CAPTION.fullmatch(column) for column in self.columns):
            raise DataError(
                f"{self.name} has no label, labels or caption column; {found}; add the one you want to learn"
            )
        used = _label_columns(self.columns)
        if unused := [column for column in labels if column not in used]:
            self.notices.append(f"{self.name}: the labels are those of {used[0]}; {shorten(unused)} is not used")

    def _tell_missing(self, missing: Sequence[tuple[str, ...]]) -> None:
        """Say which sounds are not there, and what is there in their place.

        Raises:
            DataError: if none is there.
        """
        if not missing:
            return
        names = list(dict.fromkeys(name for name, *_ in missing))
        near = [hint for name in names[:SHOWN] if (hint := self.finder.near(name))]
        count = f"{len(missing)} of {len(self.table)} rows"
        text = f"{self.name}: {count} name a sound file that is not there: {shorten(names)}"
        text += f" ({shorten(near)})" if near else ""
        if len(missing) == len(self.table):
            advice = "write the names as the files have them" if near else "put the files beside the table"
            raise DataError(f"{text}; {advice}, with their paths relative to the table")
        self.notices.append(Missing(f"{text}; these rows are left out", names))

    def _tell_counting(self, clips: Sequence[Clip]) -> None:
        """Raven counts on from file to file; without its File Offset nobody can say where in its file a clip is."""
        if not {"begin_file", "begin_path"} & set(self.columns) or "file offset" in self.stretches.columns:
            return
        reach: dict[Path, list[float]] = {}
        for clip in clips:
            reach.setdefault(clip.path, []).append(clip.start)
        files = list(reach.values())
        if len(files) > 1 and all(max(one) <= min(two) for one, two in zip(files, files[1:], strict=False)):
            self.notices.append(
                f"{self.name}: the times go on from file to file; if they do not begin anew in each file, save the "
                "table with Raven's File Offset (s)"
            )


def stems(cells: dict[str, Any]) -> list[str]:
    """File names without suffix that follow from a row's ids, the most exact first."""
    names = [PurePosixPath(_text(cells, (column,))).stem for column in _STEM_COLUMNS if _text(cells, (column,))]
    video, start = _text(cells, ("youtube_id",)), _text(cells, ("start_time",))
    if video and start.isdecimal():
        first, last = int(start), int(start) + _AUDIOCAPS_SECONDS
        tails = (f"_{first}_{last}", f"_{first * 1000}_{last * 1000}", f"_{first}")
        names += [prefix + video + tail for tail in tails for prefix in ("Y", "")]
    return names + ([f"Y{video}", video] if video else [])


def _text(cells: dict[str, Any], columns: Sequence[str]) -> str:
    for column in columns:
        value = cells.get(column)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # parquet writes folds with gaps as 1.0
        if value is not None and value == value and str(value).strip():
            return normal(str(value).strip())
    return ""


def _label_columns(columns: Sequence[str]) -> list[str]:
    """The column with the labels: the first of those that are there, and labels where label may be empty."""
    there = [column for column in _LABEL_COLUMNS if column in columns]
    return there[: 2 if there[:2] == ["label", "labels"] else 1]


def _labels(cells: dict[str, Any], *, optional: bool) -> tuple[str, ...]:
    columns = _label_columns(list(cells))
    for column in columns:
        parts = listed(cells[column])
        parts = _text(cells, (column,)).split(";") if parts is None else parts
        labels = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
        if labels:
            return labels
    if columns and "labels" not in columns and not optional:
        raise ValueError(f"the {columns[0]} cell is empty; fill it or drop the row")
    return ()


def _captions(cells: dict[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    for column, value in cells.items():
        if _CAPTION.fullmatch(column):
            parts = listed(value)
            found += [text for text in (parts if parts is not None else [_text(cells, (column,))]) if text]
    return tuple(found)
