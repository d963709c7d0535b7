"""Training LayerNorms of a frozen encoder, through overlays that leave the encoder's own untouched."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.adapters.base import Adapted, Site, pick, pick_blocks
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.layers import Norm
from ossicle.contracts import Context


class NormOverlay(nn.Module):
    """A trainable copy of a norm's weight and bias.

    Args:
        norm: the frozen norm it starts from.
    """

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone())
        self.bias = nn.Parameter(norm.bias.detach().clone())
        self.shape = norm.normalized_shape
        self.eps = norm.eps

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Normalise the last dimension."""
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)

    @torch.no_grad()
    def fold(self, base: Norm) -> None:
        """Replace the frozen weight and bias."""
        base.weight.copy_(self.weight)
        base.bias.copy_(self.bias)


def overlay(encoder: Encoder, path: str) -> Site:
    """The overlay of the norm at a path, whatever already wraps that norm or its block."""
    module: nn.Module = encoder
    for part in path.split("."):
        module = getattr(module, part)
        module = module.base if isinstance(module, Adapted) else module
    return Site(path, "instead", NormOverlay(module))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Norms:
    """Spec: which LayerNorms train. With nothing else it is the papers' linear probe.

    Args:
        which: final (the encoder's last norm; BEATs has none), blocks (both of every chosen block) or all.
        blocks: all, top:3, 0-3 or 2.
    """

    which: str = "final"
    blocks: str = "all"

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """One overlay per norm."""
        pick("which", self.which, ("final", "blocks", "all"))
        paths = [] if self.which == "final" else pick_blocks(self.blocks, encoder.depth)
        found = [overlay(encoder, f"blocks.{n}.{norm}") for n in paths for norm in ("norm1", "norm2")]
        last = (
            [overlay(encoder, "norm")] if hasattr(encoder.norm, "weight") or isinstance(encoder.norm, Adapted) else []
        )
        return found if self.which == "blocks" else [*found, *last]
