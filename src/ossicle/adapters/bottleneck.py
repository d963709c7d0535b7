"""Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2020) in every placement of PETL of AST, Table III."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.adapters.base import INITS, Site, fill_linears, pick, positive
from ossicle.adapters.placement import at_sub_layers, placement, width
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context


class BottleneckDelta(nn.Module):
    """scale · (up GELU(down x + b) + b'), equation 5 of PETL of AST.

    Args:
        dim: token width.
        rank: width between.
        scale: gain of the correction.
        init: see `base.fill`.
        generator: draws the initial weights.
    """

    def __init__(self, dim: int, rank: int, *, scale: float, init: str, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Linear(dim, rank)
        self.up = nn.Linear(rank, dim)
        self.scale = scale
        fill_linears(self.down, self.up, init, generator)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """(..., dim) to the same shape."""
        y: Tensor = self.up(F.gelu(self.down(x)))
        return y * self.scale


@dataclass(frozen=True)
class Bottleneck:
    """Spec of bottleneck adapters.

    Args:
        sites: attn, mlp or both (Houlsby).
        place: parallel (input is the LayerNormed token), after or before the sub-layer.
        residual: on, off or usual (on for after and before, off for parallel).
        reduction: dim / rank.
        rank: width between; 0 takes round(dim / reduction).
        scale: gain of the correction.
        norms: also train the LayerNorm of every touched sub-layer, as the paper's code does.
        blocks: all, top:3, 0-3 or 2.
        init: silent, hf or zero; see `base.fill`.
    """

    sites: str = "mlp"
    place: str = "parallel"
    residual: str = "usual"
    reduction: int = 64
    rank: int = 0
    scale: float = 1.0
    norms: bool = True
    blocks: str = "all"
    init: str = "silent"

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """One delta per touched sub-layer, and its norm."""
        positive(rank_or_reduction=self.rank or self.reduction, scale=self.scale)
        pick("init", self.init, INITS)
        rank = width(encoder, self.rank, self.reduction)
        return at_sub_layers(
            encoder, self.sites, placement(self.place, self.residual), self.blocks,
            lambda: BottleneckDelta(encoder.dim, rank, scale=self.scale, init=self.init, generator=generator),
            norms=self.norms,
        )  # fmt: skip
