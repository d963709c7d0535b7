"""Prefix tuning (Li and Liang 2021) as in PETL of AST: trained keys and values in every attention."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ossicle.adapters.base import Site, pick_blocks, positive
from ossicle.adapters.prompts import tokens
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context
from ossicle.errors import AdapterError


class PrefixDelta(nn.Module):
    """Tokens in front of an attention's keys or values.

    Args:
        tokens: (1, number, dim), already projected.
    """

    def __init__(self, tokens: nn.Parameter) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(batch, tokens, dim) to (batch, number + tokens, dim)."""
        return torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], dim=1)


@dataclass(frozen=True)
class Prefix:
    """Spec of prefix tuning.

    Args:
        tokens: per block, half of them keys and half values, as the paper counts (Pref-T24 is 24).
        blocks: all, top:3, 0-3 or 2.
    """

    tokens: int = 24
    blocks: str = "all"

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """Keys and values for every chosen block."""
        positive(tokens=self.tokens)
        if self.tokens % 2:
            raise AdapterError(f"prefix(tokens={self.tokens}) must be even: half are keys and half values")
        return [
            Site(f"blocks.{n}.attn.{socket}", "instead", PrefixDelta(tokens(self.tokens // 2, encoder.dim, generator)))
            for n in pick_blocks(self.blocks, encoder.depth)
            for socket in ("keys", "values")
        ]
