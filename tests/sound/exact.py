"""The front ends in plain float64, and how far float32 may be from them in every band of every frame.

`allowed` follows from the arithmetic and holds on any processor. With eps the float32 epsilon and N the size of the
FFT, each of its log2(N) stages, and each of the four steps before it (mean, pre-emphasis, their subtraction, window),
may round every number by eps. Rounding spreads over the bins, so a bin may be wrong by

    slip = eps · (log2(N) + 4) · the root of the frame's sum of squares,

which is small beside the bins that carry the sound and large beside silent ones. A Fourier transform that is a plain
sum has no stages; the roundings of its N partial sums, real and imaginary, add up like a random walk, to the root of
2 N. Sums over a band's bins add eps a term. Logarithms turn errors relative, and add eps of their own size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ossicle.sound.frontends import FrontEnd

Array = NDArray[np.float64]
Bands = Callable[..., tuple[Array, Array]]
EPS = float(np.finfo(np.float32).eps)
STEPS = 4
# Triangles made in float32, as kaldi-native-fbank makes them: a side is a difference of two mels of up to 2840, each
# rounded a few times, over a width of 22.
FLOAT32_TRIANGLES = 2 * STEPS * EPS * 2840 / 22


@dataclass(frozen=True)
class Exact:
    """Values of (frames, bands) float64, and how far from each float32 may be."""

    values: Array
    allowed: Array

    def share(self, got: torch.Tensor | NDArray[np.float32]) -> float:
        """How much of what is allowed the worst band of (frames, bands) needs; at most 1 is right."""
        return float((self._off(got) / self.allowed).max())

    def rms(self, got: torch.Tensor | NDArray[np.float32]) -> float:
        """The root of the mean square of all errors of (frames, bands)."""
        return float(np.sqrt((self._off(got) ** 2).mean()))

    def _off(self, got: torch.Tensor | NDArray[np.float32]) -> Array:
        assert tuple(got.shape) == self.values.shape
        return np.abs(np.asarray(got, np.float64) - self.values)

    def cut(self, first: int) -> "Exact":
        """The frames from `first` on."""
        return Exact(self.values[first:], self.allowed[first:])

    def fit(self, frames: int, end: "Exact") -> "Exact":
        """Cut to so many frames, or go on with the one frame of `end`."""
        more = max(0, frames - len(self.values))
        pair = ((self.values, end.values), (self.allowed, end.allowed))
        return Exact(*(np.concatenate([own, last.repeat(more, axis=0)])[:frames] for own, last in pair))


def of(front: FrontEnd, wave: torch.Tensor, *, triangles: float = 0.0, plain_sums: bool = False) -> Exact:
    """What a front end should make of (samples,) float32.

    Args:
        front: its settings say which maths.
        wave: the samples.
        triangles: an error of all mel weights, as a share of their peak.
        plain_sums: the Fourier transform is a plain sum, not a fast one.
    """
    known = front.settings()
    options = {key: known[key] for key in ("window", "mean", "std", "scale", "subtract_mean") if key in known}
    make = MATHS[str(known["kind"])]
    bands = partial(_bands, triangles=triangles, plain_sums=plain_sums)
    made = make(wave.numpy().astype(np.float64), bands, **options)
    frames = known.get("target_frames")
    if frames is None:
        return made
    nothing = Exact(*np.zeros((2, 1, 128)))
    last = made.cut(-1) if make is epic else _normed(nothing, front.mean, front.std)  # type: ignore[arg-type, union-attr]
    return made.fit(frames, last)  # type: ignore[arg-type]


def _frames(wave: Array, window: int, hop: int) -> Array:
    return np.lib.stride_tricks.sliding_window_view(wave, window)[::hop]


def _hann(size: int, turns: int) -> Array:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / turns)


def _triangles(places: Array, edges: Array) -> Array:
    """(bins,) places and (bands + 2,) edges to weights (bins, bands)."""
    made = np.zeros((len(places), len(edges) - 2))
    for band, (low, peak, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        made[:, band] = np.interp(places, [low, peak, high], [0.0, 1.0, 0.0])
    return made


def _bands(
    heard: Array, given: Array, fft: int, weights: Array, power: int, *, triangles: float, plain_sums: bool
) -> tuple[Array, Array]:
    """Sums of |bin| ** power over bands, and their errors.

    `heard` are the windowed frames, `given` the same before anything was taken away.
    """
    bins = np.abs(np.fft.rfft(heard, fft))
    loud = np.sqrt(np.maximum((heard**2).sum(1), (given**2).sum(1)))
    stages = np.sqrt(2 * heard.shape[1]) if plain_sums else np.log2(fft)
    slip = EPS * (stages + STEPS) * loud[:, None]
    wrong = slip if power == 1 else 2 * bins * slip + slip**2
    sums, terms = bins**power @ weights, (weights > 0).sum(0)
    touched = (weights > 0) * triangles * weights.max(0)
    return sums, np.broadcast_to(wrong, bins.shape) @ weights + bins**power @ touched + EPS * (terms + STEPS) * sums


def _logs(sums: Array, wrong: Array, log: Callable[[Array], Array], floor: float = 0.0) -> Exact:
    """Logarithms of what is at least `floor`, and what they may be off by."""
    values = log(np.maximum(sums, floor))
    with np.errstate(divide="ignore"):
        up, down = log(np.maximum(sums + wrong, floor)) - values, values - log(np.maximum(sums - wrong, floor))
    return Exact(values, np.maximum(up, down) + STEPS * EPS * (1 + np.abs(values)))


def kaldi(
    wave: Array, bands: Bands, *, window: str, mean: float, std: float, scale: float, subtract_mean: bool
) -> Exact:
    """Kaldi's filter bank of 128 bands, (value - mean) / (2 std)."""
    raw = _frames(wave - wave.mean() * subtract_mean, 400, 160) * scale
    centred = raw - raw.mean(1, keepdims=True)
    emphasised = centred - 0.97 * np.concatenate([centred[:, :1], centred[:, :-1]], axis=1)
    shape = _hann(400, 399) ** (0.85 if window == "povey" else 1.0)
    mels = 1127 * np.log(1 + np.arange(257) * (16_000 / 512) / 700)
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8_000 / 700), 130)
    weights = _triangles(mels, edges)
    weights[256] = 0
    sums, wrong = bands(emphasised * shape, raw * shape, 512, weights, 2)
    logs = _logs(sums, wrong, np.log, EPS)
    return _normed(logs, mean, std)


