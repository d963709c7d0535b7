"""METEOR 1.5 for English (Denkowski and Lavie 2014): what its jar computes with `-l en -norm`, without Java.

Words match exactly, by stem, by synonym, or as phrases by paraphrase. The alignment covers as many words as it can in
as few chunks as it can; like the jar's, its search keeps the 40 best partial alignments, and counts a single word that
does not match exactly as nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from typing import Any, NamedTuple

import snowballstemmer

from ossicle.metrics.caption.meteor_tables import Tables, extend, tables

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # exact, stem, synonym, paraphrase
EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
BEAM = 40

_ALPHA = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧ"
_RULES = [
    (re.compile(rf"([^0-9{_ALPHA}\s.'`,\-‘’])"), r" \1 "),
    (re.compile(r"(\D),(\D)"), r"\1 , \2"),
    (re.compile(r"(\d),(\D)"), r"\1 , \2"),
    (re.compile(r"(\D),(\d)"), r"\1 , \2"),
    (re.compile(r"[`‘’]"), "'"),
    (re.compile(r"[“”]|''"), ' " '),
    (re.compile(r"–|--"), "-"),
    (re.compile(rf"([0-9{_ALPHA}.])-([0-9{_ALPHA}])"), r"\1 \2"),
    (re.compile(rf"([^{_ALPHA}])'([^{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(rf"([^{_ALPHA}\d])'([{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(rf"([{_ALPHA}])'([^{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(rf"([{_ALPHA}])'([{_ALPHA}])"), r"\1 '\2"),
    (re.compile(r"(\d)'(s)"), r"\1 '\2"),
]
_STEMMER = snowballstemmer.stemmer("english")


@dataclass(frozen=True)
class Meteor:
    """Scores from 0 to 1.

    Args:
        corpus: from the summed counts of every item's best reference.
        items: of each candidate with its best reference.
    """

    corpus: float
    items: tuple[float, ...]


@dataclass
class Stats:
    """Counts of one alignment, or of many summed.

    Args:
        lengths: words of candidate and reference.
        function: function words of both.
        content_matches: matched content words by kind, of both.
        function_matches: matched function words by kind, of both.
        chunks: stretches that are matched in the same order.
        whole: words matched of both.
    """

    lengths: list[float] = field(default_factory=lambda: [0.0, 0.0])
    function: list[float] = field(default_factory=lambda: [0.0, 0.0])
    content_matches: list[list[float]] = field(default_factory=lambda: [[0.0] * 4, [0.0] * 4])
    function_matches: list[list[float]] = field(default_factory=lambda: [[0.0] * 4, [0.0] * 4])
    chunks: float = 0.0
    whole: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def score(self) -> float:
        """The METEOR score these counts give."""
        parts = []
        for side in (0, 1):
            content = self.lengths[side] - self.function[side]
            length = DELTA * content + (1 - DELTA) * self.function[side]
            matched = sum(
                w * (DELTA * c + (1 - DELTA) * f)
                for w, c, f in zip(WEIGHTS, self.content_matches[side], self.function_matches[side], strict=True)
            )
            parts.append(matched / length if length else 0.0)
        precision, recall = parts
        if precision == 0 or recall == 0:
            return 0.0
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        broken = 0.0 if self.perfect() else self.chunks / (sum(self.whole) / 2)
        return max(0.0, float(mean * (1 - GAMMA * broken**BETA)))

    def perfect(self) -> bool:
        """Whether all words match in one stretch."""
        return self.whole == self.lengths and self.chunks == 1

    def add(self, other: "Stats") -> None:
        """Sum the counts of another item; the chunk of a perfect one does not count, as in the jar."""
        for side in (0, 1):
            self.lengths[side] += other.lengths[side]
            self.function[side] += other.function[side]
            self.whole[side] += other.whole[side]
            for kind in range(4):
                self.content_matches[side][kind] += other.content_matches[side][kind]
                self.function_matches[side][kind] += other.function_matches[side][kind]
        self.chunks += 0 if other.perfect() else other.chunks


class Match(NamedTuple):
    """Reference words (`start`, `length`, as bits `words`) that match candidate words (`own_start` and so on).

    `gain` is what the search counts it for, `distance` how far apart both are.
    """

    kind: int
    start: int
    length: int
    own_start: int
    own_length: int
    words: int
    own_words: int
    gain: int
    distance: int


@dataclass(frozen=True, slots=True)
class Text:
    """What the matchers ask of a text.

    Args:
        words: as the normaliser gives them.
        stems: of each word.
        meanings: synonym sets of each word.
        functional: whether each is a function word.
        phrases: start, length, paraphrases and the set of them, of every phrase that has some.
        places: start and length by the hash of the phrase there.
    """

    words: tuple[str, ...]
    stems: tuple[str, ...]
    meanings: tuple[frozenset[int], ...]
    functional: tuple[bool, ...]
    phrases: tuple[tuple[int, int, tuple[int, ...], frozenset[int]], ...]
    places: dict[int, list[tuple[int, int]]]


def meteor(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> Meteor:
    """METEOR of candidates against their references.

    Args:
        candidates: tokens of each, as `tokenize` gives them.
        references: tokens of the references of each.

    Raises:
        DataError: if METEOR's files are not here.
    """
    known = tables()
    total, items = Stats(), []
    for candidate, others in zip(candidates, references, strict=True):
        own = text(" ".join(candidate), known)
        best: tuple[float, Stats] | None = None
        for other in others:
            found = stats(own, text(" ".join(other), known))
            score = found.score()
            if best is None or score > best[0]:
                best = score, found
        assert best is not None
        items.append(best[0])
        total.add(best[1])
    return Meteor(total.score(), tuple(items))


@lru_cache(maxsize=1 << 15)
def text(line: str, known: Tables) -> Text:
    """A line as the matchers see it; captions are compared with many others, so what was seen is kept."""
    words = normalise(line, known)
    places: dict[int, list[tuple[int, int]]] = {}
    spans = []
    for i in range(len(words)):
        phrase, n = 0, 0
        while i + n < len(words) and (n == 0 or known.goes_on(phrase)):
            phrase, n = extend(phrase, words[i + n]), n + 1
            places.setdefault(phrase, []).append((i, n))
            spans.append((i, n, phrase))
    others = known.paraphrases(list(places))
    return Text(
        words, tuple(map(_stem, words)), tuple(map(known.meanings, words)),
        tuple(word in known.function_words for word in words),
        tuple((i, n, others[h], frozenset(others[h])) for i, n, h in spans if h in others), places,
    )  # fmt: skip


def normalise(line: str, known: Tables) -> tuple[str, ...]:
    """Words as the jar's normaliser gives them for English, punctuation kept."""
    changed = f" {line} "
    for pattern, instead in _RULES:
        changed = pattern.sub(instead, changed)
    words = changed.split()
    out: list[str] = []
    for word, follows in zip_longest(words, words[1:], fillvalue=""):
        out += _full_stop(word, follows, known)
    return tuple(word.lower() for word in out)


