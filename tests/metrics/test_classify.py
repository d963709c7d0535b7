import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk
from tests.conftest import tries

from ossicle.errors import UsageError
from ossicle.metrics import classify

PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.35, 0.25], [0.2, 0.5, 0.3]])
TARGETS = np.array([0, 1, 0, 1])
LABELS = ["dog", "cat", "hen"]


def draw(seed: int, rows: int, classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.random((rows, classes)).round(1), rng.integers(0, classes, rows)


def test_by_hand() -> None:
    assert classify.accuracy(PROBS, TARGETS) == 0.75
    assert classify.top_k(PROBS, TARGETS, 2) == 1.0
    scores = classify.summary(PROBS, TARGETS, LABELS, multi_label=False)
    assert scores.keys() == {"accuracy", "top_5", "map_macro", "f1_macro", "classes_absent"}
    assert scores["classes_absent"] == 1
    assert scores["top_5"] == 1.0
    assert scores["f1_macro"] == pytest.approx((1.0 + 2 / 3) / 2)
    assert scores["map_macro"] == pytest.approx((1.0 + (1 / 1 + 2 / 3) / 2) / 2)


def test_equal_scores_do_not_make_every_class_right() -> None:
    probs = np.full((4, 10), 0.1)
    targets = np.array([0, 4, 5, 9])
    assert classify.accuracy(probs, targets) == 0.25
    assert classify.top_k(probs, targets, 5) == 0.5
    assert classify.accuracy(probs, targets) == (probs.argmax(1) == targets).mean()


@tries(60)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40), classes=st.integers(2, 8))
def test_agrees_with_scikit_learn(seed: int, rows: int, classes: int) -> None:
    probs, targets = draw(seed, rows, classes)
    predicted = probs.argmax(axis=1)
    present = np.unique(targets)
    scores = classify.summary(probs, targets, [str(n) for n in range(classes)], multi_label=False)
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(targets, predicted))
    wanted = sk.f1_score(targets, predicted, labels=present, average="macro", zero_division=0)
    assert scores["f1_macro"] == pytest.approx(wanted)
    matrix = classify.confusion(targets, predicted, classes)
    assert np.array_equal(matrix, sk.confusion_matrix(targets, predicted, labels=range(classes)))
    table = classify.per_class(matrix, [str(n) for n in range(classes)])
    p, r, f, s = sk.precision_recall_fscore_support(targets, predicted, labels=range(classes), zero_division=0)
    assert [(row.precision, row.recall, row.f1, row.support) for row in table] == [
        pytest.approx(row) for row in zip(p, r, f, s, strict=True)
    ]


@tries(60)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 30), classes=st.integers(2, 7), several=st.booleans())
def test_the_order_of_rows_does_not_matter(seed: int, rows: int, classes: int, several: bool) -> None:
    probs, targets = draw(seed, rows, classes)
    if several:
        targets = (np.random.default_rng(seed + 1).random((rows, classes)) < 0.4).astype(np.int64)
        targets[0, 0] = 1
    order = np.random.default_rng(seed).permutation(rows)
    labels = [str(n) for n in range(classes)]
    first = classify.summary(probs, targets, labels, multi_label=several)
    second = classify.summary(probs[order], targets[order], labels, multi_label=several)
    assert first == pytest.approx(second)
    assert all(0 <= first[key] <= 1 for key in first if key != "classes_absent")


@tries(40)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_classes_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probs, targets = rng.random((20, 6)), rng.integers(0, 6, 20)
    order = rng.permutation(6)
    place = np.argsort(order)
    labels = [str(n) for n in range(6)]
    first = classify.summary(probs, targets, labels, multi_label=False)
    second = classify.summary(probs[:, order], place[targets], labels, multi_label=False)
    assert first == pytest.approx(second)


def test_several_labels() -> None:
    probs = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.4], [0.1, 0.2, 0.3]])
    targets = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    scores = classify.summary(probs, targets, LABELS, multi_label=True)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["map_macro"] == 1.0
    assert scores["f1_macro"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["top_5"] == 1.0
    assert scores["classes_absent"] == 1


def test_top_5_of_several_labels() -> None:
    probs = np.tile(np.linspace(1, 0, 8), (2, 1))
    targets = np.zeros((2, 8), dtype=np.int64)
    targets[0, [4, 7]] = 1
    targets[1, [5, 6]] = 1
    assert classify.summary(probs, targets, list("abcdefgh"), multi_label=True)["top_5"] == 0.5


def test_absent_and_never_predicted_classes_give_zeros_not_nan() -> None:
    matrix = classify.confusion(np.array([0, 0]), np.array([1, 1]), 3)
    assert classify.per_class(matrix, LABELS) == [
        classify.ClassRow("dog", 0.0, 0.0, 0.0, 2),
        classify.ClassRow("cat", 0.0, 0.0, 0.0, 0),
        classify.ClassRow("hen", 0.0, 0.0, 0.0, 0),
    ]
    assert classify.confusion(np.array([], dtype=int), np.array([], dtype=int), 2).tolist() == [[0, 0], [0, 0]]


def test_what_has_no_number_is_refused() -> None:
    bad = PROBS.copy()
    bad[1, 1] = np.nan
    with pytest.raises(UsageError, match="1 of 12 scores are not finite"):
        classify.accuracy(bad, TARGETS)
    with pytest.raises(UsageError, match="empty"):
        classify.accuracy(np.zeros((0, 3)), np.zeros(0, dtype=int))
    with pytest.raises(UsageError, match=r"0 to 2 is wanted"):
        classify.accuracy(PROBS, np.array([0, 1, 2, 3]))
    with pytest.raises(UsageError, match=r"targets \(4,\) are wanted"):
        classify.accuracy(PROBS, TARGETS[:3])
    with pytest.raises(UsageError, match="top-0"):
        classify.top_k(PROBS, TARGETS, 0)
    with pytest.raises(UsageError, match="2 labels"):
        classify.summary(PROBS, TARGETS, LABELS[:2], multi_label=False)
    nothing = np.zeros((4, 3), dtype=np.int64)
    for several in (lambda: classify.map_macro(PROBS, nothing), lambda: classify.f1_macro(nothing, nothing)):
        with pytest.raises(UsageError, match="none of the rows has a class"):
            several()
    with pytest.raises(UsageError, match="none of the rows"):
        classify.summary(PROBS, nothing, LABELS, multi_label=True)
    with pytest.raises(UsageError, match="0 to 1 is wanted"):
        classify.map_macro(PROBS, nothing + 2)
    with pytest.raises(UsageError, match="predictions are -1"):
        classify.confusion(TARGETS, TARGETS - 1, 3)
    with pytest.raises(UsageError, match="equally long"):
        classify.confusion(TARGETS, TARGETS[:2], 3)
    with pytest.raises(UsageError, match="2 labels"):
        classify.per_class(np.zeros((3, 3), dtype=np.int64), LABELS[:2])
