"""Scores of a classifier, as pure functions on numpy arrays.

A class that no row has cannot be scored: means leave it out, and `summary` counts how many were left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ossicle.errors import UsageError

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
_THRESHOLD = 0.5
_TOP = 5


@dataclass(frozen=True)
class ClassRow:
    """How one class is recognised.

    Args:
        label: the class.
        precision: share of the rows given this label that have it; 0 when it was given to none.
        recall: share of the rows that have it and were given it; 0 when none has it.
        f1: harmonic mean of the two.
        support: rows that have it.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def top_k(probs: Floats, targets: Ints, k: int) -> float:
    """Share of rows whose class is among the k most probable.

    Args:
        probs: (rows, classes) probabilities or any scores, higher is better. Of equal ones the first counts as better.
        targets: (rows,) class numbers.
        k: how many classes count.

    Raises:
        UsageError: if shapes, values or k do not fit.
    """
    _check(probs, targets, multi_hot=False)
    if k < 1:
        raise UsageError(f"top-{k} was asked for; k must be at least 1")
    own = probs[np.arange(len(targets)), targets][:, None]
    earlier = np.arange(probs.shape[1])[None, :] < targets[:, None]
    better = (probs > own) | ((probs == own) & earlier)  # (rows, classes)
    return float((better.sum(axis=1) < k).mean())


def accuracy(probs: Floats, targets: Ints) -> float:
    """Share of rows whose most probable class is the right one.

    Args:
        probs: (rows, classes).
        targets: (rows,) class numbers.
    """
    return top_k(probs, targets, 1)


def map_macro(probs: Floats, targets: Ints) -> float:
    """Mean over classes of the average precision; classes that no row has are left out.

    Args:
        probs: (rows, classes).
        targets: (rows, classes) of 0 and 1.

    Raises:
        UsageError: if shapes or values do not fit, or no row has any class.
    """
    from sklearn.metrics import average_precision_score

    _check(probs, targets, multi_hot=True)
    present = np.flatnonzero(targets.any(axis=0))
    if not len(present):
        raise UsageError("none of the rows has a class, so there is no average precision; give rows with labels")
    return float(np.mean([average_precision_score(targets[:, c], probs[:, c]) for c in present]))


def f1_macro(targets: Ints, predicted: Ints) -> float:
    """Mean over classes of F1; classes that no row has are left out.

    Args:
        targets: (rows, classes) of 0 and 1.
        predicted: (rows, classes) of 0 and 1.

    Raises:
        UsageError: if shapes or values do not fit, or no row has any class.
    """
    _check(predicted, targets, multi_hot=True)
    present = targets.any(axis=0)
    if not present.any():
        raise UsageError("none of the rows has a class, so there is no F1; give rows with labels")
    hits = (targets * predicted).sum(axis=0)
    given = targets.sum(axis=0) + predicted.sum(axis=0)
    return float((2 * hits[present] / given[present]).mean())


def confusion(targets: Ints, predicted: Ints, classes: int) -> NDArray[np.int64]:
    """Count how often each class was taken for each other.

    Args:
        targets: (rows,) class numbers.
        predicted: (rows,) class numbers.
        classes: how many there are.

    Returns:
        (classes, classes) int64; row = true class, column = predicted class.

    Raises:
        UsageError: if the lengths differ or a number is not a class.
    """
    if targets.ndim != 1 or targets.shape != predicted.shape:
        raise UsageError(f"targets {targets.shape} and predictions {predicted.shape} must be two equally long lists")
    for name, values in (("targets", targets), ("predictions", predicted)):
        if len(values) and (values.min() < 0 or values.max() >= classes):
            raise UsageError(f"{name} are {values.min()} to {values.max()}; 0 to {classes - 1} is wanted")
    cells = targets.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def per_class(matrix: NDArray[np.int64], labels: Sequence[str]) -> list[ClassRow]:
    """One row of scores for each class.

    Args:
        matrix: (classes, classes) from `confusion`.
        labels: class names.

    Raises:
        UsageError: if there are not as many names as classes.
    """
    if matrix.shape != (len(labels), len(labels)):
        raise UsageError(f"a matrix {matrix.shape} does not go with {len(labels)} labels; give one label per class")
    rows = []
    for index, label in enumerate(labels):
        hits, support, given = (int(n) for n in (matrix[index, index], matrix[index].sum(), matrix[:, index].sum()))
        precision = hits / given if given else 0.0
        recall = hits / support if support else 0.0
        f1 = 2 * hits / (given + support) if given + support else 0.0
        rows.append(ClassRow(label, precision, recall, f1, support))
    return rows


