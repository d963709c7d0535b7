"""ONNX: the convolution front ends equal the real ones; exported classifiers of every kind of adapter equal torch."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from tests import tiny
from tests.sound import exact

from ossicle.adapters import inject, parse, trainable
from ossicle.contracts import Batch
from ossicle.deliver import export
from ossicle.errors import AudioError, CheckpointError
from ossicle.recipe import build
from ossicle.recipe.config import Recipe
from ossicle.sound.frontends import FRONTENDS, KaldiFbank, MagnitudeMel
from ossicle.tasks.classify import Classifier

# One per way of wrapping; on a grid and in time only.
KINDS = [
    pytest.param("whisper", "lora(rank=2)+norm()", marks=pytest.mark.numerics),
    pytest.param("ast", "bottleneck(sites=both,place=after,rank=2)", marks=pytest.mark.numerics),
    ("dinov2", "lookaside(rank=2)"),
    ("ast", "convpass(rank=2)+prompts(tokens=2,deep=true)"),
    ("whisper", "prefix(tokens=4)+hydra(rank=2)"),
    ("ast", "bitfit()"),
]


def loaded(kind: str, text: str, **options: object) -> build.Loaded:
    torch.manual_seed(0)
    encoder = tiny.encoder(kind)
    inject(encoder, parse(text))
    with torch.no_grad():
        for value in trainable(encoder, "default").values():
            value.add_(torch.randn_like(value) * 0.1)
    task = Classifier(encoder, ["rook", "wren", "crow"], layers=(1, 3), head_norm="standard", **options)  # type: ignore[arg-type]
    task.head.eval()
    return build.Loaded(task, Recipe(), {}, "birds")


@pytest.mark.numerics
@pytest.mark.parametrize("name", FRONTENDS)
def test_the_convolution_front_end_equals_the_real_one(name: str) -> None:
    front = FRONTENDS[name]()
    waves = tiny.waves(3, seconds=0.9)
    for wave, real, got in zip(waves, front(waves)[0], export.ConvFrontend(front)(waves), strict=True):
        assert exact.of(front, wave, plain_sums=True).share(got) < 1
        assert exact.of(front, wave).share(real) < 1


@pytest.mark.numerics
def test_the_convolution_front_end_pads_and_cuts_to_a_target() -> None:
    (wave,) = tiny.waves(1, seconds=0.9)
    for frames in (40, 200):
        for front in (KaldiFbank(target_frames=frames), MagnitudeMel(target_frames=frames)):
            (got,) = export.ConvFrontend(front)(wave[None])
            assert got.shape == (frames, 128)
            assert exact.of(front, wave, plain_sums=True).share(got) < 1


@pytest.mark.parametrize(("kind", "text"), KINDS)
def test_onnxruntime_gives_torchs_probabilities(kind: str, text: str, tmp_path: Path) -> None:
    made = loaded(kind, text)
    file = tmp_path / "birds.onnx"
    assert export.to_onnx(made, file, seconds=0.8) < 1e-4
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["ossicle.labels"]) == ["rook", "wren", "crow"]
    assert (notes["ossicle.rate_hz"], notes["ossicle.samples"]) == ("16000", "12800")
    waves = tiny.waves(5, seconds=0.8)
    (got,) = session.run(None, {"waves": waves.numpy()})
    with torch.no_grad():
        expected = export.WholeClassifier(made.task)(waves)
    assert torch.allclose(torch.from_numpy(got), expected, atol=1e-4)


def test_an_own_front_end_and_sigmoids_are_exported(tmp_path: Path) -> None:
    made = loaded("ast", "lora(rank=2)", binary=True)
    made.task.encoder.frontend = MagnitudeMel(target_frames=120)
    file = tmp_path / "birds.onnx"
    assert export.to_onnx(made, file, seconds=0.5) < 1e-4
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
