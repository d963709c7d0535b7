"""What is told of a data set: short lists, what a folder holds, and the sounds that are not there."""

import os
from collections.abc import Sequence
from pathlib import Path

SHOWN = 5


class Missing(str):
    """A notice of sound files that are not there.

    Args:
        text: what to tell.
        names: all of them; the text has the first few.
    """

    names: tuple[str, ...]

    def __new__(cls, text: str, names: Sequence[str] = ()) -> "Missing":
        """The text, with the names as an attribute."""
        notice = super().__new__(cls, text)
        notice.names = tuple(names)
        return notice


def shorten(items: Sequence[str]) -> str:
    """Write a list into a message: the first five, then how many more."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def holds(folder: Path) -> str:
    """Write into a message what a folder holds."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return f"holds {shorten(names)}" if names else "is empty"
