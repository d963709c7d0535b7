"""A head that is fitted, not iterated: regularised logistic regression on cached features of frozen encoders.

Each encoder's features are standardised and divided by the square root of their width, so that all encoders weigh alike
whatever their size; then each gets a share. Shares and strength are chosen by cross-validation inside the training
clips, groups kept together. A share may be 0: an encoder that brings nothing costs nothing.

Most encoders spend most of their variance on a few directions that say little of what sounds, such as loudness. Their
features are whitened: along each principal axis divided by the root of its variance plus the mean one, so that an axis
with hardly any variance is not blown up to noise.

What chooses is the log loss at the best temperature (Guo et al. 2017): a strong regularisation ranks best and is far
too unsure of it, and one number mends that. The temperature is part of the fitted weights.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
STRENGTHS = (1.0, 5.0, 25.0, 125.0)
SHARES = (0.0, 0.35, 0.7, 1.0, 1.4)
USUAL_STRENGTH = 5.0
FOLDS = 5
MANY, FOLDS_OF_MANY = 500, 3  # from so many clips on, fewer folds tell settings apart as well
# Cross-validation looks at no more clips than these; the last fit takes all.
SEEN = 2000
ITERATIONS = 1000
SHARPEST = (-1.0, 4.0)  # logarithms of what logits may be multiplied by
# Of the largest gradient: that much is enough to choose by, and as good on held-out clips as less.
TOLERANCE = 1e-3
FAINTEST = 1e-7


@dataclass(frozen=True)
class Fitted:
    """A fitted head, in the terms of `classify.Head`: (x - mean) / std, then one linear map.

    Args:
        mean: (width,).
        std: (width,) spreads, with the square root of an encoder's width and its share in them.
        weight: (classes, width).
        bias: (classes,).
        strength: inverse regularisation C that was chosen.
        sharpness: what all logits were multiplied by, the inverse of a temperature; part of weight and bias.
        shares: of each encoder.
        folds: of the cross-validation; 0 where there were too few clips for one.
        held_out: (rows, classes) probabilities of rows by the folds that did not learn from them.
        rows: which rows those are.
    """

    mean: Array
    std: Array
    weight: Array
    bias: Array
    strength: float
    sharpness: float
    shares: tuple[float, ...]
    folds: int
    held_out: Array
    rows: Array


def fit(
    blocks: Sequence[Array], targets: Array, groups: Sequence[str], *, several: bool = False,
    class_weights: Array | None = None, seed: int = 0, whiten: Sequence[bool] = (),
) -> Fitted:  # fmt: skip
    """Fit a head on features.

    Args:
        blocks: (clips, width) float32 features of each encoder.
        targets: (clips, classes), 1 where a clip has the class.
        groups: clips of one group are never on both sides of the cross-validation.
        several: each class by itself, for clips with any number of labels; otherwise one softmax over all.
        class_weights: (classes,) of a class's clips, or None.
        seed: of the folds.
        whiten: of each encoder; empty is none.
    """
    from threadpoolctl import threadpool_limits

    means = [block.mean(axis=0) for block in blocks]
    stds = [np.maximum(block.std(axis=0), 1e-5) * np.sqrt(block.shape[1]) for block in blocks]
    ready = [((b - m) / s).astype(np.float32) for b, m, s in zip(blocks, means, stds, strict=True)]
    whiten = whiten or [False] * len(ready)
    search = _Search(ready, whiten, targets, groups, several, class_weights, seed)
    turns = [_whitening(x) if wanted else None for x, wanted in zip(ready, whiten, strict=True)]
    ready = [x if turn is None else x @ turn for x, turn in zip(ready, turns, strict=True)]
    with threadpool_limits(limits=1):  # the products are small; threads that wait for each other cost more than they do
        strength, shares = search.choose()
        x = np.concatenate([share * block for share, block in zip(shares, ready, strict=True)], axis=1)
        weight, bias = _solve(x, targets, strength, several, class_weights)
    sharpness = search.sharpness(strength, shares)
    weight = _turned(weight, turns, [block.shape[1] for block in blocks])
    scale = [np.full(len(s), max(share, FAINTEST)) for share, s in zip(shares, stds, strict=True)]
    quiet = np.concatenate([np.full(len(s), share > 0) for share, s in zip(shares, stds, strict=True)])
    return Fitted(
        np.concatenate(means), np.concatenate(stds) / np.concatenate(scale), sharpness * weight * quiet,
        sharpness * bias, strength, sharpness, shares,
        len(search.folds), probabilities(sharpness * search.logits(strength, shares), several), search.rows,
    )  # fmt: skip


def _whitening(x: Array) -> Array:
    """(width, width): what standardised features are multiplied by; their mean variance stays as it is."""
    _, values, axes = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    variances = values**2 / len(x)
    usual = (variances.sum() / x.shape[1]) ** -0.5 if values.any() else 1.0
    gains = (variances + usual**-2) ** -0.5
    level = np.sqrt(variances.sum() / (variances * gains**2).sum()) if values.any() else 1.0
    turn = usual * np.eye(x.shape[1]) + (axes.T * (gains - usual)) @ axes
    found: Array = (level * turn).astype(np.float32)
    return found


def _whitened(x: Array, learn: Array) -> Array:
    """All rows, by what some of them say."""
    found: Array = x @ _whitening(x[learn])
    return found


def _turned(weight: Array, turns: Sequence[Array | None], widths: Sequence[int]) -> Array:
    """(classes, width) weights of whitened features as weights of those that are only standardised."""
    parts = np.split(weight, np.cumsum(widths)[:-1], axis=1)
    return np.concatenate([w if t is None else w @ t.T for w, t in zip(parts, turns, strict=True)], axis=1)


class _Search:
    """Log losses of settings on held-out folds, each computed once. What whitens learns from the others, too."""

    def __init__(
        self,
        ready: Sequence[Array],
        whiten: Sequence[bool],
        targets: Array,
        groups: Sequence[str],
        several: bool,
        weights: Array | None,
        seed: int,
    ) -> None:
        names = np.unique(np.asarray(groups), return_inverse=True)[1]
        self.rows = _some(names, seed)
        self.targets, self.several, self.weights = targets[self.rows], several, weights
        self.count = len(ready)
        blocks = [block[self.rows] for block in ready]
        self.folds = [
            (learn, test, [_whitened(x, learn) if w else x for x, w in zip(blocks, whiten, strict=True)])
            for learn, test in _folds(self.targets, names[self.rows], several, seed)
        ]
        self._known: dict[tuple[float, tuple[float, ...]], Array] = {}

    def choose(self) -> tuple[float, tuple[float, ...]]:
        """The strength and shares of the least log loss: strength, one share after another, strength again."""
        shares = (1.0,) * self.count
        if not self.folds:
            return USUAL_STRENGTH, shares
        strength = min(STRENGTHS, key=lambda c: self._loss(c, shares))
        for place in range(1, len(shares)):
            options = [(*shares[:place], share, *shares[place + 1 :]) for share in SHARES]
            shares = min(options, key=lambda s: self._loss(strength, s))
        if len(shares) > 1:
            without_first = (0.0, *(share or 1.0 for share in shares[1:]))
            shares = min([without_first, shares], key=lambda s: self._loss(strength, s))
        near = [c for c in STRENGTHS if 0.1 < c / strength < 10]
        return min(near, key=lambda c: self._loss(c, shares)), shares

    def logits(self, strength: float, shares: tuple[float, ...]) -> Array:
        """(rows, classes) by the folds that did not learn from each row; none without folds."""
        if not self.folds:
            return np.zeros((0, self.targets.shape[1]))
        if (strength, shares) not in self._known:
            found = np.zeros(self.targets.shape)
            for learn, test, ready in self.folds:
                x = np.concatenate([share * block for share, block in zip(shares, ready, strict=True)], axis=1)
                weight, bias = _solve(x[learn], self.targets[learn], strength, self.several, self.weights)
                found[test] = x[test] @ weight.T + bias
            self._known[strength, shares] = found
        return self._known[strength, shares]

    def sharpness(self, strength: float, shares: tuple[float, ...]) -> float:
        """The factor of the held-out logits at which their log loss is least; 1 without folds.

        One clip more than there are counts as of any class (Platt 1999): where all held-out clips are right, a head is
        as sure as so many clips allow, not without bounds.
        """
        return self._sharpened(strength, shares, 1 / (len(self.targets) + 1))[1] if self.folds else 1.0

    def _loss(self, strength: float, shares: tuple[float, ...]) -> float:
        return round(self._sharpened(strength, shares)[0], 3)  # of equals the first, which has the smaller share

    def _sharpened(self, strength: float, shares: tuple[float, ...], doubt: float = 0.0) -> tuple[float, float]:
        """The least log loss of the held-out logits times a factor, and the factor; with some doubt of the targets."""
        from scipy.optimize import minimize_scalar

        logits = self.logits(strength, shares)
        targets = (1 - doubt) * self.targets + doubt / (2 if self.several else self.targets.shape[1])

        def loss(power: float) -> float:
            return log_loss(probabilities(np.exp(power) * logits, self.several), targets, self.several)

        found = minimize_scalar(loss, bounds=SHARPEST, method="bounded")
        return float(found.fun), float(np.exp(found.x))


def probabilities(logits: Array, several: bool) -> Array:
    """(rows, classes) of logits: a sigmoid each, or a softmax over all."""
    if several:
        each: Array = 1 / (1 + np.exp(-logits))
        return each
    raised: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = raised / raised.sum(axis=1, keepdims=True)
    return shares


def log_loss(found: Array, targets: Array, several: bool) -> float:
    """Mean over rows of minus the log of what was given to what is so."""
    found = found.clip(1e-6, 1 - 1e-6)
    right = targets * np.log(found)
    return float(-(right + (1 - targets) * np.log(1 - found) if several else right).sum(axis=1).mean())


def _some(groups: Array, seed: int) -> Array:
    """Rows of whole groups, at most `SEEN` of them where there are more."""
    if len(groups) <= SEEN:
        return np.arange(len(groups))
    order = np.random.default_rng(seed).permutation(groups.max() + 1)
    sizes = np.bincount(groups)[order].cumsum()
    return np.flatnonzero(np.isin(groups, order[: max(1, int((sizes <= SEEN).sum()))]))


def _folds(targets: Array, groups: Array, several: bool, seed: int) -> list[tuple[Array, Array]]:
    """Rows to learn from and to test on; no folds where a class has one group only."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    per_class = [len(set(groups[column > 0])) for column in targets.T]
    most = min(FOLDS_OF_MANY if len(targets) >= MANY else FOLDS, len(set(groups)))
    count = most if several else min(most, *(n for n in per_class if n))
    if count < 2:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer clips than folds
        if several:
            made = GroupKFold(count, shuffle=True, random_state=seed).split(targets, groups=groups)
        else:
            split = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
            made = split.split(targets, targets.argmax(axis=1), groups)
        return list(made)


