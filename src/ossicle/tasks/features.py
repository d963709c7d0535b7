"""Pooling of encoder outputs, and disk caches of what frozen parts compute: pooled features, lower tokens."""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ossicle.adapters import trainable
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.weights import home
from ossicle.contracts import Clip, Encoded
from ossicle.data.clips import load_waves
from ossicle.devices import one_thread
from ossicle.errors import AudioError, CheckpointError, UnknownNameError, UsageError
from ossicle.files import write_atomic
from ossicle.sound import audio

SEQUENCE = "tokens"


def _mean(tokens: Tensor, mask: Tensor | None, front: int) -> Tensor:
    if mask is None:
        return tokens.mean(dim=1)
    weight = mask.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def _first(tokens: Tensor, mask: Tensor | None, front: int) -> Tensor:
    return tokens[:, 0]


def _extra(tokens: Tensor, mask: Tensor | None, front: int) -> Tensor:
    return tokens[:, :front].mean(dim=1)


def _max(tokens: Tensor, mask: Tensor | None, front: int) -> Tensor:
    if mask is not None:
        tokens = tokens.masked_fill(~mask[..., None], -torch.inf)
    return tokens.amax(dim=1)


POOLS: dict[str, Callable[[Tensor, Tensor | None, int], Tensor]] = {
    "mean": _mean,
    "max": _max,
    "cls": _first,
    "extra": _extra,
}
OF_CLASS_TOKENS = ("cls", "extra")


def pools_of(kind: str) -> list[str]:
    """The names joined by `+` in a pooling such as "mean+max".

    Raises:
        UnknownNameError: for a name that is none.
    """
    names = kind.split("+")
    for name in names:
        if name not in POOLS:
            raise UnknownNameError("pooling", name, POOLS)
    return names


def pool(encoded: Encoded, layers: Sequence[int], kind: str) -> Tensor:
    """One vector per clip.

    Args:
        encoded: with `hidden` for each of the layers.
        layers: whose outputs are joined, in order.
        kind: "mean" or "max" of all real tokens (prompts included, as in PETL of AST), "cls" (the first) or "extra"
            (mean of class and distillation tokens); `+` joins several, as in "mean+max".

    Returns:
        (batch, poolings * len(layers) * dim) float32.

    Raises:
        UnknownNameError: for another kind.
        UsageError: if it wants class tokens and the backbone has none.
    """
    names = pools_of(kind)
    if not encoded.front and any(name in OF_CLASS_TOKENS for name in names):
        raise UsageError(f"pooling={kind} wants a class token, but this backbone has none; use mean")
    masks = {n: encoded.masks.get(n, encoded.mask) for n in layers}
    found = [POOLS[name](encoded.hidden[n].float(), masks[n], encoded.front) for name in names for n in layers]
    return torch.cat(found, dim=1)


def sequence(encoded: Encoded, layers: Sequence[int], squeeze: int = 1) -> tuple[Tensor, Tensor | None]:
    """Tokens in the order of time, without class tokens and prompts.

    Args:
        encoded: with `hidden` for each of the layers.
        layers: whose outputs are joined in width, in order.
        squeeze: that many neighbours in time become their mean; frequency rows stay apart.

    Returns:
        (batch, tokens, len(layers) * dim) float32, and (batch, tokens) bool where they are real or None if all are.
        Frequency runs fastest.
    """
    grid = encoded.grid
    own = grid.freq * grid.time  # prompts may come in later, so that layers differ in what stands in front
    joined = torch.cat([encoded.hidden[n][:, -own:].float() for n in layers], dim=-1)
    mask = None if encoded.mask is None else encoded.mask[:, -own:]
    time, freq = joined.shape[1] // grid.freq, grid.freq
    batch, freq_first = len(joined), grid.order == "freq"
    shape = (batch, freq, time) if freq_first else (batch, time, freq)
    valid = torch.ones(joined.shape[:2], device=joined.device) if mask is None else mask.float()
    rows, valid = joined.view(*shape, -1), valid.view(shape)
    if freq_first:
        rows, valid = rows.transpose(1, 2), valid.transpose(1, 2)
    short = -time % squeeze
    rows, valid = F.pad(rows, (0, 0, 0, 0, 0, short)), F.pad(valid, (0, 0, 0, short))
    rows, valid = rows.reshape(batch, -1, squeeze, freq, joined.shape[-1]), valid.reshape(batch, -1, squeeze, freq)
    weight = valid.sum(dim=2)
    means = (rows * valid[..., None]).sum(dim=2) / weight.clamp(min=1)[..., None]
    return means.flatten(1, 2), None if mask is None else (weight > 0).flatten(1)


