"""Waveforms to log-mel frames, in torch, on the device the waveforms are on.

`KaldiFbank` is the 25 ms / 10 ms filter bank of AST, AudioMAE, SSAST and BEATs; `WhisperLogMel` is Whisper's.
The recipes differ in window, scale and mean removal on purpose (SPEC section 0): choose by name from `FRONTENDS`.

Why it is fast: a clip is worked on in blocks of frames that stay in the processor's cache, the constant steps (DC
removal, pre-emphasis, window, scale) are one multiplication, and each mel band only reads the bins it covers.
Why it is repeatable: on a CPU every clip is a computation of its own, so its numbers never depend on its neighbours.
Constants are kept out of the state dict and in float32, whatever dtype the model around them is cast to.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ossicle.errors import AudioError, UsageError

FRONTEND_VERSION = "1"
RATE_HZ = 16_000
HOP = 160
WINDOW = 400
FBANK_FFT = 512
BLOCK_FRAMES = 512
MEL_GROUPS = 4
FLOAT32_EPS = torch.finfo(torch.float32).eps

NORMS = {
    "audioset": (-4.2677393, 4.5689974),
    "esc50": (-6.6268077, 5.358466),
    "speechcommands": (-6.845978, 5.5654526),
}
BEATS_NORM = (15.41663, 6.55582)

Band = tuple[int, int, Tensor]


class KaldiFbank(nn.Module):
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
        _check_positive(mels=mels, scale=scale, std=std, target_frames=1 if target_frames is None else target_frames)
        self.rate_hz = RATE_HZ
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
        own = 1 + (_check_length(samples) - WINDOW) // HOP
        return own if self.target_frames is None else self.target_frames

    def settings(self) -> dict[str, object]:
        """Everything that changes the numbers, for cache keys and saved recipes."""
        names = ("mels", "window", "subtract_mean", "scale", "mean", "std", "target_frames")
        return {"kind": "kaldi", "version": FRONTEND_VERSION} | {name: getattr(self, name) for name in names}

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn waveforms into normalised log-mel frames. No gradient flows back to the waveforms.

        Args:
            waves: (batch, samples) float32 in [-1, 1] at 16 kHz.
            lengths: (batch,) int64 real samples, None when all are; a row's result never depends on the others.

        Returns:
            (batch, frames, mels) float32, rows zero-padded at the end, and (batch,) int64 frames that are real.

        Raises:
            AudioError: if a clip is shorter than one 25 ms window.
            UsageError: if the shape, the dtype or the lengths do not fit.
        """
        return _batched(self, waves, lengths, self._clips)

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
        _mel_power(padded, bands, out)
        out.clamp_(min=FLOAT32_EPS).log_()

    def _constant(self, device: torch.device) -> tuple[Tensor, Tensor, list[Band]]:
        """Window (window,), share of the mean left by pre-emphasis (), and mel bands, on a device."""
        dtype = _mel_dtype(device)
        if (device, dtype) not in self._constants:
            window = (kaldi_window(self.window) * self.scale).to(device, torch.float32)
            drop = torch.tensor(1 - 0.97, dtype=torch.float32, device=device)
            self._constants[device, dtype] = (window, drop, _bands(kaldi_filters(self.mels), device, dtype))
        return self._constants[device, dtype]


