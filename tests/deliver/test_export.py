"""ONNX: exported classifiers, of every kind of adapter, tagger and joined encoders, equal torch and `predict`."""

import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import soxr
import torch
from tests import tiny
from tests.cli.conftest import call
from tests.conftest import pulled
from torch import nn

from ossicle.adapters import inject, parse, trainable
from ossicle.backbones import Encoder, Joined, efficientat, freeze, yamnet
from ossicle.contracts import Batch, Clip
from ossicle.deliver import export, graph
from ossicle.errors import AudioError, CheckpointError, UsageError
from ossicle.recipe import build
from ossicle.recipe.config import Recipe
from ossicle.sound.frontends import MagnitudeMel
from ossicle.tasks.classify import Classifier

# One per way of wrapping; on a grid and in time only.
KINDS = [
    ("whisper", "lora(rank=2)+norm()"),
    ("ast", "bottleneck(sites=both,place=after,rank=2)"),
    ("dinov2", "lookaside(rank=2)"),
    ("ast", "convpass(rank=2)+prompts(tokens=2,deep=true)"),
    ("whisper", "prefix(tokens=4)+hydra(rank=2)"),
    ("ast", "bitfit()"),
]


LABELS = ["rook", "wren", "crow"]


def loaded(kind: str, text: str, **options: object) -> build.Loaded:
    torch.manual_seed(0)
    encoder = tiny.encoder(kind)
    adapt(encoder, text)
    task = Classifier(encoder, LABELS, layers=(1, 3), head_norm="standard", **options)  # type: ignore[arg-type]
    task.head.eval()
    return build.Loaded(task, Recipe(), {}, "birds")


def adapt(encoder: Encoder, text: str) -> None:
    inject(encoder, parse(text))
    with torch.no_grad():
        for value in trainable(encoder, "default").values():
            value.add_(torch.randn_like(value) * 0.1)


def tagger(kind: str) -> Encoder:
    """A small tagger with random weights, under which loud stays loud up to the last layer."""
    torch.manual_seed(0)
    if kind == "mobile":
        made = efficientat.make("tiny-mobile", efficientat.MobileSizes(width=0.1))
    else:
        made = yamnet.make("tiny-yamnet", yamnet.YamnetSizes(widths=(8,) * 14))
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return freeze(made)


def of(encoder: Encoder | Joined, seconds: float = 1.0, **options: object) -> build.Loaded:
    """A classifier whose answers differ widely from clip to clip."""
    task = Classifier(encoder, LABELS, head_norm="standard", **options)  # type: ignore[arg-type]
    waves = [tiny.waves(8, seconds=seconds * e.rate_hz / tiny.RATE_HZ) for e in encoder.encoders]
    first, *others = (Batch([], waves=own) for own in waves)
    first.others = tuple(others)
    with torch.no_grad():
        vectors = task.listener.vectors(first)
        task.head.norm.mean.copy_(vectors.mean(dim=0))  # type: ignore[union-attr, operator]
        task.head.norm.std.copy_(vectors.std(dim=0) + 1e-3)  # type: ignore[union-attr, operator]
        task.head.linear.weight.normal_(std=0.3)
    task.head.eval()
    return build.Loaded(task, Recipe(), {}, "birds")


def run(file: Path, waves: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"waves": waves})
    return got


def notes(file: Path) -> dict[str, str]:
    found: dict[str, str] = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    return found


@pytest.fixture(scope="module")
def both() -> build.Loaded:
    """A tagger at 32 kHz and an adapted Whisper at 16 kHz."""
    first, second = tagger("mobile"), tiny.encoder("whisper")
    adapt(first, "probe()")
    adapt(second, "lora(rank=2)")
    return of(Joined([first, second]), binary=True, shortest_s=0.7)


@pytest.mark.parametrize(("kind", "text"), KINDS)
def test_onnxruntime_gives_torchs_probabilities(kind: str, text: str, tmp_path: Path) -> None:
    made = loaded(kind, text)
    file = tmp_path / "birds.onnx"
    assert export.to_onnx(made, file, seconds=0.8).torch < 1e-4
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    told = notes(file)
    assert json.loads(told["ossicle.labels"]) == LABELS
    assert (told["ossicle.rate_hz"], told["ossicle.samples"]) == ("16000", "12800")
    waves = tiny.waves(5, seconds=0.8)
    (got,) = session.run(None, {"waves": waves.numpy()})
    with torch.no_grad():
        expected = export.WholeClassifier(made.task)(waves)
    assert torch.allclose(torch.from_numpy(got), expected, atol=1e-4)


def test_an_own_front_end_and_sigmoids_are_exported(tmp_path: Path) -> None:
    made = loaded("ast", "lora(rank=2)", binary=True)
    made.task.encoder.frontend = MagnitudeMel(target_frames=120)
    file = tmp_path / "birds.onnx"
    assert export.to_onnx(made, file, seconds=0.5).torch < 1e-4
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["ossicle.rate_hz"] == "24000"
    waves = tiny.waves(2, seconds=0.75)
    (got,) = session.run(None, {"waves": waves.numpy()})
    with torch.no_grad():
        logits = made.task.logits(Batch([], waves=waves))
    assert torch.allclose(torch.from_numpy(got), logits.sigmoid(), atol=1e-4)


def test_a_file_that_computes_something_else_is_noticed(tmp_path: Path) -> None:
    made = loaded("whisper", "lora(rank=2)", multi_label=True)
    file = tmp_path / "birds.onnx"
    export.to_onnx(made, file, seconds=0.8)
    with torch.no_grad():
        made.task.head.linear.bias.add_(1.0)
    with pytest.raises(CheckpointError, match=r"differs from torch by"):
        export.check(file, made.task, 12_800)


