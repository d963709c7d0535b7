"""The tables of the paper on captions from tags and embeddings: its rows as recipes, and runs on tiny stand-ins."""

import json
import tomllib

import pytest
import torch
from tests import tiny
from tests.cli.conftest import call
from tests.tasks.test_caption_tags_paper import SAID, load, saved_bart

from ossicle.backbones import freeze
from ossicle.contracts import Clip
from ossicle.data import Dataset
from ossicle.errors import WeightsError
from ossicle.recipe import backbone, build
from ossicle.recipe.config import TagsTable
from ossicle.reproduce import tables
from ossicle.reproduce.tables import Options
from ossicle.training.optim import Settings, schedule

TABLE1 = {
    "PANNs": ("panns-wavegram-cnn14", "alone", 6.3),
    "VGGish": ("vggish", "alone", 24.7),
    "YAMNet": ("yamnet", "", 34.4),
    "YAMNet + VGGish": ("yamnet+vggish", "add", 39.9),
    "YAMNet + PANNs": ("yamnet+panns-wavegram-cnn14", "add", 46.5),
}
TABLE2 = {
    "Reference": ("facebook/bart-large", "whole", "trained", 46.5),
    "No pre-training": ("facebook/bart-large", "whole", "random", 43.8),
    "Frozen decoder": ("facebook/bart-large", "frozen-decoder", "trained", 42.5),
    "XSum": ("facebook/bart-large-xsum", "whole", "trained", 44.5),
    "CNN": ("facebook/bart-large-cnn", "whole", "trained", 44.2),
    "CNN, frozen decoder": ("facebook/bart-large-cnn", "frozen-decoder", "trained", 43.0),
    "BART base": ("facebook/bart-base", "whole", "trained", 45.0),
}


def recipes(table: str, mode: tables.Mode) -> dict[str, tuple]:
    shared = tomllib.loads((tables.ROOT / "B" / "audiocaps.toml").read_text(encoding="utf-8"))
    assert shared["protocol"] == {"seeds": [0, 1, 2]}
    return {
        row.label: (tables.recipe_of(row, "audiocaps/spider", shared, Options(mode)), row.printed["audiocaps/spider"])
        for row in tables.rows(table)
    }


@pytest.mark.parametrize("mode", tables.MODES)
def test_rows_are_those_of_the_paper(mode):
    one, two = recipes("B/table1", mode), recipes("B/table2", mode)
    assert {k: (r.backbone.name, r.tags.join, p) for k, (r, p) in one.items()} == TABLE1
    assert {k: (r.tags.llm, r.tags.learns, r.tags.begins, p) for k, (r, p) in two.items()} == TABLE2
    assert {r.backbone.name for r, _ in two.values()} == {"yamnet+panns-wavegram-cnn14"}
    for name, (recipe, _) in {**one, **two}.items():
        task, train = recipe.task, recipe.train
        assert isinstance(task, TagsTable) and task.reads == "sequence"
        assert task.loss_on_padding == task.parity == (mode == "parity")
        assert (task.decoding.beams, task.decoding.no_repeat, task.decoding.min_tokens) == (4, 3, 3)
        assert task.decoding.max_tokens == (18 if mode == "parity" else 62)
        assert (train.batch * train.accumulate, train.lr, train.fall, train.warmup) == (8, 1e-5, "linear", 0)
        assert train.epochs == (6 if mode == "parity" and name == "No pre-training" else 4)
        assert (recipe.data.train, recipe.data.val, recipe.data.test) == (["train"], ["val"], ["test"])


def test_the_rate_falls_along_a_line():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    settings = Settings(epochs=2, warmup=0.0, fall="linear")
    falls, found = schedule(optimizer, settings, 8), []
    for _ in range(9):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        falls.step()
    assert found == pytest.approx([1 - n / 8 for n in range(9)])


