"""A trained classifier as one ONNX file: waveform in, probabilities out, front end included.

The front end becomes a convolution: cutting into frames, pre-emphasis, window and DFT are all linear.
"""

import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.contracts import Batch
from ossicle.errors import CheckpointError, UsageError
from ossicle.files import write_atomic
from ossicle.recipe.backbone import single
from ossicle.recipe.build import Loaded
from ossicle.sound.frontends import FrontEnd, KaldiFbank, MagnitudeMel, WhisperLogMel, kaldi, magnitude, whisper
from ossicle.tasks import features
from ossicle.tasks.classify import Classifier

OPSET = 18
TOLERANCE = 1e-4


def dft(bins: int, size: int, window: int) -> Tensor:
    """Real and imaginary rows of the discrete Fourier transform of `window` samples: (2 * bins, window) float64."""
    turns = torch.outer(torch.arange(bins, dtype=torch.float64), torch.arange(window, dtype=torch.float64)) / size
    return torch.cat([(2 * math.pi * turns).cos(), -(2 * math.pi * turns).sin()])


def kaldi_kernel(front: KaldiFbank) -> Tensor:
    """Mean removal, pre-emphasis, window and DFT of one Kaldi frame as one matrix: (2 * bins, window)."""
    size = kaldi.WINDOW
    emphasis = torch.eye(size, dtype=torch.float64) - 0.97 * torch.diag(torch.ones(size - 1, dtype=torch.float64), -1)
    frame = (emphasis - (1 - 0.97) / size) * (kaldi.kaldi_window(front.window) * front.scale)[:, None]
    return dft(kaldi.FBANK_FFT // 2 + 1, kaldi.FBANK_FFT, size) @ frame


def hann_kernel(window: int, fft: int) -> Tensor:
    """Hann window and DFT of one frame as one matrix: (2 * bins, window)."""
    return dft(fft // 2 + 1, fft, window) * torch.hann_window(window, dtype=torch.float64)


class ConvFrontend(nn.Module):
    """A front end as convolution, mel product and logarithm; equal to its original within float32.

    Args:
        front: the original.
    """

    kernel: Tensor
    filters: Tensor

    def __init__(self, front: FrontEnd) -> None:
        super().__init__()
        self.front = front
        if isinstance(front, KaldiFbank):
            kernel, filters, self.hop = kaldi_kernel(front), kaldi.kaldi_filters(front.mels), kaldi.HOP
        elif isinstance(front, WhisperLogMel):
            kernel, filters = hann_kernel(kaldi.WINDOW, kaldi.WINDOW), whisper.slaney_filters(front.mels)
            self.hop = kaldi.HOP
        else:
            kernel, filters = hann_kernel(magnitude.WINDOW, magnitude.FFT), magnitude.htk_filters(front.mels)
            self.hop = magnitude.HOP
        self.register_buffer("kernel", kernel.float()[:, None])
        self.register_buffer("filters", filters.float())

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, samples) to (batch, frames, mels)."""
        front, half = self.front, self.kernel.shape[-1] // 2
        if isinstance(front, WhisperLogMel):
            count = waves.shape[-1] // self.hop
            waves = F.pad(waves[:, None], (half, half), mode="reflect")[:, 0]
            logs = (self._energies(waves) @ self.filters)[:, :count].clamp(min=1e-10).log10()
            floor = logs.amax((1, 2), keepdim=True) - 8.0
            return (torch.maximum(logs, floor) + 4.0) / 4.0
        if isinstance(front, MagnitudeMel):
            logs = (self._energies(F.pad(waves, (half, half))).sqrt() @ self.filters + magnitude.FLOOR).log()
            if front.target_frames is not None and front.target_frames > logs.shape[1]:
                logs = torch.cat([logs, logs[:, -1:].expand(-1, front.target_frames - logs.shape[1], -1)], dim=1)
            return logs[:, : front.target_frames]
        if front.subtract_mean:
            waves = waves - waves.mean(-1, keepdim=True)
        logs = (self._energies(waves) @ self.filters).clamp(min=kaldi.FLOAT32_EPS).log()
        if front.target_frames is not None:
            logs = F.pad(logs, (0, 0, 0, front.target_frames - logs.shape[1]))
        return (logs - front.mean) / (2 * front.std)

    def _energies(self, waves: Tensor) -> Tensor:
        """(batch, samples) to energies (batch, frames, bins)."""
        real, imaginary = F.conv1d(waves[:, None], self.kernel, stride=self.hop).chunk(2, dim=1)
        return (real.square() + imaginary.square()).transpose(1, 2)


class WholeClassifier(nn.Module):
    """Waveforms to probabilities in one module.

    Args:
        task: trained, on the CPU.
    """

    def __init__(self, task: Classifier) -> None:
        super().__init__()
        self.task = task
        (self.ear,) = task.listener.ears
        self.front = ConvFrontend(self.ear.encoder.frontend)  # type: ignore[arg-type]
        self.encoder, self.head = self.ear.encoder, task.head

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, samples) to (batch, classes)."""
        encoded = self.encoder.encode(self.front(waves), layers=self.ear.layers)
        logits: Tensor = self.head(features.pool(encoded, self.ear.layers, self.ear.kind))
        return self.task.probabilities(logits)


def to_onnx(loaded: Loaded, path: Path, *, seconds: float) -> float:
    """Write a classifier as ONNX for clips of one length, any number at a time, and check it.

    Args:
        loaded: from `build.load`.
        path: the file to make; labels, rate and length are in its metadata.
        seconds: length of the clips it takes. Shorter ones are to be padded with zeros, longer ones cut.

    Returns:
        The largest difference of a probability from torch's, in onnxruntime, on made sounds.

    Raises:
        UsageError: if the packages of the extra `export` are missing, or the length is too short.
        CheckpointError: if the file cannot be written, or onnxruntime's probabilities differ by more than 1e-4.
    """
    _need_packages()
    task = loaded.task
    encoder = single(task.encoder, "an ONNX file")
    rate = encoder.rate_hz
    samples = round(seconds * rate)
    example = _sounds(2, samples)
    module = WholeClassifier(task).cpu().eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of every library that is not installed
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own internals
        encoder(example)  # says so if the clips are too short
        program = torch.onnx.export(
            module, (example,), input_names=["waves"], output_names=["probabilities"],
            dynamic_shapes={"waves": {0: torch.export.Dim("batch", min=1)}}, opset_version=OPSET, dynamo=True,
            verbose=False,
        )  # fmt: skip
    assert program is not None
    notes = {"labels": json.dumps(task.labels), "rate_hz": rate, "samples": samples, "adapter": loaded.name}
    program.model.metadata_props.update({f"ossicle.{key}": str(value) for key, value in notes.items()})
    write_atomic(path, lambda part: program.save(part))
    return check(path, task, samples)


def check(path: Path, task: Classifier, samples: int) -> float:
    """The largest difference between onnxruntime's and torch's probabilities, for one clip and for three.

    Raises:
        CheckpointError: if it is above 1e-4.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (1, 3):
        waves = _sounds(batch, samples)
        with torch.no_grad():
            expected = task.probabilities(task.logits(Batch([], waves=waves))).numpy()
        (got,) = session.run(None, {"waves": waves.numpy()})
        worst = max(worst, float(np.abs(got - expected).max()))
    if not worst <= TOLERANCE:
        raise CheckpointError(f"{path.name} differs from torch by {worst:.1e}, at most {TOLERANCE} is wanted")
    return worst


def _sounds(batch: int, samples: int) -> Tensor:
    """(batch, samples) of tones in noise, the same each time."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(samples) / 16_000
    pitches = torch.rand(batch, 1, generator=generator) * 2000 + 100
    return 0.3 * torch.sin(2 * math.pi * pitches * time) + 0.05 * torch.randn(batch, samples, generator=generator)


def _need_packages() -> None:
    import importlib.util

    wanted = ("onnx", "onnxscript", "onnxruntime")
    absent: list[Any] = [name for name in wanted if importlib.util.find_spec(name) is None]
    if absent:
        raise UsageError(f"export needs {', '.join(absent)}; run pip install 'ossicle[export]'")
