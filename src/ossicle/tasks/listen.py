"""From clips to an encoder's tokens: what every task does before its head, with random changes in training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Batch, Clip, Encoded
from ossicle.data.clips import WaveCache, load_waves
from ossicle.errors import AudioError, DataError
from ossicle.sound import augment

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class SoundAugment:
    """Random changes of sound in training, drawn anew for every batch.

    Args:
        shift_s: circular shift of the waveform, up to this many seconds either way.
        gain_db: gain, up to this many dB either way.
        time_warp: SpecAugment, furthest a moment is moved in frames.
        time_mask: SpecAugment, longest time mask in frames.
        freq_mask: SpecAugment, widest frequency mask in mel bands.
        time_masks: how many of them.
        freq_masks: how many of them.
        mask_fill: what masks are filled with: zero, which is the mean of normalised features, the clip's own mean, or
            another number.
        noise: even noise on the features, of a height drawn up to this.
        roll: circular shift of the features, up to this many frames either way.
    """

    shift_s: Amount = 0.0
    gain_db: Amount = 0.0
    time_warp: Count = 0
    time_mask: Count = 0
    freq_mask: Count = 0
    time_masks: Count = 1
    freq_masks: Count = 1
    mask_fill: Literal["zero", "mean"] | Annotated[float, Field(allow_inf_nan=False)] = "zero"
    noise: Amount = 0.0
    roll: Count = 0

    @property
    def whole(self) -> bool:
        """Whether something moves or averages a clip as a whole, so that a shorter one must go on in silence."""
        filled = self.mask_fill == "mean" and bool(self.time_mask or self.freq_mask)
        return bool(self.shift_s or self.time_warp or self.roll) or filled

    def waves(self, waves: Tensor, generator: torch.Generator, rate_hz: int) -> Tensor:
        """Shift and gain (batch, samples)."""
        if self.shift_s:
            waves = augment.shift(waves, generator, max_seconds=self.shift_s, rate_hz=rate_hz)
        if self.gain_db:
            waves = augment.gain(waves, generator, low_db=-self.gain_db, high_db=self.gain_db)
        return waves

    def features(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Warp, mask, noise and roll (batch, frames, mels)."""
        if self.time_warp:
            features = augment.time_warp(features, generator, most=self.time_warp)
        if self.time_mask or self.freq_mask:
            fill = None if self.mask_fill == "mean" else 0.0 if self.mask_fill == "zero" else self.mask_fill
            features = augment.spec_augment(
                features, generator, time=self.time_mask, freq=self.freq_mask,
                time_masks=self.time_masks, freq_masks=self.freq_masks, fill=fill,
            )  # fmt: skip
        if self.noise:
            features = augment.noise(features, generator, height=self.noise)
        if self.roll:
            features = augment.shift(features, generator, max_seconds=self.roll, rate_hz=1)
        return features


class Listener:
    """Loads clips for an encoder and encodes them; a clip that cannot be read is left out and noted.

    Args:
        encoder: with its adapter injected, or frozen.
        changes: random changes in training.
        window_s: longest stretch of a clip trained on at once; None takes whole clips.
        shortest_s: shorter clips go on in silence up to this length, in training and prediction alike.
        cache_bytes: memory for decoded waveforms.
    """

    def __init__(
        self, encoder: Encoder, changes: SoundAugment, *, window_s: float | None, shortest_s: float, cache_bytes: int
    ) -> None:
        self.encoder, self.changes = encoder, changes
        self.window_s, self.shortest_s = window_s, shortest_s
        self.unreadable: dict[str, str] = {}
        self._cache = WaveCache(cache_bytes)

    def load(self, clips: Sequence[Clip], generator: torch.Generator | None) -> tuple[list[Clip], list[Tensor]]:
        """Waveforms (samples,) of the clips that can be read; in training a random stretch of those that are long.

        Raises:
            DataError: if there is none.
        """
        chosen = clips if generator is None else [self._crop(c, generator) for c in clips]
        loaded = load_waves(
            chosen, self.encoder.rate_hz, cache=self._cache, shortest_s=self.shortest_s, fewest=self.encoder.fewest
        )
        return self.readable(chosen, [self._heard(c, w) for c, w in zip(chosen, loaded, strict=True)])

    def readable(self, clips: Sequence[Clip], loaded: Sequence[Tensor | AudioError]) -> tuple[list[Clip], list[Tensor]]:
        """The clips that could be loaded and what was loaded; the others are noted.

        Raises:
            DataError: if there is none.
        """
        pairs = list(zip(clips, loaded, strict=True))
        self.unreadable |= {str(c.path): str(v) for c, v in pairs if isinstance(v, AudioError)}
        good = [(c, v) for c, v in pairs if not isinstance(v, AudioError)]
        if not good:
            raise DataError(f"no clip of this batch can be read; first: {loaded[0]}")
        return [c for c, _ in good], [v for _, v in good]

    def encode(self, batch: Batch, layers: Sequence[int], drop: float = 0.0) -> Encoded:
        """Tokens of a batch of waveforms; changed features and dropped tokens where the batch has a seed."""
        assert batch.waves is not None
        frames, lengths = self.encoder.listen(batch.waves, batch.lengths)
        if batch.seed is None:
            return self.encoder.encode(frames, lengths, layers=layers)
        generator = torch.Generator().manual_seed(batch.seed)
        frames = self.changes.features(frames, generator)
        return self.encoder.encode(frames, lengths, layers=layers, drop=drop, generator=generator)

    def _heard(self, clip: Clip, wave: Tensor | AudioError) -> Tensor | AudioError:
        """The wave, or why the encoder cannot take it, so that one short clip does not cost its batch."""
        if isinstance(wave, AudioError):
            return wave
        wanted = self.encoder.stem.__dict__.get("patch", (1, 1))[1]
        try:
            frames = self.encoder.frontend.frames(len(wave))  # type: ignore[operator]
        except AudioError as err:
            return AudioError(f"{clip.path}: {err}")
        if frames < wanted:
            return AudioError(
                f"{clip.path}: has {frames} frames but a patch needs {wanted}; use longer clips or windows"
            )
        return wave

    def _crop(self, clip: Clip, generator: torch.Generator) -> Clip:
        """A random stretch of `window_s` of a clip that says where it ends."""
        if self.window_s is None or clip.end is None or clip.end - clip.start <= self.window_s:
            return clip
        room = clip.end - clip.start - self.window_s
        start = clip.start + room * float(torch.rand((), generator=generator))
        return replace(clip, start=start, end=start + self.window_s)


def draw(generator: torch.Generator) -> int:
    """A seed for the random changes after the front end."""
    return int(torch.randint(2**31, (), generator=generator))
