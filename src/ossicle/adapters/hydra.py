"""Hydra (Kim et al. 2023) as in PETL of AST, Table V: a parallel and a sequential bottleneck on one sub-layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ossicle.adapters.base import INITS, Frozen, Site, pick, pick_blocks, positive
from ossicle.adapters.bottleneck import BottleneckDelta
from ossicle.adapters.placement import at_sub_layers, width
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.layers import Block
from ossicle.contracts import Context
from ossicle.errors import AdapterError


class HydraDelta(nn.Module):
    """y + after(y) + parallel(x), with y = frozen(x).

    Args:
        dim: token width.
        rank: width between, of both.
        init: see `base.fill`.
        generator: draws the initial weights.
    """

    def __init__(self, dim: int, rank: int, *, init: str, generator: torch.Generator) -> None:
        super().__init__()
        self.parallel = BottleneckDelta(dim, rank, scale=1.0, init=init, generator=generator)
        self.after = BottleneckDelta(dim, rank, scale=1.0, init=init, generator=generator)

    def forward(self, frozen: Frozen, x: Tensor, context: Context) -> Tensor:
        """The corrected sub-layer, (batch, tokens, dim)."""
        y = frozen(x, context)
        corrected: Tensor = y + self.after(y) + self.parallel(x)
        return corrected


class NormedSkip(nn.Module):
    """A block whose second residual carries the LayerNormed token: the slip of the paper's code for Hydra on MHSA."""

    def forward(self, block: Block, x: Tensor, context: Context) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        x = x + block.scale1(block.attn(block.norm1(x, context), context))
        z = block.norm2(x, context)
        y: Tensor = z + block.scale2(block.mlp(z, context))
        return y


@dataclass(frozen=True)
class Hydra:
    """Spec of Hydra.

    Args:
        sites: mlp (the paper's row) or attn.
        skip: usual, or normed: on attn the block's second residual takes the LayerNormed token, as the code did.
        reduction: dim / rank of each of the two.
        rank: width between; 0 takes round(dim / reduction).
        norms: also train the LayerNorm of every touched sub-layer.
        blocks: all, top:3, 0-3 or 2.
        init: silent, hf or zero; see `base.fill`.
    """

    sites: str = "mlp"
    skip: str = "usual"
    reduction: int = 64
    rank: int = 0
    norms: bool = True
    blocks: str = "all"
    init: str = "silent"

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """One pair of deltas per touched sub-layer, and its norm."""
        positive(rank_or_reduction=self.rank or self.reduction)
        pick("init", self.init, INITS)
        pick("skip", self.skip, ("usual", "normed"))
        rank = width(encoder, self.rank, self.reduction)
        found = at_sub_layers(
            encoder, self.sites, "around", self.blocks,
            lambda: HydraDelta(encoder.dim, rank, init=self.init, generator=generator),
            norms=self.norms,
        )  # fmt: skip
        if self.skip == "normed":
            if not all(isinstance(getattr(block, "base", block), Block) for block in encoder.blocks):
                raise AdapterError(
                    f"hydra(skip=normed) is a slip of blocks that normalise first; {encoder.name} does not"
                )
            blocks = pick_blocks(self.blocks, encoder.depth)
            found += [Site(f"blocks.{n}", "around", NormedSkip()) for n in blocks]
        return found
