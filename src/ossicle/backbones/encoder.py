"""The encoder every transformer backbone is: front end, stem, blocks, final norm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.backbones.layers import Socket
from ossicle.backbones.masking import gather, keep_random
from ossicle.backbones.tags import Tags
from ossicle.contracts import Context, Encoded, TokenGrid
from ossicle.errors import AdapterError, UsageError


class Stem(Protocol):
    """Turns front-end frames into tokens with positions."""

    def __call__(self, features: Tensor, frames: Tensor | None) -> tuple[Tensor, TokenGrid, Tensor | None]:
        """Tokens (batch, tokens, dim), their grid, and (batch, tokens) bool where real, or None if all are."""
        ...


class Encoder(nn.Module):
    """A transformer over sound; or, without blocks, a convolutional network whose last map is its tokens.

    Args:
        name: the backbone's name in the table.
        frontend: waveforms to (batch, frames, mels).
        stem: frames to tokens.
        blocks: the transformer blocks.
        norm: the final norm, a `layers.Norm`.
        dim: width of the tokens.
        usual_layers: whose outputs a classifier pools if it is not told; empty is the last.
        usual_pooling: how, see `tasks.features.pool`.
        usual_whitening: whether a fitted head whitens what is pooled, see `tasks.fitted`.
        tags: the head a tagger was published with, or None.

    `active` names the adapter used when a call does not say; `adapters` is kept by `adapters.inject`.
    """

    def __init__(
        self,
        name: str,
        *,
        frontend: nn.Module,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        dim: int,
        usual_layers: Sequence[int] = (),
        usual_pooling: str = "mean",
        usual_whitening: bool = True,
        tags: Tags | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.dim = dim
        self.depth = len(blocks)
        self.frontend = frontend
        self.stem = stem
        self.inlets = nn.ModuleList(Socket() for _ in blocks)  # prompts come in here, one before every block
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.usual_layers = tuple(usual_layers) or (self.depth,)
        self.usual_pooling, self.usual_whitening = usual_pooling, usual_whitening
        self.tags = tags
        self.digest = ""
        self.origin: dict[str, Any] = {"source": "path", "origin": name, "verified": False}
        self.active: str | None = None
        self.adapters: dict[str, Any] = {}

    @property
    def encoders(self) -> tuple["Encoder", ...]:
        """Itself, as the one part of a backbone; a joined backbone has several."""
        return (self,)

    @property
    def rate_hz(self) -> int:
        """The sample rate the front end wants."""
        rate: int = self.frontend.rate_hz  # type: ignore[assignment]
        return rate

    @property
    def fewest(self) -> int:
        """The samples of one window of the front end; a clip with fewer is no sound to it, padded or not."""
        samples: int = self.frontend.fewest  # type: ignore[assignment]
        return samples

    def forward(
        self,
        waves: Tensor,
        lengths: Tensor | None = None,
        *,
        layers: Sequence[int] = (),
        adapter: str | tuple[str | None, ...] | None = None,
    ) -> Encoded:
        """Encode waveforms.

        Args:
            waves: (batch, samples) float32 in [-1, 1] at `rate_hz`.
            lengths: (batch,) real samples of each row, None if all are; neighbours never change a row.
            layers: block outputs to keep, 0 (stem) to depth (after the final norm); blocks above the highest are not
                run and `tokens` is its output.
            adapter: one name for all rows, one name or None per row; None means the active one.

        Returns:
            Encoded tokens (batch, tokens, dim).

        Raises:
            AudioError: if a clip is shorter than one front-end window.
            UsageError: if a layer or an adapter does not exist.
        """
        features, frames = self.listen(waves, lengths)
        return self.encode(features, frames, layers=layers, adapter=adapter)

    def scores(self, encoded: Encoded) -> Tensor:
        """What a tagger makes of its tokens: (batch, rows, classes) probabilities, one row a clip or one a token.

        Raises:
            UsageError: if it is no tagger.
        """
        if self.tags is None:
            raise UsageError(f"{self.name} has no classes of its own; take a tagger such as mn04 or yamnet")
        found: Tensor = self.tags(encoded.tokens, encoded.mask)
        return found

    def listen(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Front end only: (batch, frames, mels) float32 and each row's frames, None when all are equal."""
        with torch.no_grad(), torch.autocast(waves.device.type, enabled=False):
            features, frames = self.frontend(waves, lengths)
        return features, None if lengths is None else frames

    def encode(
        self,
        features: Tensor,
        frames: Tensor | None = None,
        *,
        layers: Sequence[int] = (),
        adapter: str | tuple[str | None, ...] | None = None,
        drop: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Encoded:
        """Stem, blocks and norm on (batch, frames, mels); arguments as in `forward`.

        With `drop` above 0 that share of the grid tokens is dropped after the stem, drawn from `generator`.

        Raises:
            UsageError: for `drop` without blocks, where nothing would be spared by it.
        """
        if drop > 0 and not self.depth:
            raise UsageError(no_drop(self.name))
        x, grid, valid = self.stem(features, frames)
        kept = None
        if drop > 0 and generator is not None:
            kept = keep_random(len(x), grid.tokens - grid.extra, drop, generator).to(x.device)
            x = gather(x, kept, grid.extra)
            valid = None if valid is None else gather(valid, kept, grid.extra)
        return self.upper(x, grid, valid, kept=kept, layers=layers, adapter=adapter)

    def lower(self, features: Tensor, frames: Tensor | None, number: int) -> tuple[Tensor, TokenGrid, Tensor | None]:
        """Stem and the first `number` blocks without any adapter: what `upper` goes on from."""
        x, grid, valid = self.stem(features, frames)
        context = Context(grid=grid, mask=None if valid is None else valid[:, None, None, :])
        for block in self.blocks[:number]:
            x = block(x, context)
        return x, grid, valid

    def upper(
        self,
        x: Tensor,
        grid: TokenGrid,
        valid: Tensor | None,
        *,
        number: int = 0,
        kept: Tensor | None = None,
        layers: Sequence[int] = (),
        adapter: str | tuple[str | None, ...] | None = None,
    ) -> Encoded:
        """The blocks after the first `number`, and the norm; blocks above the highest of `layers` are not run.

        Args:
            x: (batch, tokens, dim), output of block `number`.
            grid: before any token was dropped.
            valid: (batch, tokens) bool where real, None if all are.
            number: blocks already done.
            kept: see `contracts.Context`.
            layers: as in `forward`; none below `number`.
            adapter: as in `forward`.
        """
        self._check(layers, adapter)
        if not isinstance(adapter, tuple):
            name = self.active if adapter is None else adapter
            return self._run(x, Context(grid, name, kept, None), valid, number, layers)
        if len(adapter) != len(x):
            raise AdapterError(f"{len(adapter)} adapter names for a batch of {len(x)} clips; give one name per clip")
        groups = [[i for i, n in enumerate(adapter) if n == name] for name in dict.fromkeys(adapter)]
        parts = []
        for rows in groups:
            some = torch.tensor(rows, device=x.device)
            keep, real = (None if t is None else t[some] for t in (kept, valid))
            parts.append(self._run(x[some], Context(grid, adapter[rows[0]], keep, None), real, number, layers))
        order = torch.tensor([i for rows in groups for i in rows], device=x.device).argsort()
        return _join(parts, order)

    def _run(self, x: Tensor, context: Context, valid: Tensor | None, number: int, layers: Sequence[int]) -> Encoded:
        """Blocks and norm for rows of one adapter."""
        out = Encoded(x, context.grid, valid, front=context.grid.extra)
        last = max(layers) if layers else self.depth
        for done in range(number, last + 1):
            if done == self.depth:
                out.tokens = self.norm(out.tokens, context)
            if done in layers:
                out.hidden[done], out.masks[done] = out.tokens, out.mask
            if done < last:
                x = self.inlets[done](out.tokens, context)
                _widen(out, x.shape[1] - out.tokens.shape[1])
                mask = None if out.mask is None else out.mask[:, None, None, :]
                context = replace(context, grid=out.grid, mask=mask)
                out.tokens = self.blocks[done](x, context)
        return out

    def _check(self, layers: Sequence[int], adapter: str | tuple[str | None, ...] | None) -> None:
        wrong = [n for n in layers if not 0 <= n <= self.depth]
        if wrong:
            raise UsageError(f"{self.name} has layers 0 (stem) to {self.depth} but got {wrong[0]}")
        names = adapter if isinstance(adapter, tuple) else (adapter,)
        unknown = [n for n in names if n is not None and n not in self.adapters]
        if unknown:
            raise UsageError(f"adapter '{unknown[0]}' is not on {self.name}; there are: {sorted(self.adapters)}")


def _widen(out: Encoded, more: int) -> None:
    """Note that an inlet put tokens in front, or took some (below 0)."""
    if more:
        out.grid = replace(out.grid, extra=out.grid.extra + more)
        out.mask = None if out.mask is None else F.pad(out.mask, (more, 0), value=True)


def _join(parts: Sequence[Encoded], order: Tensor) -> Encoded:
    """Rows of several adapters in one batch; where one adds tokens, the rows of the others end in masked ones."""

    def stack(pairs: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
        longest = max(x.shape[1] for x, _ in pairs)
        rows = torch.cat([F.pad(x, (0, 0, 0, longest - x.shape[1])) for x, _ in pairs])[order]
        if all(mask is None and x.shape[1] == longest for x, mask in pairs):
            return rows, None
        masks = [torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if m is None else m for x, m in pairs]
        return rows, torch.cat([F.pad(m, (0, longest - m.shape[1])) for m in masks])[order]

    tokens, mask = stack([(p.tokens, p.mask) for p in parts])
    out = Encoded(tokens, max((p.grid for p in parts), key=lambda g: g.extra), mask, front=parts[0].front)
    for layer in parts[0].hidden:
        out.hidden[layer], out.masks[layer] = stack([(p.hidden[layer], p.masks[layer]) for p in parts])
    return out


def no_drop(name: str) -> str:
    """Why tokens cannot be dropped."""
    return (
        f"task.augment.drop_tokens spares the blocks of a transformer, but {name} is convolutional and has none; "
        "set it to 0 (time_mask and freq_mask hide parts of a sound from it)"
    )


@dataclass(frozen=True)
class Spec:
    """How one backbone is built and filled.

    Args:
        name: its name.
        weights: name of its published weights in `weights.SOURCES`.
        sizes: the published sizes, a frozen dataclass of its family.
        make: sizes to an empty encoder.
        keys: a checkpoint of any known format to the encoder's own names.
        infer: sizes as they follow from renamed tensors.
        summary: one line for `ossicle models`.
    """

    name: str
    weights: str
    sizes: Any
    make: Callable[[str, Any], Encoder]
    keys: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    infer: Callable[[dict[str, Tensor], Any], Any]
    summary: str
