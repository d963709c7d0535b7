"""What decoding gives, and how stretches and channels are taken, whoever decodes."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ossicle.errors import AudioError

MIN_RATE_HZ, MAX_RATE_HZ = 100, 10_000_000
MARGIN_S = 0.05
# A frame of MPEG audio borrows bits from the frames before it, so the first ones after a seek come out wrong.
MPEG_MARGIN_S = 0.5

Samples = npt.NDArray[np.float32]
# What libsndfile says of a damaged mp3, and what it means of a file that could be opened.
REASONS = {
    "File does not exist or is not a regular file (possibly a pipe?)": "no sound can be found in it",
    "Unspecified internal error": "its frames cannot be decoded",
}


@dataclass(frozen=True)
class Info:
    """What a sound file says of itself.

    Args:
        duration_s: seconds.
        rate_hz: samples per second.
        channels: number of channels.
        frames: samples per channel; an estimate, good to 0.1 s, in containers that do not count them.
    """

    duration_s: float
    rate_hz: int
    channels: int
    frames: int


@dataclass(frozen=True)
class Decoded:
    """A stretch of a file with its margins: (samples,) mono at `rate`, from source sample `first` on."""

    mono: Samples
    rate: int
    first: int
    declared_s: float | None


def stretch(rate: int, rate_hz: int, start: float, end: float | None, margin_s: float) -> tuple[int, int | None]:
    """First source sample and the one after the last, with margins.

    The first is one where a target sample lies too, so that resampling the stretch keeps the whole file's phase.
    """
    step = rate // math.gcd(rate, rate_hz)
    first = max(0, int((start - margin_s) * rate)) // step * step
    return first, None if end is None else math.ceil((end + margin_s) * rate)


def mono(path: Path, both: Samples, channel: int) -> Samples:
    """(samples,) of (channels, samples): one channel, or the mean for 0; of a single one that, whichever is wanted."""
    if 1 < len(both) < channel:
        raise AudioError(f"{path}: has {len(both)} channels, no channel {channel}; 0 asks for their mean")
    return both.mean(axis=0) if channel == 0 else np.ascontiguousarray(both[min(channel, len(both)) - 1])


def check_rate(path: Path, rate: int) -> None:
    """The rate is one that sound can have."""
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise AudioError(f"{path}: its header says {rate} Hz; wanted {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")


def line(error: Exception) -> str:
    """An error's own words on one line, without the path."""
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    text = " ".join(words.split()).rstrip(".")
    return REASONS.get(text, text)