def _normed(logs: Exact, mean: float, std: float) -> Exact:
    size = EPS * STEPS * (1 + np.abs(logs.values) + abs(mean))
    return Exact((logs.values - mean) / (2 * std), (logs.allowed + size) / (2 * std))


def whisper(wave: Array, bands: Bands) -> Exact:
    """Whisper's 80 bands, at most 8 decades deep, (log10 + 4) / 4."""
    heard = _frames(np.pad(wave, 200, mode="reflect"), 400, 160)[:-1] * _hann(400, 400)
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 82)
    hz = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    weights = _triangles(np.arange(201) * 40.0, hz) * 2 / (hz[2:] - hz[:-2])
    logs = _logs(*bands(heard, heard, 400, weights, 2), np.log10, 1e-10)
    top = np.unravel_index(logs.values.argmax(), logs.values.shape)
    allowed = np.maximum(logs.allowed, logs.allowed[top])  # the floor moves with the loudest band
    return Exact((np.maximum(logs.values, logs.values[top] - 8) + 4) / 4, allowed / 4 + 2 * EPS)


def epic(wave: Array, bands: Bands) -> Exact:
    """EPIC-SOUNDS' 128 bands of magnitudes, ln(value + 1e-6)."""
    heard = _frames(np.pad(wave, 120), 240, 120) * _hann(240, 240)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 12_000 / 700), 130) / 2595) - 1)
    weights = _triangles(np.arange(1025) * (24_000 / 2048), edges)
    sums, wrong = bands(heard, heard, 2048, weights, 1)
    return _logs(sums + 1e-6, wrong, np.log, 1e-6)


def efficientat(wave: Array, bands: Bands) -> Exact:
    """EfficientAT's 128 bands, (ln(energy + 1e-5) + 4.5) / 5."""
    heard, given = (
        _frames(np.pad(part, 400, mode="reflect"), 800, 320) * _hann(800, 799)
        for part in (wave[1:] - 0.97 * wave[:-1], wave[1:])
    )
    weights = _triangles(_mels(np.arange(513) * (32_000 / 1024)), np.linspace(0, _mels(15_000), 130))
    weights[512] = 0
    sums, wrong = bands(heard, given, 1024, weights, 2)
    return _normed(_logs(sums + 1e-5, wrong, np.log, 1e-5), -4.5, 2.5)


def yamnet(wave: Array, bands: Bands) -> Exact:
    """YAMNet's 64 bands of magnitudes, ln(value + 0.001), in whole patches."""
    more = -(-max(0, len(wave) - 15_600) // 7_680)
    return _magnitudes(np.pad(wave, (0, 15_600 + 7_680 * more - len(wave))), bands, 1e-3)


def vggish(wave: Array, bands: Bands) -> Exact:
    """The same bands, ln(value + 0.01), in whole examples."""
    examples = max(1, (1 + (len(wave) - 400) // 160) // 96)
    needed = (96 * examples - 1) * 160 + 400
    return _magnitudes(np.pad(wave, (0, max(0, needed - len(wave))))[:needed], bands, 1e-2)


def _magnitudes(wave: Array, bands: Bands, floor: float) -> Exact:
    heard = _frames(wave, 400, 160) * _hann(400, 400)
    weights = _triangles(_mels(np.arange(257) * (16_000 / 512)), np.linspace(_mels(125), _mels(7_500), 66))
    sums, wrong = bands(heard, heard, 512, weights, 1)
    return _logs(sums + floor, wrong, np.log, floor)


def _mels(hz: Array | float) -> Array:
    made: Array = 1127 * np.log(1 + np.asarray(hz) / 700)
    return made


def panns(wave: Array, bands: Bands) -> Exact:
    """PANNs' 64 bands in dB of at least 1e-10; and the samples themselves, which may not move at all."""
    hops = 2 * max(16, -(-len(wave) // 640))
    wave = np.pad(wave, (0, hops * 320 - len(wave)))
    heard = _frames(np.pad(wave, 512, mode="reflect"), 1024, 320) * _hann(1024, 1024)
    low, high = 50 * 3 / 200, 15 + 27 * np.log(14) / np.log(6.4)
    mels = np.linspace(low, high, 66)
    hz = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    weights = _triangles(np.arange(513) * (32_000 / 1024), hz) * 2 / (hz[2:] - hz[:-2])
    logs = _logs(*bands(heard, heard, 1024, weights, 2), np.log10, 1e-10)
    samples = np.pad(wave.reshape(hops, 320), ((0, 1), (0, 0)))
    least = np.full_like(samples, np.finfo(np.float64).tiny)
    return Exact(np.hstack([10 * logs.values, samples]), np.hstack([10 * logs.allowed, least]))


MATHS: dict[str, Callable[..., Exact]] = {
    "kaldi": kaldi,
    "whisper": whisper,
    "magnitude": epic,
    "efficientat": efficientat,
    "yamnet": yamnet,
    "vggish": vggish,
    "panns": panns,
}
