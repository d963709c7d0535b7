"""LoRA (Hu et al. 2021): a low-rank correction of attention projections."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ossicle.adapters.base import INITS, Site, fill, pick, pick_blocks, positive, share
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context
from ossicle.errors import AdapterError

USUAL_RANK = 8
TARGETS = {"q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "o": "attn.out_proj"}


class LoraDelta(nn.Module):
    """scale · up(down(dropout(x))).

    Args:
        dim_in: input width.
        dim_out: output width.
        rank: width between.
        scale: gain of the correction.
        dropout: on the input, in training only.
    """

    def __init__(self, dim_in: int, dim_out: int, rank: int, *, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Linear(dim_in, rank, bias=False)
        self.up = nn.Linear(rank, dim_out, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.scale = scale

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """(..., dim_in) to (..., dim_out)."""
        y: Tensor = self.up(self.down(self.dropout(x)))
        return y * self.scale

    @torch.no_grad()
    def fold(self, base: nn.Linear) -> None:
        """Add the correction to the frozen weight."""
        base.weight += self.scale * (self.up.weight @ self.down.weight)


@dataclass(frozen=True)
class Lora:
    """Spec of LoRA on an encoder.

    Args:
        rank: width between; 0 takes round(dim / reduction), or 8 where no reduction is given.
        reduction: dim / rank, as PETL of AST states it; 0 uses rank.
        alpha: the correction is scaled by alpha / rank, or alpha / reduction where reduction is given.
        targets: any of q, k, v, o.
        dropout: on the input, in training only.
        blocks: all, top:3, 0-3 or 2.
        init: silent, hf or zero; see `base.fill`.
    """

    rank: int = 0
    reduction: int = 0
    alpha: float = 8.0
    targets: str = "qv"
    dropout: float = 0.0
    blocks: str = "all"
    init: str = "silent"

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """One delta per target and block."""
        if self.rank and self.reduction:
            both = f"rank={self.rank}, reduction={self.reduction}"
            raise AdapterError(f"lora takes rank or reduction, not both; got {both}")
        positive(rank=self.rank or self.reduction or USUAL_RANK, alpha=self.alpha)
        share(dropout=self.dropout)
        pick("init", self.init, INITS)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise AdapterError(f"targets={self.targets} must be some of q, k, v, o, each once")
        parts = [TARGETS[pick("targets", t, tuple(TARGETS))] for t in self.targets]
        rank = max(1, round(encoder.dim / self.reduction)) if self.reduction else self.rank or USUAL_RANK
        scale = self.alpha / (self.reduction or rank)
        return [
            Site(f"blocks.{n}.{part}", "parallel", self._delta(encoder.dim, rank, scale, generator))
            for n in pick_blocks(self.blocks, encoder.depth)
            for part in parts
        ]

    def _delta(self, dim: int, rank: int, scale: float, generator: torch.Generator) -> LoraDelta:
        delta = LoraDelta(dim, dim, rank, scale=scale, dropout=self.dropout)
        fill(delta.down.weight, self.init, generator, up=False)
        fill(delta.up.weight, self.init, generator, up=True)
        return delta
