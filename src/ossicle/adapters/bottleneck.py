"""Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2020) in every placement of PETL of AST, Table III."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.adapters.base import INITS, Site, fill, pick, pick_blocks, positive
from ossicle.adapters.norms import overlay
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context
from ossicle.errors import AdapterError

NORM_OF = {"attn": "norm1", "mlp": "norm2"}
# (place, residual) to where `Adapted` puts the delta; "off" and "on" are the ablation of Table VII.
PLACEMENTS = {
    ("parallel", "off"): "parallel",
    ("parallel", "on"): "parallel_skip",
    ("after", "on"): "after",
    ("after", "off"): "after_only",
    ("before", "on"): "before",
}
USUAL_RESIDUAL = {"parallel": "off", "after": "on", "before": "on"}


class BottleneckDelta(nn.Module):
    """scale · (up GELU(down x + b) + b'), equation 5 of PETL of AST.

    Args:
        dim: token width.
        rank: width between.
        scale: gain of the correction.
    """

    def __init__(self, dim: int, rank: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.down = nn.Linear(dim, rank)
        self.up = nn.Linear(rank, dim)
        self.scale = scale

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """(..., dim) to the same shape."""
        y: Tensor = self.up(F.gelu(self.down(x)))
        return y * self.scale


@dataclass(frozen=True)
class Bottleneck:
    """Spec of bottleneck adapters.

    Args:
        sites: attn, mlp or attn,mlp (Houlsby) as "both".
        place: parallel (input is the LayerNormed token), after or before the sub-layer.
        residual: on, off or usual (on for after and before, off for parallel).
        reduction: dim / rank; 0 uses rank.
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
        pick("place", self.place, tuple(USUAL_RESIDUAL))
        parts = ("attn", "mlp") if self.sites == "both" else (pick("sites", self.sites, ("attn", "mlp", "both")),)
        residual = USUAL_RESIDUAL[self.place] if self.residual == "usual" else self.residual
        if (self.place, residual) not in PLACEMENTS:
            raise AdapterError(f"bottleneck has no place={self.place} with residual={residual}; use on, off or usual")
        place = PLACEMENTS[self.place, residual]
        rank = self.rank or max(1, round(encoder.dim / self.reduction))
        found = []
        for n in pick_blocks(self.blocks, encoder.depth):
            for part in parts:
                found.append(Site(f"blocks.{n}.{part}", place, self._delta(encoder.dim, rank, generator)))
                if self.norms:
                    found.append(overlay(encoder, f"blocks.{n}.{NORM_OF[part]}"))
        return found

    def _delta(self, dim: int, rank: int, generator: torch.Generator) -> BottleneckDelta:
        delta = BottleneckDelta(dim, rank, scale=self.scale)
        fill(delta.down.weight, self.init, generator, up=False)
        fill(delta.up.weight, self.init, generator, up=True)
        if not delta.down.bias.is_meta:
            nn.init.zeros_(delta.down.bias)
            nn.init.zeros_(delta.up.bias)
        return delta
