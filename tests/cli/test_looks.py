"""What a person sees of the verbs that list things."""

import json
import shutil
from pathlib import Path

import pytest
from tests import tiny
from tests.cli.conftest import Ossicle

from ossicle.adapters import ADAPTERS
from ossicle.adapters.count import count
from ossicle.adapters.presets import PRESETS
from ossicle.backbones import BACKBONES, network, weights
from ossicle.cli import doctor
from ossicle.cli.adapters import BACKBONE, CHOICES

WIDTHS = ("60", "80", "200", "")


@pytest.fixture(params=WIDTHS)
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", request.param) if request.param else monkeypatch.delenv("COLUMNS", raising=False)
    return str(request.param)


def first_words(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line and not line.startswith(" ")]


def test_models_can_be_typed_as_they_are_listed(ossicle: Ossicle, columns: str) -> None:
    run = ossicle("models")
    assert run.code == 0 and first_words(run.out) == ["name", *sorted(weights.SOURCES)]
    assert all(source.description in " ".join(run.out.split()) for source in weights.SOURCES.values())


def test_adapters_are_those_one_chooses_from(ossicle: Ossicle, columns: str) -> None:
    run = ossicle("adapters")
    assert run.code == 0 and run.out.startswith(f"On {BACKBONE}, which has 8,208,384 parameters")
    assert [text for text in CHOICES if text not in first_words(run.out)] == []
    assert len(run.out.splitlines()) < 60 and "--papers" in run.out


def test_adapters_are_counted_whole_on_any_backbone(ossicle: Ossicle) -> None:
    run = ossicle("adapters", "--backbone", "dinov2-small")
    assert run.code == 0 and run.out.startswith("On dinov2-small, which has ")
    shown = {line.split()[0]: line.split()[1] for line in run.out.splitlines() if "(" in line.partition(" ")[0]}
    assert shown == {text: f"{count('dinov2-small', text).total:,}" for text in CHOICES}


def test_every_kind_of_adapter_is_among_the_choices() -> None:
    assert {part.split("(")[0] for text in CHOICES for part in text.split("+")} == set(ADAPTERS)
    assert BACKBONE in BACKBONES


def test_adapters_as_json_and_a_text_of_ones_own(ossicle: Ossicle) -> None:
    rows = json.loads(ossicle("adapters", "--json", "--adapter", "lora(rank=2)").out)
    assert [row["text"] for row in rows] == [*CHOICES, "lora(rank=2)"]
    assert rows[-1]["trainable"] == 12_288 and {row["backbone"] for row in rows} == {BACKBONE}
    run = ossicle("adapters", "--adapter", "lookaside()")
    assert run.code == 2 and "run in time only" in run.said


def test_the_papers_rows_are_there_for_who_asks(ossicle: Ossicle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    run = ossicle("adapters", "--papers")
    listed = first_words(run.out)
    assert run.code == 0 and listed[: len(PRESETS) + 1] == ["name", *PRESETS] and "on ast-base" in run.out
    assert "[1] the paper's slip" in run.out and "470K [1]" in run.out
    rows = json.loads(ossicle("adapters", "--papers", "--json", "--backbone", "whisper-tiny.en").out)
    assert [row["name"] for row in rows] == list(PRESETS) and rows[0]["trainable"] == 8_208_384


def test_doctor_says_which_extra_to_install_and_yes_or_no(
    ossicle: Ossicle, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setattr(network, "hub_reachable", lambda: False)
    monkeypatch.setattr(doctor, "EXTRAS", {"no-such-package": "containers"})
    run = ossicle("doctor")
    told = " ".join(run.out.split())
    assert 'absent: pip install "ossicle[containers]"' in told
    assert "audio wav yes" in told and "True" not in told and "False" not in told
    assert json.loads(ossicle("doctor", "--json").out)["audio"]["wav"] is True


def test_labels_and_folders_with_brackets_are_printed_whole(
    ossicle: Ossicle, tmp_path: Path, whisper_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen with labels such as [bird] and files such as a[1].wav."""
    monkeypatch.setenv("COLUMNS", "60")
    data = tmp_path / "[/sounds]"
    for label, hz in (("[bird]", 300.0), (":dog:", 3000.0)):
        for i in range(2):
            tiny.write_tone(data / label / f"[b]{i}.wav", hz, 0.5, seed=i)
    shutil.copy(__file__, data / "[bird]" / "[red]text.wav")
    out = tmp_path / "[out]"
    options = ("--adapter", "probe()", "--set", "train.epochs=1", "--set", "data.hold_out=0")
    run = ossicle("train", "classify", data, "--out", out, *options)
    assert run.code == 1 and "left out: [bird]/[red]text.wav" in run.err and f"adapter in {out}" in run.out
    run = ossicle("predict", out, data, "--out", tmp_path / "[x].csv")
    assert run.code == 1 and f"in {tmp_path / '[x].csv'}; 1 could not be read" in run.out
    truth = tmp_path / "truth.csv"
    files = [(p.name, p.parent.name) for p in sorted(data.rglob("*.wav"))]
    truth.write_text("file_name,label\n" + "".join(f"{label}/{name},{label}\n" for name, label in files))
    run = ossicle("score", "classify", tmp_path / "[x].csv", truth)
    assert run.code == 0 and {":dog:", "[bird]"} <= set(first_words(run.out))
