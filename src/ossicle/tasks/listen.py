"""From clips to an encoder's tokens: what every task does before its head, with random changes in training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ossicle.backbones.encoder import Encoder
from ossicle.backbones.joined import Encoders
from ossicle.contracts import Batch, Clip, Encoded
from ossicle.data.clips import WaveCache, load_waves, stack
from ossicle.errors import AudioError, DataError, UsageError
from ossicle.sound import augment
from ossicle.tasks import features
from ossicle.tasks.features import SEQUENCE, FeatureStore, TokenStore

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Heard = tuple[Tensor, Tensor | None]
# A window cut from a clip may be longer than asked for, as its start is rounded; cut again, it would not be in a cache.
ROUNDING_S = 2e-3


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

    def features(self, features: Tensor, generator: torch.Generator, bands: int | None = None) -> Tensor:
        """Warp, mask, noise and roll (batch, frames, mels); of samples after the first `bands` columns only roll."""
        features, samples = features[..., :bands], features[..., bands or features.shape[-1] :]
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
        features = torch.cat([features, samples], dim=-1)
        if self.roll:
            features = augment.shift(features, generator, max_seconds=self.roll, rate_hz=1)
        return features


class Ear:
    """One encoder's way from clips to its part of a batch, and from there to vectors or tokens.

    Args:
        encoder: with its adapter injected, or frozen.
        layers: whose outputs are taken; empty is what suits the encoder, of a sequence the last.
        kind: pooling, see `features.pool`, "" for what suits the encoder; or "tokens" for the whole sequence.
        squeeze: of a sequence, see `features.sequence`.
        shortest_s: shorter clips go on in silence up to this length.
        cache: of decoded waveforms.

    `store` gives pooled features or sequences instead of waveforms, for an encoder that does not train. `tokens` gives
    cached lower tokens to train on, `versions` of each clip, for one whose lower blocks do not train.

    Raises:
        UnknownNameError: for another pooling.
        UsageError: for a layer that the encoder does not have.
    """

    def __init__(
        self, encoder: Encoder, layers: Sequence[int], kind: str, squeeze: int, shortest_s: float, cache: WaveCache
    ) -> None:
        self.encoder = encoder
        self.kind = kind or encoder.usual_pooling
        self.layers = tuple(layers) or ((encoder.depth,) if kind == SEQUENCE else encoder.usual_layers)
        wrong = [n for n in self.layers if not 0 <= n <= encoder.depth]
        if wrong:
            raise UsageError(f"{encoder.name} has layers 0 (stem) to {encoder.depth} but got {wrong[0]}")
        pooled = 1 if self.kind == SEQUENCE else len(features.pools_of(self.kind))
        self.width = encoder.dim * len(self.layers) * pooled
        self.squeeze, self.shortest_s = squeeze, shortest_s
        self.store: FeatureStore | None = None
        self.tokens: TokenStore | None = None
        self.versions = 1
        self._cache = cache

    def feature_store(self, root: Path | None = None) -> FeatureStore:
        """A cache of what `vector` or `sequence` gives, in a folder or where caches usually are."""
        return FeatureStore(
            self.encoder, self.layers, self.kind, shortest_s=self.shortest_s, squeeze=self.squeeze, root=root
        )  # fmt: skip

    def load(self, clips: Sequence[Clip], generator: torch.Generator | None) -> list[Tensor | AudioError]:
        """What is known of each clip: cached features, cached tokens of a random version, or its waveform."""
        if self.store is not None:
            return self.store.get(clips)
        if self.tokens is not None and generator is not None:
            return self.tokens.get(clips, torch.randint(self.versions, (len(clips),), generator=generator).tolist())
        waves = load_waves(
            clips, self.encoder.rate_hz, cache=self._cache, shortest_s=self.shortest_s, fewest=self.encoder.fewest
        )  # fmt: skip
        return [self._heard(c, w) for c, w in zip(clips, waves, strict=True)]

    def batch(self, clips: Sequence[Clip], values: Sequence[Tensor], changes: SoundAugment, seed: int | None) -> Batch:
        """What `load` gave as one batch; waveforms changed where a seed is given."""
        if self.store is not None and self.kind != SEQUENCE:
            return Batch(clips, features=torch.stack(list(values)))
        if self.store is not None:
            tokens, mask = _padded([value.float() for value in values])
            return Batch(clips, tokens=tokens, mask=mask)
        if self.tokens is not None and seed is not None:
            return self._lower(clips, values, goes_on=changes.whole)
        waves, lengths = stack(values)
        if seed is None:
            return Batch(clips, waves=waves, lengths=lengths)
        if changes.whole:  # a shorter clip goes on in silence, as it does in a longer file
            lengths = None
        changed = changes.waves(waves, torch.Generator().manual_seed(seed), self.encoder.rate_hz)
        return Batch(clips, waves=changed, lengths=lengths, seed=seed)

    def encode(self, batch: Batch, changes: SoundAugment, drop: float = 0.0) -> Encoded:
        """The encoder's outputs; changed frames and dropped tokens where the batch has a seed."""
        if batch.tokens is not None and self.tokens is not None and batch.grid is not None:
            return self.encoder.upper(
                batch.tokens, batch.grid, batch.mask, number=self.tokens.number, layers=self.layers
            )  # fmt: skip
        assert batch.waves is not None
        frames, lengths = self.encoder.listen(batch.waves, batch.lengths)
        if batch.seed is None:
            return self.encoder.encode(frames, lengths, layers=self.layers)
        generator = torch.Generator().manual_seed(batch.seed)
        frames = changes.features(frames, generator, self.encoder.frontend.bands)  # type: ignore[arg-type]
        return self.encoder.encode(frames, lengths, layers=self.layers, drop=drop, generator=generator)

    def vector(self, batch: Batch, changes: SoundAugment, drop: float = 0.0) -> Tensor:
        """(batch, width) pooled outputs."""
        if batch.features is not None:
            return batch.features
        return features.pool(self.encode(batch, changes, drop), self.layers, self.kind)

    def sequence(self, batch: Batch, changes: SoundAugment) -> Heard:
        """(batch, n, width) tokens in the order of time, and where they are real."""
        if batch.tokens is not None:
            return batch.tokens, batch.mask
        return features.sequence(self.encode(batch, changes), self.layers, self.squeeze)

    def _lower(self, clips: Sequence[Clip], values: Sequence[Tensor], *, goes_on: bool) -> Batch:
        """Cached lower tokens; where a clip must go on, a shorter one does so with its last token."""
        longest = max(len(value) for value in values)
        mask = torch.stack([torch.arange(longest) < len(value) for value in values])
        tokens = torch.stack([torch.cat([v, v[-1:].expand(longest - len(v), -1)]) for v in values])
        grid = self.encoder.stem.grid(longest, self.encoder.frontend.mels)  # type: ignore[operator]
        if grid.freq > 1 and not mask.all():
            raise UsageError("cached tokens of a patch backbone need clips of one length; set task.cache_versions=0")
        return Batch(clips, tokens=tokens, mask=None if goes_on or mask.all() else mask, grid=grid)

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


