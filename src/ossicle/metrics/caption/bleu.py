"""BLEU-1 to BLEU-4 (Papineni et al. 2002) with the closest reference length, as pycocoevalcap computes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ossicle.metrics.caption.ngrams import MAX_N, Gram
from ossicle.metrics.caption.pairs import Pair

TINY, SMALL = 1e-15, 1e-9  # the reference's guards against division by zero


@dataclass(frozen=True)
class Bleu:
    """Scores from 0 to 1.

    Args:
        corpus: BLEU-1 to BLEU-4 of all candidates together.
        items: the same for each candidate by itself.
    """

    corpus: tuple[float, ...]
    items: tuple[tuple[float, ...], ...]


def bleu(pairs: Sequence[Pair]) -> Bleu:
    """BLEU of candidates against their references.

    Args:
        pairs: candidates with references and their n-grams.
    """
    found = [_counts(pair) for pair in pairs]
    totals = [sum(column) for column in zip(*found, strict=True)] if found else [0] * (2 + 2 * MAX_N)
    return Bleu(_score(totals), tuple(_score(counts) for counts in found))


def _counts(pair: Pair) -> list[int]:
    """Candidate length, closest reference length, n-grams there are, n-grams that are right; for 1 to 4."""
    length = len(pair.candidate)
    closest = min((abs(len(r) - length), len(r)) for r in pair.references)[1]
    most: dict[Gram, int] = {}
    for counts in pair.reference_grams:
        for gram, count in counts.items():
            if count > most.get(gram, 0):
                most[gram] = count
    right = [0] * MAX_N
    for gram, count in pair.candidate_grams.items():
        right[len(gram) - 1] += min(count, most.get(gram, 0))
    return [length, closest, *(max(0, length - n) for n in range(MAX_N)), *right]


def _score(counts: Sequence[int]) -> tuple[float, ...]:
    length, closest, *rest = counts
    product, scores = 1.0, []
    ratio = (length + TINY) / (closest + SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    for n, (there, right) in enumerate(zip(rest[:MAX_N], rest[MAX_N:], strict=True), start=1):
        product *= (right + TINY) / (there + SMALL)
        scores.append(product ** (1 / n) * brevity)
    return tuple(scores)
