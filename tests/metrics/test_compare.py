"""Paired bootstrap: sees a real difference, does not see one that is not there, refuses what cannot be paired."""

import numpy as np
import pytest

from ossicle.errors import UsageError
from ossicle.metrics.compare import interval, paired_bootstrap


def test_a_clear_difference_is_clear() -> None:
    generator = np.random.default_rng(1)
    second = (generator.random(400) < 0.5).astype(float)
    first = np.where(generator.random(400) < 0.3, 1.0, second)
    found = paired_bootstrap(first, second)
    assert found.difference == pytest.approx((first - second).mean())
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.001 and found.items == 400
    turned = paired_bootstrap(second, first)
    assert (turned.difference, turned.p) == (-found.difference, pytest.approx(found.p, abs=1e-3))


def test_under_no_difference_p_is_spread_evenly() -> None:
    generator = np.random.default_rng(2)
    values = []
    for _ in range(200):
        pair = (generator.random((2, 200)) < 0.7).astype(float)
        values.append(paired_bootstrap(*pair, rounds=400).p)
    assert 0.02 <= np.mean(np.array(values) < 0.05) <= 0.09  # 10 of 200 expected
    assert 0.4 < np.mean(values) < 0.6


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    gains = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], 1000, p=[0.1, 0.7, 0.2])
    found = paired_bootstrap(gains, np.zeros(1000))
    half = 1.96 * gains.std() / 1000**0.5
    assert found.low == pytest.approx(gains.mean() - half, abs=0.003)
    assert found.high == pytest.approx(gains.mean() + half, abs=0.003)


def test_few_items_are_never_sure() -> None:
    for items in (2, 3, 5):
        assert paired_bootstrap(np.linspace(0.3, 0.4, items), np.zeros(items)).p == 2.0 / 2**items
    with pytest.raises(UsageError, match="two items"):
        interval(np.ones(1))


def test_equal_systems_do_not_differ() -> None:
    same = np.ones(10)
    assert paired_bootstrap(same, same).p == 1.0


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (np.ones(3), np.ones(4), "cannot be paired"),
        (np.ones(0), np.ones(0), "cannot be paired"),
        (np.ones(1), np.zeros(1), "two or more items"),
        (np.array([1.0, np.nan]), np.ones(2), "not a finite number"),
    ],
)
def test_wrong_lists_are_refused(first: np.ndarray, second: np.ndarray, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        paired_bootstrap(first, second)
