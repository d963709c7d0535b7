"""`ossicle train caption-llm`, `caption`, `evaluate` and `merge` from the command line, on tiny models."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests import tiny

from ossicle.deliver.merge import EXACT
from ossicle.recipe import backbone
from ossicle.tasks.caption_llm import Captioner

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


def test_what_was_heard_is_printed_and_written_with_the_caption(ossicle, captioner, sounds, tmp_path, monkeypatch):
    inner = Captioner.predict
    tags = [["Bee, wasp, etc.", 0.5, 0.0, 0.5], ["Hum", 0.25, 0.5, 0.6]]
    monkeypatch.setattr(
        Captioner,
        "predict",
        lambda self, batch: [replace(r, tags=[tuple(t) for t in tags]) for r in inner(self, batch)],
    )
    code, out, _ = ossicle("caption", captioner, sounds / "0.wav", "--json")
    assert code == 0 and json.loads(out)["tags"] == tags
    code, out, _ = ossicle("caption", captioner, sounds / "0.wav")
    assert code == 0 and "Hum" not in out
    assert ossicle("caption", captioner, sounds / "0.wav", "--out", tmp_path / "rows.csv").code == 0
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert [json.loads(row["tags"]) for row in csv.DictReader(file)] == [tags]


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
    code, _, err = ossicle(
        "train", "caption-llm", sounds, "--out", tmp_path / "b", "--stage", "lora-only", "--set", "data.hold_out=0"
    )
    assert code == 2 and "--init-from" in err
    code, _, err = ossicle("train", "caption-llm", sounds, "--out", tmp_path / "b")  # 1 of 4 clips is held out
    assert code == 2 and "task.best_by=cider_d compares captions of several clips, but there is one" in err
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


def test_options_that_would_do_nothing(ossicle, captioner, sounds, tmp_path):
    out = tmp_path / "x"
    live = "does nothing, since the adapter is trained; what can be set here is data.channel, task.window_s"
    cases = [
        (("caption", captioner, sounds, "--json", "--out", tmp_path / "a.csv"), "--json is for captions that are"),
        (("caption", captioner, sounds, "--set", "train.epochs=3"), f"--set train.epochs {live}"),
        (("caption", captioner, sounds, "--set", "task.metrics=['bleu']"), "does nothing to captions"),
        (("caption", captioner, sounds, "--set", "task.window_s=1", "--window", 1), "--window and --set task.window_s"),
        (("caption", captioner, sounds, "--decode", "top_p=0.5"), "top_p is of method=nucleus and does nothing"),
        (("caption", captioner, sounds, "--decode", "method=nucleus", "--decode", "beams=3"), "beams is of method"),
        (("caption", captioner, sounds, "--decode", "rerank=consensus"), "does nothing with one; set candidates too"),
        (("evaluate", captioner, sounds, "--set", "task.best_by=cider"), f"--set task.best_by {live}"),
        (("evaluate", captioner, sounds, "--set", "data.licences=['CC0']"), f"--set data.licences {live}"),
        (("evaluate", captioner, sounds, "--set", "task.lora.rank=8"), f"--set task.lora.rank {live}"),
        (("evaluate", captioner, sounds, "--set", "task.windw_s=1"), "did you mean 'task.window_s'"),
        (("evaluate", captioner, sounds, "--set", "task.metrics=['bleu']", "--metrics", "cider"), "say the same"),
        (("merge", captioner, captioner, "--out", out, "--density", 0.3), "does nothing with --how cat"),
        (("merge", captioner, captioner, "--out", out, "--density", 0.3, "--how", "svd"), "nothing with --how svd"),
        (("export", captioner, "--to", out, "--seconds", 3), "--seconds is for a .onnx file and does nothing"),
    ]  # fmt: skip
    for args, told in cases:
        run = ossicle(*args)
        assert run.code == 2 and told in run.said and "incomplete" not in run.said, (args, run)
    assert not out.exists()
    changes = ("task.window_s=2.0", "task.decoding.method=nucleus", "task.decoding.top_p=0.5", "data.channel=1")
    words = [word for change in changes for word in ("--set", change)]
    assert ossicle("evaluate", captioner, sounds, "--json", *words).code == 0


def test_evaluate_says_how_many_clips_it_scored_and_what_did_not_run(ossicle, captioner, sounds):
    assert json.loads(ossicle("evaluate", captioner, sounds, "--json").out)["scored"] == 4
    (sounds / "3.wav").write_text("a letter")
    table = (sounds / "metadata.csv").read_text().splitlines()
    (sounds / "metadata.csv").write_text("\n".join([*table[:2], "1.wav,,", "2.wav,,", table[4]]) + "\n")
    code, out, _ = ossicle("evaluate", captioner, sounds, "--json")
    found = json.loads(out)
    counts = {key: found[key] for key in ("clips", "failed", "without_captions", "scored")}
    assert code == 1 and counts == {"clips": 4, "failed": 1, "without_captions": 2, "scored": 1}
    assert "1 came, give 2" in found["absent"]["cider"] and "cider_d" not in found and "rouge_l" in found
    assert "not run: cider: CIDEr weighs words" in ossicle("evaluate", captioner, sounds).out
    code, out, _ = ossicle("evaluate", captioner, sounds, "--json", "--metrics", "bleu_4, rouge_l")
    assert {"bleu_4", "rouge_l"} <= json.loads(out).keys() and "bleu_1" not in json.loads(out)


def test_an_error_row_of_captions_is_left_out_of_their_scores(ossicle, captioner, sounds, tmp_path):
    (sounds / "3.wav").write_text("a letter")
    assert ossicle("caption", captioner, sounds, "--out", tmp_path / "rows.csv").code == 1
    words = ("--references", sounds / "metadata.csv", "--candidates", tmp_path / "rows.csv", "--metrics", "rouge_l")
    code, out, _ = ossicle("score", "captions", *words, "--json")
    assert code == 0 and json.loads(out)["items"] == 3 and list(json.loads(out)["left_out"]) == ["3.wav"]
