"""What stands before an encoder in an exported graph: front ends and resampling, as convolutions.

Cutting into frames, pre-emphasis, window and DFT are all linear, and so is resampling by a whole number.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.errors import UsageError
from ossicle.sound.frontends import (
    EfficientAtMel,
    KaldiFbank,
    MagnitudeMel,
    WhisperLogMel,
    YamnetMel,
    efficientat,
    kaldi,
    magnitude,
    whisper,
    yamnet,
)

# Samples at the lower rate, either way, after which soxr's answer to an impulse is rounding.
REACH = 100


def dft(bins: int, size: int, window: int) -> Tensor:
    """Real and imaginary rows of the discrete Fourier transform of `window` samples: (2 * bins, window) float64."""
    turns = torch.outer(torch.arange(bins, dtype=torch.float64), torch.arange(window, dtype=torch.float64)) / size
    return torch.cat([(2 * math.pi * turns).cos(), -(2 * math.pi * turns).sin()])


def windowed(window: Tensor, fft: int) -> Tensor:
    """Window and DFT of one frame as one matrix: (2 * bins, window)."""
    return dft(fft // 2 + 1, fft, len(window)) * window


def hann(size: int) -> Tensor:
    """The window (size,) float64 of Whisper, YAMNet and EPIC-SOUNDS."""
    return torch.hann_window(size, dtype=torch.float64)


def kaldi_kernel(front: KaldiFbank) -> Tensor:
    """Mean removal, pre-emphasis, window and DFT of one Kaldi frame as one matrix: (2 * bins, window)."""
    size = kaldi.WINDOW
    emphasis = torch.eye(size, dtype=torch.float64) - 0.97 * torch.diag(torch.ones(size - 1, dtype=torch.float64), -1)
    frame = (emphasis - (1 - 0.97) / size) * (kaldi.kaldi_window(front.window) * front.scale)[:, None]
    return dft(kaldi.FBANK_FFT // 2 + 1, kaldi.FBANK_FFT, size) @ frame


class Spectrum(nn.Module):
    """Frames, window, DFT and mel product; bins that no mel band hears are left out.

    Args:
        kernel: (2 * bins, window), real rows before imaginary ones.
        filters: (bins, mels).
        hop: samples from one frame to the next.
    """

    kernel: Tensor
    filters: Tensor

    def __init__(self, kernel: Tensor, filters: Tensor, hop: int) -> None:
        super().__init__()
        heard = filters.any(dim=1)
        self.hop = hop
        self.register_buffer("kernel", kernel.view(2, len(filters), -1)[:, heard].flatten(0, 1).float()[:, None])
        self.register_buffer("filters", filters[heard].float())

    def mels(self, waves: Tensor, *, roots: bool = False) -> Tensor:
        """(batch, samples) to sums of energies, or of their roots, (batch, frames, mels)."""
        real, imaginary = F.conv1d(waves[:, None], self.kernel, stride=self.hop).chunk(2, dim=1)
        energies = (real.square() + imaginary.square()).transpose(1, 2)
        return (energies.sqrt() if roots else energies) @ self.filters


class KaldiGraph(Spectrum):
    """`KaldiFbank` for clips of one length.

    Args:
        front: the original.
    """

    def __init__(self, front: KaldiFbank) -> None:
        super().__init__(kaldi_kernel(front), kaldi.kaldi_filters(front.mels), kaldi.HOP)
        self.front = front

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, samples) to (batch, frames, mels)."""
        front = self.front
        if front.subtract_mean:
            waves = waves - waves.mean(-1, keepdim=True)
        logs = self.mels(waves).clamp(min=kaldi.FLOAT32_EPS).log()
        if front.target_frames is not None:
            logs = F.pad(logs, (0, 0, 0, front.target_frames - logs.shape[1]))
        return (logs - front.mean) / (2 * front.std)


class WhisperGraph(Spectrum):
    """`WhisperLogMel` for clips of one length.

    Args:
        front: the original.
    """

    def __init__(self, front: WhisperLogMel) -> None:
        super().__init__(windowed(hann(kaldi.WINDOW), kaldi.WINDOW), whisper.slaney_filters(front.mels), kaldi.HOP)

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, samples) to (batch, frames, mels)."""
        count, half = waves.shape[-1] // self.hop, kaldi.WINDOW // 2
        waves = F.pad(waves[:, None], (half, half), mode="reflect")[:, 0]
        logs = self.mels(waves)[:, :count].clamp(min=1e-10).log10()
        floor = logs.amax((1, 2), keepdim=True) - 8.0
        return (torch.maximum(logs, floor) + 4.0) / 4.0


class MagnitudeGraph(Spectrum):
    """`MagnitudeMel` for clips of one length.

    Args:
        front: the original.
    """

    def __init__(self, front: MagnitudeMel) -> None:
        kernel = windowed(hann(magnitude.WINDOW), magnitude.FFT)
        super().__init__(kernel, magnitude.htk_filters(front.mels), magnitude.HOP)
        self.target_frames = front.target_frames

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, samples) to (batch, frames, mels)."""
        half, target = magnitude.WINDOW // 2, self.target_frames
        logs = (self.mels(F.pad(waves, (half, half)), roots=True) + magnitude.FLOOR).log()
        if target is not None and target > logs.shape[1]:
            logs = torch.cat([logs, logs[:, -1:].expand(-1, target - logs.shape[1], -1)], dim=1)
        return logs[:, :target]


