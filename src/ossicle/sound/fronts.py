"""A sound file read as if its beginning were another one: nothing on disk is changed."""

import os
from dataclasses import dataclass
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Front:
    """What stands in place of a file's own beginning.

    Args:
        head: bytes put in front; may be empty.
        begin: the first byte of the file that is read after them.
        end: the byte of the file after the last one that is read; None reads to its end.
        told: what was wrong with the file's own beginning, for the user; empty where nothing was.
    """

    head: bytes
    begin: int
    end: int | None = None
    told: str = ""


class Fronted:
    """A file of `size` bytes behind a front, read only where it is asked for; it does not tell its name."""

    def __init__(self, file: BinaryIO, size: int, front: Front) -> None:
        self._file, self._front, self._shift = file, front.head, front.begin - len(front.head)
        self._size, self._at = (size if front.end is None else front.end) - self._shift, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte of the whole."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def read(self, count: int) -> bytes:
        """So many bytes at most, from the front where that goes on, else from the file."""
        wanted = max(0, min(count, self._size - self._at))
        piece = self._front[self._at : self._at + wanted]
        if wanted and not piece:  # a damaged file may ask for a byte beyond all
            self._file.seek(self._at + self._shift)
            piece = self._file.read(wanted)
        self._at += len(piece)
        return piece

    def readinto(self, into: Any) -> int:
        """Fill what is wanted."""
        view = memoryview(into).cast("B")
        piece = self.read(len(view))
        view[: len(piece)] = piece
        return len(piece)
