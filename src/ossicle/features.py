"""Pooling of encoder outputs, and a disk cache of pooled features for encoders that do not change."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ossicle import audio
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.weights import home
from ossicle.contracts import Clip, Encoded
from ossicle.data.clips import load_waves
from ossicle.errors import AudioError, UnknownNameError


def _mean(tokens: Tensor, encoded: Encoded) -> Tensor:
    if encoded.mask is None:
        return tokens.mean(dim=1)
    weight = encoded.mask.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def _first(tokens: Tensor, encoded: Encoded) -> Tensor:
    return tokens[:, 0]


def _extra(tokens: Tensor, encoded: Encoded) -> Tensor:
    return tokens[:, : max(1, encoded.grid.extra)].mean(dim=1)


POOLS: dict[str, Callable[[Tensor, Encoded], Tensor]] = {"mean": _mean, "cls": _first, "extra": _extra}


def pool(encoded: Encoded, layers: Sequence[int], kind: str) -> Tensor:
    """One vector per clip.

    Args:
        encoded: with `hidden` for each of the layers.
        layers: whose outputs are joined, in order.
        kind: "mean" of all real tokens, "cls" (the first) or "extra" (mean of class and distillation tokens).

    Returns:
        (batch, len(layers) * dim) float32.

    Raises:
        UnknownNameError: for another kind.
    """
    if kind not in POOLS:
        raise UnknownNameError("pooling", kind, POOLS)
    return torch.cat([POOLS[kind](encoded.hidden[n].float(), encoded) for n in layers], dim=1)


class FeatureStore:
    """Pooled features of a frozen encoder, computed once per clip and kept on disk and in memory.

    The key of a file is everything its numbers follow from: sound bytes, start and end, decode version, front-end
    settings, weights digest, layers, pooling. An encoder with a trained adapter must not be given here.

    Args:
        encoder: frozen, without adapters.
        layers: whose outputs are joined.
        kind: pooling.
        root: folder of the cache; None is `home()/features`.
        batch: clips encoded at a time.
    """

    def __init__(
        self, encoder: Encoder, layers: Sequence[int], kind: str, *, root: Path | None = None, batch: int = 16
    ) -> None:
        self.encoder, self.layers, self.kind, self.batch = encoder, tuple(layers), kind, batch
        self.root = home() / "features" if root is None else root
        self.computed = 0
        frontend = encoder.frontend.settings()  # type: ignore[operator]
        stem = str(encoder.stem.__dict__.get("stride", ""))
        self.setting = json.dumps(
            [audio.DECODE_VERSION, frontend, stem, encoder.name, encoder.digest, self.layers, kind, "float32"],
            sort_keys=True, default=str,
        )  # fmt: skip
        self._hashes: dict[Path, str] = {}
        self._memory: dict[Clip, Tensor] = {}

    def get(self, clips: Sequence[Clip]) -> list[Tensor | AudioError]:
        """A (width,) float32 vector per clip, or why there is none; order kept."""
        found: dict[Clip, Tensor | AudioError] = {c: self._memory[c] for c in clips if c in self._memory}
        missing = [c for c in dict.fromkeys(clips) if c not in found]
        for clip in missing:
            stored = self._read(clip)
            if stored is not None:
                found[clip] = stored
        rest = [c for c in missing if c not in found]
        for first in range(0, len(rest), self.batch):
            found |= self._compute(rest[first : first + self.batch])
        self._memory |= {c: v for c, v in found.items() if isinstance(v, Tensor)}
        return [found[c] for c in clips]

    def _compute(self, clips: Sequence[Clip]) -> dict[Clip, Tensor | AudioError]:
        waves = load_waves(clips, self.encoder.rate_hz, cache=None)
        done: dict[Clip, Tensor | AudioError] = {}
        lengths = {len(w) for w in waves if isinstance(w, Tensor)}
        for length in sorted(lengths):
            rows = [(c, w) for c, w in zip(clips, waves, strict=True) if isinstance(w, Tensor) and len(w) == length]
            done |= self._encode([c for c, _ in rows], torch.stack([w for _, w in rows]))
        self.computed += len(clips)
        return done | {c: w for c, w in zip(clips, waves, strict=True) if isinstance(w, AudioError)}

    @torch.no_grad()
    def _encode(self, clips: Sequence[Clip], waves: Tensor) -> dict[Clip, Tensor | AudioError]:
        device = next(self.encoder.stem.parameters()).device
        try:
            encoded = self.encoder(waves.to(device), layers=self.layers)
        except AudioError as err:
            return dict.fromkeys(clips, err)
        vectors = pool(encoded, self.layers, self.kind).cpu()
        for clip, vector in zip(clips, vectors, strict=True):
            self._write(clip, vector)
        return dict(zip(clips, vectors, strict=True))

    def _file(self, clip: Clip) -> Path | None:
        try:
            if clip.path not in self._hashes:
                self._hashes[clip.path] = audio.content_hash(clip.path)
        except (AudioError, OSError):
            return None
        text = f"{self._hashes[clip.path]}|{clip.start}|{clip.end}|{self.setting}"
        key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self.root / key[:2] / f"{key}.npy"

    def _read(self, clip: Clip) -> Tensor | None:
        file = self._file(clip)
        try:
            return None if file is None else torch.from_numpy(np.load(file, allow_pickle=False))
        except (OSError, ValueError, EOFError):
            return None

    def _write(self, clip: Clip, vector: Tensor) -> None:
        """Keep a vector; a full disk only costs the cache."""
        file = self._file(clip)
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
                np.save(part, vector.numpy())
            os.replace(part.name, file)
        except OSError:
            return
