"""The log of a mel spectrogram of magnitudes that EPIC-SOUNDS is heard with."""

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
    check_positive,
    mel_dtype,
    triangles,
    write_mels,
)

RATE_HZ = 24_000
HOP = 120
WINDOW = 240
FFT = 2048
FLOOR = 1e-6


class MagnitudeMel(LogMel):
    """EPIC-SOUNDS' log-mel: 24 kHz, 10 ms Hann windows every 5 ms, FFT of 2048, ln(mel + 1e-6), not normalised.

    The mel bands (HTK's scale, 0 to 12 kHz, not of unit area) add up magnitudes, not energies. Windows are centred on
    their times with silence around the clip (paper E, section 5.3 of its recipe; the data set's own code).

    Args:
        mels: number of mel bands.
        target_frames: cut every clip to this many frames, or go on with its last one; None keeps its own length.

    Raises:
        UsageError: if a size is not positive.
    """

    def __init__(self, mels: int = 128, *, target_frames: int | None = None) -> None:
        super().__init__()
        check_positive(mels=mels, target_frames=1 if target_frames is None else target_frames)
        self.rate_hz = RATE_HZ
        self.hop_s = HOP / RATE_HZ
        self.fewest = WINDOW
        self.mels = mels
        self.target_frames = target_frames
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, list[Band]]] = {}

    def frames(self, samples: int) -> int:
        """Frames that `samples` at 24 kHz give: one per 5 ms and one more.

        Raises:
            AudioError: if the clip is shorter than one window.
        """
        own = 1 + check_length(samples, WINDOW, RATE_HZ) // HOP
        return own if self.target_frames is None else self.target_frames

    def settings(self) -> dict[str, object]:
        """Everything that changes the numbers, for cache keys and saved recipes."""
        names = ("mels", "target_frames")
        return {"kind": "magnitude", "version": FRONTEND_VERSION} | {name: getattr(self, name) for name in names}

    def peaks_hz(self) -> Tensor:
        """(mels,) Hz."""
        return _htk_edges(self.mels)[1:-1]

    def _clips(self, waves: Tensor) -> Tensor:
        """(batch, samples) of one length to (batch, frames, mels)."""
        window, bands = self._constant(waves.device)
        frames = F.pad(waves, (WINDOW // 2, WINDOW // 2)).unfold(-1, WINDOW, HOP)
        own = frames.shape[1]
        count = own if self.target_frames is None else self.target_frames
        out = waves.new_empty(len(waves), count, self.mels)
        for first in range(0, min(own, count), BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, own, count)
            write_mels(frames[:, first:last] * window, bands, out[:, first:last], fft=FFT, magnitude=True)
        out[:, own:] = out[:, own - 1 : own]
        return out.add_(FLOOR).log_()

    def _constant(self, device: torch.device) -> tuple[Tensor, list[Band]]:
        """Window (window,) and mel bands, on a device."""
        dtype = mel_dtype(device)
        if (device, dtype) not in self._constants:
            window = torch.hann_window(WINDOW, dtype=torch.float64, device="cpu").to(device, torch.float32)
            self._constants[device, dtype] = (window, bands_of(htk_filters(self.mels), device, dtype))
        return self._constants[device, dtype]


def htk_filters(mels: int) -> Tensor:
    """HTK's triangles with peaks of 1, straight in Hz, from 0 to 12 kHz: (1025, mels) float64."""
    bins = torch.arange(FFT // 2 + 1, dtype=torch.float64, device="cpu") * (RATE_HZ / FFT)
    return triangles(bins, _htk_edges(mels))


def _htk_edges(mels: int) -> Tensor:
    """Where they start, peak and end, in Hz: (mels + 2,)."""
    top = 2595.0 * torch.log10(torch.tensor(1.0 + RATE_HZ / 2 / 700.0, dtype=torch.float64, device="cpu"))
    mel = torch.linspace(0.0, float(top), mels + 2, dtype=torch.float64, device="cpu")
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
