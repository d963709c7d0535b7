"""Prompt tuning (Jia et al. 2022, visual prompt tuning; SPT and DPT in PETL of AST): trained tokens in the sequence.

Shallow prompts come in before the first block and are carried on; deep ones are replaced before every further block.
Prompts have no position of their own and are pooled with the other tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ossicle.adapters.base import Site, pick, pick_blocks, positive
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context

PATCH_INPUTS = 3 * 16 * 16


def spread_of(dim: int) -> float:
    """Half width of the uniform start, sqrt(6 / (3·16·16 + dim)): Xavier for an image patch (VPT's code)."""
    return float((6 / (PATCH_INPUTS + dim)) ** 0.5)


def tokens(number: int, dim: int, generator: torch.Generator) -> nn.Parameter:
    """(1, number, dim) new tokens."""
    made = nn.Parameter(torch.empty(1, number, dim))
    if not made.is_meta:
        edge = spread_of(dim)
        nn.init.uniform_(made, -edge, edge, generator=generator)
    return made


class FirstPrompts(nn.Module):
    """Puts prompts behind the extra tokens.

    Args:
        prompts: (1, number, dim).
        drop: leave out the extra tokens after the first, as the code of PETL of AST does to the distillation token.
    """

    def __init__(self, prompts: nn.Parameter, *, drop: bool) -> None:
        super().__init__()
        self.prompts = prompts
        self.drop = drop

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(batch, tokens, dim) to (batch, more tokens, dim)."""
        extra = context.grid.extra
        kept = min(1, extra) if self.drop else extra
        return torch.cat([x[:, :kept], self.prompts.expand(x.shape[0], -1, -1), x[:, extra:]], dim=1)


class NextPrompts(nn.Module):
    """Replaces the prompts that came through the block before.

    Args:
        prompts: (1, number, dim).
    """

    def __init__(self, prompts: nn.Parameter) -> None:
        super().__init__()
        self.prompts = prompts

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(batch, tokens, dim) to the same shape."""
        end = context.grid.extra
        start = end - self.prompts.shape[1]
        return torch.cat([x[:, :start], self.prompts.expand(x.shape[0], -1, -1), x[:, end:]], dim=1)


@dataclass(frozen=True)
class Prompts:
    """Spec of prompt tuning.

    Args:
        tokens: number of prompts.
        deep: new prompts before every block (DPT) instead of the first only (SPT).
        extra: keep all extra tokens, or drop all but the first (parity).
        blocks: all, top:3, 0-3 or 2; shallow prompts come in before the first of them.
    """

    tokens: int = 25
    deep: bool = False
    extra: str = "keep"
    blocks: str = "all"

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """One set of prompts per inlet."""
        positive(tokens=self.tokens)
        pick("extra", self.extra, ("keep", "drop"))
        first, *others = pick_blocks(self.blocks, encoder.depth)
        front = FirstPrompts(tokens(self.tokens, encoder.dim, generator), drop=self.extra == "drop")
        found = [Site(f"inlets.{first}", "instead", front)]
        for n in others if self.deep else []:
            found.append(Site(f"inlets.{n}", "instead", NextPrompts(tokens(self.tokens, encoder.dim, generator))))
        return found
