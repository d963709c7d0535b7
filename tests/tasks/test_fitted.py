"""A fitted head equals scikit-learn's regression, keeps groups together, and takes from each encoder what it brings."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ossicle.tasks import fitted


def clouds(
    classes: int = 3, each: int = 20, width: int = 6, seed: int = 0, apart: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """Features around a centre of each class, and one-hot targets."""
    random = np.random.default_rng(seed)
    centres = apart * random.standard_normal((classes, width))
    targets = np.repeat(np.eye(classes), each, axis=0)
    return (targets @ centres + random.standard_normal((len(targets), width))).astype(np.float32), targets


def names(count: int) -> list[str]:
    return [f"clip{n}" for n in range(count)]


def given(found: fitted.Fitted, features: np.ndarray, several: bool = False) -> np.ndarray:
    return fitted.probabilities(((features - found.mean) / found.std) @ found.weight.T + found.bias, several)


def test_one_encoder_equals_the_librarys_own_regression() -> None:
    features, targets = clouds()
    found = fitted.fit([features], targets, names(len(features)))
    x = (features - features.mean(0)) / features.std(0) / np.sqrt(features.shape[1])
    library = LogisticRegression(C=found.strength, max_iter=1000, tol=1e-3).fit(x, targets.argmax(1))
    logits = found.sharpness * library.decision_function(x)
    assert np.allclose(given(found, features), fitted.probabilities(logits, False), atol=1e-5)
    assert found.shares == (1.0,) and found.folds == 5 and len(found.held_out) == len(features)


def test_an_encoder_that_hears_nothing_costs_nothing() -> None:
    features, targets = clouds(each=80, apart=0.7)
    noise = np.random.default_rng(1).standard_normal((len(features), 400)).astype(np.float32)
    learn, test = np.arange(0, len(features), 2), np.arange(1, len(features), 2)
    right = {}
    for name, blocks in {"alone": [features], "after": [features, noise], "before": [noise, features]}.items():
        found = fitted.fit([block[learn] for block in blocks], targets[learn], names(len(learn)))
        told = given(found, np.concatenate([block[test] for block in blocks], axis=1))
        right[name] = (told.argmax(1) == targets[test].argmax(1)).mean()
    assert 0.6 < right["alone"] < 0.95  # there is something to lose
    assert right["after"] >= right["alone"] - 0.04 and right["before"] >= right["alone"] - 0.04


def test_two_encoders_that_each_hear_half_are_better_together() -> None:
    left, coarse = clouds(classes=2, each=40, width=4)
    right, _ = clouds(classes=2, each=40, width=4, seed=1)
    order = np.random.default_rng(2).permutation(80)
    targets = np.eye(4)[2 * coarse.argmax(1) + coarse.argmax(1)[order]]
    blocks = [left, right[order]]
    joint = fitted.fit(blocks, targets, names(80))
    assert (joint.held_out.argmax(1) == targets.argmax(1)).mean() > 0.7
    for block in blocks:
        alone = fitted.fit([block], targets, names(80))
        assert (alone.held_out.argmax(1) == targets.argmax(1)).mean() < 0.7


def test_clips_of_one_group_are_never_on_both_sides() -> None:
    """Twins with labels by chance: whoever sees one twin knows the other."""
    random = np.random.default_rng(0)
    features = np.repeat(random.standard_normal((40, 50)), 2, axis=0).astype(np.float32)
    targets = np.repeat(np.eye(2)[random.integers(0, 2, 40)], 2, axis=0)
    right = {
        kind: (fitted.fit([features], targets, groups).held_out.argmax(1) == targets.argmax(1)).mean()
        for kind, groups in {"twins": [f"g{n // 2}" for n in range(80)], "apart": names(80)}.items()
    }
    assert right["apart"] > 0.9 and right["twins"] < 0.7


def test_few_clips_classes_of_one_group_and_two_classes() -> None:
    features, targets = clouds(each=1)
    lone = fitted.fit([features, features], targets, names(3))
    assert lone.folds == 0 and lone.strength == fitted.USUAL_STRENGTH and not len(lone.held_out)
    assert (given(lone, np.concatenate([features] * 2, axis=1)).argmax(1) == targets.argmax(1)).all()
    features, targets = clouds(classes=2)
    two = fitted.fit([features], targets, names(len(features)))
    x = (features - features.mean(0)) / features.std(0) / np.sqrt(features.shape[1])
    library = LogisticRegression(C=two.strength, max_iter=1000, tol=1e-3).fit(x, targets.argmax(1))
    odds = two.sharpness * library.decision_function(x)
    assert np.allclose(given(two, features)[:, 1], 1 / (1 + np.exp(-odds)), atol=1e-5)


def test_several_labels_each_by_itself() -> None:
    features, targets = clouds()
    targets[::7] = 1  # some clips have all labels
    targets[3] = 0  # and one has none
    found = fitted.fit([features], targets, names(len(features)), several=True)
    held = found.held_out
    assert ((held > 0.5) == (targets > 0)).mean() > 0.75 and (held.sum(1) > 1.2).any()
    constant = np.concatenate([targets, np.ones((len(targets), 1))], axis=1)
    always = fitted.fit([features], constant, names(len(features)), several=True)
    assert (given(always, features, several=True)[:, -1] > 0.95).all()


def test_class_weights_move_what_is_rare() -> None:
    features, targets = clouds(classes=2, each=40, width=2)
    rare = np.r_[:40, 40:46]
    features, targets = 0.3 * features[rare], targets[rare]
    counts = targets.sum(0)
    even = fitted.fit([features], targets, names(len(features)))
    weighed = fitted.fit([features], targets, names(len(features)), class_weights=2 * (1 / counts) / (1 / counts).sum())
    assert given(weighed, features)[:, 1].mean() > 1.2 * given(even, features)[:, 1].mean()


@pytest.mark.parametrize("rows", [fitted.SEEN - 1, fitted.SEEN + 500])
def test_cross_validation_of_many_clips_looks_at_whole_groups(rows: int) -> None:
    groups = np.sort(np.random.default_rng(0).integers(0, rows // 5, rows))
    seen = fitted._some(np.unique(groups, return_inverse=True)[1], 0)
    assert len(seen) <= fitted.SEEN and len(seen) > 0.9 * min(rows, fitted.SEEN)
    assert not set(groups[seen]) & set(np.delete(groups, seen))


def test_held_out_probabilities_are_as_sure_as_they_are_right() -> None:
    features, targets = clouds(classes=4, each=60, width=3)
    held = fitted.fit([features], targets, names(len(features))).held_out
    sure, right = held.max(1).mean(), (held.argmax(1) == targets.argmax(1)).mean()
    assert abs(sure - right) < 0.05 < 1 - right


def test_a_head_is_never_surer_than_its_clips_allow() -> None:
    features, targets = clouds(each=10, apart=30.0)
    found = fitted.fit([features], targets, names(30))
    sure = given(found, features).max(1)
    assert (found.held_out.argmax(1) == targets.argmax(1)).all()
    assert 0.9 < sure.mean() < 0.999


def test_what_all_clips_share_hides_nothing_where_features_are_whitened() -> None:
    features, targets = clouds(classes=5, each=30, width=40, apart=0.6)
    random = np.random.default_rng(3)
    loud = 20 * random.standard_normal((len(features), 3)) @ random.standard_normal((3, 40))
    features = (features + loud).astype(np.float32)
    learn, test = np.arange(0, len(features), 2), np.arange(1, len(features), 2)
    right = {}
    for whiten in (False, True):
        found = fitted.fit([features[learn]], targets[learn], names(len(learn)), whiten=[whiten])
        right[whiten] = (given(found, features[test]).argmax(1) == targets[test].argmax(1)).mean()
    assert right[True] > right[False] + 0.1


def test_whitened_features_are_folded_into_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "TOLERANCE", 1e-6)
    features, targets = clouds(width=8)
    features[:, :4] += 5 * features[:, 4:]
    blocks = [features[:, :3], features[:, 3:]]
    found = fitted.fit(blocks, targets, names(len(features)), whiten=[False, True])
    x = [(b - b.mean(0)) / b.std(0) / np.sqrt(b.shape[1]) for b in blocks]
    left, values, right = np.linalg.svd(x[1].astype(np.float64), full_matrices=False)
    variances = values**2 / len(features)
    gains = 1 / np.sqrt(variances + variances.mean())
    gains *= np.sqrt(variances.sum() / (variances * gains**2).sum())
    x[1] = left * values * gains @ right
    joined = np.concatenate([share * part for share, part in zip(found.shares, x, strict=True)], axis=1)
    library = LogisticRegression(C=found.strength, max_iter=1000, tol=1e-6).fit(joined, targets.argmax(1))
    logits = found.sharpness * library.decision_function(joined)
    assert np.allclose(given(found, features), fitted.probabilities(logits, False), atol=1e-3)
