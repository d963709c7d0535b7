"""The 25 ms / 10 ms Kaldi filter bank of AST, AudioMAE, SSAST and BEATs."""

from typing import Literal

import torch
from torch import Tensor, nn

from ossicle.errors import UsageError
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

RATE_HZ = 16_000
HOP = 160
WINDOW = 400
FBANK_FFT = 512
FLOAT32_EPS = torch.finfo(torch.float32).eps

NORMS = {
    "audioset": (-4.2677393, 4.5689974),
    "esc50": (-6.6268077, 5.358466),
    "speechcommands": (-6.845978, 5.5654526),
}
BEATS_NORM = (15.41663, 6.55582)


class KaldiFbank(LogMel):
    """Kaldi filter bank: 16 kHz, 25 ms frames every 10 ms, natural-log power, normalised by (x - mean) / (2 std).

    Pre-emphasis 0.97, per-frame DC removal, FFT of 512, mel filters from 20 Hz to 8 kHz, only whole frames, no dither,
    energies floored at the float32 epsilon: `torchaudio.compliance.kaldi.fbank` with `htk_compat`.

    Args:
        mels: number of mel bands.
        window: "hanning" (AST, AudioMAE) or "povey" (Kaldi's default, BEATs).
        subtract_mean: take the mean of each clip away first, as the original AST recipe does.
        scale: factor on the waveform; 2**15 for BEATs.
        mean: of the log-mel values in the training data.
        std: of the log-mel values in the training data.
        target_frames: zero-pad or cut every clip to this many frames before normalising; None keeps its own length.

    Raises:
        UsageError: for an unknown window or a size that is not positive.
    """

    first_s = WINDOW / 2 / RATE_HZ

    def __init__(
        self,
        mels: int = 128,
        *,
        window: Literal["hanning", "povey"] = "hanning",
        subtract_mean: bool = False,
        scale: float = 1.0,
        mean: float = NORMS["audioset"][0],
        std: float = NORMS["audioset"][1],
        target_frames: int | None = None,
    ) -> None:
        super().__init__()
        if window not in ("hanning", "povey"):
            raise UsageError(f"window '{window}' is unknown; choose hanning or povey")
        check_positive(mels=mels, scale=scale, std=std, target_frames=1 if target_frames is None else target_frames)
        self.rate_hz = RATE_HZ
        self.hop_s = HOP / RATE_HZ
        self.fewest = WINDOW
        self.mels = mels
        self.window = window
        self.subtract_mean = subtract_mean
        self.scale = scale
        self.mean = mean
        self.std = std
        self.target_frames = target_frames
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, list[Band]]] = {}

    def frames(self, samples: int) -> int:
        """Frames that `samples` at 16 kHz give.

        Raises:
            AudioError: if the clip is shorter than one window.
        """
        own = 1 + (check_length(samples, WINDOW, RATE_HZ) - WINDOW) // HOP
        return own if self.target_frames is None else self.target_frames

    def settings(self) -> dict[str, object]:
        """Everything that changes the numbers, for cache keys and saved recipes."""
        names = ("mels", "window", "subtract_mean", "scale", "mean", "std", "target_frames")
        return {"kind": "kaldi", "version": FRONTEND_VERSION} | {name: getattr(self, name) for name in names}

    def peaks_hz(self) -> Tensor:
        """(mels,) Hz."""
        return kaldi_peaks(self.mels)

    def _clips(self, waves: Tensor) -> Tensor:
        """(batch, samples) of one length to (batch, frames, mels)."""
        if self.subtract_mean:
            waves = waves - waves.mean(-1, keepdim=True)
        own = 1 + (waves.shape[-1] - WINDOW) // HOP
        count = own if self.target_frames is None else self.target_frames
        out = waves.new_zeros(len(waves), count, self.mels)
        for first in range(0, min(own, count), BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, own, count)
            self._block(waves[:, first * HOP : (last - 1) * HOP + WINDOW], out[:, first:last])
        return out.sub_(self.mean).div_(2 * self.std)

    def _block(self, waves: Tensor, out: Tensor) -> None:
        """Write the log-mel values of all whole frames of (batch, samples) to `out`, (batch, frames, mels)."""
        window, drop, bands = self._constant(waves.device)
        raw = waves.unfold(-1, WINDOW, HOP)  # (batch, frames, window)
        # Both windows are 0 at the first sample, so its special case in Kaldi's pre-emphasis never shows.
        emphasised = torch.sub(waves[:, 1:], waves[:, :-1], alpha=0.97)
        emphasised = nn.functional.pad(emphasised, (1, 0)).unfold(-1, WINDOW, HOP)
        padded = waves.new_zeros(*raw.shape[:2], FBANK_FFT)
        frames = padded[..., :WINDOW]
        torch.sub(emphasised, raw.mean(-1, keepdim=True).mul_(drop), out=frames)
        frames.mul_(window)
        write_mels(padded, bands, out)
        out.clamp_(min=FLOAT32_EPS).log_()

    def _constant(self, device: torch.device) -> tuple[Tensor, Tensor, list[Band]]:
        """Window (window,), share of the mean left by pre-emphasis (), and mel bands, on a device."""
        dtype = mel_dtype(device)
        if (device, dtype) not in self._constants:
            window = (kaldi_window(self.window) * self.scale).to(device, torch.float32)
            drop = torch.tensor(1 - 0.97, dtype=torch.float32, device=device)
            self._constants[device, dtype] = (window, drop, bands_of(kaldi_filters(self.mels), device, dtype))
        return self._constants[device, dtype]


def kaldi_window(name: str) -> Tensor:
    """Kaldi's "hanning" or "povey" window: (WINDOW,) float64."""
    hann = torch.hann_window(WINDOW, periodic=False, dtype=torch.float64, device="cpu")
    return hann.pow(0.85) if name == "povey" else hann


def kaldi_filters(
    mels: int, *, fft: int = FBANK_FFT, rate_hz: int = RATE_HZ, low_hz: float = 20.0, high_hz: float = RATE_HZ / 2
) -> Tensor:
    """Triangles straight in mels of 1127 ln(1 + Hz / 700): (fft / 2 + 1, mels) float64 (kaldi `MelBanks`)."""
    bins = torch.arange(fft // 2 + 1, dtype=torch.float64, device="cpu") * (rate_hz / fft)
    filters = triangles(1127.0 * torch.log1p(bins / 700.0), _kaldi_edges(mels, low_hz, high_hz))
    filters[-1] = 0.0  # Kaldi leaves the Nyquist bin out
    return filters


def kaldi_peaks(mels: int, *, low_hz: float = 20.0, high_hz: float = RATE_HZ / 2) -> Tensor:
    """Where these triangles peak: (mels,) Hz float64."""
    return 700.0 * torch.expm1(_kaldi_edges(mels, low_hz, high_hz)[1:-1] / 1127.0)


def _kaldi_edges(mels: int, low_hz: float, high_hz: float) -> Tensor:
    """Where they start, peak and end, in mels: (mels + 2,)."""
    edges_hz = torch.tensor([low_hz, high_hz], dtype=torch.float64, device="cpu")
    low, high = (1127.0 * torch.log1p(edges_hz / 700.0)).tolist()
    return torch.linspace(low, high, mels + 2, dtype=torch.float64, device="cpu")
