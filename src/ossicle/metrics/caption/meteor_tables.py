"""What METEOR 1.5 knows of English: function words, WordNet's synonyms, paraphrases; read from its own files once.

The jar reads its 62 MB paraphrase table anew in every process, which is nearly all of its time. Here the table becomes
two sorted arrays in the cache that are mapped into memory.
"""

import gzip
import hashlib
import importlib.util
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ossicle.backbones.weights import home
from ossicle.errors import DataError
from ossicle.files import write_atomic

JAR = "meteor-1.5.jar"
PARAPHRASES = "data/paraphrase-en.gz"
VERSION = 3
STEP, MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1
Hashes = NDArray[np.uint64]

# WordNet's rules of detachment, nouns, verbs, adjectives; the first whose result is a known word holds.
ENDINGS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ("er", ""), ("est", ""), ("er", "e"), ("est", "e"),
)  # fmt: skip


def folder() -> Path:
    """Where METEOR lies: `OSSICLE_METEOR`, or the folder in the package pycocoevalcap.

    Raises:
        DataError: if it is in neither.
    """
    given = os.environ.get("OSSICLE_METEOR")
    found = None if given else importlib.util.find_spec("pycocoevalcap")
    inside = found.submodule_search_locations if found is not None else None
    for place in [Path(given)] if given else [Path(p) / "meteor" for p in inside or ()]:
        if (place / JAR).is_file() and (place / PARAPHRASES).is_file():
            return place
    where = f"{given} has no {JAR} with {PARAPHRASES}" if given else "METEOR's files are not here"
    raise DataError(f"{where}; run pip install 'ossicle[metrics]', or point OSSICLE_METEOR at their folder")


@lru_cache(maxsize=1 << 20)
def word_hash(word: str) -> int:
    """64 bits of a word."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def extend(phrase: int, word: str) -> int:
    """64 bits of a phrase and one more word; 0 is the empty phrase."""
    return (phrase * STEP + word_hash(word)) & MASK


@dataclass(frozen=True)
class Tables:
    """METEOR's knowledge.

    Args:
        function_words: frequent words that weigh less.
        prefixes: words whose full stop belongs to them; 2 where only before digits.
        synsets: word to the synonym sets it is in.
        bases: irregular form to base words.
        keys: sorted hashes of phrases that have paraphrases.
        starts: where each key's paraphrases begin in `values`; one longer than `keys`.
        values: hashes of paraphrases in the table's order.
        begins: sorted hashes of what longer phrases and paraphrases begin with.
        asked: beginnings that were asked for, and whether they are some.
    """

    function_words: frozenset[str]
    prefixes: dict[str, int]
    synsets: dict[str, frozenset[int]]
    bases: dict[str, tuple[str, ...]]
    keys: Hashes
    starts: NDArray[np.int64]
    values: Hashes
    begins: Hashes
    asked: dict[int, bool] = field(default_factory=dict)

    def paraphrases(self, phrases: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Hashes of the paraphrases of each phrase that has some, in the table's order."""
        asked = np.array(phrases, dtype=np.uint64)
        places = np.searchsorted(self.keys, asked)
        places[places == len(self.keys)] = 0
        found = np.flatnonzero(self.keys[places] == asked).tolist()
        return {
            phrases[i]: tuple(self.values[self.starts[places[i]] : self.starts[places[i] + 1]].tolist()) for i in found
        }

    def goes_on(self, phrase: int) -> bool:
        """Whether some longer phrase or paraphrase begins so."""
        known = self.asked.get(phrase)
        if known is None:
            place = int(np.searchsorted(self.begins, np.uint64(phrase)))
            known = self.asked[phrase] = place < len(self.begins) and int(self.begins[place]) == phrase
        return known

    def meanings(self, word: str) -> frozenset[int]:
        """Synonym sets of a word and of its base form."""
        return _meanings(self, word)

    def __hash__(self) -> int:
        return id(self)


@lru_cache(maxsize=1 << 16)
def _meanings(tables: Tables, word: str) -> frozenset[int]:
    none: frozenset[int] = frozenset()
    own = tables.synsets.get(word, none)
    if word in tables.bases:
        return own.union(*(tables.synsets.get(base, none) for base in tables.bases[word]))
    return own | tables.synsets.get(_base(word, tables), none)


