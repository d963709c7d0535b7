"""CIDEr and CIDEr-D (Vedantam et al. 2015), as pycocoevalcap computes CIDEr-D.

Document frequencies come from the references that are scored, so a score depends on the whole corpus.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ossicle.errors import DataError
from ossicle.metrics.caption.ngrams import MAX_N, Gram
from ossicle.metrics.caption.pairs import Pair

SIGMA = 6.0
SCALE = 10.0
LEAST = 2


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
    """CIDEr and CIDEr-D of each candidate.

    Raises:
        DataError: if no word can be rarer than another: with fewer than two items, or the same references for all. The
            reference tool then gives 0 to every caption, the perfect ones too.
    """
    if len(pairs) < LEAST:
        raise DataError(f"CIDEr weighs words by how rare they are among the items; {len(pairs)} came, give {LEAST}")
    frequency: Counter[Gram] = Counter()
    for pair in pairs:
        frequency.update({gram for counts in pair.reference_grams for gram in counts})
    items = math.log(len(pairs))
    rare = {gram: items - math.log(count) for gram, count in frequency.items()}
    if not any(rare.values()):
        raise DataError("CIDEr weighs words by how rare they are, but every item here has the same ones as references")
    both = [_score(pair, rare, items) for pair in pairs]
    return Cider(tuple(d for d, _ in both), tuple(plain for _, plain in both))


def _score(pair: Pair, rare: Mapping[Gram, float], items: float) -> tuple[float, float]:
    """CIDEr-D and CIDEr of one candidate."""
    weights = {gram: count * rare.get(gram, items) for gram, count in pair.candidate_grams.items()}
    squares = [0.0] * MAX_N
    for gram, weight in weights.items():
        squares[len(gram) - 1] += weight * weight
    norms = [math.sqrt(s) for s in squares]
    clipped = plain = 0.0
    for reference, counts in zip(pair.references, pair.reference_grams, strict=True):
        squares, dots, full = [0.0] * MAX_N, [0.0] * MAX_N, [0.0] * MAX_N
        for gram, count in counts.items():
            weight, n = count * rare[gram], len(gram) - 1
            squares[n] += weight * weight
            if gram in weights:
                own = weights[gram]
                dots[n] += min(own, weight) * weight
                full[n] += own * weight
        bigrams = max(0, len(pair.candidate) - 1) - max(0, len(reference) - 1)  # its code compares these, not lengths
        penalty = math.exp(-(bigrams**2) / (2 * SIGMA**2))
        for n in range(MAX_N):
            norm = norms[n] * math.sqrt(squares[n]) or 1.0
            clipped += dots[n] / norm * penalty
            plain += full[n] / norm
    share = SCALE / MAX_N / len(pair.reference_grams)
    return clipped * share, plain * share
