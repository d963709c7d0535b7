"""Which columns of a table say where in its file a clip begins and ends, by the names that tools write.

Raven writes `Begin Time (s)`, BirdNET `Start (s)`, DCASE `onset` and `offset`, Lhotse and Kaleidoscope `offset` and
`duration`, Praat `xmin`, scripts `startTime`, `start_ms` and many more. A number that looks like a time and is not
understood is told, as a clip without its stretch is the whole file.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ossicle.data.notices import shorten
from ossicle.data.table import Row

_UNITS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
}
_ROLES = {
    "start": ("start", "begin", "beginning", "onset", "xmin", "tmin", "starts", "begins"),
    "end": ("end", "ending", "stop", "finish", "xmax", "tmax", "ends", "stops"),
    "duration": ("duration", "dur"),
    "offset": ("offset",),
    "file offset": ("fileoffset",),
}
_WORDS = {word: role for role, words in _ROLES.items() for word in words}
_NAME = re.compile(
    r"(?:segment|seg|clip|event|call|sound|audio|interval|selection|annotation|window|time|t)?"
    rf"({'|'.join(sorted(_WORDS, key=len, reverse=True))})"
    r"(?:time|timestamp|timecode|pos|position|point)?(?:in)?"
    rf"({'|'.join(sorted(_UNITS, key=len, reverse=True))})?"
)
_LIKE = re.compile(
    r"(?:^|_)(?:start|begin|onset|offset|stop|finish|time|timestamp)|(?:^|_)(?:end|from|to|t0|t1|left|right|pos|position|"
    r"sec|secs|seconds|ms|frame|frames|sample|samples)(?:$|_)|(?:time|start|onset|offset|begin|frames?|samples?)$"
)
_NO_TIME = re.compile(r"rate|num|count|hz|freq|zone|date|year|hour|score")
_CLOCK = re.compile(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")


@dataclass(frozen=True)
class Stretches:
    """Where a table says that clips begin and end.

    Args:
        columns: role (start, end, duration, file offset) to its columns, and the seconds that one of each is. The
            first that is filled counts.
        notices: of columns that look like times and are not used.
    """

    columns: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether rows are stretches and not whole files."""
        return bool(self.columns)

    def of(self, cells: Mapping[str, Any]) -> tuple[float, float | None]:
        """Start and end of a row in seconds; no end is that of the file.

        Raises:
            ValueError: if a cell is no number, or there is no such stretch.
        """
        start, end = self._seconds(cells, "start"), self._seconds(cells, "end")
        if end is None and (lasts := self._seconds(cells, "duration")) is not None:
            end = (start or 0.0) + lasts
        inside = self._seconds(cells, "file offset")
        if inside is not None:  # Raven counts on from file to file, and says here where in its file a selection begins
            end = None if end is None else round(inside + end - (start or 0.0), 6)
            start = inside
        start = start or 0.0
        if not (math.isfinite(start) and start >= 0 and (end is None or start < end < math.inf)):
            raise ValueError(f"start {start} and end {end} are not a stretch; 0 <= start < end is wanted")
        return start, end

    def _seconds(self, cells: Mapping[str, Any], role: str) -> float | None:
        options = (
            (text, column, unit) for column, unit in self.columns.get(role, ()) if (text := _text(cells.get(column)))
        )
        text, column, unit = next(options, ("", "", 1.0))
        if not text:
            return None
        if clock := _CLOCK.fullmatch(text):
            return round(int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3]), 6)
        try:
            value = float(text)
        except ValueError:
            point = f", {text.replace(',', '.')}" if re.fullmatch(r"\d+,\d+", text) else ""
            raise ValueError(
                f"{column} is '{text}', a number of seconds is wanted{point}; rename the column if it is no time"
            ) from None
        return value if unit == 1.0 else round(value * unit, 6)


def find(name: str, table: Sequence[Row]) -> Stretches:
    """The columns of a table that say where clips begin and end; see `Stretches`.

    Args:
        name: of the table, for notices.
        table: its rows.
    """
    columns = list(dict.fromkeys(column for row in table for column in row.cells))
    found: dict[str, list[tuple[str, float]]] = {}
    for column in columns:
        if (match := _NAME.fullmatch(re.sub(r"[^a-z0-9]+", "", column))) is not None:
            found.setdefault(_WORDS[match[1]], []).append((column, _UNITS.get(match[2] or "s", 1.0)))
    _settle_offset(found)
    if not {"start", "end", "file offset"} & set(found):
        found = {}  # a duration alone is the file's
    notices = []
    for role, options in found.items():
        options.sort(key=lambda option: ("_" in option[0], columns.index(option[0])))
        if len(options) > 1 and not _agree(table, options):
            passed = ", ".join(column for column, _ in options[1:])
            notices.append(f"{name}: {passed} differs from {options[0][0]}, which is the {role} that is used")
    used = {column for options in found.values() for column, _ in options}
    if "end" not in found and "duration" not in found or "start" not in found:
        notices += _unused(name, table, [column for column in columns if column not in used], bool(found))
    return Stretches(found, tuple(notices))


def _settle_offset(found: dict[str, list[tuple[str, float]]]) -> None:
    """An offset is an end beside an onset (DCASE), and a start beside a duration (Lhotse, Kaleidoscope)."""
    offset = found.pop("offset", None)
    if offset is None:
        return
    if "start" in found and "end" not in found and any("onset" in column for column, _ in found["start"]):
        found["end"] = offset
    elif "start" not in found and "duration" in found:
        found["start"] = offset


def _agree(table: Sequence[Row], options: Sequence[tuple[str, float]]) -> bool:
    """Whether columns of one meaning say the same in every row that has both."""
    for row in table:
        values = [value * unit for column, unit in options if (value := _number(row.cells.get(column))) is not None]
        if values and max(values) - min(values) > 0.0015:
            return False
    return True


def _unused(name: str, table: Sequence[Row], columns: Sequence[str], some: bool) -> list[str]:
    """A notice of columns of numbers that look like times."""
    like = []
    for column in columns:
        cells = [text for row in table if (text := _text(row.cells.get(column)))]
        numbers = cells and all(_number(cell) is not None or _CLOCK.fullmatch(cell) for cell in cells)
        if numbers and _LIKE.search(column) and not _NO_TIME.search(column):
            like.append(column)
    if not like:
        return []
    so = "" if some else ", and every clip is its whole file"
    return [
        f"{name}: {shorten(like)} may be times, but it is not known which or in what unit, so they are not used{so}; "
        "name columns start and end, in seconds, where they say which part of its file a clip is"
    ]


def _number(value: Any) -> float | None:
    try:
        return float(_text(value))
    except ValueError:
        return None


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()