def _full_stop(word: str, follows: str, known: Tables) -> list[str]:
    """A word that ends with a full stop: which of both it is part of."""
    if len(word) < 2 or not word.endswith("."):
        return [word]
    rest = word[:-1]
    kind = known.prefixes.get(rest)
    if "." in rest and re.search(f"[{_ALPHA}]", rest):
        return [word.replace(".", "")]
    if kind == 1 or follows[:1].islower() or (kind == 2 and follows[:1].isdigit()):
        return [word]
    return [rest, "."]


def stats(own: Text, other: Text) -> Stats:
    """Counts of the best alignment of a candidate with a reference."""
    found = Stats([float(len(own.words)), float(len(other.words))])
    found.function = [float(sum(own.functional)), float(sum(other.functional))]
    aligned = align(own, other)
    for match in aligned:
        spans = ((own, match.own_start, match.own_length), (other, match.start, match.length))
        for side, (words, start, length) in enumerate(spans):
            found.whole[side] += length
            for i in range(start, start + length):
                table = found.function_matches if words.functional[i] else found.content_matches
                table[side][match.kind] += 1
    found.chunks = float(_chunks(aligned))
    return found


def _chunks(aligned: Sequence[Match]) -> int:
    """Stretches of matches that follow each other in both texts."""
    count, end, own_end = 0, -1, -1
    for match in aligned:
        if match.start != end or match.own_start != own_end:
            count += 1
        end, own_end = match.start + match.length, match.own_start + match.own_length
    return count


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    stemmed: str = _STEMMER.stemWord(word)
    return stemmed


def _match(kind: int, start: int, length: int, own_start: int, own_length: int) -> Match:
    words, own_words = ((1 << length) - 1) << start, ((1 << own_length) - 1) << own_start
    gain = length + own_length if kind == EXACT else length // 2 + own_length // 2  # the jar cuts halves off
    return Match(kind, start, length, own_start, own_length, words, own_words, gain, abs(start - own_start))


