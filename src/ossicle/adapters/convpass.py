"""Convpass (Jie and Deng 2022) as PETL of AST uses it: a bottleneck with a convolution over its narrow tokens.

The paper's figure is 1x1, 3x3, 1x1; its 254K parameters are those of a convolution of width 3 along the token
sequence, which is the default here. Its code computes that convolution and throws the result away: conv=unused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.adapters.base import INITS, Site, fill_linears, pick, positive, share
from ossicle.adapters.gridconv import GridConv, SequenceConv, kaiming
from ossicle.adapters.placement import at_sub_layers, placement, width
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context


def quick_gelu(x: Tensor) -> Tensor:
    """X · sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


class Unused(SequenceConv):
    """A convolution that is there and does nothing, as in the code behind the paper's numbers."""

    def forward(self, x: Tensor, context: Context) -> Tensor:  # type: ignore[override]
        """(batch, tokens, channels) as they came."""
        return x


def _along(kind: type[SequenceConv], rank: int, generator: torch.Generator) -> nn.Module:
    """A convolution along the sequence with torch's usual start."""
    conv = kind(rank)
    kaiming(conv, generator)
    return conv


def _grid(rank: int, generator: torch.Generator) -> nn.Module:
    """3x3 on the grid, starting as the identity (Convpass, section 3.2)."""
    conv = GridConv(rank, rank, (3, 3))
    if not conv.weight.is_meta:
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


CONVS: dict[str, Callable[[int, torch.Generator], nn.Module]] = {
    "seq": partial(_along, SequenceConv),
    "grid": _grid,
    "unused": partial(_along, Unused),
}


class ConvpassDelta(nn.Module):
    """scale · up dropout(g(conv(g(down x)))) with g the quick GELU.

    Args:
        dim: token width.
        rank: width between.
        conv: a key of `CONVS`.
        scale: gain of the correction.
        dropout: before the up-projection, in training only.
        init: see `base.fill`.
        generator: draws the initial weights.
    """

    def __init__(
        self, dim: int, rank: int, conv: str, *, scale: float, dropout: float, init: str, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.down = nn.Linear(dim, rank)
        self.conv = CONVS[conv](rank, generator)
        self.up = nn.Linear(rank, dim)
        self.scale, self.dropout = scale, dropout
        fill_linears(self.down, self.up, init, generator)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        narrow = quick_gelu(self.conv(quick_gelu(self.down(x)), context))
        y: Tensor = self.up(F.dropout(narrow, self.dropout, self.training))
        return y * self.scale


@dataclass(frozen=True)
class Convpass:
    """Spec of Convpass adapters.

    Args:
        sites: attn, mlp or both.
        place: parallel, after or before the sub-layer.
        conv: seq (width 3 along the sequence), grid (3x3 over time and frequency) or unused (parity).
        reduction: dim / rank.
        rank: width between; 0 takes round(dim / reduction).
        scale: gain of the correction.
        dropout: before the up-projection; 0.1 is written in the paper's code but never active there.
        norms: also train the LayerNorm of every touched sub-layer.
        blocks: all, top:3, 0-3 or 2.
        init: silent, hf or zero; see `base.fill`.
    """

    sites: str = "attn"
    place: str = "parallel"
    conv: str = "seq"
    reduction: int = 64
    rank: int = 0
    scale: float = 1.0
    dropout: float = 0.0
    norms: bool = True
    blocks: str = "all"
    init: str = "silent"

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """One delta per touched sub-layer, and its norm."""
        positive(rank_or_reduction=self.rank or self.reduction, scale=self.scale)
        share(dropout=self.dropout)
        pick("init", self.init, INITS)
        pick("conv", self.conv, tuple(CONVS))
        rank = width(encoder, self.rank, self.reduction)
        options = {"scale": self.scale, "dropout": self.dropout, "init": self.init, "generator": generator}
        return at_sub_layers(
            encoder, self.sites, placement(self.place, "usual"), self.blocks,
            lambda: ConvpassDelta(encoder.dim, rank, self.conv, **options),  # type: ignore[arg-type]
            norms=self.norms,
        )  # fmt: skip
