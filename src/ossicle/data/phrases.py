"""How people speak of sounds: clauses and noun phrases to write a caption with, and patterns to find them in one."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ossicle.errors import DataError

ESC50 = Path(__file__).with_name("phrases_esc50.toml")
_KEYS = {"clauses", "things", "words", "background"}


class Clause(NamedTuple):
    """A sentence about a sound: "a dog", "barks", "barking"; without an -ing form the last is empty."""

    subject: str
    finite: str
    gerund: str

    @property
    def present(self) -> str:
        """A dog barks."""
        return f"{self.subject} {self.finite}"

    @property
    def progressive(self) -> str:
        """A dog is barking; dogs are barking."""
        singular = self.finite.split()[0].endswith("s")
        return f"{self.subject} {'is' if singular else 'are'} {self.gerund}" if self.gerund else self.present


@dataclass(frozen=True)
class Phrase:
    """One label's wordings.

    Args:
        label: the label.
        clauses: sentences without a full stop.
        things: noun phrases, such as "a barking dog".
        words: regular expressions for a mention of it in lower-case text.
        background: whether it may lie under other sounds as a long quiet texture.
    """

    label: str
    clauses: tuple[Clause, ...]
    things: tuple[str, ...]
    words: tuple[str, ...]
    background: bool = False

    @property
    def nouns(self) -> tuple[str, ...]:
        """What may stand after "followed by": the things, and subjects with an -ing form."""
        return (*self.things, *(f"{c.subject} {c.gerund}" for c in self.clauses if c.gerund))


class Mention(NamedTuple):
    """Where a caption speaks of a label: characters `start` to `end`."""

    label: str
    start: int
    end: int


class Phrases:
    """Wordings by label; a label without an entry gets one made of its own text.

    Args:
        entries: label to its wordings. Where two labels' patterns match the same stretch, the earlier one counts.
    """

    def __init__(self, entries: Mapping[str, Phrase]) -> None:
        self.entries = dict(entries)
        self._patterns = [(label, re.compile("|".join(e.words))) for label, e in self.entries.items()]

    def of(self, label: str) -> Phrase:
        """The label's entry; capitals, spaces and hyphens do not matter. Other labels get "the sound of LABEL"."""
        entry = self.entries.get(label) or self.entries.get(_normal(label))
        return fallback(label) if entry is None else replace(entry, label=label)

    def including(self, labels: Iterable[str]) -> "Phrases":
        """The same with an entry under each of these labels; they go before the others."""
        own = {label: self.of(label) for label in labels}
        spoken_for = {_normal(label) for label in own}
        return Phrases(own | {k: v for k, v in self.entries.items() if k not in own and k not in spoken_for})

    def mentions(self, caption: str) -> list[Mention]:
        """Every mention of a label with an entry, in order; of overlapping ones the longest counts."""
        text = caption.lower()
        found = [Mention(label, *m.span()) for label, pattern in self._patterns for m in pattern.finditer(text)]
        kept: list[Mention] = []
        for one in sorted(found, key=lambda m: m.start - m.end):
            if one.end > one.start and all(one.end <= other.start or other.end <= one.start for other in kept):
                kept.append(one)
        return sorted(kept, key=lambda m: m.start)


def fallback(label: str) -> Phrase:
    """Wordings for a label nobody wrote any for."""
    text = " ".join(_parts(label)) or label
    sound = f"the sound of {text}"
    pattern = r"[\s_-]+".join(re.escape(part) for part in _parts(label) or [label.lower()])
    return Phrase(
        label=label,
        clauses=(Clause(sound, "is heard", ""), Clause(sound, "can be heard", ""), Clause(text, "can be heard", "")),
        things=(sound, text),
        words=(rf"(?<!\w){pattern}(?:e?s)?(?!\w)",),
    )


@lru_cache(maxsize=1)
def esc50() -> Phrases:
    """The wordings that ship, one entry for each label of ESC-50."""
    return read(ESC50)


def read(path: Path) -> Phrases:
    """Read wordings from a TOML file: a table per label with clauses, things, words and background.

    Raises:
        DataError: if the file is not there or not TOML, or naming every table that is not as wanted.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as TOML: {error}; give a table per label, as phrases_esc50.toml"
        ) from error
    faults = [f"{label}: {fault}" for label, table in tables.items() for fault in _faults(table)]
    if faults or not tables:
        raise DataError(f"{path.name}: {'; '.join(faults) or 'it holds no label'}; see phrases_esc50.toml for the form")
    return Phrases({label: _phrase(label, table) for label, table in tables.items()})


def _phrase(label: str, table: Mapping[str, Any]) -> Phrase:
    clauses = tuple(Clause(*parts) for parts in table["clauses"])
    return Phrase(label, clauses, tuple(table["things"]), tuple(table["words"]), table.get("background", False))


def _faults(table: object) -> Iterator[str]:
    """What is wrong with one label's table."""
    if not isinstance(table, dict):
        yield "a table is wanted"
        return
    if strange := sorted(table.keys() - _KEYS):
        yield f"{', '.join(strange)} is not one of {', '.join(sorted(_KEYS))}"
    for key in ("clauses", "things", "words"):
        if not isinstance(table.get(key), list) or not table[key]:
            yield f"{key} is empty, a list is wanted"
            return
    if not all(isinstance(c, list) and len(c) == 3 and all(isinstance(p, str) for p in c) for c in table["clauses"]):
        yield "clauses are wanted as [subject, verb, -ing form]"
    if any(not c[:2] or not str(c[0]).strip() or not str(c[1]).strip() for c in table["clauses"] if len(c) == 3):
        yield "a clause has no subject or no verb"
    for word in table["words"]:
        try:
            re.compile(word)
        except (re.error, TypeError) as error:
            yield f"'{word}' is not a regular expression ({error})"
    if not isinstance(table.get("background", False), bool):
        yield "background is true or false"


def _parts(label: str) -> list[str]:
    return re.findall(r"[^\s_-]+", label.lower())


def _normal(label: str) -> str:
    return "_".join(_parts(label))
