"""N-gram counts of tokenised captions, made once for all metrics that need them."""

from collections import Counter
from collections.abc import Sequence

MAX_N = 4
Gram = tuple[str, ...]


def grams(tokens: Sequence[str], largest: int = MAX_N) -> Counter[Gram]:
    """How often each n-gram of 1 to `largest` tokens occurs."""
    counts: Counter[Gram] = Counter()
    for n in range(1, largest + 1):
        counts.update(zip(*(tokens[i:] for i in range(n)), strict=False))
    return counts
