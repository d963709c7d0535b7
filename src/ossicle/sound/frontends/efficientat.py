"""The log-mel that EfficientAT's taggers hear with."""

import torch
from torch import Tensor, nn

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
from ossicle.sound.frontends.kaldi import kaldi_filters, kaldi_peaks

RATE_HZ = 32_000
HOP = 320
WINDOW = 800
FFT = 1024
MELS = 128
TOP_HZ = 15_000.0
FLOOR = 1e-5


class EfficientAtMel(LogMel):
    """EfficientAT's log-mel: 32 kHz, 25 ms Hann windows every 10 ms, 128 mel bands to 15 kHz, (ln(p + 1e-5) + 4.5) / 5.

    The waveform is pre-emphasised as a whole, so it loses a sample; windows are centred on their times, with the clip
    mirrored at both ends (fschmid56/EfficientAT, `models/preprocess.py`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate_hz = RATE_HZ
        self.hop_s = HOP / RATE_HZ
        self.fewest = WINDOW
        self.mels = MELS
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, list[Band]]] = {}

    def frames(self, samples: int) -> int:
        """Frames that `samples` at 32 kHz give: one per 10 ms, and one more where something is left.

        Raises:
            AudioError: if the clip is shorter than one window.
        """
        return 1 + (check_length(samples, WINDOW, RATE_HZ) - 1) // HOP

    def settings(self) -> dict[str, object]:
        """Everything that changes the numbers, for cache keys and saved recipes."""
        return {"kind": "efficientat", "version": FRONTEND_VERSION}

    def peaks_hz(self) -> Tensor:
        """(128,) Hz."""
        return kaldi_peaks(MELS, low_hz=0.0, high_hz=TOP_HZ)

    def _clips(self, waves: Tensor) -> Tensor:
        """(batch, samples) of one length to (batch, frames, mels)."""
        window, bands = self._constant(waves.device)
        waves = torch.sub(waves[:, 1:], waves[:, :-1], alpha=0.97)
        waves = nn.functional.pad(waves[:, None], (WINDOW // 2, WINDOW // 2), mode="reflect")[:, 0]
        frames = waves.unfold(-1, WINDOW, HOP)  # (batch, frames, window)
        count = frames.shape[1]
        out = waves.new_empty(len(waves), count, MELS)
        for first in range(0, count, BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, count)
            write_mels(frames[:, first:last] * window, bands, out[:, first:last], fft=FFT)
        return out.add_(FLOOR).log_().add_(4.5).div_(5.0)

    def _constant(self, device: torch.device) -> tuple[Tensor, list[Band]]:
        """Window (window,) and mel bands, on a device."""
        dtype = mel_dtype(device)
        if (device, dtype) not in self._constants:
            window = torch.hann_window(WINDOW, periodic=False, dtype=torch.float64, device="cpu")
            filters = kaldi_filters(MELS, fft=FFT, rate_hz=RATE_HZ, low_hz=0.0, high_hz=TOP_HZ)
            self._constants[device, dtype] = (window.to(device, torch.float32), bands_of(filters, device, dtype))
        return self._constants[device, dtype]