def _base(word: str, tables: Tables) -> str:
    """The base form WordNet's endings give, or an empty word."""
    if word.endswith("ss") or len(word) <= 2:
        return word
    rest = "ful" if word.endswith("ful") else ""
    for ending, instead in ENDINGS:
        if word.endswith(ending):
            candidate = word[: len(word) - len(ending)] + instead
            if candidate != word and candidate in tables.synsets:
                return candidate + rest
    return ""


@lru_cache(maxsize=1)
def tables() -> Tables:
    """METEOR's tables; the first call ever indexes the paraphrases, which takes about a minute.

    Raises:
        DataError: if METEOR's files are not here or broken.
        CheckpointError: if the cache cannot be written.
    """
    source = folder()
    try:
        with zipfile.ZipFile(source / JAR) as jar:
            lines = {name: jar.read(name).decode("utf-8").splitlines() for name in (
                "function/english.words", "nonbreaking/english.prefixes", "synonym/english.synsets",
                "synonym/english.exceptions",
            )}  # fmt: skip
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{source / JAR} is not METEOR 1.5: {error}; install pycocoevalcap again") from error
    bases: dict[str, tuple[str, ...]] = {}
    exceptions = iter(lines["synonym/english.exceptions"])
    for base, forms in zip(exceptions, exceptions, strict=True):
        for form in forms.split():
            bases[form] = (*bases.get(form, ()), base)
    synsets = iter(lines["synonym/english.synsets"])
    index = _index(source / PARAPHRASES)
    return Tables(
        function_words=frozenset(lines["function/english.words"]),
        prefixes=_prefixes(lines["nonbreaking/english.prefixes"]),
        synsets={word: frozenset(map(int, sets.split())) for word, sets in zip(synsets, synsets, strict=True)},
        bases=bases, keys=index["keys"], starts=index["starts"], values=index["values"], begins=index["begins"],
    )  # fmt: skip


def _prefixes(lines: list[str]) -> dict[str, int]:
    """Nonbreaking prefixes to 1, or 2 where they are so before digits only."""
    found = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            found[line.split()[0]] = 2 if "#NUMERIC_ONLY#" in line else 1
    return found


def _index(source: Path) -> dict[str, NDArray[Any]]:
    """The paraphrase table as arrays mapped from the cache, made if they are not there."""
    place = home() / "meteor" / f"paraphrase-en-{source.stat().st_size}-v{VERSION}"
    names = ("keys", "starts", "values", "begins")
    if not (place / "begins.npy").is_file():
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".lock"):
            if not (place / "begins.npy").is_file():
                for name, array in zip(names, _read(source), strict=True):
                    write_atomic(place / f"{name}.npy", lambda part, array=array: _save(part, array))  # type: ignore[misc]
    return {name: np.load(place / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in names}


def _save(part: Path, array: NDArray[Any]) -> None:
    with part.open("wb") as file:
        np.save(file, array)


def _read(source: Path) -> tuple[Hashes, NDArray[np.int64], Hashes, Hashes]:
    """Sorted phrases, where their paraphrases start, the paraphrases, and what longer ones begin with."""
    begins: set[int] = set()
    try:
        with gzip.open(source, "rt", encoding="utf-8") as file:
            pairs = np.fromiter(_pairs(file, begins), dtype=[("phrase", "u8"), ("other", "u8")])
    except (OSError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{source} is broken: {error}; install pycocoevalcap again") from error
    pairs = pairs[np.argsort(pairs["phrase"], kind="stable")]
    keys, starts = np.unique(pairs["phrase"], return_index=True)
    ends = np.append(starts, len(pairs)).astype(np.int64)
    beginnings = np.sort(np.fromiter(begins, dtype=np.uint64, count=len(begins)))
    return keys, ends, np.ascontiguousarray(pairs["other"]), beginnings


def _pairs(file: IO[str], begins: set[int]) -> Iterator[tuple[int, int]]:
    """Hashes of phrase and paraphrase; entries are three lines, the first a number. Fills `begins`."""
    lines = iter(file)
    for _, phrase, other in zip(lines, lines, lines, strict=True):
        hashes = []
        for words in (phrase.split(), other.split()):
            value = 0
            for word in words:
                if value:
                    begins.add(value)
                value = extend(value, word)
            hashes.append(value)
        yield hashes[0], hashes[1]
