"""A trained classifier as one ONNX file: one waveform in, probabilities out, resampling and front ends included."""

import importlib.util
import json
import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.contracts import Batch
from ossicle.deliver import graph
from ossicle.errors import CheckpointError, UsageError
from ossicle.files import write_atomic
from ossicle.recipe.build import Loaded
from ossicle.tasks import features
from ossicle.tasks.classify import Classifier
from ossicle.tasks.listen import Ear

OPSET = 18
# Of a probability: what onnxruntime may differ by from torch, and resampling in the graph from soxr in `predict`.
TOLERANCE = 1e-4
RESAMPLED = 1e-3


@dataclass(frozen=True)
class Exported:
    """What an ONNX file takes, and the largest difference of a probability on made sounds.

    Args:
        rate_hz: of the waveforms it takes.
        samples: of each.
        torch: from torch, for the same waveforms.
        predict: from what `predict` gives, where encoders hear at other rates than the file; else None.
    """

    rate_hz: int
    samples: int
    torch: float
    predict: float | None = None


class Listening(nn.Module):
    """One encoder's way from the file's waveforms to its pooled vector.

    Args:
        ear: of a trained task, on the CPU.
        rate_hz: of the waveforms.
    """

    def __init__(self, ear: Ear, rate_hz: int) -> None:
        super().__init__()
        self.ear, self.encoder = ear, ear.encoder
        self.lower = graph.Downsample(rate_hz // ear.encoder.rate_hz)
        self.front = graph.form(ear.encoder.frontend)

    def heard(self, waves: Tensor) -> Tensor:
        """(batch, samples) at the file's rate to what this encoder hears, at its own."""
        return settled(self.lower(waves), self.ear)

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, samples) to (batch, width)."""
        encoded = self.encoder.encode(self.front(self.heard(waves)), layers=self.ear.layers)
        return features.pool(encoded, self.ear.layers, self.ear.kind)


def settled(waves: Tensor, ear: Ear) -> Tensor:
    """Clipped to [-1, 1], and short ones in silence at the end, as `predict` has them."""
    short = max(0, round(ear.shortest_s * ear.encoder.rate_hz) - waves.shape[-1])
    return F.pad(waves.clamp(-1.0, 1.0), (0, short))


class WholeClassifier(nn.Module):
    """Waveforms at the highest rate of its encoders to probabilities, in one module.

    Args:
        task: trained, on the CPU.

    Raises:
        UsageError: if a rate does not divide the highest, or a front end has no form in a graph.
    """

    def __init__(self, task: Classifier) -> None:
        super().__init__()
        rates = {ear.encoder.name: ear.encoder.rate_hz for ear in task.listener.ears}
        self.rate_hz = max(rates.values())
        for name, rate in rates.items():
            if self.rate_hz % rate:
                raise UsageError(
                    f"{name} hears at {rate} Hz, of which the {self.rate_hz} Hz of another encoder are no whole "
                    "multiple; an ONNX file takes one waveform, so join encoders whose rates divide each other"
                )
        self.task, self.head = task, task.head
        self.parts = nn.ModuleList(Listening(ear, self.rate_hz) for ear in task.listener.ears)

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, samples) to (batch, classes)."""
        logits: Tensor = self.head(torch.cat([part(waves) for part in self.parts], dim=1))
        return self.task.probabilities(logits)


def to_onnx(loaded: Loaded, path: Path, *, seconds: float) -> Exported:
    """Write a classifier as ONNX for clips of one length, any number at a time, and check it.

    Args:
        loaded: from `build.load`.
        path: the file to make; labels, rate and length are in its metadata.
        seconds: length of the clips it takes. Shorter ones are to be padded with zeros, longer ones cut.

    Returns:
        What it takes, and how far its probabilities are from torch's in onnxruntime.

    Raises:
        UsageError: if the packages of the extra `export` are missing, or the encoders' rates do not fit.
        AudioError: if the length is too short.
        CheckpointError: if the file cannot be written, or onnxruntime's probabilities differ by more than 1e-4, or by
            more than 1e-3 from what `predict` gives; then there is no file, or the earlier one.
    """
    _need_packages()
    task = loaded.task
    module = WholeClassifier(task).cpu().eval()
    samples = round(seconds * module.rate_hz)
    example = _sounds(2, samples)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of every library that is not installed
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own internals
        original(module, example)  # says so if the clips are too short
        program = torch.onnx.export(
            module, (example,), input_names=["waves"], output_names=["probabilities"],
            dynamic_shapes={"waves": {0: torch.export.Dim("batch", min=1)}}, opset_version=OPSET, dynamo=True,
            verbose=False,
        )  # fmt: skip
    assert program is not None
    notes = {"labels": json.dumps(task.labels), "rate_hz": module.rate_hz, "samples": samples, "adapter": loaded.name}
    program.model.metadata_props.update({f"ossicle.{key}": str(value) for key, value in notes.items()})
    made = program.model_proto.SerializeToString()
    found = check(made, task, samples)
    write_atomic(path, lambda part: part.write_bytes(made))
    return found


def check(file: Path | bytes, task: Classifier, samples: int) -> Exported:
    """How far a file's probabilities are from the task's, for one clip and for three.

    Args:
        file: or what is to be written into one.
        task: trained, on the CPU.
        samples: of a clip.

    Raises:
        CheckpointError: if it is too far.
    """
    import onnxruntime

    module = WholeClassifier(task).eval()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    near, far = [], []
    for batch in (1, 3):
        waves = _sounds(batch, samples)
        (got,) = session.run(None, {"waves": waves.numpy()})
        near.append(float(np.abs(got - original(module, waves).numpy()).max()))
        far.append(float(np.abs(got - original(module, waves, by_soxr=True).numpy()).max()))
    if not max(near) <= TOLERANCE:
        raise CheckpointError(f"the ONNX graph differs from torch by {max(near):.1e}, at most {TOLERANCE} is wanted")
    if not max(far) <= RESAMPLED:
        raise CheckpointError(f"the ONNX graph differs from predict by {max(far):.1e}, at most {RESAMPLED} is wanted")
    resampled = len({ear.encoder.rate_hz for ear in task.listener.ears}) > 1
    return Exported(module.rate_hz, samples, max(near), max(far) if resampled else None)


@torch.no_grad()
def original(module: WholeClassifier, waves: Tensor, *, by_soxr: bool = False) -> Tensor:
    """(batch, classes) by the task itself, not by its form for the graph; resampled by soxr as `predict` does if asked.

    Raises:
        AudioError: if the clips are too short.
    """
    heard = []
    for part in module.parts:
        assert isinstance(part, Listening)
        if by_soxr and part.lower.ratio > 1:
            rows = [soxr.resample(wave, part.lower.ratio, 1, quality="HQ") for wave in waves.numpy()]
            heard.append(settled(torch.from_numpy(np.stack(rows)), part.ear))
        else:
            heard.append(part.heard(waves))
    first, *others = (Batch([], waves=own) for own in heard)
    first.others = tuple(others)
    return module.task.probabilities(module.task.logits(first))


def _sounds(batch: int, samples: int) -> Tensor:
    """(batch, samples) of tones in noise, the same each time."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(samples) / 16_000
    pitches = torch.rand(batch, 1, generator=generator) * 2000 + 100
    return 0.3 * torch.sin(2 * math.pi * pitches * time) + 0.05 * torch.randn(batch, samples, generator=generator)


def _need_packages() -> None:
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if absent:
        raise UsageError(f"export needs {', '.join(absent)}; run pip install 'ossicle[export]'")
