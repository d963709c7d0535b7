"""An official data set on disk: its tables, what is there of it, and what is missing."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data.notices import Missing, shorten
from ossicle.data.table import Row, normal, read_table
from ossicle.errors import DataError


@dataclass(frozen=True)
class Release:
    """What an official data set looks like when it is whole.

    Args:
        title: its name in messages.
        source: where to get it and what to give, to end an error with.
        counts: clips of every split.
        split: what its splits are called: fold or split.
    """

    title: str
    source: str
    counts: Mapping[str, int]
    split: str = "split"

    def table(self, path: Path, columns: Sequence[str]) -> list[Row]:
        """Rows of one of its tables.

        Raises:
            DataError: if it is absent, empty or lacks a column.
        """
        if not path.is_file():
            raise DataError(f"{path.parent} has no {path.name}, so it is not {self.title}; {self.source}")
        lines = read_table(path)
        absent = [column for column in columns if column not in lines[0].cells]
        if absent:
            raise DataError(f"{path.name} has no column {', '.join(absent)}; {self.source}")
        return lines

    def refuse(self, name: str, faults: Sequence[str]) -> None:
        """Raise a DataError that lists faults of a table, if there are any."""
        if faults:
            raise DataError(f"{name} is not {self.title}'s: {len(faults)} fault(s): {shorten(faults)}; {self.source}")

    def present(self, clips: Sequence[Clip]) -> tuple[list[Clip], list[str]]:
        """The clips whose sound file is there, and notices of what differs from the release.

        Raises:
            DataError: if none is there.
        """
        there: dict[Path, set[str]] = {}
        for folder in {clip.path.parent for clip in clips}:
            there[folder] = {normal(name) for name in os.listdir(folder)} if folder.is_dir() else set()
        kept = [clip for clip in clips if normal(clip.path.name) in there[clip.path.parent]]
        if not kept:
            where = f"; the first is wanted at {clips[0].path}" if clips else ""
            raise DataError(f"none of the {len(clips)} clips of {self.title} is there{where}; {self.source}")
        notices: list[str] = []
        present = set(kept)
        missing = [clip for clip in clips if clip not in present]
        if missing:
            splits = Counter(clip.split for clip in missing)
            counts = ", ".join(f"{count} of {self.split} {name}" for name, count in sorted(splits.items()))
            names = [clip.name for clip in missing]
            text = f"{len(missing)} of {len(clips)} sound files are not there ({counts}): {shorten(names)}; left out"
            notices.append(Missing(text, names))
        for name, count in sorted(Counter(clip.split for clip in kept).items()):
            if count != self.counts.get(name, count):
                notices.append(f"{self.split} {name} has {count:,} clips, the release has {self.counts[name]:,}")
        return kept, notices
