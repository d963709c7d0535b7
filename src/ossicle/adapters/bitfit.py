"""BitFit (Ben Zaken et al. 2021): train every bias of the blocks' linear maps and norms, and of the final norm."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ossicle.adapters.base import Site
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.layers import Linear, Norm
from ossicle.contracts import Context


class BiasOverlay(nn.Module):
    """A trainable copy of a bias; its correction is (trained - frozen), so it starts silent.

    Args:
        bias: the frozen bias, (dim,).
    """

    frozen: Tensor

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.detach().clone())
        self.register_buffer("frozen", bias.detach(), persistent=False)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """(dim,), to be added to the frozen output."""
        return self.bias - self.frozen

    @torch.no_grad()
    def fold(self, base: nn.Linear | nn.LayerNorm) -> None:
        """Replace the frozen bias."""
        base.bias.copy_(self.bias)


@dataclass(frozen=True)
class BitFit:
    """Spec of BitFit; it has no options. The stem's convolution bias stays frozen, as in PETL of AST."""

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """One overlay per bias."""
        found = []
        for path, module in encoder.named_modules():
            own = path.replace(".base", "")
            ours = own.startswith(("blocks.", "norm")) and ".deltas." not in path
            if ours and isinstance(module, Linear | Norm) and module.bias is not None:
                found.append(Site(own, "parallel", BiasOverlay(module.bias)))
        return found
