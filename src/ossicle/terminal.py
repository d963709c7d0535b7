"""What a person sees: text as it is, and tables that cut nothing.

Labels and names of files hold anything. Rich would take "[bird]" for a style and ":dog:" for a picture, and cuts what
does not fit a table. So all that is printed for people goes through here, and nothing else imports rich.
"""

import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

GAP = "  "
INDENT = "    "
NARROW = 24  # a last column with less room than this is put beneath its row


def say(text: str = "", *, error: bool = False, style: str = "") -> None:
    """Print a line; on stderr if it is an error."""
    screen = _screen(error)
    screen.print(_plain(text, screen), style=style, soft_wrap=True)


def prose(text: str, *, error: bool = False) -> None:
    """Print sentences: folded between words in a terminal, as one line elsewhere."""
    screen = _screen(error)
    for line in _fold(text, screen.width) if screen.is_terminal else [text]:
        say(line, error=error)


def note(text: str) -> None:
    """Tell something on stderr that is no error."""
    say(f"note: {text}", error=True, style="yellow")


@contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Show a text while something is done. It gives a function that changes the text."""
    screen = _screen(error=True)
    with screen.status(Text(_plain(text, screen))) as status:
        yield lambda told: status.update(Text(_plain(told, screen)))


def progress(quiet: bool) -> Progress:
    """A bar with a description, how many are done, and the time that remains."""
    told = TextColumn("{task.description}", markup=False)
    return Progress(told, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), disable=quiet)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> None:
    """Print a table, one line a row where it fits the terminal or goes into a file.

    Otherwise the last column is folded, or put beneath if there is no room beside the others. Nothing is ever cut, and
    of the other columns nothing is broken.

    Args:
        header: names of the columns.
        rows: as many cells each.
        right: names of columns that are set to the right.
    """
    screen = _screen()
    cells = [[_plain(cell, screen) for cell in row] for row in (header, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    beside = sum(widths[:-1]) + len(GAP) * len(widths[:-1])
    room = _room(screen) or beside + widths[-1]
    under = room - beside < min(widths[-1], NARROW)
    margin = INDENT if under else " " * beside
    for number, (*first, last) in enumerate(cells):
        line = GAP.join(
            _pad(cell, width, name in right) for cell, width, name in zip(first, widths, header, strict=False)
        )
        folded = _fold(last, room - len(margin))
        if not under:
            line, folded = line + GAP + _pad(folded[0], widths[-1], header[-1] in right), folded[1:]
        lines = [line, *(margin + piece for piece in folded if piece)]
        screen.print("\n".join(piece.rstrip() for piece in lines), style="" if number else "bold", soft_wrap=True)


def _screen(error: bool = False) -> Console:
    return Console(stderr=error, markup=False, emoji=False, highlight=False)


def _room(screen: Console) -> int | None:
    """Width in characters; None where lines may have any length."""
    return screen.width if screen.is_terminal or "COLUMNS" in os.environ else None


def _plain(text: str, screen: Console) -> str:
    """Control characters and what the terminal cannot show as escapes, so that no name can break or hide a line."""
    odd = ("Cc", "Cs")
    shown = (c.encode("unicode_escape").decode() if unicodedata.category(c) in odd else c for c in text)
    return "".join(shown).encode(screen.encoding, "backslashreplace").decode(screen.encoding)


def _pad(text: str, width: int, right: bool) -> str:
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank


def _fold(text: str, width: int) -> list[str]:
    """Lines of whole words; at least one."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
