"""METEOR 1.5 for English (Denkowski and Lavie 2014): what its jar computes with `-l en -norm`, without Java.

Words match exactly, by stem, by synonym, or as phrases by paraphrase. The alignment covers as many words as it can in as
few chunks as it can; like the jar's, its search keeps the 40 best partial alignments.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import snowballstemmer

from ossicle.metrics.caption.meteor_tables import Tables, hashed, tables

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # exact, stem, synonym, paraphrase
SEARCH_WEIGHTS = (1.0, 0.5, 0.5, 0.5)  # in the search, where sums are cut to whole numbers
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
        return max(0.0, mean * (1 - GAMMA * broken**BETA))

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


@dataclass(frozen=True, slots=True)
class Match:
    """A match of `length` reference words at `start` with `own_length` candidate words at `own_start`."""

    kind: int
    start: int
    length: int
    own_start: int
    own_length: int


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
        own = normalise(" ".join(candidate), known)
        best: tuple[float, Stats] | None = None
        for other in others:
            found = stats(own, normalise(" ".join(other), known), known)
            score = found.score()
            if best is None or score > best[0]:
                best = score, found
        assert best is not None
        items.append(best[0])
        total.add(best[1])
    return Meteor(total.score(), tuple(items))


def normalise(line: str, known: Tables) -> tuple[str, ...]:
    """Words as the jar's normaliser gives them for English, punctuation kept."""
    return _normalise(line, known)


@lru_cache(maxsize=1 << 17)
def _normalise(line: str, known: Tables) -> tuple[str, ...]:
    text = f" {line} "
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    words = text.split()
    out: list[str] = []
    for i, word in enumerate(words):
        follows = words[i + 1] if i + 1 < len(words) else ""
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


def stats(own: Sequence[str], other: Sequence[str], known: Tables) -> Stats:
    """Counts of the best alignment of candidate words with reference words."""
    found = Stats([float(len(own)), float(len(other))])
    functional = [[word in known.function_words for word in words] for words in (own, other)]
    found.function = [float(sum(flags)) for flags in functional]
    aligned = align(own, other, known)
    for match in aligned:
        spans = ((match.own_start, match.own_length), (match.start, match.length))
        for side, (start, length) in enumerate(spans):
            found.whole[side] += length
            for i in range(start, start + length):
                table = found.function_matches if functional[side][i] else found.content_matches
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


def _matches(own: Sequence[str], other: Sequence[str], known: Tables) -> list[list[Match]]:
    """Every match, by where it starts in the reference."""
    found: list[list[Match]] = [[] for _ in other]
    for j, theirs in enumerate(other):
        for i, ours in enumerate(own):
            if ours == theirs:
                found[j].append(Match(EXACT, j, 1, i, 1))
    if tuple(own) == tuple(other):
        return found
    for j, theirs in enumerate(other):
        for i, ours in enumerate(own):
            if ours != theirs and _stem(ours) == _stem(theirs):
                found[j].append(Match(STEM, j, 1, i, 1))
    for j, theirs in enumerate(other):
        meanings = known.meanings(theirs)
        for i, ours in enumerate(own):
            if ours != theirs and meanings and not meanings.isdisjoint(known.meanings(ours)):
                found[j].append(Match(SYNONYM, j, 1, i, 1))
    for start, length, own_start, own_length in _paraphrases(other, own, known):
        found[start].append(Match(PARAPHRASE, start, length, own_start, own_length))
    for own_start, own_length, start, length in _paraphrases(own, other, known):
        found[start].append(Match(PARAPHRASE, start, length, own_start, own_length))
    return found


@lru_cache(maxsize=1 << 15)
def _phrases(words: tuple[str, ...], longest: int) -> tuple[list[tuple[int, int, str]], dict[int, list[tuple[int, int]]]]:
    """Phrases of a text with start and length, and the places of each by its hash."""
    listed = [
        (i, n, " ".join(words[i : i + n])) for i in range(len(words)) for n in range(1, min(longest, len(words) - i) + 1)
    ]
    places: dict[int, list[tuple[int, int]]] = {}
    for i, n, phrase in listed:
        places.setdefault(_hashed(phrase), []).append((i, n))
    return listed, places


_hashed = lru_cache(maxsize=1 << 18)(hashed)


