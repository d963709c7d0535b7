"""`ossicle train caption-llm`, `caption`, `evaluate` and `merge` from the command line, on tiny models."""

import json
from pathlib import Path

import pytest
from tests import tiny

from ossicle.deliver.merge import EXACT
from ossicle.recipe import backbone

QUICK = [
    "train.epochs=1", "train.batch=4", "train.precision=float32", "task.lora.rank=2", "data.hold_out=0",
    "task.decoding.max_tokens=5", "task.decoding.beams=2", "task.window_s=1.0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch, tmp_path):
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(backbone, "frozen", lambda recipe: tiny.encoder("whisper"))
    monkeypatch.setattr("ossicle.recipe.caption_llm.language_model", lambda name, **options: tiny.language())


@pytest.fixture
def sounds(tmp_path) -> Path:
    folder = tmp_path / "sounds"
    rows = ["file_name,caption_1,caption_2"]
    for i in range(4):
        tiny.write_tone(folder / f"{i}.wav", 400.0 * (i + 1), 0.6, seed=i)
        rows.append(f"{i}.wav,a tone of number {i},the tone is {i}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def captioner(ossicle, sounds, tmp_path) -> Path:
    settings = [word for change in QUICK for word in ("--set", change)]
    code, out, err = ossicle("train", "caption-llm", sounds, "--out", tmp_path / "cap", *settings)
    assert code == 0, err
    assert "mapper and" in out
    return tmp_path / "cap"


def test_from_a_table_to_captions(ossicle, captioner, sounds, tmp_path):
    code, out, _ = ossicle("caption", captioner, sounds, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [Path(row["path"]).name for row in rows] == [f"{i}.wav" for i in range(4)]
    assert all(row["caption"] is not None and row["error"] is None and row["model"] == "cap" for row in rows)
    code, _, _ = ossicle("caption", captioner, sounds, "--out", tmp_path / "rows.jsonl")
    table = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert code == 0 and [row["caption"] for row in table] == [row["caption"] for row in rows]
    code, out, _ = ossicle("evaluate", captioner, sounds, "--json")
    assert code == 0 and {"cider_d", "bleu_4", "rouge_l"} <= json.loads(out).keys()
    code, out, _ = ossicle("evaluate", captioner, sounds, "--json", "--metrics", "rouge_l")
    assert code == 0 and "rouge_l" in json.loads(out) and "bleu_4" not in json.loads(out)
    code, _, err = ossicle("evaluate", captioner, sounds, "--metrics", "rouge")
    assert code == 2 and "did you mean 'rouge_l'" in err


def test_long_sound_has_times(ossicle, captioner, tmp_path):
    long = tiny.write_tone(tmp_path / "long.wav", 500, 2.4)
    code, out, _ = ossicle("caption", captioner, long)
    assert code == 0 and [f"{a}.0–" in out for a in range(2)] == [True, True]
    code, _, _ = ossicle("caption", captioner, long, "--out", tmp_path / "long.srt")
    text = (tmp_path / "long.srt").read_text()
    assert code == 0 and text.startswith("1\n00:00:00,000 --> 00:00:01,000\n") and "\n3\n" in text
    ossicle("caption", captioner, long, "--out", tmp_path / "long.vtt", "--hop", "0.5")
    text = (tmp_path / "long.vtt").read_text()
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n") and "00:00:00.500 --> 00:00:01.500" in text


def test_decoding_by_the_command_line(ossicle, captioner, sounds):
    code, out, _ = ossicle(
        "caption", captioner, sounds / "0.wav", "--json", "--decode", "candidates=3", "--decode", "beams=3"
    )
    row = json.loads(out)
    assert code == 0 and 1 < len(row["scores"]) <= 3 and next(iter(row["scores"])) == row["caption"]
    code, _, err = ossicle("caption", captioner, sounds, "--decode", "beem=3")
    assert code == 2 and "did you mean 'task.decoding.beams'" in err
    code, _, err = ossicle("caption", captioner, sounds, "--decode", "method=contrastive")
    assert code == 2 and "no contrastive search of its own" in err


def test_bad_files_never_stop_a_batch(ossicle, captioner, sounds):
    (sounds / "5.wav").write_text("a letter")
    code, out, err = ossicle("caption", captioner, sounds)
    assert code == 1 and out.count(".wav") == 4 and "5.wav" in err


def test_wrong_use(ossicle, captioner, sounds, tmp_path):
    code, _, err = ossicle("predict", captioner, sounds, "--out", tmp_path / "a.csv")
    assert code == 2 and "holds a caption-llm adapter, not a classify one; use `ossicle caption`" in err
    code, _, err = ossicle("caption", captioner, sounds, "--out", tmp_path / "a.srt")
    assert code == 2 and "a subtitle file belongs to one recording but 4 files were given" in err
    code, _, err = ossicle("train", "caption-llm", sounds, "--out", tmp_path / "b", "--stage", "lora")
    assert code == 2 and "task.stage='lora'" in err
    code, _, err = ossicle("train", "caption-llm", sounds, "--out", tmp_path / "b", "--stage", "lora-only")
    assert code == 2 and "--init-from" in err
    (sounds / "metadata.csv").write_text("file_name,label\n0.wav,tone\n1.wav,tone\n")
    code, _, err = ossicle("train", "caption-llm", sounds, "--out", tmp_path / "b", "--set", "data.hold_out=0")
    assert (code, "2 of 2 clips have no caption: 0.wav, 1.wav" in err) == (2, True), err


def test_merging(ossicle, captioner, sounds, tmp_path):
    settings = [word for change in QUICK for word in ("--set", change)]
    code, _, err = ossicle(
        "train", "caption-llm", sounds, "--out", tmp_path / "two", "--stage", "lora-only", "--init-from", captioner,
        "--set", "train.seed=1", *settings,
    )  # fmt: skip
    assert code == 0, err
    code, out, _ = ossicle("merge", captioner, tmp_path / "two", "--out", tmp_path / "both", "--json")
    told = json.loads(out)
    assert code == 0 and told["rank"] == 4 and told["weights"] == [0.5, 0.5] and told["difference"] < EXACT
    code, out, _ = ossicle("caption", tmp_path / "both", sounds)
    assert code == 0 and out.count(".wav") == 4
    code, _, err = ossicle("merge", captioner, "--out", tmp_path / "none")
    assert code == 2 and "merging wants two or more" in err
