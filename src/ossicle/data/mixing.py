"""Pieces of sound cut from clips and laid over each other: active parts, fades, loops, levels, sums."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ossicle.contracts import Clip
from ossicle.data.clips import WaveCache, load_waves
from ossicle.errors import AudioError

Wave = NDArray[np.float64]
SHORTEST_S, LONGEST_S, LEAST_S = 1.0, 4.5, 0.15  # an event's length is drawn from the first two; the clip may end it
TEXTURE_S = 1.5  # a clip must sound for so long to be looped
_FRAME_S = 0.02
_ACTIVE_DB, _SILENT = -30.0, 1e-4
_LEVEL = 0.1  # root mean square that every piece is brought to
_FADE_IN_S, _FADE_OUT_S, _CROSSFADE_S = 0.005, 0.05, 0.3
_PEAK = 0.95
_SHARED = 0.6  # of the shorter of two sounds at once, at least this much lies within the longer
_CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class Piece:
    """A stretch of a clip, ready to be mixed.

    Args:
        label: what it is.
        wave: (samples,) at the common level, faded at both ends.
        clip: where it is from.
    """

    label: str
    wave: Wave
    clip: Clip


class Sources:
    """Clips by label, decoded when they are drawn.

    Args:
        clips: each with one label.
        rate_hz: sampling rate wanted.
        notice: called once for each clip that cannot be used.
    """

    def __init__(self, clips: Sequence[Clip], rate_hz: int, notice: Callable[[str], object] | None = None) -> None:
        self.rate_hz = rate_hz
        self.labels = sorted({clip.labels[0] for clip in clips})
        self._clips = {label: [clip for clip in clips if clip.labels[0] == label] for label in self.labels}
        self._notice = notice
        self._cache = WaveCache(_CACHE_BYTES)
        self._bad: set[Clip] = set()

    def event(self, label: str, rng: np.random.Generator, limit_s: float, *, anywhere: bool) -> Piece | None:
        """A stretch of about 1 s to `limit_s`, or as long as the clip sounds; None if no clip of the label can be used.

        Args:
            label: which clips to draw from.
            rng: draws the clip and the stretch.
            limit_s: longest wanted.
            anywhere: cut from anywhere in the clip rather than from the start of its sound.
        """
        order = rng.permutation(len(self._clips[label]))
        length = round(rng.uniform(min(SHORTEST_S, limit_s), limit_s) * self.rate_hz)
        place = float(rng.random()) if anywhere else 0.0
        for clip in (self._clips[label][k] for k in order):
            sound = self._sound(clip, LEAST_S)
            if sound is None:
                continue
            start = int(place * max(0, len(sound) - length))
            cut = sound[start : start + length]
            cut = cut[slice(*active(cut, self.rate_hz))]
            if len(cut) < LEAST_S * self.rate_hz:  # such as a click and then a long gap
                cut = sound[:length]
            return Piece(label, fade(level(cut, self.rate_hz), self.rate_hz), clip)
        return None

    def texture(self, label: str, rng: np.random.Generator, samples: int) -> Piece | None:
        """A clip's sound repeated without seams to (samples,), or None if no clip sounds for long enough."""
        for clip in (self._clips[label][k] for k in rng.permutation(len(self._clips[label]))):
            sound = self._sound(clip, TEXTURE_S, quiet=True)
            if sound is not None:
                return Piece(label, fade(level(loop(sound, samples, self.rate_hz), self.rate_hz), self.rate_hz), clip)
        return None

    def _sound(self, clip: Clip, least_s: float, *, quiet: bool = False) -> Wave | None:
        """The part of a clip from its first to its last sound, or None."""
        if clip in self._bad:
            return None
        (wave,) = load_waves([clip], self.rate_hz, cache=self._cache, threads=1)
        if isinstance(wave, AudioError):
            self._refuse(clip, str(wave))
            return None
        sound: Wave = wave.numpy().astype(np.float64)
        sound = sound[slice(*active(sound, self.rate_hz))]
        if len(sound) >= least_s * self.rate_hz:
            return sound
        if not quiet:
            self._refuse(clip, f"{clip.name or clip.path} is silent or sounds for too short a time")
        return None

    def _refuse(self, clip: Clip, why: str) -> None:
        self._bad.add(clip)
        if self._notice is not None:
            self._notice(f"{why}; it is left out")


