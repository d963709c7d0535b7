"""CIDEr and CIDEr-D (Vedantam et al. 2015), as pycocoevalcap computes CIDEr-D.

Document frequencies come from the references that are scored, so a score depends on the whole corpus.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class _Vector:
    """Weights of n-grams, their norms for each n, and the length the penalty uses (the number of bigrams)."""

    weights: Mapping[Gram, float]
    norms: tuple[float, ...]
    length: int


def cider(pairs: Sequence[Pair]) -> Cider:
    """CIDEr and CIDEr-D of each candidate."""
    frequency: Counter[Gram] = Counter()
    for pair in pairs:
        frequency.update({gram for counts in pair.reference_grams for gram in counts})
    items = math.log(len(pairs)) if pairs else 0.0
    rare = {gram: items - math.log(count) for gram, count in frequency.items()}
    both = [_score(pair, rare, items) for pair in pairs]
    return Cider(tuple(d for d, _ in both), tuple(plain for _, plain in both))


def _vector(counts: Mapping[Gram, int], rare: Mapping[Gram, float], items: float) -> _Vector:
    weights, squares, length = {}, [0.0] * MAX_N, 0
    for gram, count in counts.items():
        weight = weights[gram] = count * rare.get(gram, items)
        squares[len(gram) - 1] += weight * weight
        length += count if len(gram) == 2 else 0
    return _Vector(weights, tuple(math.sqrt(s) for s in squares), length)


def _score(pair: Pair, rare: Mapping[Gram, float], items: float) -> tuple[float, float]:
    own = _vector(pair.candidate_grams, rare, items)
    clipped, plain = 0.0, 0.0
    for counts in pair.reference_grams:
        other = _vector(counts, rare, items)
        penalty = math.exp(-((own.length - other.length) ** 2) / (2 * SIGMA**2))
        dots, full = [0.0] * MAX_N, [0.0] * MAX_N
        for gram, weight in own.weights.items():
            theirs = other.weights.get(gram)
            if theirs is not None:
                dots[len(gram) - 1] += min(weight, theirs) * theirs
                full[len(gram) - 1] += weight * theirs
        for n in range(MAX_N):
            norm = own.norms[n] * other.norms[n] or 1.0
            clipped += dots[n] / norm * penalty
            plain += full[n] / norm
    share = SCALE / MAX_N / len(pair.reference_grams)
    return clipped * share, plain * share