def summary(probs: Floats, targets: Ints, labels: Sequence[str], multi_label: bool) -> dict[str, float]:
    """All scores of a classifier.

    Args:
        probs: (rows, classes).
        targets: (rows,) class numbers, or (rows, classes) of 0 and 1 with several labels.
        labels: class names.
        multi_label: whether a row may have several labels. A class is then predicted at 0.5 and more, `accuracy`
            is the share of rows with exactly the right classes, and `top_5` the share of the rows with labels that
            have one of them among the five most probable.

    Returns:
        accuracy, top_5, map_macro, f1_macro, and classes_absent: how many classes no row has.

    Raises:
        UsageError: if shapes or values do not fit.
    """
    if probs.ndim != 2 or probs.shape[1] != len(labels):
        raise UsageError(f"probabilities {probs.shape} do not go with {len(labels)} labels; give one column per label")
    _check(probs, targets, multi_hot=multi_label)
    classes = np.arange(len(labels))
    if multi_label:
        hot, predicted = targets.astype(np.int64), (probs >= _THRESHOLD).astype(np.int64)
    else:
        hot = (targets[:, None] == classes).astype(np.int64)
        predicted = (probs.argmax(axis=1)[:, None] == classes).astype(np.int64)
    scores = {"map_macro": map_macro(probs, hot), "f1_macro": f1_macro(hot, predicted)}
    if multi_label:
        best = np.argsort(-probs, axis=1, kind="stable")[:, :_TOP]
        found = np.take_along_axis(hot, best, axis=1).max(axis=1)
        scores["accuracy"] = float((hot == predicted).all(axis=1).mean())
        scores["top_5"] = float(found[hot.any(axis=1)].mean())
    else:
        scores |= {"accuracy": accuracy(probs, targets), "top_5": top_k(probs, targets, _TOP)}
    scores["classes_absent"] = float(len(labels) - hot.any(axis=0).sum())
    return scores


def _check(probs: Floats | Ints, targets: Ints, *, multi_hot: bool) -> None:
    """Refuse what would give a wrong number or none."""
    wanted = probs.shape if multi_hot else probs.shape[:1]
    if probs.ndim != 2 or targets.shape != wanted:
        raise UsageError(f"scores {probs.shape} and targets {targets.shape} do not fit; targets {wanted} are wanted")
    if not probs.size:
        raise UsageError(f"scores {probs.shape} are empty; give at least one row and one class")
    if not np.isfinite(probs).all():
        raise UsageError(f"{int((~np.isfinite(probs)).sum())} of {probs.size} scores are not finite numbers")
    top = 2 if multi_hot else probs.shape[1]
    if targets.min() < 0 or targets.max() >= top:
        raise UsageError(f"targets are {targets.min()} to {targets.max()}; 0 to {top - 1} is wanted")


def calibration_error(probs: Floats, targets: Ints, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): mean gap of confidence and accuracy over equal bins of confidence.

    Args:
        probs: (rows, classes).
        targets: (rows,) class numbers.
        bins: of confidence from 0 to 1.

    Returns:
        0 (calibrated) to 1.

    Raises:
        UsageError: if shapes or values do not fit, or bins is below 1.
    """
    _check(probs, targets, multi_hot=False)
    if bins < 1:
        raise UsageError(f"{bins} bins were asked for; ask for at least 1")
    confidence = probs.max(axis=1)
    right = (probs.argmax(axis=1) == targets).astype(np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(targets))
