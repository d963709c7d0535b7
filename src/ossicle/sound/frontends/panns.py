"""What PANNs' Wavegram-Logmel-CNN14 hears with: the log-mel, and beside it the samples themselves."""

import torch
from torch import Tensor, nn
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
from ossicle.sound.frontends.whisper import slaney_edges, slaney_filters

RATE_HZ = 32_000
HOP = 320
WINDOW = 1024
BANDS = 64
LOW_HZ, HIGH_HZ = 50.0, 14_000.0
FLOOR = 1e-10
PAIR = 2 * HOP  # the two branches have the same times only in clips of whole pairs of frames
LEAST = 32 * HOP  # one column of the network's last map


class PannsMel(LogMel):
    """PANNs' log-mel and the samples: 32 kHz, 32 ms Hann windows every 10 ms, 64 Slaney bands 50 to 14,000 Hz, in dB.

    A frame is 64 bands, 10 log10(energy) of at least 1e-10, and then the 320 samples that begin at its middle. Windows
    are centred on their times, with the clip mirrored at both ends. A clip goes on in silence until it fills whole
    20 ms, and at least 0.32 s (qiuqiangkong/audioset_tagging_cnn, `Wavegram_Logmel_Cnn14`).
    """

    bands = BANDS

    def __init__(self) -> None:
        super().__init__()
        self.rate_hz = RATE_HZ
        self.hop_s = HOP / RATE_HZ
        self.fewest = WINDOW
        self.mels = BANDS + HOP
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, list[Band]]] = {}

    def frames(self, samples: int) -> int:
        """Frames that `samples` at 32 kHz give: an even number, and the one at the end.

        Raises:
            AudioError: if the clip is shorter than one window.
        """
        return 1 + 2 * max(LEAST // PAIR, -(-check_length(samples, WINDOW, RATE_HZ) // PAIR))

    def settings(self) -> dict[str, object]:
        """Everything that changes the numbers, for cache keys and saved recipes."""
        return {"kind": "panns", "version": FRONTEND_VERSION}

    def peaks_hz(self) -> Tensor:
        """(64,) Hz."""
        return slaney_edges(BANDS, LOW_HZ, HIGH_HZ)[1:-1]

    def _clips(self, waves: Tensor) -> Tensor:
        """(batch, samples) of one length to (batch, frames, bands and samples)."""
        window, bands = self._constant(waves.device)
        count = self.frames(waves.shape[-1])
        waves = F.pad(waves, (0, (count - 1) * HOP - waves.shape[-1]))
        out = waves.new_zeros(len(waves), count, self.mels)
        out[:, :-1, BANDS:] = waves.view(len(waves), -1, HOP)
        waves = nn.functional.pad(waves[:, None], (WINDOW // 2, WINDOW // 2), mode="reflect")[:, 0]
        frames = waves.unfold(-1, WINDOW, HOP)  # (batch, frames, window)
        for first in range(0, count, BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, count)
            write_mels(frames[:, first:last] * window, bands, out[:, first:last, :BANDS])
        out[..., :BANDS].clamp_(min=FLOOR).log10_().mul_(10.0)
        return out

    def _constant(self, device: torch.device) -> tuple[Tensor, list[Band]]:
        """Window (window,) and mel bands, on a device."""
        dtype = mel_dtype(device)
        if (device, dtype) not in self._constants:
            window = panns_window().to(device, torch.float32)
            self._constants[device, dtype] = (window, bands_of(panns_filters(), device, dtype))
        return self._constants[device, dtype]


def panns_window() -> Tensor:
    """The periodic Hann window: (1024,) float64."""
    return torch.hann_window(WINDOW, dtype=torch.float64, device="cpu")


def panns_filters() -> Tensor:
    """Slaney's triangles of unit area from 50 Hz to 14 kHz: (513, 64) float64 (librosa's default)."""
    return slaney_filters(BANDS, fft=WINDOW, rate_hz=RATE_HZ, low_hz=LOW_HZ, high_hz=HIGH_HZ)