class WhisperLogMel(nn.Module):
    """Whisper's log-mel: 16 kHz, 25 ms frames every 10 ms, Slaney filters, at most 8 decades deep, (log10 + 4) / 4.

    Clips keep their own length; nothing is padded to 30 s.

    Args:
        mels: number of mel bands; 80, or 128 for whisper-large-v3.

    Raises:
        UsageError: if `mels` is not positive.
    """

    def __init__(self, mels: int = 80) -> None:
        super().__init__()
        _check_positive(mels=mels)
        self.rate_hz = RATE_HZ
        self.mels = mels
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, list[Band]]] = {}

    def frames(self, samples: int) -> int:
        """Frames that `samples` at 16 kHz give: one per 10 ms, the last one dropped.

        Raises:
            AudioError: if the clip is shorter than one window.
        """
        return _check_length(samples) // HOP

    def settings(self) -> dict[str, object]:
        """Everything that changes the numbers, for cache keys and saved recipes."""
        return {"kind": "whisper", "version": FRONTEND_VERSION, "mels": self.mels}

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn waveforms into Whisper's log-mel frames. No gradient flows back to the waveforms.

        Args:
            waves: (batch, samples) float32 in [-1, 1] at 16 kHz.
            lengths: (batch,) int64 real samples, None when all are; a row's result never depends on the others.

        Returns:
            (batch, frames, mels) float32, rows zero-padded at the end, and (batch,) int64 frames that are real.

        Raises:
            AudioError: if a clip is shorter than one 25 ms window.
            UsageError: if the shape, the dtype or the lengths do not fit.
        """
        return _batched(self, waves, lengths, self._clips)

    def _clips(self, waves: Tensor) -> Tensor:
        """(batch, samples) of one length to (batch, frames, mels)."""
        window, bands = self._constant(waves.device)
        count = waves.shape[-1] // HOP
        waves = nn.functional.pad(waves[:, None], (WINDOW // 2, WINDOW // 2), mode="reflect")[:, 0]
        frames = waves.unfold(-1, WINDOW, HOP)  # (batch, frames + 1, window)
        out = waves.new_empty(len(waves), count, self.mels)
        for first in range(0, count, BLOCK_FRAMES):
            last = min(first + BLOCK_FRAMES, count)
            _mel_power(frames[:, first:last] * window, bands, out[:, first:last])
        out.clamp_(min=1e-10).log10_()
        floor = out.amax((1, 2), keepdim=True) - 8.0
        return torch.maximum(out, floor, out=out).add_(4.0).div_(4.0)

    def _constant(self, device: torch.device) -> tuple[Tensor, list[Band]]:
        """Window (window,) and mel bands, on a device."""
        dtype = _mel_dtype(device)
        if (device, dtype) not in self._constants:
            window = torch.hann_window(WINDOW, dtype=torch.float64, device="cpu").to(device, torch.float32)
            self._constants[device, dtype] = (window, _bands(slaney_filters(self.mels), device, dtype))
        return self._constants[device, dtype]


def kaldi_window(name: str) -> Tensor:
    """Kaldi's "hanning" or "povey" window: (WINDOW,) float64."""
    hann = torch.hann_window(WINDOW, periodic=False, dtype=torch.float64, device="cpu")
    return hann.pow(0.85) if name == "povey" else hann


def kaldi_filters(mels: int) -> Tensor:
    """Kaldi's triangles, straight in mels, from 20 Hz to 8 kHz: (257, mels) float64 (kaldi `MelBanks`)."""
    bins = torch.arange(FBANK_FFT // 2 + 1, dtype=torch.float64, device="cpu") * (RATE_HZ / FBANK_FFT)
    edges_hz = torch.tensor([20.0, RATE_HZ / 2], dtype=torch.float64, device="cpu")
    low, high = (1127.0 * torch.log1p(edges_hz / 700.0)).tolist()
    edges = torch.linspace(low, high, mels + 2, dtype=torch.float64, device="cpu")
    filters = _triangles(1127.0 * torch.log1p(bins / 700.0), edges)
    filters[-1] = 0.0  # Kaldi leaves the Nyquist bin out
    return filters


def slaney_filters(mels: int) -> Tensor:
    """Slaney's triangles of unit area, straight in Hz, from 0 to 8 kHz: (201, mels) float64 (librosa's default)."""
    bins = torch.arange(WINDOW // 2 + 1, dtype=torch.float64, device="cpu") * (RATE_HZ / WINDOW)
    step = torch.log(torch.tensor(6.4, dtype=torch.float64, device="cpu")) / 27.0
    top = 15.0 + torch.log(torch.tensor(RATE_HZ / 2 / 1000.0, dtype=torch.float64, device="cpu")) / step
    mel = torch.linspace(0.0, float(top), mels + 2, dtype=torch.float64, device="cpu")
    edges = torch.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * torch.exp((mel - 15.0) * step))
    return _triangles(bins, edges) * (2.0 / (edges[2:] - edges[:-2]))


def _triangles(bins: Tensor, edges: Tensor) -> Tensor:
    """Triangles over (bins,) positions that start, peak and end at (mels + 2,) edges: (bins, mels)."""
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0)