class Disk:
    """Arrays on disk by everything their numbers follow from; a full disk only costs the cache.

    A key holds the sound's bytes, start, end and channel, decode version, front-end settings, digests of weights and
    adapter, what was computed.
    """

    def __init__(self, encoder: Encoder, root: Path | None, what: list[object]) -> None:
        self.root = home() / "features" if root is None else root
        frontend = encoder.frontend.settings()  # type: ignore[operator]
        stride = str(encoder.stem.__dict__.get("stride", ""))
        known = [audio.DECODE_VERSION, frontend, stride, encoder.name, encoder.digest, what, "float32"]
        known += _adapter_digest(encoder) + (["zero positions"] if _without_positions(encoder) else [])
        self.setting = json.dumps(known, sort_keys=True, default=str)
        self._hashes: dict[Path, str] = {}

    def read(self, clip: Clip, variant: int = 0) -> Tensor | None:
        """What was kept of a clip, or None."""
        file = self._file(clip, variant)
        try:
            return None if file is None else torch.from_numpy(np.load(file, allow_pickle=False))
        except Exception:  # whatever numpy makes of a damaged file, it is made anew
            return None

    def write(self, clip: Clip, value: Tensor, variant: int = 0) -> None:
        """Keep what was computed of a clip, where the disk takes it."""
        file = self._file(clip, variant)
        if file is None:
            return
        with contextlib.suppress(CheckpointError):
            write_atomic(file, lambda part: _save(part, value))

    def _file(self, clip: Clip, variant: int) -> Path | None:
        try:
            if clip.path not in self._hashes:
                self._hashes[clip.path] = audio.content_hash(clip.path)
        except (AudioError, OSError):
            return None
        text = f"{self._hashes[clip.path]}|{clip.start}|{clip.end}|{clip.channel}|{variant}|{self.setting}"
        key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self.root / key[:2] / f"{key}.npy"


def _without_positions(encoder: Encoder) -> bool:
    """Whether its table of positions was set to zero, which its digest does not tell."""
    table = getattr(encoder.stem, "positions", None)
    return isinstance(table, Tensor) and not table.any()


