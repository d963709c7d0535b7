"""The adapters that ship: small, whole, documented, and right about sounds they never learnt from."""

import json
import re
from pathlib import Path

import pytest

from ossicle import build, config, zoo
from ossicle.backbones import weights
from ossicle.cli.demo import listen
from tests.conftest import need

FILES = {"ossicle.json", "ossicle.safetensors", "recipe.toml", "labels.json", "README.md", "CREDITS.txt"}


@pytest.mark.parametrize("name", zoo.NAMES)
def test_an_adapter_that_ships_is_whole_and_small(name: str) -> None:
    folder = zoo.find(name)
    assert {p.name for p in folder.iterdir()} == FILES
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2_000_000
    manifest = json.loads((folder / "ossicle.json").read_text(encoding="utf-8"))
    assert set(manifest["data"]["licences"]) == {"CC0", "CC-BY"}
    recipe = config.read(folder / "recipe.toml")
    assert (recipe.data.source, set(recipe.data.licences)) == ("esc50", {"CC0", "CC-BY"})
    card = (folder / "README.md").read_text(encoding="utf-8")
    credits = (folder / "CREDITS.txt").read_text(encoding="utf-8")
    assert len(re.findall(r"^\d-\d+-\w-\d+: .* by .* \[CC(?:0|-BY)\]$", credits, re.M)) == manifest["data"]["train"]
    assert "on average" in card and "no fold left to be scored on" in card
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", card + json.dumps(manifest))


def test_the_demo_hears_at_least_six_of_its_seven_animals(whisper_weights: Path) -> None:
    sounds = weights.home() / "weights" / "sample-sounds"
    need(sounds.is_dir(), "sample-sounds in the cache (ossicle models pull sample-sounds)")
    loaded = build.load("esc50-whisper-tiny")
    known = sorted(p for p in sounds.glob("*.mp3") if p.stem in loaded.task.labels)
    assert [p.stem for p in known] == ["cat", "cow", "dog", "frog", "pig", "rooster", "sheep"]
    rows = {p.stem: listen(loaded.task, p, loaded.recipe.task.window_s).row for p in known}
    assert all(row.error is None for row in rows.values())
    assert sum(row.label == name for name, row in rows.items()) >= 6