class EfficientAtGraph(Spectrum):
    """`EfficientAtMel` for clips of one length.

    Args:
        front: the original.
    """

    def __init__(self, front: EfficientAtMel) -> None:
        window = torch.hann_window(efficientat.WINDOW, periodic=False, dtype=torch.float64)
        filters = kaldi.kaldi_filters(
            front.mels, fft=efficientat.FFT, rate_hz=efficientat.RATE_HZ, low_hz=0.0, high_hz=efficientat.TOP_HZ
        )
        super().__init__(windowed(window, efficientat.FFT), filters, efficientat.HOP)

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, samples) to (batch, frames, mels)."""
        half = efficientat.WINDOW // 2
        waves = waves[:, 1:] - 0.97 * waves[:, :-1]
        waves = F.pad(waves[:, None], (half, half), mode="reflect")[:, 0]
        return ((self.mels(waves) + efficientat.FLOOR).log() + 4.5) / 5.0


class YamnetGraph(Spectrum):
    """`YamnetMel` for clips of one length.

    Args:
        front: the original.
    """

    def __init__(self, front: YamnetMel) -> None:
        filters = kaldi.kaldi_filters(front.mels, low_hz=125.0, high_hz=7_500.0)
        super().__init__(windowed(hann(kaldi.WINDOW), kaldi.FBANK_FFT), filters, kaldi.HOP)
        self.front = front

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, samples) to (batch, frames, mels); frames of whole patches, in silence at the end."""
        samples = (self.front.frames(waves.shape[-1]) - 1) * kaldi.HOP + kaldi.WINDOW
        return (self.mels(F.pad(waves, (0, samples - waves.shape[-1])), roots=True) + yamnet.FLOOR).log()


FORMS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    EfficientAtMel: EfficientAtGraph,
    KaldiFbank: KaldiGraph,
    MagnitudeMel: MagnitudeGraph,
    WhisperLogMel: WhisperGraph,
    YamnetMel: YamnetGraph,
}


def form(front: nn.Module) -> nn.Module:
    """A front end for clips of one length as convolution, mel product and logarithm; within float32 the same.

    Raises:
        UsageError: for a front end that has no such form.
    """
    if type(front) not in FORMS:  # nor the form of its parent: it may compute something else
        known = ", ".join(kind.__name__ for kind in FORMS)
        raise UsageError(f"the front end {type(front).__name__} has no form for an ONNX file; those that have: {known}")
    return FORMS[type(front)](front)


def soxr_filter(ratio: int) -> Tensor:
    """What soxr, as `audio.load` uses it, convolves with where it keeps every `ratio`-th sample: (1, 1, taps).

    It is read off soxr itself: the answers to an impulse at each of the places between two samples that are kept.
    """
    reach, middle = REACH * ratio, 4 * REACH * ratio
    answer = np.zeros(2 * reach + 1, dtype=np.float32)  # at index k, what a sample k - reach earlier brings
    for place in range(ratio):
        impulse = np.zeros(2 * middle, dtype=np.float32)
        impulse[middle + place] = 1.0
        kept = soxr.resample(impulse, ratio, 1, quality="HQ")
        delays = ratio * np.arange(len(kept)) - (middle + place)
        near = np.abs(delays) <= reach
        answer[delays[near] + reach] = kept[near]
    return torch.from_numpy(answer[::-1].copy())[None, None]


class Downsample(nn.Module):
    """Keeps every `ratio`-th sample after a low pass: what soxr gives, to 1e-6 of full scale.

    From a ratio of 4 on soxr begins a sound in its own way, so that the first few samples differ.

    Args:
        ratio: of the rates, 1 or more.
    """

    taps: Tensor

    def __init__(self, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.register_buffer("taps", soxr_filter(ratio) if ratio > 1 else torch.ones(1, 1, 1))

    def samples(self, samples: int) -> int:
        """How many `samples` become, as soxr counts."""
        return (samples + self.ratio // 2) // self.ratio

    def forward(self, waves: Tensor) -> Tensor:
        """(batch, samples) to (batch, fewer)."""
        if self.ratio == 1:
            return waves
        reach, wanted = REACH * self.ratio, self.samples(waves.shape[-1])
        return F.conv1d(F.pad(waves[:, None], (reach, reach)), self.taps, stride=self.ratio)[:, 0, :wanted]