def _adapter_digest(encoder: Encoder) -> list[str]:
    """Of the active adapter's tensors; nothing where it has none."""
    own = trainable(encoder, encoder.active) if encoder.active else {}
    digest = hashlib.blake2b(digest_size=16)
    for key, value in sorted(own.items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return [digest.hexdigest()] if own else []


@contextlib.contextmanager
def without_adapter(encoder: Encoder) -> Iterator[None]:
    """The encoder as it was published, for a while; caches made meanwhile are the frozen one's."""
    active, encoder.active = encoder.active, None
    try:
        yield
    finally:
        encoder.active = active


def _save(part: Path, value: Tensor) -> None:
    with part.open("wb") as file:
        np.save(file, value.numpy())


class FeatureStore:
    """Features of a frozen encoder, computed once per clip and kept on disk and in memory.

    Args:
        encoder: nothing of it may train as long as the store is used.
        layers: whose outputs are joined.
        kind: pooling, or "tokens" for the whole sequence in float16.
        shortest_s: shorter clips go on in silence up to this length.
        root: folder of the cache; None is `home()/features`.
        batch: clips encoded at a time.
        squeeze: of a sequence, see `sequence`.
        memory_bytes: what is kept in memory besides the disk.
    """

    def __init__(
        self,
        encoder: Encoder,
        layers: Sequence[int],
        kind: str,
        *,
        shortest_s: float = 0.0,
        root: Path | None = None,
        batch: int = 16,
        squeeze: int = 1,
        memory_bytes: int = 2 * 1024**3,
    ) -> None:
        self.encoder, self.layers, self.kind, self.batch = encoder, tuple(layers), kind, batch
        self.shortest_s, self.squeeze = shortest_s, squeeze
        self.computed = 0
        shape = [squeeze] if kind == SEQUENCE else []
        self._disk = Disk(encoder, root, ["pooled", self.layers, kind, shortest_s, *shape])
        self._memory: dict[Clip, Tensor] = {}
        self._room = memory_bytes

    def get(self, clips: Sequence[Clip]) -> list[Tensor | AudioError]:
        """A (width,) float32 vector, or (tokens, width) float16, per clip, or why there is none; order kept."""
        found: dict[Clip, Tensor | AudioError] = {c: self._memory[c] for c in clips if c in self._memory}
        for clip in dict.fromkeys(clips):
            stored = None if clip in found else self._disk.read(clip)
            if stored is not None:
                found[clip] = stored
        rest = [c for c in dict.fromkeys(clips) if c not in found]
        groups = [rest[first : first + self.batch] for first in range(0, len(rest), self.batch)]
        with ThreadPoolExecutor(max_workers=1) as loader:  # the next clips are decoded while these are encoded
            ahead = loader.submit(self._load, groups[0]) if groups else None
            for number, group in enumerate(groups):
                assert ahead is not None
                waves = ahead.result()
                ahead = loader.submit(self._load, groups[number + 1]) if number + 1 < len(groups) else None
                found |= self._compute(group, waves)
        for clip, value in found.items():
            self._keep(clip, value)
        return [found[c] for c in clips]

    def _keep(self, clip: Clip, value: Tensor | AudioError) -> None:
        if clip in self._memory or isinstance(value, AudioError) or value.nbytes > self._room:
            return
        self._memory[clip] = value
        self._room -= value.nbytes

    def _load(self, clips: Sequence[Clip]) -> list[Tensor | AudioError]:
        return load_waves(clips, self.encoder.rate_hz, shortest_s=self.shortest_s, fewest=self.encoder.fewest)

    def _compute(self, clips: Sequence[Clip], waves: Sequence[Tensor | AudioError]) -> dict[Clip, Tensor | AudioError]:
        done: dict[Clip, Tensor | AudioError] = {}
        for row in by_length(clips, waves):
            done |= self._encode([c for c, _ in row], torch.stack([w for _, w in row]))
        self.computed += len(clips)
        return done | {c: w for c, w in zip(clips, waves, strict=True) if isinstance(w, AudioError)}

    @torch.no_grad()
    def _encode(self, clips: Sequence[Clip], waves: Tensor) -> dict[Clip, Tensor | AudioError]:
        self.encoder.eval()
        device = _device(self.encoder)
        small = nullcontext() if self.encoder.depth else one_thread(device)  # convolutions this small lose by threads
        try:
            with small:
                encoded = self.encoder(waves.to(device), layers=self.layers)
        except AudioError as err:
            return dict.fromkeys(clips, err)
        if self.kind == SEQUENCE:
            vectors = sequence(encoded, self.layers, self.squeeze)[0].half().cpu()
        else:
            vectors = pool(encoded, self.layers, self.kind).cpu()
        for clip, vector in zip(clips, vectors, strict=True):
            self._disk.write(clip, vector)
        return dict(zip(clips, vectors, strict=True))


class TokenStore:
    """Tokens below the lowest trainable block, computed once for a few changed versions of every clip.

    Training then runs the upper blocks only. Version 0 is the clip itself, every other one a random change of its own
    that is the same in every run.

    Args:
        encoder: its first `number` blocks must carry no adapter.
        number: blocks done before.
        change: waves (1, samples) and a generator to changed waves; settings for the key.
        settings: everything `change` follows from.
        shortest_s: shorter clips go on in silence up to this length.
        root: folder of the cache; None is `home()/features`.
    """

    def __init__(
        self,
        encoder: Encoder,
        number: int,
        change: Callable[[Tensor, torch.Generator], Tensor],
        settings: object,
        *,
        shortest_s: float = 0.0,
        root: Path | None = None,
    ) -> None:
        self.encoder, self.number, self.change, self.shortest_s = encoder, number, change, shortest_s
        self.computed = 0
        self._disk = Disk(encoder, root, ["tokens", number, settings, shortest_s])

    def get(self, clips: Sequence[Clip], versions: Sequence[int]) -> list[Tensor | AudioError]:
        """(tokens, dim) float32 of each clip in the version asked for, or why there is none."""
        found: dict[int, Tensor | AudioError] = {}
        for i, (clip, version) in enumerate(zip(clips, versions, strict=True)):
            stored = self._disk.read(clip, version)
            if stored is not None:
                found[i] = stored
        rest = [i for i in range(len(clips)) if i not in found]
        left, encoder = [clips[i] for i in rest], self.encoder
        waves = load_waves(left, encoder.rate_hz, shortest_s=self.shortest_s, fewest=encoder.fewest)
        found |= {i: w for i, w in zip(rest, waves, strict=True) if isinstance(w, AudioError)}
        for row in by_length(rest, waves):
            found |= self._compute(clips, versions, row)
        return [v.float() if isinstance(v, Tensor) else v for _, v in sorted(found.items())]

    @torch.no_grad()
    def _compute(
        self, clips: Sequence[Clip], versions: Sequence[int], row: Sequence[tuple[int, Tensor]]
    ) -> dict[int, Tensor | AudioError]:
        changed = []
        for i, wave in row:
            seed = zlib.crc32(f"{clips[i].path.name}|{clips[i].start}|{versions[i]}".encode())
            generator = torch.Generator().manual_seed(seed)
            changed.append(self.change(wave[None], generator) if versions[i] else wave[None])
        try:
            frames, _ = self.encoder.listen(torch.cat(changed).to(_device(self.encoder)))
            tokens, _, _ = self.encoder.lower(frames, None, self.number)
        except AudioError as err:
            return {i: err for i, _ in row}
        self.computed += len(row)
        half = tokens.half().cpu()
        for (i, _), value in zip(row, half, strict=True):
            self._disk.write(clips[i], value, versions[i])
        return {i: value for (i, _), value in zip(row, half, strict=True)}


Item = TypeVar("Item")


def by_length(items: Sequence[Item], waves: Sequence[Tensor | AudioError]) -> list[list[tuple[Item, Tensor]]]:
    """Readable waves with what they belong to, in groups of one length."""
    groups: dict[int, list[tuple[Item, Tensor]]] = {}
    for item, wave in zip(items, waves, strict=True):
        if isinstance(wave, Tensor):
            groups.setdefault(len(wave), []).append((item, wave))
    return [groups[length] for length in sorted(groups)]


def _device(encoder: Encoder) -> torch.device:
    return next(encoder.stem.parameters()).device
