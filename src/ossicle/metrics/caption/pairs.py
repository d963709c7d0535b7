"""Candidates beside their references, tokenised and counted once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ossicle.errors import DataError
from ossicle.metrics.caption.ngrams import Gram, grams
from ossicle.metrics.caption.tokenize import tokenize


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


def pair(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> list[Pair]:
    """Put candidates beside their references, in the candidates' order.

    Args:
        candidates: id to caption; an empty caption has no tokens and scores as the reference tools score it.
        references: id to captions; ids without a candidate are a fault, not left out.

    Raises:
        DataError: naming ids that only one side has, or that have no reference.
    """
    lone = [name for name in candidates if not any(r.strip() for r in references.get(name, ()))]
    absent = [name for name in references if name not in candidates]
    faults = []
    if lone:
        faults.append(f"{len(lone)} candidate(s) have no reference: {', '.join(lone[:5])}")
    if absent:
        faults.append(f"{len(absent)} item(s) with references have no candidate: {', '.join(absent[:5])}")
    if faults or not candidates:
        raise DataError("; ".join(faults) or "there are no candidates; give at least one caption")
    return [
        Pair(name, tuple(tokenize(text)), tuple(tuple(tokenize(r)) for r in references[name] if r.strip()))
        for name, text in candidates.items()
    ]
