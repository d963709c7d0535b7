"""Weights of no known digest must hear the stored clip as the release does."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from ossicle import backbones
from ossicle.backbones import BACKBONES, checks, network, weights
from ossicle.errors import WeightsError
from tests import tiny
from tests.backbones.test_taggers import mobile_file
from tests.conftest import pulled

FIRST = "features.3.block.0.0.weight"


def changed(folder: Path, to: Path, change) -> Path:
    """A copy of mn04 with other tensors."""
    to.mkdir()
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file({key: value.contiguous() for key, value in state.items()}, to / "model.safetensors")
    return to


def halve(state):
    state.update({key: value.half() for key, value in state.items()})


def turn(state):
    state[FIRST] = state[FIRST].flip(0)


def hollow(state):
    state[FIRST] = torch.full_like(state[FIRST], torch.nan)


def test_the_clip_is_what_it_says():
    about = soundfile.info(checks.CLIP)
    assert (about.channels, about.samplerate, about.format, about.subtype) == (1, 32_000, "FLAC", "PCM_16")
    assert about.duration <= 2 and checks.CLIP.stat().st_size < 100_000
    text = (checks.FOLDER / "SOURCE.txt").read_text(encoding="utf-8")
    assert all(f"{path.name}\n" in text for path in checks.FOLDER.iterdir() if path.name != "SOURCE.txt")
    assert "1-56234-A-9" in text and "CC0" in text


@pytest.mark.parametrize("name", BACKBONES)
def test_every_tagger_has_a_check(name):
    """What has no classes has none."""
    found, encoder = checks.of(name, backbones.skeleton(name)), backbones.skeleton(name)
    if name == "mn04":
        assert found is weights.CHECKS["mn04"]
    else:
        assert (found is not None) == (encoder.tags is not None)
        assert found is None or (found.func, found.keywords) == (checks.hears_the_crow, {"name": name})


def test_mn04_and_a_copy_in_half_precision_pass(tmp_path):
    weights.CHECKS["mn04"](pulled("mn04"))
    weights.CHECKS["mn04"](changed(pulled("mn04"), tmp_path / "half", halve))


@pytest.mark.parametrize("change", [turn, hollow])
def test_other_scores_are_refused_and_told(tmp_path, change):
    folder = changed(pulled("mn04"), tmp_path / "other", change)
    with pytest.raises(WeightsError, match=r"^on the stored clip '.*' scores \S+, with the weights of mn04 .*FILE$"):
        weights.CHECKS["mn04"](folder)


def test_the_stored_scores_are_of_a_crow():
    stored = json.loads((checks.FOLDER / "mn04.json").read_text(encoding="utf-8"))
    labels, scores = checks._heard(pulled("mn04"), "mn04")
    assert (scores - torch.tensor(stored["scores"])).abs().max() < 1e-4
    assert (stored["clip"], labels[int(torch.tensor(stored["scores"]).argmax())]) == (checks.CLIP.name, "Crow")


@pytest.mark.parametrize("name", ["mn04", "yamnet"])
def test_trained_weights_hear_the_crow(name):
    checks.hears_the_crow(pulled(name), name=name)


@pytest.mark.parametrize("value", [None, torch.nan])
def test_untrained_weights_do_not(tmp_path, value):
    state = mobile_file()
    if value is not None:
        state["classifier.5.bias"][:] = value
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="^it hears .* in the stored clip of a crow, so these are no trained "):
        checks.hears_the_crow(tmp_path, name="mn10")


def test_another_number_of_classes_is_told(tmp_path):
    state = mobile_file()
    state |= {f"classifier.5.{n}": state[f"classifier.5.{n}"][:526].clone() for n in ("weight", "bias")}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="it has 526 classes, mn04 has 527"):
        weights.CHECKS["mn04"](tmp_path)


def test_a_file_that_fails_never_enters_the_cache(tmp_path, monkeypatch, caplog):
    """Every tensor fits, but one map is turned around."""
    known = pulled("mn04")
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(network, "hub_reachable", lambda: False)
    good = changed(known, tmp_path / "good", halve) / "model.safetensors"
    bad = changed(known, tmp_path / "bad", turn) / "model.safetensors"
    folder = weights.adopt("mn04", good)
    kept = (folder / "model.safetensors").read_bytes()
    assert weights.provenance(folder)["verified"] is False and "every tensor fits and it hears" in caplog.text
    with pytest.raises(WeightsError, match=r"^model\.safetensors: on the stored clip "):
        weights.adopt("mn04", bad)
    assert (folder / "model.safetensors").read_bytes() == kept
    shutil.rmtree(folder)


def test_an_untrained_file_of_another_tagger_never_enters_the_cache(tmp_path, monkeypatch):
    """One that has no stored scores, at its published sizes here."""
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    tiny_spec = replace(BACKBONES["mn10"], sizes=tiny.MOBILE)
    monkeypatch.setitem(BACKBONES, "mn10", tiny_spec)
    file = tmp_path / "mn10_as_mAP_471.pt"
    torch.save(mobile_file(), file)
    with pytest.raises(WeightsError, match=r"^mn10_as_mAP_471\.pt: it hears .* in the stored clip of a crow"):
        weights.adopt("mn10", file)
    assert not (tmp_path / "home" / "weights" / "mn10").exists()