def _matches(own: Text, other: Text) -> list[list[Match]]:
    """Every match, by where it starts in the reference."""
    found: list[list[Match]] = [[] for _ in other.words]
    for j, theirs in enumerate(other.words):
        found[j] += [_match(EXACT, j, 1, i, 1) for i, ours in enumerate(own.words) if ours == theirs]
    if own.words == other.words:
        return found
    for j, (theirs, stem, meanings) in enumerate(zip(other.words, other.stems, other.meanings, strict=True)):
        stems = [i for i, ours in enumerate(own.stems) if ours == stem and own.words[i] != theirs]
        found[j] += [_match(STEM, j, 1, i, 1) for i in stems]
        if meanings:
            alike = [i for i, ours in enumerate(own.meanings) if ours and not meanings.isdisjoint(ours)]
            found[j] += [_match(SYNONYM, j, 1, i, 1) for i in alike if own.words[i] != theirs]
    for start, length, own_start, own_length in _paraphrases(other, own):
        found[start].append(_match(PARAPHRASE, start, length, own_start, own_length))
    for own_start, own_length, start, length in _paraphrases(own, other):
        found[start].append(_match(PARAPHRASE, start, length, own_start, own_length))
    return found


def _paraphrases(first: Text, second: Text) -> list[tuple[int, int, int, int]]:
    """Phrases of the first text whose paraphrase is in the second: start and length of both."""
    return [
        (i, n, *place)
        for i, n, others, among in first.phrases
        if not among.isdisjoint(second.places)
        for other in others
        if other in second.places
        for place in second.places[other]
    ]


@dataclass(slots=True)
class _Path:
    """A partial alignment up to some reference word: covered words as bits, and what it is ranked by."""

    used: int = 0
    own_used: int = 0
    covered: int = 0
    chunks: int = 0
    distance: int = 0
    index: int = 0
    end: int = -1
    trail: tuple[Any, ...] = ()  # (match, trail before it)

    def go(self, match: Match) -> None:
        """Pass over a match."""
        self.covered += match.gain
        if self.end != -1 and self.end != match.own_start:
            self.chunks += 1
        self.index = match.start + match.length
        self.end = match.own_start + match.own_length
        self.trail = (match, self.trail)

    def branch(self, match: Match) -> "_Path":
        """A copy that takes a match."""
        new = _Path(
            self.used | match.words, self.own_used | match.own_words, self.covered, self.chunks, self.distance,
            self.index, self.end, self.trail,
        )  # fmt: skip
        new.go(match)
        return new

    def rank(self) -> tuple[int, int, int]:
        """Lower is better: covered words, then chunks, then distance."""
        return -self.covered, self.chunks, self.distance


def align(own: Text, other: Text) -> list[Match]:
    """The matches of the best alignment in the reference's order."""
    found = _matches(own, other)
    fixed = _only_ways(found)
    first = _Path()
    for match in fixed.values():
        first.used |= match.words
        first.own_used |= match.own_words
    trail = min(_search(first, found, fixed), key=_Path.rank).trail
    aligned = []
    while trail:
        match, trail = trail
        aligned.append(match)
    return aligned[::-1]


def _only_ways(found: Sequence[Sequence[Match]]) -> dict[int, Match]:
    """Matches whose words are in no other match, by their start."""
    once = own_once = twice = own_twice = 0
    for matches in found:
        for match in matches:
            twice |= once & match.words
            once |= match.words
            own_twice |= own_once & match.own_words
            own_once |= match.own_words
    return {
        j: matches[0]
        for j, matches in enumerate(found)
        if len(matches) == 1 and not matches[0].words & twice and not matches[0].own_words & own_twice
    }


def _search(first: _Path, found: Sequence[Sequence[Match]], fixed: dict[int, Match]) -> list[_Path]:
    """Paths through the whole reference."""
    paths = [first]
    for j, matches in enumerate(found):
        if len(paths) > 1:
            paths.sort(key=_Path.rank)
        paths = [path for one in paths[:BEAM] for path in _step(one, j, matches, fixed)] or paths[:1]
    paths.sort(key=_Path.rank)
    for path in paths[:BEAM]:
        path.chunks += path.end != -1
    return paths[:BEAM]


def _step(path: _Path, j: int, matches: Sequence[Match], fixed: dict[int, Match]) -> list[_Path]:
    """Where a path can go at reference word j."""
    if path.used >> j & 1:
        if j >= path.index:
            match = fixed.get(path.index)
            if match is None:
                return []
            path.go(match)
            path.distance += match.distance
        return [path]
    out = []
    for match in matches:
        if not (path.used & match.words or path.own_used & match.own_words):
            out.append(path.branch(match))
            path.distance += match.distance  # on the path left, as in the jar
    if path.end != -1:
        path.chunks += 1
        path.end = -1
    path.index += 1
    out.append(path)
    return out
