"""Whisper's log-mel."""

import torch
from torch import Tensor, nn

from ossicle.sound.frontends.framing import (
    BLOCK_FRAMES,
    FRONTEND_VERSION,
    Band,
    LogMel,
    bands_of,
    check_length,
    check_positive,
    mel_dtype,
    triangles,
    write_mels,
)
from ossicle.sound.frontends.kaldi import HOP, RATE_HZ, WINDOW


class WhisperLogMel(LogMel):
    """Whisper's log-mel: 16 kHz, 25 ms frames every 10 ms, Slaney filters, at most 8 decades deep, (log10 + 4) / 4.

    Clips keep their own length; nothing is padded to 30 s.

    Args:
        mels: number of mel bands; 80, or 128 for whisper-large-v3.

    Raises:
        UsageError: if `mels` is not positive.
    """

    def __init__(self, mels: int = 80) -> None:
        super().__init__()
        check_positive(mels=mels)
        self.rate_hz = RATE_HZ
        self.hop_s = HOP / RATE_HZ
        self.fewest = WINDOW
        self.mels = mels
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, list[Band]]] = {}

    def frames(self, samples: int) -> int:
        """Frames that `samples` at 16 kHz give: one per 10 ms, the last one dropped.

        Raises:
            AudioError: if the clip is shorter than one window.
        """
        return check_length(samples, WINDOW, RATE_HZ) // HOP

    def settings(self) -> dict[str, object]:
        """Everything that changes the numbers, for cache keys and saved recipes."""
        return {"kind": "whisper", "version": FRONTEND_VERSION, "mels": self.mels}

    def peaks_hz(self) -> Tensor:
        """(mels,) Hz."""
        return slaney_edges(self.mels, 0.0, RATE_HZ / 2)[1:-1]

    def _clips(self, waves: Tensor) -> Tensor:
        """(batch, samples) of one length to (batch, frames, mels)."""
        window, bands = self._constant(waves.device)
        count = waves.shape[-1] // HOP
        waves = nn.functional.pad(waves[:, None], (WINDOW // 2, WINDOW // 2), mode="reflect")[:, 0]
        frames = waves.unfold(-1, WINDOW, HOP)  # (batch, frames + 1, window)
        out = waves.new_empty(len(waves), count, self.mels)
        for first in range(0, count, BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, count)
            write_mels(frames[:, first:last] * window, bands, out[:, first:last])
        out.clamp_(min=1e-10).log10_()
        floor = out.amax((1, 2), keepdim=True) - 8.0
        return torch.maximum(out, floor, out=out).add_(4.0).div_(4.0)

    def _constant(self, device: torch.device) -> tuple[Tensor, list[Band]]:
        """Window (window,) and mel bands, on a device."""
        dtype = mel_dtype(device)
        if (device, dtype) not in self._constants:
            window = torch.hann_window(WINDOW, dtype=torch.float64, device="cpu").to(device, torch.float32)
            self._constants[device, dtype] = (window, bands_of(slaney_filters(self.mels), device, dtype))
        return self._constants[device, dtype]


def slaney_filters(
    mels: int, *, fft: int = WINDOW, rate_hz: int = RATE_HZ, low_hz: float = 0.0, high_hz: float = RATE_HZ / 2
) -> Tensor:
    """Slaney's triangles of unit area, straight in Hz: (fft / 2 + 1, mels) float64 (librosa's default)."""
    bins = torch.arange(fft // 2 + 1, dtype=torch.float64, device="cpu") * (rate_hz / fft)
    edges = slaney_edges(mels, low_hz, high_hz)
    return triangles(bins, edges) * (2.0 / (edges[2:] - edges[:-2]))


def slaney_edges(mels: int, low_hz: float, high_hz: float) -> Tensor:
    """Where these triangles start, peak and end, in Hz: (mels + 2,) float64."""
    step = torch.log(torch.tensor(6.4, dtype=torch.float64, device="cpu")) / 27.0
    ends = torch.tensor([low_hz, high_hz], dtype=torch.float64, device="cpu")
    low, high = torch.where(ends < 1000.0, ends * 3.0 / 200.0, 15.0 + torch.log(ends / 1000.0) / step).tolist()
    mel = torch.linspace(low, high, mels + 2, dtype=torch.float64, device="cpu")
    return torch.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * torch.exp((mel - 15.0) * step))