def test_clips_too_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError):
        export.to_onnx(loaded("ast", "lora(rank=2)"), tmp_path / "x.onnx", seconds=0.05)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", [0.5, 1.7])
@pytest.mark.parametrize("kind", ["mobile", "yamnet"])
def test_a_tagger_at_any_length_and_any_number_of_clips(kind: str, seconds: float, tmp_path: Path) -> None:
    made = of(tagger(kind), seconds)
    rate, file = made.task.encoder.rate_hz, tmp_path / "birds.onnx"
    told = export.to_onnx(made, file, seconds=seconds)
    assert told == export.Exported(rate, round(seconds * rate), told.torch)  # nothing is resampled
    waves = tiny.waves(5, seconds=seconds * rate / tiny.RATE_HZ)
    expected = torch.cat([made.task.probabilities(made.task.logits(Batch([], waves=w[None]))) for w in waves])
    assert expected.std(dim=0).max() > 0.02  # or everything would agree
    assert np.abs(run(file, waves.numpy()) - expected.detach().numpy()).max() < 1e-4


def test_joined_encoders_take_one_wave_at_the_highest_rate(both: build.Loaded, tmp_path: Path) -> None:
    file = tmp_path / "birds.onnx"
    told = export.to_onnx(both, file, seconds=0.8)
    assert (told.rate_hz, told.samples) == (32_000, 25_600)
    assert told.torch < 1e-4
    assert told.predict is not None and told.predict < 1e-3
    assert (notes(file)["ossicle.rate_hz"], notes(file)["ossicle.samples"]) == ("32000", "25600")
    high = 3 * tiny.waves(5, seconds=1.6).numpy()  # what overshoots is clipped for each encoder, as `audio.load` does
    low = np.stack([soxr.resample(wave, 32_000, 16_000, quality="HQ") for wave in high])
    first, second = (torch.from_numpy(own.clip(-1, 1)) for own in (high, low))
    with torch.no_grad():
        logits = both.task.logits(Batch([], waves=first, others=(Batch([], waves=second),)))
    assert np.abs(run(file, high) - logits.sigmoid().numpy()).max() < 1e-3


def test_clips_below_the_shortest_go_on_in_silence_in_the_file_too(both: build.Loaded, tmp_path: Path) -> None:
    tiny.write_tone(tmp_path / "a.wav", 440, 0.4, rate_hz=32_000)
    file = tmp_path / "birds.onnx"
    assert export.to_onnx(both, file, seconds=0.4).samples == 12_800
    wave, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    clip = Clip(tmp_path / "a.wav")
    (row,) = both.task.predict(both.task.collate([clip], None))
    assert np.abs(run(file, wave[None])[0] - [row.scores[label] for label in LABELS]).max() < 1e-3


def test_resampling_that_is_not_predicts_is_noticed(
    both: build.Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "soxr_filter", lambda ratio: torch.nn.functional.pad(torch.ones(1, 1, 1), (200, 200)))
    with pytest.raises(CheckpointError, match=r"differs from predict by .*, at most 0\.001 is wanted"):
        export.to_onnx(both, tmp_path / "birds.onnx", seconds=0.8)
    assert not list(tmp_path.iterdir())


def test_rates_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    first, second = tiny.encoder("ast"), tiny.encoder("whisper")
    first.frontend = MagnitudeMel()
    task = Classifier(Joined([first, second]), LABELS)
    with pytest.raises(UsageError, match="tiny-whisper hears at 16000 Hz, of which the 24000 Hz .* no whole multiple"):
        export.to_onnx(build.Loaded(task, Recipe(), {}, "birds"), tmp_path / "x.onnx", seconds=0.8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backbone", ["mn04", "yamnet", "mn04+whisper-tiny.en"])
def test_a_file_gives_predicts_rows_of_real_sounds(backbone: str, esc50: Path, tmp_path: Path) -> None:
    for name in backbone.split("+"):
        pulled(name)
    for label in ("dog", "rain", "siren"):
        (tmp_path / "sounds" / label).mkdir(parents=True)
    (tmp_path / "new").mkdir()
    with (esc50 / "meta.csv").open(encoding="utf-8") as table:
        clips = [row for row in csv.DictReader(table) if row["category"] in ("dog", "rain", "siren")]
    for row in clips[:24]:
        source = esc50 / "audio" / row["filename"]
        (tmp_path / "sounds" / row["category"] / source.name).symlink_to(source)
    for row in clips[-6:]:
        (tmp_path / "new" / row["filename"]).symlink_to(esc50 / "audio" / row["filename"])
    made, file, out = tmp_path / "made", tmp_path / "made.onnx", tmp_path / "rows.csv"
    setting = f"backbone.name={backbone}"
    assert call("train", "classify", tmp_path / "sounds", "--out", made, "--adapter", "probe()", "--set", setting) == 0
    assert call("export", made, "--to", file, "--seconds", "5") == 0
    assert call("predict", made, tmp_path / "new", "--out", out) == 0
    told, found = notes(file), []
    rate, labels = int(told["ossicle.rate_hz"]), json.loads(told["ossicle.labels"])
    with out.open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            wave, own = soundfile.read(row["path"], dtype="float32")
            got = run(file, soxr.resample(wave, own, rate, quality="HQ")[None])[0]
            scores = json.loads(row["scores"])
            found.append([scores[label] for label in labels])
            assert np.abs(got - found[-1]).max() < 1e-3
    assert len(found) == 6
    assert np.std(found, axis=0).max() > 0.1
