"""What a front end heard, as a picture without axes, and ticks in seconds and kHz for whoever puts some round it."""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ossicle.backbones.encoder import Encoder
from ossicle.errors import UsageError

COLUMNS = 720
LEAST_ROWS = 192
# A window reaches over its middle, so that much before the first frame and after the last one is heard too.
REACH = 2
TICKS = 6
TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16_000)
APART = 0.1

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Spectrogram:
    """What a front end made of a sound.

    Args:
        power: (frames, bands) log power.
        peaks_hz: (bands,) the frequency of each band, rising.
        hop_s: seconds from one frame to the next.
        first_s: the second that the first frame is about.
    """

    power: ArrayLike
    peaks_hz: ArrayLike
    hop_s: float
    first_s: float = 0.0


def listen(encoder: Encoder, wave: Tensor) -> Spectrogram:
    """What an encoder hears of one sound.

    Args:
        encoder: a backbone, or one part of a joined one.
        wave: (samples,) at the encoder's rate.

    Raises:
        AudioError: if it is shorter than one window.
    """
    front: Any = encoder.frontend
    frames = encoder.listen(wave[None].to(next(encoder.stem.parameters()).device))[0][0]
    return Spectrogram(frames[:, : front.bands].cpu().numpy(), front.peaks_hz().numpy(), front.hop_s, front.first_s)


def png(heard: Spectrogram, seconds: float) -> bytes:
    """Draw 0 to `seconds`, from left to right, and all bands, equally high, from the bottom to the top.

    A column that lies where no frame is, in a sound that the front end cuts, is left transparent; frames past the end
    of the sound, of a front end that goes on in silence, are left out.

    Returns:
        A png file.

    Raises:
        UsageError: if the power is not (frames, bands) with finite values and a frequency for each band, or the hop or
            the length is not positive.
    """
    power = _checked(heard, seconds)
    edges = np.linspace(0.0, seconds, COLUMNS + 1)
    places = np.floor((edges - heard.first_s) / heard.hop_s + 0.5).astype(int)
    first, last = places[:-1], np.maximum(places[1:], places[:-1] + 1)
    there = (first >= -REACH) & (first < len(power) + REACH)
    first = np.clip(first, 0, len(power) - 1)
    last = np.clip(last, first + 1, len(power))
    finite = np.isfinite(power)
    sums, counts = (_running(part) for part in (np.where(finite, power, 0.0), finite))
    known = np.where(there[:, None], counts[last] - counts[first], 0.0)
    means = (sums[last] - sums[first]) / np.maximum(known, 1)
    low, high = power[finite].min(), power[finite].max()
    shade = colormaps["magma"]((means - low) / (high - low if high > low else 1.0))  # (columns, bands, 4)
    shade[known == 0] = 0.0
    rows = np.repeat(shade[:, ::-1].transpose(1, 0, 2), -(-LEAST_ROWS // power.shape[1]), axis=0)
    buffer = io.BytesIO()
    imsave(buffer, (rows * 255).round().astype(np.uint8), format="png")
    return buffer.getvalue()


def _checked(heard: Spectrogram, seconds: float) -> Floats:
    power, peaks = np.asarray(heard.power, dtype=np.float64), np.asarray(heard.peaks_hz)
    if power.ndim != 2 or not np.isfinite(power).any() or peaks.shape != power.shape[1:]:
        raise UsageError(
            f"features {power.shape} with {peaks.size} frequencies came; wanted are (frames, bands) with finite values "
            "and a frequency for each band"
        )
    if not (math.isfinite(seconds) and seconds > 0 and heard.hop_s > 0):
        raise UsageError(f"{seconds} seconds in frames of {heard.hop_s} s came; positive lengths are wanted")
    return power


def _running(values: Floats | NDArray[np.bool_]) -> Floats:
    """Sums over all frames before each: (frames + 1, bands)."""
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])


def ticks_s(seconds: float) -> list[tuple[str, float]]:
    """Round seconds from 0 on, `TICKS` at most, each with its place as a share of the length."""
    tenth = 10.0 ** math.floor(math.log10(seconds / TICKS))
    step = next(tenth * n for n in (1, 2, 5, 10) if seconds / (tenth * n) < TICKS)
    return [(f"{n * step:g}", n * step / seconds) for n in range(math.floor(seconds / step * (1 + 1e-9)) + 1)]


def ticks_khz(peaks_hz: ArrayLike) -> list[tuple[str, float]]:
    """Round frequencies within the bands, in kHz, each with its place as a share of the height from the bottom.

    Those that would lie closer than `APART` to the one above are left out.
    """
    peaks = np.asarray(peaks_hz, dtype=np.float64)
    ticks: list[tuple[str, float]] = []
    for hz in reversed(TICKS_HZ):
        share = (float(np.interp(hz, peaks, np.arange(len(peaks)))) + 0.5) / len(peaks)
        if peaks[0] <= hz <= peaks[-1] and (not ticks or ticks[-1][1] - share >= APART):
            ticks.append((f"{hz / 1000:g}", share))
    return ticks[::-1]
