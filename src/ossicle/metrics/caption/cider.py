"""CIDEr and CIDEr-D (Vedantam et al. 2015), as pycocoevalcap computes CIDEr-D.

Document frequencies come from the references that are scored, so a score depends on the whole corpus.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ossicle.metrics.caption.ngrams import MAX_N, Gram
from ossicle.metrics.caption.pairs import Pair

SIGMA = 6.0
SCALE = 10.0


@dataclass(frozen=True)
class Cider:
    """Scores from 0 to 10 of each candidate; a corpus score is their mean.

    Args:
        cider_d: with clipped counts and the length penalty.
        cider: without both.
    """

    cider_d: tuple[float, ...]
    cider: tuple[float, ...]


def cider(pairs: Sequence[Pair]) -> Cider:
    """CIDEr and CIDEr-D of each candidate."""
    frequency: Counter[Gram] = Counter()
    for pair in pairs:
        frequency.update({gram for counts in pair.reference_grams for gram in counts})
    items = math.log(len(pairs)) if pairs else 0.0
    rare = {gram: items - math.log(count) for gram, count in frequency.items()}
    both = [_score(pair, rare, items) for pair in pairs]
    return Cider(tuple(d for d, _ in both), tuple(plain for _, plain in both))


def _score(pair: Pair, rare: Mapping[Gram, float], items: float) -> tuple[float, float]:
    """CIDEr-D and CIDEr of one candidate."""
    weights = {gram: count * rare.get(gram, items) for gram, count in pair.candidate_grams.items()}
    norms = _norms(weights.items())
    length = _bigrams(pair.candidate_grams)
    clipped = plain = 0.0
    for counts in pair.reference_grams:
        theirs = [(gram, count * rare[gram]) for gram, count in counts.items()]
        others = _norms(theirs)
        penalty = math.exp(-((length - _bigrams(counts)) ** 2) / (2 * SIGMA**2))
        dots, full = [0.0] * MAX_N, [0.0] * MAX_N
        for gram, weight in theirs:
            own = weights.get(gram)
            if own is not None:
                dots[len(gram) - 1] += min(own, weight) * weight
                full[len(gram) - 1] += own * weight
        for n in range(MAX_N):
            norm = norms[n] * others[n] or 1.0
            clipped += dots[n] / norm * penalty
            plain += full[n] / norm
    share = SCALE / MAX_N / len(pair.reference_grams)
    return clipped * share, plain * share


def _norms(weights: Iterable[tuple[Gram, float]]) -> list[float]:
    """Length of the vector of each n."""
    squares = [0.0] * MAX_N
    for gram, weight in weights:
        squares[len(gram) - 1] += weight * weight
    return [math.sqrt(s) for s in squares]


def _bigrams(counts: Mapping[Gram, int]) -> int:
    """The length that the penalty of CIDEr-D compares: the number of bigrams, as in its reference code."""
    return sum(count for gram, count in counts.items() if len(gram) == 2)