@pytest.fixture
def stand_ins(monkeypatch, tmp_path):
    """Tiny encoders and a tiny BART under the paper's names; CNN's and the base's are not there."""
    folder = saved_bart(tmp_path / "bart")

    def folder_of(name: str):
        if name != "facebook/bart-large":
            raise WeightsError(f"there is no folder {name}, and the hub did not give it: no network")
        return folder

    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(backbone.backbones, "load", lambda name, **options: freeze(load(name)))
    monkeypatch.setattr("ossicle.backbones.seq2seq.folder_of", folder_of)


@pytest.fixture(scope="module")
def audiocaps(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("sounds")
    clips = [
        Clip(
            tiny.write_tone(folder / f"{split}{n}.wav", 300 * (n + 1), 2.5, seed=n), name=f"{split}{n}", split=split,
            captions=(text, f"in the distance {text}"),
        )
        for split in ("train", "val", "test")
        for n, text in enumerate(SAID)
    ]  # fmt: skip
    return Dataset("audiocaps", tuple(clips))


def test_a_table_runs_where_weights_are_and_says_why_not_elsewhere(stand_ins, audiocaps, tmp_path):
    quick = ("train.epochs=1", "task.decoding.max_tokens=8")
    options = Options("parity", seeds=(0, 1), changes=quick)
    wanted = ["Reference", "Frozen decoder", "No pre-training", "CNN"]
    cells = tables.reproduce("B/table2", {"audiocaps": audiocaps}, tmp_path / "out", options, wanted)
    found = {(cell.row, cell.column.partition("/")[2]): cell for cell in cells}
    for row in wanted[:3]:
        cell, spice = found[row, "cider_d"], found[row, "spice"]
        rows = [
            json.loads(p.read_text()) for p in sorted((tmp_path / "out").glob(f"{_key(row)}_audiocaps*/seed*.json"))
        ]
        scores = [one["scores"]["cider_d"] for one in rows]
        assert len(scores) == 2 and {"bleu_1", "meteor", "rouge_l"} <= set(rows[0]["scores"])
        assert cell.ours["mean"] == pytest.approx(100 * sum(scores) / 2) and cell.ours["seeds"] == 2
        assert cell.ours["std_seeds"] is not None and cell.reason == ""
        assert all(one["test_clips"] == 3 and one["correct"] == "" for one in rows)
        assert (spice.ours is None) == bool(spice.reason)
    maps = (tiny.PANNS.hidden + 1) * 24
    task = build.load(str(next((tmp_path / "out").glob("reference_*/seed0")))).task
    bart = sum(p.numel() for p in task.language.model.parameters())
    assert found["Reference", "cider_d"].parameters == bart + maps
    attention, inner = 4 * (24 + 1) * 24, 48 * 24 + 48 + 48 * 24 + 24
    assert found["Frozen decoder", "cider_d"].parameters == bart + maps - 2 * (attention + inner)
    assert "facebook/bart-large-cnn" in found["CNN", "cider_d"].reason and found["CNN", "cider_d"].ours is None
    text = (tmp_path / "out" / "B_table2_parity.md").read_text()
    assert "| CNN | audiocaps/cider_d | 72.20 |  |  | *not run*: there is no folder" in text


def _key(label: str) -> str:
    return next(row.key for row in tables.rows("B/table2") if row.label == label)


def test_captions_without_their_sounds_are_not_run(tmp_path, capsys):
    folder = tmp_path / "AudioCaps"
    folder.mkdir()
    for split in ("train", "val", "test"):
        lines = ["audiocap_id,youtube_id,start_time,caption", f"1,abc{split},30,A dog barks while a man speaks"]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = ["reproduce", "B/table1", "--data", f"audiocaps:{folder}", "--out", str(tmp_path / "out"), "--json"]
    assert call(*run) == 0
    cells = json.loads(capsys.readouterr().out)
    assert len(cells) == 45 and {cell["row"] for cell in cells} == set(TABLE1)
    assert all(cell["ours"] is None and "none of the 3 clips of AudioCaps is there" in cell["reason"] for cell in cells)
    assert call(*run[:3], f"audiocaps:{tmp_path / 'no'}") == 2
