"""Sounds that a caption names and no tag supports: what a captioner made up, as far as the tagger can tell.

A caption's sound words are those of a list: things, living beings and events that sound. A word is supported if a tag
of some probability, anywhere in the file, has it in its name or is near to it by sentence embedding. A dog that was
tagged as a cat is supported: the measure sees sounds of another kind, not every wrong name.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ossicle.errors import DataError
from ossicle.metrics.caption.sbert import Sentences

LIST = Path(__file__).with_name("sound_words.txt")
SENTENCES = "all-minilm-l6-v2"
LEAST_SCORE, LEAST_COSINE = 0.1, 0.5
# A tag that says that nothing sounds supports nothing, however near its name is to "talk".
NO_SOUND = "Silence"

# Two words of which the first names no sound of its own here, and what they say together.
_TOGETHER = {
    r"fire (?:engine|truck)s?": "firetruck",
    r"fire alarms?": "alarm",
    r"machine guns?": "gun",
    r"wind chimes?": "chime",
    r"wind instruments?": "instrument",
    r"wind(?:s|ing)? (?:up|down)": "",
}
_COMPOUND = re.compile("|".join(rf"\b({pattern})\b" for pattern in _TOGETHER))
_DENIED = re.compile(r"\b(?:no|without)(?: (?:an?|any))? [^\W\d_]+")

# Name to probability, or rows that begin with both, such as (name, score, start, end).
Tags = Mapping[str, float] | Sequence[Sequence[Any]]


class Heard(NamedTuple):
    """What the sound words of a caption are, and which of them no tag supports."""

    words: list[str]
    unsupported: list[str]


class Kept(NamedTuple):
    """Candidates without an unsupported word, or all where each has one; `notice` says so then and is else empty."""

    indices: list[int]
    notice: str


@dataclass(frozen=True)
class _Listed:
    """The list: each form's word, and the words whose support is a word's own too."""

    words: dict[str, str]
    stand_ins: dict[str, tuple[str, ...]]


@cache
def _listed() -> _Listed:
    words: dict[str, str] = {}
    stand_ins: dict[str, tuple[str, ...]] = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        forms, _, others = line.partition("|")
        first, *more = forms.split()
        words |= dict.fromkeys([first, *more], first)
        stand_ins[first] = tuple(others.split())
    return _Listed(words, stand_ins)


@cache
def _sentences() -> Sentences:
    return Sentences(SENTENCES)


def sound_words() -> tuple[str, ...]:
    """All words of the list, in their base form."""
    return tuple(_listed().stand_ins)


def words_of(text: str) -> list[str]:
    """The sound words of a caption, each once, in order and in their base form ("barking dogs": bark, dog).

    What a caption says is not there ("without speech") is left out.
    """
    listed, said = _listed().words, list(_TOGETHER.values())
    plain = re.sub(r"[\s-]+", " ", text.lower())
    plain = _COMPOUND.sub(lambda match: said[(match.lastindex or 1) - 1], _DENIED.sub(" ", plain))
    found = (listed.get(word) for word in re.findall(r"[^\W\d_]+", plain))
    return list(dict.fromkeys(word for word in found if word is not None))


def names(tags: Tags, least: float = LEAST_SCORE) -> list[str]:
    """The tags of this probability and more, each once; of a tag that comes several times the highest counts.

    Raises:
        DataError: if they are not tags.
    """
    rows = tags.items() if isinstance(tags, Mapping) else tags
    found: list[str] = []
    for row in rows:
        if not _is_tag(row):
            raise DataError(f"{row!r} came among the tags; each is wanted as its name and a score from 0 to 1")
        found += [row[0]] if row[1] >= least else []
    return list(dict.fromkeys(found))


def _is_tag(row: Any) -> bool:
    if not isinstance(row, list | tuple) or len(row) < 2 or not isinstance(row[0], str):
        return False
    return isinstance(row[1], int | float) and not isinstance(row[1], bool) and math.isfinite(row[1])


class Support:
    """Tells which sound words tags support. Embeddings of words and names are kept for as long as it lives.

    Args:
        sentences: the sentence model; the one of `sbert_sim` if not given, loaded when it is first needed.
        least_score: probability from which a tag counts.
        least_cosine: of word and name, from which it supports the word.
        stand_ins: whether what supports "child" or "woman" also supports "girl", and so on as the list has it.
    """

    def __init__(
        self,
        sentences: Sentences | None = None,
        *,
        least_score: float = LEAST_SCORE,
        least_cosine: float = LEAST_COSINE,
        stand_ins: bool = True,
    ) -> None:
        self.least_score, self.least_cosine, self.stand_ins = least_score, least_cosine, stand_ins
        self._sentences = sentences
        self._rows: dict[str, Tensor] = {}
        self._known: dict[tuple[str, str], bool] = {}

    def heard(self, caption: str, tags: Tags) -> Heard:
        """The sound words of a caption, and those that no tag supports.

        Raises:
            DataError: if `tags` are no tags.
            WeightsError: if the sentence model cannot be had.
        """
        those, words = names(tags, self.least_score), words_of(caption)
        return Heard(words, [word for word in words if not any(self.supports(name, word) for name in those)])

    def unsupported(self, caption: str, tags: Tags) -> list[str]:
        """The sound words of a caption that no tag supports; see `heard`."""
        return self.heard(caption, tags).unsupported

    def kept(self, candidates: Sequence[str], tags: Tags) -> Kept:
        """Which candidates name no unsupported sound; all of them, with a notice, if each names one."""
        invented = [self.unsupported(text, tags) for text in candidates]
        clean = [index for index, words in enumerate(invented) if not words]
        if clean or not invented:
            return Kept(clean, "")
        told = ", ".join(word for word, _ in Counter(word for words in invented for word in words).most_common(5))
        return Kept(list(range(len(invented))), f"every candidate names a sound that no tag supports ({told})")

    def supports(self, name: str, word: str) -> bool:
        """Whether a tag of this name supports a word of the list."""
        if (name, word) not in self._known:
            own = (word, *(_listed().stand_ins.get(word, ()) if self.stand_ins else ()))
            self._known[name, word] = name != NO_SOUND and (
                not set(own).isdisjoint(words_of(name)) or any(self._near(name, one) for one in own)
            )
        return self._known[name, word]

    def _near(self, name: str, word: str) -> bool:
        return float(self._row(name) @ self._row(word)) >= self.least_cosine

    def _row(self, text: str) -> Tensor:
        """One by one, so that no neighbour's length moves a cosine across the bound."""
        if text not in self._rows:
            self._sentences = self._sentences or _sentences()
            self._rows[text] = self._sentences.embed([text])[0]
        return self._rows[text]


