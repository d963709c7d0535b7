"""Which item of one file is which of another: by its path as given, by its name alone only where that is unambiguous.

Two tables seldom write paths alike: one says `dog/1.wav`, the other `/recordings/dog/1.wav`.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ossicle.data.manifest import shorten


@dataclass(frozen=True)
class Match:
    """What belongs together.

    Args:
        pairs: name in the first file to name in the second.
        lone: of the first file, in its order, without one in the second.
        absent: of the second file, in its order, without one in the first.
        hint: what to do where files of one name cannot be told apart, else empty.
    """

    pairs: Mapping[str, str]
    lone: tuple[str, ...]
    absent: tuple[str, ...]
    hint: str

    def faults(self, lone: str, absent: str) -> str:
        """What has no partner, in words; empty if all have one.

        Args:
            lone: such as "candidate(s) have no reference".
            absent: such as "item(s) with references have no candidate".
        """
        sides = ((self.lone, lone), (self.absent, absent))
        told = [f"{len(names)} {words}: {shorten(names)}" for names, words in sides if names]
        return "; ".join([*told, self.hint] if told and self.hint else told)


def match(first: Iterable[str], second: Iterable[str]) -> Match:
    """Find the partner of each name.

    Equal names go together. Else names are taken relative to the folder that holds all of their file, if that makes
    both files equal. Else the longest end of two paths decides, from two parts on, if no other has as long a one. The
    last part alone decides only where it comes once in both files.

    Args:
        first: names or paths, each once.
        second: likewise.
    """
    first, second = dict.fromkeys(first), dict.fromkeys(second)
    pairs = {name: name for name in first if name in second}
    if len(pairs) < len(first) or len(pairs) < len(second):
        pairs = _rooted(first, second) or pairs | _by_ends(first, second, pairs)
    taken = set(pairs.values())
    lone = tuple(name for name in first if name not in pairs)
    absent = tuple(name for name in second if name not in taken)
    return Match({name: pairs[name] for name in first if name in pairs}, lone, absent, _hint(lone, absent, first))


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path of any system, the last one first."""
    return tuple(part for part in reversed(re.split(r"[/\\]", name)) if part not in ("", "."))


def _rooted(first: Collection[str], second: Collection[str]) -> dict[str, str]:
    """All of both, paired by their place below the folder that holds all of each; nothing if that does not fit."""
    ours, theirs = (_below(names) for names in (first, second))
    if ours.keys() != theirs.keys() or (len(ours), len(theirs)) != (len(first), len(second)):
        return {}
    return {name: theirs[place] for place, name in ours.items()}


def _below(names: Collection[str]) -> dict[tuple[str, ...], str]:
    """Place below the folder that holds all, to name."""
    parts = {name: _parts(name) for name in names}
    folders = [tuple(reversed(found[1:])) for found in parts.values()]
    shared = 0
    for level in zip(*folders, strict=False):
        if len(set(level)) > 1:
            break
        shared += 1
    return {found[: len(found) - shared]: name for name, found in parts.items()}


def _by_ends(first: Iterable[str], second: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """Partners of what is not known yet: an end of a path that comes once in each file."""
    taken = set(known.values())
    found: dict[str, str] = {}
    names_once = _ends(first, 1), _ends(second, 1)
    ours = _ends((name for name in first if name not in known), 2)
    theirs = _ends((name for name in second if name not in taken), 2)
    for left, right in (names_once, (ours, theirs)):
        for end in left.keys() & right.keys():
            if len(left[end]) == len(right[end]) == 1:
                found[left[end][0]] = right[end][0]
    return {name: other for name, other in found.items() if name not in known and other not in taken}


def _ends(names: Iterable[str], least: int) -> dict[tuple[str, ...], list[str]]:
    """Every end of every path from `least` parts on, or of just one where that is 1, to the names that end so."""
    ends: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        parts = _parts(name)
        for length in [1] if least == 1 else range(least, len(parts) + 1):
            ends.setdefault(parts[:length], []).append(name)
    return ends


def _hint(lone: Sequence[str], absent: Sequence[str], first: Iterable[str]) -> str:
    """Which name several files have, if that is why some have no partner."""
    lasts = [parts[0] for parts in map(_parts, lone) if parts]
    others = Counter(parts[0] for parts in map(_parts, [*absent, *first]) if parts)
    again = next((last for last in lasts if others[last] > 1), None)
    return "" if again is None else f"several files are called {again}: write their folders in both files"