class Listener:
    """Loads clips for every encoder of a backbone; a clip that one of them cannot take is left out and noted.

    Args:
        encoder: with its adapter injected, or frozen; several if it is a joined one.
        changes: random changes in training, the same for every encoder.
        layers: whose outputs are taken; empty is what suits each encoder.
        kind: pooling or "tokens", see `Ear`.
        squeeze: of a sequence, see `features.sequence`.
        window_s: longest stretch of a clip trained on at once; None takes whole clips.
        shortest_s: shorter clips go on in silence up to this length, in training and prediction alike.
        cache_bytes: memory for decoded waveforms.

    Raises:
        UsageError: for layers of a joined backbone, or of an encoder that does not have them.
    """

    def __init__(
        self, encoder: Encoders, changes: SoundAugment, *, layers: Sequence[int] = (), kind: str = "",
        squeeze: int = 1, window_s: float | None = None, shortest_s: float = 0.0, cache_bytes: int = 0,
    ) -> None:  # fmt: skip
        if layers and len(encoder.encoders) > 1:
            raise UsageError(f"task.layers={list(layers)} is of one encoder, {encoder.name} has several; leave it out")
        cache = WaveCache(cache_bytes)
        self.ears = [Ear(e, layers, kind, squeeze, shortest_s, cache) for e in encoder.encoders]
        self.changes, self.window_s = changes, window_s
        self.unreadable: dict[str, str] = {}

    @property
    def widths(self) -> list[int]:
        """Of what each encoder gives."""
        return [ear.width for ear in self.ears]

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        """The clips that can be read as one batch without targets; in training a random stretch of those that are long.

        Raises:
            DataError: if there is none.
        """
        chosen = clips if generator is None else [self._crop(c, generator) for c in clips]
        loaded = [ear.load(chosen, generator) for ear in self.ears]
        faults = [next((v for v in row if isinstance(v, AudioError)), None) for row in zip(*loaded, strict=True)]
        self.unreadable |= {str(c.path): str(f) for c, f in zip(chosen, faults, strict=True) if f is not None}
        good = [i for i, fault in enumerate(faults) if fault is None]
        if not good:
            raise DataError(f"no clip of this batch can be read; first: {faults[0]}")
        kept, seed = [chosen[i] for i in good], None if generator is None else draw(generator)
        first, *others = (
            ear.batch(kept, [v for i in good if isinstance(v := values[i], Tensor)], self.changes, seed)
            for ear, values in zip(self.ears, loaded, strict=True)
        )
        return replace(first, others=tuple(others))

    def vectors(self, batch: Batch, drop: float = 0.0) -> Tensor:
        """(batch, sum of widths) pooled outputs of all encoders."""
        pairs = zip(self.ears, batch.parts, strict=True)
        return torch.cat([ear.vector(part, self.changes, drop) for ear, part in pairs], dim=1)

    def sequences(self, batch: Batch) -> list[Heard]:
        """Tokens of each encoder, and where they are real."""
        return [ear.sequence(part, self.changes) for ear, part in zip(self.ears, batch.parts, strict=True)]

    def _crop(self, clip: Clip, generator: torch.Generator) -> Clip:
        """A random stretch of `window_s` of a clip that says where it ends."""
        room = 0.0 if self.window_s is None or clip.end is None else clip.end - clip.start - self.window_s
        if self.window_s is None or room <= ROUNDING_S:
            return clip
        start = clip.start + room * float(torch.rand((), generator=generator))
        return replace(clip, start=start, end=start + self.window_s)


def _padded(rows: Sequence[Tensor]) -> Heard:
    """(batch, longest, width) tokens, and the mask of where they are real; None where all are."""
    longest = max(len(row) for row in rows)
    tokens = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
    mask = torch.stack([torch.arange(longest) < len(row) for row in rows])
    return tokens, None if mask.all() else mask


def draw(generator: torch.Generator) -> int:
    """A seed for random changes."""
    return int(torch.randint(2**31, (), generator=generator))
