"""What every front end needs: mel triangles, fast mel products, batches clip by clip, checks.

Why it is fast: a clip is worked on in blocks of frames that stay in the processor's cache, and each mel band only reads
the bins it covers.
Why it is repeatable: on a CPU every clip is a computation of its own, so its numbers never depend on its neighbours.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ossicle.devices import one_thread
from ossicle.errors import AudioError, UsageError

FRONTEND_VERSION = "1"
BLOCK_FRAMES = 512
MEL_GROUPS = 4

Band = tuple[int, int, Tensor]


class LogMel(nn.Module, ABC):
    """A front end: waveforms to log-mel frames.

    It says its `rate_hz`, `hop_s`, `mels`, and `fewest`, the samples of one window: what is shorter is no sound to it.
    `bands` is None, or how many columns of a frame are log-mel where samples come after them. `first_s` is the middle
    of the first window: 0 where windows are centred on their times.
    """

    mels: int
    fewest: int
    bands: int | None = None
    first_s: float = 0.0

    @abstractmethod
    def frames(self, samples: int) -> int:
        """Frames that `samples` at `rate_hz` give.

        Raises:
            AudioError: if the clip is shorter than one window.
        """

    @abstractmethod
    def peaks_hz(self) -> Tensor:
        """(bands,) float64: the frequency that each band hears best, rising."""

    @abstractmethod
    def _clips(self, waves: Tensor) -> Tensor:
        """(batch, samples) of one length to (batch, frames, mels)."""

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn waveforms into log-mel frames. No gradient flows back to the waveforms.

        Args:
            waves: (batch, samples) float32 in [-1, 1] at `rate_hz`.
            lengths: (batch,) int64 real samples, None when all are; a row's result never depends on the others.

        Returns:
            (batch, frames, mels) float32, rows zero-padded at the end, and (batch,) int64 frames that are real.

        Raises:
            AudioError: if a clip is shorter than one window.
            UsageError: if the shape, the dtype or the lengths do not fit.
        """
        counts = _check_waves(waves, lengths)
        frames = [self.frames(count) for count in counts]
        out = waves.new_zeros(len(counts), max(frames), self.mels)
        with torch.no_grad(), torch.autocast(waves.device.type, enabled=False), one_thread(waves.device):
            for samples, rows in _pieces(counts, waves.device):
                piece = self._clips(waves[rows, :samples])
                out[rows, : piece.shape[1]] = piece
        return out, torch.tensor(frames, dtype=torch.int64, device=waves.device)


def triangles(bins: Tensor, edges: Tensor) -> Tensor:
    """Triangles over (bins,) positions that start, peak and end at (mels + 2,) edges: (bins, mels)."""
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0)


def bands_of(filters: Tensor, device: torch.device, dtype: torch.dtype) -> list[Band]:
    """Cut (bins, mels) filters into groups of neighbouring mels with the first and last bin they read."""
    groups = []
    for columns in filters.tensor_split(MEL_GROUPS, dim=1):
        used = columns.sum(1).nonzero().flatten()
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        groups.append((low, high, columns[low:high].to(device, dtype).contiguous()))
    return groups


def mel_dtype(device: torch.device) -> torch.dtype:
    """float64 for the mel products where the user lets float32 products run in fewer bits, else float32."""
    backends = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}
    reduced = device.type in backends and backends[device.type].matmul.fp32_precision in ("bf16", "tf32")
    return torch.float64 if reduced else torch.float32


def write_mels(
    frames: Tensor, bands: list[Band], out: Tensor, *, fft: int | None = None, magnitude: bool = False
) -> None:
    """Write the mel energies of windowed (batch, frames, samples) to `out`, (batch, frames, mels).

    Frames are zero-padded to `fft` samples; with `magnitude` the bands add up roots of energies.
    """
    squares = torch.view_as_real(torch.fft.rfft(frames, n=fft)).square_()
    power = (squares[..., 0] + squares[..., 1]).flatten(0, 1)  # (batch * frames, bins)
    power = (power.sqrt_() if magnitude else power).to(bands[0][2].dtype)
    mel = 0
    for low, high, weights in bands:
        width = weights.shape[1]
        out[..., mel : mel + width] = (power[:, low:high] @ weights).view(*out.shape[:2], width)
        mel += width


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


def check_length(samples: int, window: int, rate_hz: int) -> int:
    """`samples`, if they fill one window."""
    if samples < window:
        raise AudioError(
            f"the clip has {samples} samples ({samples / rate_hz:.4f} s at {rate_hz // 1000} kHz) but at least "
            f"{window / rate_hz} s are wanted; pad it with silence or leave it out"
        )
    return samples


def check_positive(**values: float) -> None:
    """Every value is above zero."""
    for name, value in values.items():
        if value <= 0:
            raise UsageError(f"{name} came as {value}; wanted a number above 0")
