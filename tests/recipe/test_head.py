"""Fitted heads from recipe to folder: what they are fitted on, what is said of them, what then trains."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import tiny
from tests.recipe.joined import recipe, stand_ins, tones, trained

from ossicle.adapters import store
from ossicle.contracts import Clip
from ossicle.errors import UsageError
from ossicle.recipe import build, iterate
from ossicle.recipe.classify import ClassifyPlan
from ossicle.recipe.partition import split
from ossicle.tasks import fitted
from ossicle.tasks.features import FeatureStore
from ossicle.training import loop
from ossicle.training.evaluate import predict_rows

PROBE = ["backbone.name=whisper-tiny.en", "adapter.spec=probe()"]
BOTH = ["backbone.name=mn04+whisper-tiny.en", "adapter.spec=probe()"]


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch, tmp_path):
    stand_ins(monkeypatch, tmp_path / "home")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    return tones(tmp_path_factory.mktemp("tones"), 6)


def watched(patch: pytest.MonkeyPatch) -> list[tuple[tuple, dict, fitted.Fitted]]:
    """What every fit was given and gave, from now on."""
    seen, fit = [], fitted.fit

    def watch(*given, **options):
        seen.append((given, options, fit(*given, **options)))
        return seen[-1][2]

    patch.setattr(fitted, "fit", watch)
    return seen


# --- probes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [PROBE, BOTH], ids=["one", "two"])
def test_a_probe_learns_from_all_clips_and_is_cross_validated(tmp_path, clips, monkeypatch, changes):
    seen = watched(monkeypatch)
    manifest = trained(tmp_path / "out", clips, *changes)
    ((blocks, targets, groups), options, found) = seen[0]
    assert len(seen) == 1 and targets.shape == (18, 3) and len(set(groups)) == 18 and options["class_weights"] is None
    assert [block.shape[1] for block in blocks] == ([48] if changes is BOTH else []) + [72]
    assert manifest["scores"].keys() == {"cross-validated"} and manifest["data"]["train"] == 18
    right = (found.held_out.argmax(1) == targets.argmax(1)).mean()
    assert manifest["scores"]["cross-validated"]["accuracy"] == pytest.approx(right)
    by_hand = -np.log(found.held_out[targets > 0]).mean()
    assert manifest["scores"]["cross-validated"]["log_loss"] == pytest.approx(by_hand, rel=1e-4)
    assert manifest["head"]["folds"] == 5 and manifest["head"]["clips"] == 18
    assert "epochs" not in manifest and not (tmp_path / "out" / loop.METRICS).exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| cross-validated |" in card and "5-fold cross-validation of 18 clips" in card
    assert ("mn04 " in manifest["head"]["told"]) == (changes is BOTH)


def test_the_saved_head_says_what_was_fitted(tmp_path, clips, monkeypatch):
    seen = watched(monkeypatch)
    trained(tmp_path / "out", clips, *BOTH)
    ((blocks, *_), _, found) = seen[0]
    wanted = fitted.probabilities(
        ((np.concatenate(blocks, axis=1) - found.mean) / found.std) @ found.weight.T + found.bias, False
    )
    task = build.load(str(tmp_path / "out")).task
    rows = predict_rows(task, clips, batch=7, precision="float32")
    told = np.array([[row.scores[label] for label in task.labels] for row in rows])
    np.testing.assert_allclose(told, wanted, atol=2e-4)


def test_windows_of_a_long_clip_are_kept_together_and_averaged(tmp_path, clips, monkeypatch):
    long = tones(tmp_path / "long", 2, seconds=2.5)
    seen = watched(monkeypatch)
    manifest = trained(tmp_path / "out", [*clips, *long], *PROBE, "task.window_s=1.0")
    ((_, targets, groups), _, found) = seen[0]
    assert len(targets) == 18 + 6 * 3 and len(set(groups)) == 24
    assert manifest["head"]["clips"] == 24 and "cross-validation of 24 clips" in manifest["head"]["told"]
    names = list(dict.fromkeys(groups))
    means = np.array([found.held_out[[g == name for g in groups]].mean(0) for name in names])
    wanted = np.array([targets[groups.index(name)] for name in names])
    right = (means.argmax(1) == wanted.argmax(1)).mean()
    assert manifest["scores"]["cross-validated"]["accuracy"] == pytest.approx(right)
    assert manifest["scores"]["cross-validated"]["log_loss"] == pytest.approx(
        -np.log(means[wanted > 0]).mean(), rel=1e-3
    )


def test_no_more_clips_are_told_than_were_looked_at(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(fitted, "SEEN", 12)
    manifest = trained(tmp_path / "out", clips, *PROBE)
    assert manifest["data"]["train"] == 18 and manifest["head"]["clips"] == 12
    assert "cross-validation of 12 clips" in manifest["head"]["told"]


def test_clips_of_one_recording_stay_on_one_side(tmp_path, clips, monkeypatch):
    seen = watched(monkeypatch)
    trained(tmp_path / "out", [replace(c, group=f"day{c.split}") for c in clips], *PROBE)
    assert set(seen[0][0][2]) == {f"day{n}" for n in range(6)}


def test_a_class_of_one_clip_is_fitted_and_said_to_be_unchecked(tmp_path, clips):
    few = [clip for clip in clips if clip.labels != ("mid",) or clip.split == "0"]
    given = [clip for clip in few if clip.split == "0"]
    manifest = trained(tmp_path / "out", given, *BOTH, "data.per_class=1")
    assert manifest["scores"] == {} and "too few clips to cross-validate" in manifest["head"]["told"]
    task = build.load(str(tmp_path / "out")).task
    rows = predict_rows(task, given, batch=4, precision="float32")
    assert [row.label for row in rows] == [clip.labels[0] for clip in given]
    assert "it has no scores of its own" in (tmp_path / "out" / "README.md").read_text()


def test_class_weights_reach_the_fit(tmp_path, clips, monkeypatch):
    uneven = [clip for clip in clips if clip.labels != ("mid",) or clip.split in "01"]
    seen = watched(monkeypatch)
    trained(tmp_path / "out", uneven, *PROBE, "task.class_weights=balanced")
    weights = seen[0][1]["class_weights"]  # high, low, mid
    np.testing.assert_allclose(weights, np.array([1 / 6, 1 / 6, 1 / 2]) / np.mean([1 / 6, 1 / 6, 1 / 2]), rtol=1e-6)


def test_several_labels_reach_the_fit(tmp_path, clips, monkeypatch):
    both = [replace(clip, labels=("high", "low") if clip.labels == ("mid",) else clip.labels) for clip in clips]
    seen = watched(monkeypatch)
    manifest = trained(tmp_path / "out", both, *BOTH, "task.multi_label=true")
    assert seen[0][1]["several"] and (seen[0][0][1].sum(1) == 2).sum() == 6
    assert "map_macro" in manifest["scores"]["cross-validated"]
    task = build.load(str(tmp_path / "out")).task
    assert {row.label for row in predict_rows(task, both, batch=9, precision="float32")} >= {"high;low"}


@pytest.mark.parametrize("changes", [PROBE, BOTH], ids=["one", "two"])
def test_clips_that_cannot_be_read_are_told_and_not_fitted_on(tmp_path, clips, monkeypatch, changes):
    half = tmp_path / "half.wav"
    half.write_bytes(tiny.write_tone(half, 500.0, 0.4, seed=9).read_bytes()[:-4000])
    short = tiny.write_tone(tmp_path / "short.wav", 500.0, 0.005)
    faults = [Clip(half, labels=("low",), name="half.wav"), Clip(short, labels=("low",), name="short.wav")]
    seen = watched(monkeypatch)
    manifest = trained(tmp_path / "out", [*faults, *clips], *changes)
    assert len(seen[0][0][1]) == manifest["data"]["train"] == manifest["head"]["clips"] == 18
    assert set(manifest["data"]["unreadable"]) == {"half.wav", "short.wav"}


def test_a_fitted_head_is_done_at_once_and_begins_with_nothing(tmp_path, clips):
    trained(tmp_path / "out", clips, *PROBE)
    with pytest.raises(UsageError, match="holds a fitted head, which is done at once; there is nothing to resume"):
        trained(tmp_path / "out", clips, *PROBE, resume=True)
    with pytest.raises(UsageError, match=r"--init-from gives a head .* here it is fitted anew; set task\.head=trained"):
        trained(tmp_path / "other", clips, *PROBE, init=tmp_path / "out")
    assert not (tmp_path / "other").exists()
    manifest = trained(tmp_path / "other", clips, *PROBE, "task.head=trained", init=tmp_path / "out")
    assert manifest["epochs"] and "head" not in manifest


# --- with an adapter -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "spec", "loud"),
    [
        ("whisper-tiny.en", "lora(rank=2)", False),
        ("whisper-tiny.en", "prompts(tokens=20)", True),
        ("mn04+whisper-tiny.en", "whisper-tiny.en:prompts(tokens=20)", True),
        ("mn04+whisper-tiny.en", "full()", False),
    ],
)
def test_training_begins_with_the_head_that_fits_what_the_adapter_gives(
    tmp_path, clips, monkeypatch, backbone, spec, loud
):
    changes = [f"backbone.name={backbone}", f"adapter.spec={spec}", "data.hold_out=0", "train.lr=0"]
    seen, begun, fit = watched(monkeypatch), [], iterate.fit

    def first(task, *given, **options):
        begun.append({key: value.clone() for key, value in task.head.state_dict().items()})
        return fit(task, *given, **options)

    monkeypatch.setattr(iterate, "fit", first)
    trained(tmp_path / "out", clips, *changes)
    ((blocks, *_), _, found) = seen[0]
    np.testing.assert_allclose(begun[0]["linear.weight"], found.weight, rtol=1e-5, atol=1e-6)
    settings = recipe(*changes)
    plan = ClassifyPlan.learn(settings, split(clips, settings.data, 0))
    task = plan.task(for_training=False)
    own = [torch.stack(ear.feature_store(root=tmp_path / "own").get(clips)).numpy() for ear in task.listener.ears]
    for given, wanted in zip(blocks, own, strict=True):
        np.testing.assert_allclose(given, wanted, atol=2e-3)
    whisper = task.listener.ears[-1]
    plain = torch.stack(FeatureStore(tiny.encoder("whisper"), whisper.layers, whisper.kind).get(clips)).numpy()
    assert np.allclose(blocks[-1], plain, atol=1e-3) != loud
    rows = predict_rows(build.load(str(tmp_path / "out")).task, clips, batch=6, precision="float32")
    assert np.mean([row.label == clip.labels[0] for row, clip in zip(rows, clips, strict=True)]) > 0.9


def test_of_an_adapter_only_its_own_scores_are_told(tmp_path, clips):
    """Cross-validation was of the head it began with, which is not the one that is kept."""
    changes = ["backbone.name=whisper-tiny.en", "adapter.spec=lora(rank=2)"]
    for name, more in {"twice": [], "named": ["data.val=['5']"], "none": ["data.hold_out=0"]}.items():
        manifest = trained(tmp_path / name, clips, *changes, *more)
        assert manifest["scores"].keys() == (set() if name == "none" else {"val"})
        assert manifest["head"]["told"].endswith("; then trained with the adapter")
        assert json.loads((tmp_path / name / store.MANIFEST).read_text())["head"] == manifest["head"]
    assert Path(tmp_path / "twice" / iterate.FIRST).is_dir()
