"""`ossicle predict` with a tagger in the place of an adapter."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from tests import tiny
from tests.cli.conftest import Ossicle
from tests.tasks.test_tag import tagger

from ossicle import backbones
from ossicle.errors import CheckpointError
from ossicle.predict import results
from ossicle.tasks.tag import Tagger

ODD = ("Male speech, man speaking", 'a "quoted" one; [red] it\'s', "Whimper (dog)")


@pytest.fixture
def mn04(monkeypatch: pytest.MonkeyPatch) -> Tagger:
    """A tiny tagger in the place of every backbone's weights, whose best classes have odd names."""
    task = tagger("mobile")
    made = task.encoder
    assert made.tags is not None
    labels = list(made.tags.labels)
    weight, bias = list(made.tags.head.parameters())[-2:]
    with torch.no_grad():
        weight.mul_(0.3)
        bias.mul_(0.1).sub_(3)
    for place, name in enumerate(ODD):
        at = labels.index(name) if name in labels else 400
        labels[at] = name
        with torch.no_grad():
            bias[at] = 12.0 - place
            weight[at] = 0
    made.tags.labels = tuple(labels)
    monkeypatch.setattr(backbones, "load", lambda name: made)
    return task


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Five seconds in a file with an odd name."""
    return tiny.write_tone(tmp_path / "in, [b]" / 'a,"b";c.wav', 500.0, 5.0)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def scores_of(row: dict[str, str]) -> dict[str, float]:
    found: dict[str, float] = json.loads(row["scores"])
    return found


FORMATS: dict[str, Callable[[Path], list[tuple[str, list[str]]]]] = {
    ".csv": lambda p: [(r["label"], list(scores_of(r))) for r in read_csv(p)],
    ".jsonl": lambda p: [(r["label"], list(r["scores"])) for r in map(json.loads, p.read_text().splitlines())],
    ".parquet": lambda p: [(r["label"], [k for k, _ in r["scores"]]) for r in pq.read_table(p).to_pylist()],
    ".txt": lambda p: [(line.split("\t")[2].rpartition(" ")[0], []) for line in p.read_text().splitlines()],
    ".selections.txt": lambda p: [(line.split("\t")[9], []) for line in p.read_text().splitlines()[1:]],
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_holds_names_with_commas_quotes_and_brackets(
    ossicle: Ossicle, mn04: Tagger, sound: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"tags{suffix}"
    run = ossicle("predict", "mn04", sound, "--out", out)
    assert run.code == 0 and f"4 rows for 1 files in {out}" in run.out
    rows = FORMATS[suffix](out)
    assert [label for label, _ in rows] == [ODD[0]] * 4
    if suffix in (".csv", ".jsonl", ".parquet"):
        assert all(names[:3] == list(ODD) for _, names in rows)


@pytest.mark.parametrize(
    ("options", "spans"),
    [
        ((), [(0, 2), (1, 3), (2, 4), (3, 5)]),
        (("--window", 1), [(k / 2, k / 2 + 1) for k in range(9)]),
        (("--window", 4, "--hop", 4), [(0, 4), (4, 5)]),
        (("--hop", 2), [(0, 2), (2, 4), (4, 5)]),
    ],
)
def test_windows_of_2_s_every_second_unless_told_otherwise(
    ossicle: Ossicle, mn04: Tagger, sound: Path, tmp_path: Path, options: tuple[object, ...], spans: list[object]
) -> None:
    out = tmp_path / "tags.csv"
    assert ossicle("predict", "mn04", sound, "--out", out, *options).code == 0
    rows = read_csv(out)
    assert [(float(r["start"]), float(r["end"])) for r in rows] == spans
    assert {r["model"] for r in rows} == {"mn04"} and all(min(scores_of(r).values()) >= 0.01 for r in rows)


def test_channel_batch_and_precision_are_heeded(ossicle: Ossicle, mn04: Tagger, sound: Path, tmp_path: Path) -> None:
    tones = [soundfile.read(tiny.write_tone(tmp_path / f"{hz}.wav", hz, 2.0, seed=hz))[0] for hz in (200, 5000)]
    both = tmp_path / "both.wav"
    soundfile.write(both, np.stack(tones, axis=1), tiny.RATE_HZ)

    def heard(path: Path, *options: object) -> dict[str, float]:
        assert ossicle("predict", "mn04", path, "--out", tmp_path / "o.csv", *options).code == 0
        return scores_of(read_csv(tmp_path / "o.csv")[0])

    alone = heard(tmp_path / "5000.wav")
    assert heard(both, "--channel", 2) == pytest.approx(alone, abs=1e-3)
    assert heard(both, "--channel", 1) != pytest.approx(alone, abs=1e-3)
    assert heard(both) != pytest.approx(alone, abs=1e-3)
    assert heard(tmp_path / "5000.wav", "--batch", 1) == pytest.approx(alone, abs=1e-5)
    coarse = heard(tmp_path / "5000.wav", "--precision", "bfloat16")
    assert coarse != alone and next(iter(coarse)) == ODD[0]


def test_bad_files_are_error_rows(ossicle: Ossicle, mn04: Tagger, sound: Path, tmp_path: Path) -> None:
    (sound.parent / "letter.wav").write_text("this is a letter")
    run = ossicle("predict", "yamnet", sound.parent, "--out", tmp_path / "tags.csv")
    assert run.code == 1 and "5 rows for 2 files" in run.out and "1 could not be read" in run.out
    bad = [row for row in read_csv(tmp_path / "tags.csv") if row["error"]]
    assert [(row["label"], row["scores"], row["model"]) for row in bad] == [("", "", "yamnet")]


def test_a_stopped_run_goes_on_with_the_same_weights_only(
    ossicle: Ossicle, mn04: Tagger, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tags.csv"

    def full(*_: object) -> None:
        raise CheckpointError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_rows", full)
        assert "no space" in ossicle("predict", "mn04", sound, "--out", out).said
    mn04.encoder.digest = "other"
    assert "had backbone tiny-mobile (now other)" in ossicle("predict", "mn04", sound, "--out", out).said
    mn04.encoder.digest = "tiny-mobile"
    assert "model mn04 (now mn05)" in ossicle("predict", "mn05", sound, "--out", out).said
    assert "window_s 2.0 (now 1.0)" in ossicle("predict", "mn04", sound, "--out", out, "--window", 1).said
    monkeypatch.setattr(Tagger, "predict", full)  # the rows are those of the journal
    assert ossicle("predict", "mn04", sound, "--out", out).code == 0
    assert [row["label"] for row in read_csv(out)] == [ODD[0]] * 4


def test_what_is_no_tagger_is_told_in_one_line(ossicle: Ossicle, sound: Path, tmp_path: Path) -> None:
    out = tmp_path / "tags.csv"
    for name, told in (
        ("whisper-tiny.en", "without classes of its own; give a tagger such as mn04 or yamnet"),
        ("mn04+yamnet", "'mn04+yamnet' joins 2 encoders"),
        ("yamnt", "did you mean 'yamnet'?"),
    ):
        run = ossicle("predict", name, sound, "--out", out)
        assert run.code == 2 and told in run.said and not out.exists()
    assert "hop <= window" in ossicle("predict", "mn04", sound, "--out", out, "--hop", 3).said


def test_other_verbs_say_that_a_tagger_has_classes_of_its_own(ossicle: Ossicle, sound: Path) -> None:
    run = ossicle("evaluate", "mn04", sound.parent)
    assert run.code == 2 and "its own 527 classes are those of `ossicle predict mn04`" in run.said


def test_a_folder_of_sounds_hides_no_tagger_but_an_adapter_does(
    ossicle: Ossicle, mn04: Tagger, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mn04").mkdir()
    assert ossicle("predict", "mn04", sound, "--out", "tags.csv").code == 0
    (tmp_path / "mn04" / "ossicle.json").write_text("{}")
    run = ossicle("predict", "mn04", sound, "--out", "tags.csv")
    assert run.code == 2 and "mn04/ossicle.json cannot be read" in run.said