def active(wave: Wave, rate_hz: int) -> tuple[int, int]:
    """First sample, and the one after the last, of what is within 30 dB of the loudest frame; (0, 0) for silence."""
    levels = _levels(wave, rate_hz)
    loud = np.flatnonzero(levels > max(_SILENT, levels.max(initial=0.0) * 10 ** (_ACTIVE_DB / 20)))
    if len(loud) == 0:
        return 0, 0
    size = _frame(rate_hz)
    return int(loud[0]) * size, min(len(wave), (int(loud[-1]) + 1) * size)


def level(wave: Wave, rate_hz: int) -> Wave:
    """Bring a piece to the common level: the root mean square of its active frames."""
    levels = _levels(wave, rate_hz)
    loud = levels[levels > levels.max(initial=0.0) * 10 ** (_ACTIVE_DB / 20)]
    scaled: Wave = wave * (_LEVEL / float(np.sqrt(np.mean(loud**2))) if len(loud) else 0.0)
    return scaled


def fade(wave: Wave, rate_hz: int) -> Wave:
    """Short fades at both ends, so that nothing clicks."""
    out = wave.copy()
    rise = min(len(out) // 2, round(_FADE_IN_S * rate_hz))
    fall = min(len(out) // 2, round(_FADE_OUT_S * rate_hz))
    out[:rise] *= np.linspace(0.0, 1.0, rise)
    out[len(out) - fall :] *= np.linspace(1.0, 0.0, fall)
    return out


def loop(wave: Wave, samples: int, rate_hz: int) -> Wave:
    """Repeat (n,) to (samples,); each turn rises while the one before falls, at equal power."""
    cross = min(round(_CROSSFADE_S * rate_hz), len(wave) // 2)
    ramp = np.sin(np.linspace(0.0, math.pi / 2, cross))
    out = np.zeros(samples + 2 * len(wave))
    start = 0
    while start < samples:
        turn = wave.copy()
        if start:
            turn[:cross] *= ramp
        turn[len(turn) - cross :] *= ramp[::-1]
        out[start : start + len(turn)] += turn
        start += len(wave) - cross
    return out[:samples]


def overlap(lengths: Sequence[int], longest: int, rng: np.random.Generator) -> list[int]:
    """Starts of pieces that sound at once: the first at 0, each other one with most of it within the first.

    Args:
        lengths: samples of each, the longest first.
        longest: by when all must have ended.
        rng: draws the starts.
    """
    starts = [0]
    for length in lengths[1:]:
        room = max(0, min(lengths[0] - math.ceil(_SHARED * length), longest - length))
        starts.append(int(rng.integers(room + 1)))
    return starts


def longest(seconds: float, groups: int, gap_s: float) -> float:
    """Seconds that a group of sounds may last, so that all groups and the gaps between them fit."""
    return min(LONGEST_S, (seconds - (groups - 1) * gap_s) / groups - 0.05)


def mix(waves: Sequence[Wave], starts: Sequence[int], gains_db: Sequence[float], samples: int) -> NDArray[np.float32]:
    """Add pieces up.

    Args:
        waves: (n,) each.
        starts: the sample each starts at; none reaches beyond `samples`.
        gains_db: of each.
        samples: length of the sum.

    Returns:
        (samples,) in [-1, 1], quieter where it would have reached more than 0.95.
    """
    total = np.zeros(samples)
    for wave, start, gain in zip(waves, starts, gains_db, strict=True):
        total[start : start + len(wave)] += wave * 10 ** (gain / 20)
    peak = float(np.abs(total).max(initial=0.0))
    scaled: NDArray[np.float32] = (total * min(1.0, _PEAK / max(peak, 1e-9))).astype(np.float32)
    return scaled


def _frame(rate_hz: int) -> int:
    return max(1, round(_FRAME_S * rate_hz))


def _levels(wave: Wave, rate_hz: int) -> Wave:
    """Root mean square of each 20 ms frame, the last one maybe shorter: (frames,)."""
    size = _frame(rate_hz)
    frames = math.ceil(len(wave) / size)
    padded = np.zeros(frames * size)
    padded[: len(wave)] = wave
    levels: Wave = np.sqrt(np.mean(padded.reshape(frames, size) ** 2, axis=1)) if frames else np.zeros(0)
    return levels
