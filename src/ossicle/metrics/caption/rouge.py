"""ROUGE-L (Lin 2004), beta 1.2, best precision and best recall over the references, as pycocoevalcap computes it."""

from collections.abc import Sequence

from ossicle.metrics.caption.pairs import Pair

BETA = 1.2


def rouge_l(pairs: Sequence[Pair]) -> list[float]:
    """ROUGE-L of each candidate, 0 to 1; the corpus score is their mean."""
    return [_score(pair) for pair in pairs]


def _score(pair: Pair) -> float:
    common = [longest_common(pair.candidate, reference) for reference in pair.references]
    precision = max(common) / max(1, len(pair.candidate))
    recall = max(c / max(1, len(r)) for c, r in zip(common, pair.references, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bits of one whole number (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << i
    whole = (1 << len(first)) - 1
    state = whole
    for token in second:
        match = state & places.get(token, 0)
        state = ((state + match) | (state - match)) & whole
    return len(first) - state.bit_count()