def _bands(filters: Tensor, device: torch.device, dtype: torch.dtype) -> list[Band]:
    """Cut (bins, mels) filters into groups of neighbouring mels with the first and last bin they read."""
    groups = []
    for columns in filters.tensor_split(MEL_GROUPS, dim=1):
        used = columns.sum(1).nonzero().flatten()
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        groups.append((low, high, columns[low:high].to(device, dtype).contiguous()))
    return groups


def _mel_dtype(device: torch.device) -> torch.dtype:
    """float64 for the mel products where the user lets float32 products run in fewer bits, else float32."""
    backends = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}
    reduced = device.type in backends and backends[device.type].matmul.fp32_precision in ("bf16", "tf32")
    return torch.float64 if reduced else torch.float32


def _mel_power(frames: Tensor, bands: list[Band], out: Tensor) -> None:
    """Write the mel energies of windowed (batch, frames, samples) to `out`, (batch, frames, mels)."""
    squares = torch.view_as_real(torch.fft.rfft(frames)).square_()
    power = (squares[..., 0] + squares[..., 1]).flatten(0, 1)  # (batch * frames, bins)
    power = power.to(bands[0][2].dtype)
    mel = 0
    for low, high, weights in bands:
        width = weights.shape[1]
        out[..., mel : mel + width] = (power[:, low:high] @ weights).view(*out.shape[:2], width)
        mel += width


def _batched(
    front: KaldiFbank | WhisperLogMel,
    waves: Tensor,
    lengths: Tensor | None,
    clips: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Check, group by length, run `clips` on unpadded pieces and zero-pad the rows to the longest."""
    counts = _check_waves(waves, lengths)
    frames = [front.frames(count) for count in counts]
    out = waves.new_zeros(len(counts), max(frames), front.mels)
    with torch.no_grad(), torch.autocast(waves.device.type, enabled=False), _one_thread(waves.device):
        for samples, rows in _pieces(counts, waves.device):
            piece = clips(waves[rows, :samples])
            out[rows, : piece.shape[1]] = piece
    return out, torch.tensor(frames, dtype=torch.int64, device=waves.device)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Compute on one core: the pieces are so small that threads gain little, and under load they wait for each other.

    It also keeps the numbers the same whatever the number of threads is. Use worker processes for more cores.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pieces(counts: list[int], device: torch.device) -> list[tuple[int, list[int]]]:
    """Rows to compute together: each by itself on a CPU (its cache is small), all of one length elsewhere."""
    if device.type == "cpu":
        return [(samples, [row]) for row, samples in enumerate(counts)]
    return [(samples, [row for row, own in enumerate(counts) if own == samples]) for samples in sorted(set(counts))]


def _check_waves(waves: Tensor, lengths: Tensor | None) -> list[int]:
    """The samples of each row, after checking that the batch is one."""
    if waves.ndim != 2 or len(waves) == 0 or waves.dtype != torch.float32:
        raise UsageError(
            f"waves came as {tuple(waves.shape)} {waves.dtype}, wanted (batch, samples) torch.float32 with at least "
            "one row; use waves[None] for one clip and .float() for another dtype"
        )
    if lengths is None:
        return [waves.shape[1]] * len(waves)
    counts = [int(count) for count in lengths.tolist()]
    if len(counts) != len(waves) or max(counts) > waves.shape[1]:
        raise UsageError(
            f"lengths came as {counts[:8]} for waves of {tuple(waves.shape)}; "
            "wanted one number of samples per row, none above the width"
        )
    return counts


def _check_length(samples: int) -> int:
    """`samples`, if they fill one window."""
    if samples < WINDOW:
        raise AudioError(
            f"the clip has {samples} samples ({samples / RATE_HZ:.4f} s at 16 kHz) but at least "
            f"{WINDOW / RATE_HZ} s are wanted; pad it with silence or leave it out"
        )
    return samples


def _check_positive(**values: float) -> None:
    """Every value is above zero."""
    for name, value in values.items():
        if value <= 0:
            raise UsageError(f"{name} came as {value}; wanted a number above 0")


FrontEnd = KaldiFbank | WhisperLogMel

FRONTENDS: dict[str, Callable[..., FrontEnd]] = {
    "ast": partial(KaldiFbank, subtract_mean=True),
    "ast_hf": KaldiFbank,
    "beats": partial(KaldiFbank, window="povey", scale=2.0**15, mean=BEATS_NORM[0], std=BEATS_NORM[1]),
    "whisper": WhisperLogMel,
}
