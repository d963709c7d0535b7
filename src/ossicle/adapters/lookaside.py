"""Look-Aside Adapter: parallel bottlenecks that are convolutions over time or over frequency (equation 3 there).

h = B(x) + scale · up GELU(down x), with B attention or MLP, x its LayerNormed input, and both projections (1, N)
kernels over time, (N, 1) over frequency, (N, N) over both or (1, 1). Neither has a bias, as the paper's counts prove.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.adapters.base import INITS, Site, fill, pick, pick_blocks, positive
from ossicle.adapters.gridconv import GridConv
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context
from ossicle.errors import AdapterError

KERNELS = {"time": (False, True), "freq": (True, False), "both": (True, True), "point": (False, False)}


class LookAsideDelta(nn.Module):
    """scale · up GELU(down x) with convolutions on the token grid.

    Args:
        dim: token width.
        rank: width between.
        kernel: (frequency, time).
        scale: gain of the correction.
        extra: see `GridConv`.
        init: see `base.fill`.
        generator: draws the initial weights.
    """

    def __init__(
        self, dim: int, rank: int, kernel: tuple[int, int],
        *, scale: float, extra: str, init: str, generator: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        self.down = GridConv(dim, rank, kernel, bias=False, extra=extra)
        self.up = GridConv(rank, dim, kernel, bias=False, extra=extra)
        self.scale = scale
        fill(self.down.weight, init, generator, up=False)
        fill(self.up.weight, init, generator, up=True)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        y: Tensor = self.up(F.gelu(self.down(x, context)), context)
        return y * self.scale


@dataclass(frozen=True)
class LookAside:
    """Spec of the Look-Aside Adapter.

    Args:
        attn: kernel beside attention: time, freq, both, point or off.
        mlp: kernel beside the MLP, likewise.
        rank: width between.
        size: length N of the kernels, odd.
        scale: gain of the correction.
        extra: class and distillation tokens go through the centre tap (centre) or get no correction (skip).
        blocks: all, top:3, 0-3 or 2.
        init: silent, hf or zero; see `base.fill`.
    """

    attn: str = "time"
    mlp: str = "freq"
    rank: int = 36
    size: int = 3
    scale: float = 1.0
    extra: str = "centre"
    blocks: str = "all"
    init: str = "silent"

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """One delta per block and chosen sub-layer."""
        positive(rank=self.rank, scale=self.scale)
        pick("extra", self.extra, ("centre", "skip"))
        pick("init", self.init, INITS)
        if self.size < 1 or self.size % 2 == 0:
            raise AdapterError(f"size={self.size} must be odd, so that a kernel has a centre")
        chosen = {"attn": self.attn, "mlp": self.mlp}
        for part, kind in chosen.items():
            pick(part, kind, (*KERNELS, "off"))
            if kind in ("freq", "both") and not has_frequency(encoder):
                raise AdapterError(
                    f"lookaside({part}={kind}) looks along frequency but the tokens of {encoder.name} run in time only;"
                    " use time or point"
                )
        if set(chosen.values()) == {"off"}:
            raise AdapterError("lookaside(attn=off,mlp=off) adapts nothing; choose time, freq, both or point for one")
        return [
            Site(f"blocks.{n}.{part}", "parallel", self._delta(encoder.dim, kind, generator))
            for n in pick_blocks(self.blocks, encoder.depth)
            for part, kind in chosen.items()
            if kind != "off"
        ]

    def _delta(self, dim: int, kind: str, generator: torch.Generator) -> LookAsideDelta:
        freq, time = KERNELS[kind]
        kernel = (self.size if freq else 1, self.size if time else 1)
        return LookAsideDelta(
            dim, self.rank, kernel, scale=self.scale, extra=self.extra, init=self.init, generator=generator
        )


def has_frequency(encoder: Encoder) -> bool:
    """Whether the encoder's token grid has more than one row."""
    grid = encoder.stem.grid(1, encoder.frontend.mels)  # type: ignore[operator]
    return bool(grid.freq > 1)
