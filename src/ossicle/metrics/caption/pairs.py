"""Candidates beside their references, tokenised and counted once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ossicle.data.manifest import shorten
from ossicle.data.match import match
from ossicle.errors import DataError
from ossicle.metrics.caption.ngrams import Gram, grams
from ossicle.metrics.caption.tokenize import tokenize

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """One item.

    Args:
        name: its id.
        candidate: tokens.
        references: tokens of each reference, at least one.
    """

    name: str
    candidate: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    candidate_grams: Counter[Gram] = field(init=False, repr=False, compare=False)
    reference_grams: tuple[Counter[Gram], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidate_grams", grams(self.candidate))
        object.__setattr__(self, "reference_grams", tuple(grams(r) for r in self.references))


def named(candidates: Mapping[str, T], references: Mapping[str, Sequence[str]]) -> dict[str, T]:
    """Candidates under the ids of their references, in their own order; see `data.match` for what belongs together.

    Args:
        candidates: id to what was said.
        references: id to captions; ids without a candidate are a fault, not left out.

    Raises:
        DataError: naming ids that only one side has, or that have no reference.
    """
    found = match(candidates, references)
    faults = [found.faults("candidate(s) have no reference", "item(s) with references have no candidate")]
    bare = [name for name in candidates if name in found.pairs and not "".join(references[found.pairs[name]]).strip()]
    faults += [f"{len(bare)} candidate(s) have only empty references: {shorten(bare)}"] if bare else []
    if any(faults) or not candidates:
        raise DataError("; ".join(filter(None, faults)) or "there are no candidates; give at least one caption")
    return {found.pairs[name]: said for name, said in candidates.items()}


def pair(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> list[Pair]:
    """Put candidates beside their references, in the candidates' order and under the references' ids.

    Args:
        candidates: id to caption; an empty caption has no tokens and scores as the reference tools score it.
        references: id to captions.

    Raises:
        DataError: see `named`.
    """
    return [
        Pair(name, tuple(tokenize(text)), tuple(tuple(tokenize(r)) for r in references[name] if r.strip()))
        for name, text in named(candidates, references).items()
    ]
