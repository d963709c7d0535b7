"""Whether two systems differ on the same items: paired bootstrap (Efron and Tibshirani 1993, chapter 16)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossicle.errors import UsageError

Floats = NDArray[np.floating[Any]]
# One item varies with nothing: its interval would have no width, and every difference would be sure.
LEAST = 2


@dataclass(frozen=True)
class Comparison:
    """The mean difference of two systems.

    Args:
        difference: mean of the first minus mean of the second.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided probability of a difference at least this large if there were none; of few items never small.
        items: how many items both were scored on.
    """

    difference: float
    low: float
    high: float
    p: float
    items: int


def paired_bootstrap(first: Floats, second: Floats, *, rounds: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two systems item by item.

    Args:
        first: (items,) scores of one system, for accuracy 0 and 1.
        second: (items,) scores of the other on the same items in the same order.
        rounds: resamples of the items.
        seed: of the resampling.

    Returns:
        The difference with its percentile interval. p counts resamples of the centred differences that lie at least as
        far from 0 as the difference does, one added to both counts. It is at least 2 / 2^items, the share of the ways
        to swap the two systems item by item that differ as much: resamples of a few alike items do not vary enough.

    Raises:
        UsageError: if the lists differ in length, have fewer than two items or hold what is no number.
    """
    if first.ndim != 1 or first.shape != second.shape or len(first) < LEAST:
        raise UsageError(
            f"scores {first.shape} and {second.shape} cannot be paired; give both a score for each of two or more items"
        )
    gains = np.asarray(first, dtype=np.float64) - second
    if not np.isfinite(gains).all():
        raise UsageError("a score is not a finite number; leave out items that have none")
    generator = np.random.default_rng(seed)
    means = np.array([gains[generator.integers(len(gains), size=len(gains))].mean() for _ in range(rounds)])
    mean = float(gains.mean())
    extreme = int((np.abs(means - mean) >= abs(mean)).sum())
    low, high = np.percentile(means, [2.5, 97.5])
    p = max((extreme + 1) / (rounds + 1), 2.0 ** (1 - len(gains)))
    return Comparison(mean, float(low), float(high), p, len(gains))


def interval(scores: Floats, *, rounds: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a mean over resamples of the items.

    Raises:
        UsageError: if there are fewer than two items, or a score is no number.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) < LEAST or not np.isfinite(values).all():
        raise UsageError(f"scores {values.shape} need at least two items, all finite numbers")
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(rounds)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