def _paraphrases(first: Sequence[str], second: Sequence[str], known: Tables) -> list[tuple[int, int, int, int]]:
    """Phrases of the first text whose paraphrase is in the second: start and length of both."""
    listed, _ = _phrases(tuple(first), known.longest)
    _, places = _phrases(tuple(second), known.longest)
    return [
        (i, n, *place)
        for i, n, phrase in listed
        for other in known.paraphrases(phrase)
        if other in places
        for place in places[other]
    ]


class _Path:
    """A partial alignment up to some reference word."""

    __slots__ = ("matches", "used", "own_used", "own_sum", "sum", "chunks", "index", "end", "distance")

    def __init__(self, length: int, own_length: int) -> None:
        self.matches: list[Match | None] = [None] * length
        self.used = [False] * length
        self.own_used = [False] * own_length
        self.own_sum = self.sum = self.chunks = self.index = self.distance = 0
        self.end = -1

    def copy(self) -> "_Path":
        new = _Path.__new__(_Path)
        new.matches, new.used, new.own_used = self.matches[:], self.used[:], self.own_used[:]
        new.own_sum, new.sum, new.chunks = self.own_sum, self.sum, self.chunks
        new.index, new.end, new.distance = self.index, self.end, self.distance
        return new

    def mark(self, match: Match) -> None:
        """Take the words of a match."""
        self.matches[match.start] = match
        self.used[match.start : match.start + match.length] = [True] * match.length
        self.own_used[match.own_start : match.own_start + match.own_length] = [True] * match.own_length

    def taken(self, match: Match) -> bool:
        """Whether a word of a match is taken."""
        ours = self.own_used[match.own_start : match.own_start + match.own_length]
        return any(ours) or any(self.used[match.start : match.start + match.length])

    def go(self, match: Match) -> None:
        """Pass over a match."""
        weight = SEARCH_WEIGHTS[match.kind]
        self.own_sum = int(self.own_sum + match.own_length * weight)
        self.sum = int(self.sum + match.length * weight)
        if self.end not in (-1, match.own_start):
            self.chunks += 1
        self.index = match.start + match.length
        self.end = match.own_start + match.own_length

    def rank(self) -> tuple[int, int, int]:
        """Lower is better: covered words, then chunks, then distance."""
        return -(self.own_sum + self.sum), self.chunks, self.distance


def align(own: Sequence[str], other: Sequence[str], known: Tables) -> list[Match]:
    """The matches of the best alignment in the reference's order."""
    found = _matches(own, other, known)
    first = _Path(len(other), len(own))
    covered, own_covered = [0] * len(other), [0] * len(own)
    for matches in found:
        for m in matches:
            for i in range(m.start, m.start + m.length):
                covered[i] += 1
            for i in range(m.own_start, m.own_start + m.own_length):
                own_covered[i] += 1
    for matches in found:  # what can only be matched in one way is so
        if len(matches) == 1:
            m = matches[0]
            alone = all(covered[i] == 1 for i in range(m.start, m.start + m.length))
            if alone and all(own_covered[i] == 1 for i in range(m.own_start, m.own_start + m.own_length)):
                first.mark(m)
    best = min(_search(first, found), key=_Path.rank)
    return [match for match in best.matches if match is not None]


def _search(first: _Path, found: Sequence[Sequence[Match]]) -> list[_Path]:
    """Paths through the whole reference."""
    paths = [first]
    for i, matches in enumerate(found):
        paths.sort(key=_Path.rank)
        paths = [path for one in paths[:BEAM] for path in _step(one, i, matches)] or paths[:1]
    paths.sort(key=_Path.rank)
    for path in paths[:BEAM]:
        path.chunks += path.end != -1
    return paths[:BEAM]


def _step(path: _Path, i: int, matches: Sequence[Match]) -> list[_Path]:
    """Where a path can go at reference word i."""
    if path.used[i]:
        if i >= path.index:
            match = path.matches[path.index]
            if match is None:
                return []
            path.go(match)
            path.distance += abs(match.start - match.own_start)
        return [path]
    out = []
    for match in matches:
        if not path.taken(match):
            new = path.copy()
            new.mark(match)
            new.go(match)
            path.distance += abs(match.start - match.own_start)  # on the path left, as in the jar
            out.append(new)
    if path.end != -1:
        path.chunks += 1
        path.end = -1
    path.index += 1
    return [*out, path]