@cache
def usual() -> Support:
    """The measure as it is defined, shared by all who ask, so that each word is embedded once."""
    return Support()


def share(rows: Iterable[Heard]) -> float:
    """Unsupported sound words among all, over all captions; not a number where there is no sound word."""
    rows = list(rows)
    words = sum(len(row.words) for row in rows)
    return sum(len(row.unsupported) for row in rows) / words if words else math.nan


def counts(rows: Sequence[Heard]) -> dict[str, float]:
    """What a share is of: sound words, those that no tag supports, captions with tags, those that name a sound."""
    return {
        "sound_words": float(sum(len(row.words) for row in rows)),
        "sound_words_invented": float(sum(len(row.unsupported) for row in rows)),
        "captions_with_tags": float(len(rows)),
        "captions_with_sound_words": float(sum(bool(row.words) for row in rows)),
    }


def told(rows: Sequence[Heard], items: int) -> str:
    """What a share is of, in words, with the commonest unsupported words.

    Args:
        rows: of the captions that come with tags.
        items: captions in all.
    """
    lacking = Counter(word for row in rows for word in row.unsupported)
    few = [f"{word} {count}" if count > 1 else word for word, count in lacking.most_common(8)]
    shown = f": {', '.join(few)}{', …' if len(lacking) > len(few) else ''}" if few else ""
    words, having = sum(len(row.words) for row in rows), sum(bool(row.words) for row in rows)
    return (
        f"invented: no tag supports {lacking.total()} of {words} sound words{shown}; {having} of {items} captions name"
        f" a sound{'' if len(rows) == items else f' and come with tags, which {items - len(rows)} lack'}"
    )
