"""The log-mel that YAMNet hears with, and VGGish but for a number."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ossicle.sound.frontends.framing import (
    BLOCK_FRAMES,
    FRONTEND_VERSION,
    Band,
    LogMel,
    bands_of,
    check_length,
    mel_dtype,
    write_mels,
)
from ossicle.sound.frontends.kaldi import FBANK_FFT, HOP, RATE_HZ, WINDOW, kaldi_filters, kaldi_peaks

MELS = 64
LOW_HZ, HIGH_HZ = 125.0, 7_500.0
PATCH = 96
STEP = 48
FLOOR = 1e-3
FIRST = (PATCH - 1) * HOP + WINDOW  # samples of one patch


class Magnitudes(LogMel):
    """16 kHz, 25 ms Hann windows every 10 ms, 64 mel bands of magnitudes 125 to 7,500 Hz, ln(x + `floor`).

    A clip is cut, or goes on in silence, to the frames that `frames` says.
    """

    floor: float
    first_s = WINDOW / 2 / RATE_HZ

    def __init__(self) -> None:
        super().__init__()
        self.rate_hz = RATE_HZ
        self.hop_s = HOP / RATE_HZ
        self.fewest = WINDOW
        self.mels = MELS
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, list[Band]]] = {}

    def peaks_hz(self) -> Tensor:
        """(64,) Hz."""
        return kaldi_peaks(MELS, low_hz=LOW_HZ, high_hz=HIGH_HZ)

    def _clips(self, waves: Tensor) -> Tensor:
        """(batch, samples) of one length to (batch, frames, mels)."""
        window, bands = self._constant(waves.device)
        count = self.frames(waves.shape[-1])
        waves = F.pad(waves, (0, (count - 1) * HOP + WINDOW - waves.shape[-1]))
        frames = waves.unfold(-1, WINDOW, HOP)  # (batch, frames, window)
        out = waves.new_empty(len(waves), count, MELS)
        for first in range(0, count, BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, count)
            write_mels(frames[:, first:last] * window, bands, out[:, first:last], fft=FBANK_FFT, magnitude=True)
        return out.add_(self.floor).log_()

    def _constant(self, device: torch.device) -> tuple[Tensor, list[Band]]:
        """Window (window,) and mel bands, on a device."""
        dtype = mel_dtype(device)
        if (device, dtype) not in self._constants:
            window = torch.hann_window(WINDOW, dtype=torch.float64, device="cpu").to(device, torch.float32)
            filters = kaldi_filters(MELS, low_hz=LOW_HZ, high_hz=HIGH_HZ)
            self._constants[device, dtype] = (window, bands_of(filters, device, dtype))
        return self._constants[device, dtype]


class YamnetMel(Magnitudes):
    """YAMNet's log-mel: 16 kHz, 64 bands of magnitudes, ln(x + 0.001), in patches of 96 frames, a new one every 48.

    A clip goes on in silence until it fills whole patches: 15,600 samples, then 7,680 more for each (tensorflow/models,
    `research/audioset/yamnet/features.py`).
    """

    floor = FLOOR

    def frames(self, samples: int) -> int:
        """Frames that `samples` at 16 kHz give: those of whole patches.

        Raises:
            AudioError: if the clip is shorter than one window.
        """
        more = max(0, check_length(samples, WINDOW, RATE_HZ) - FIRST)
        return PATCH + STEP * -(-more // (STEP * HOP))

    def settings(self) -> dict[str, object]:
        """Everything that changes the numbers, for cache keys and saved recipes."""
        return {"kind": "yamnet", "version": FRONTEND_VERSION}