def _solve(x: Array, targets: Array, strength: float, several: bool, weights: Array | None) -> tuple[Array, Array]:
    """Weight (classes, width) and bias (classes,) of least regularised log loss."""
    classes = targets.shape[1]
    weight, bias = np.zeros((classes, x.shape[1])), np.zeros(classes)
    if several:
        for n in range(classes):
            balance = None if weights is None else {0: 1.0, 1: float(weights[n])}
            weight[n], bias[n] = _one(x, targets[:, n] > 0, strength, balance)
        return weight, bias
    wanted = targets.argmax(axis=1)
    there = np.unique(wanted)
    bias[:] = np.log(FAINTEST)  # a class that this fold has no clip of
    if len(there) == 1:
        bias[there] = 0.0
        return weight, bias
    balance = None if weights is None else {int(n): float(weights[n]) for n in there}
    model = _regression(x, wanted, strength, balance)
    both = len(there) == 2  # scikit-learn then has one row, of the second class against the first
    weight[there] = np.stack([-model.coef_[0], model.coef_[0]]) / 2 if both else model.coef_
    bias[there] = np.stack([-model.intercept_[0], model.intercept_[0]]) / 2 if both else model.intercept_
    return weight, bias


def _one(x: Array, wanted: Array, strength: float, balance: dict[int, float] | None) -> tuple[Array, float]:
    """Weight (width,) and bias of one class against the rest."""
    if wanted.all() or not wanted.any():
        return np.zeros(x.shape[1]), float(np.log((wanted.sum() + 0.5) / (len(wanted) - wanted.sum() + 0.5)))
    model = _regression(x, wanted, strength, balance)
    return model.coef_[0], float(model.intercept_[0])


def _regression(x: Array, wanted: Array, strength: float, balance: dict[int, float] | None) -> Any:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight=balance, max_iter=ITERATIONS, tol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that many classes with few clips look like numbers to it
        return model.fit(x, wanted)
