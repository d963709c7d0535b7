"""Dropping tokens in training: dropped, not zeroed, so a step costs what the kept tokens cost (FLAP, section 3.1)."""

import torch
from torch import Tensor

from ossicle.errors import UsageError


def keep_random(batch: int, tokens: int, ratio: float, generator: torch.Generator) -> Tensor:
    """1-D masking: which grid tokens each row keeps, in order.

    Args:
        batch: rows.
        tokens: grid tokens per row.
        ratio: share that is dropped, from 0 to below 1.
        generator: on the CPU.

    Returns:
        (batch, int(tokens * (1 - ratio))) int64, sorted in each row.

    Raises:
        UsageError: if the ratio leaves no token.
    """
    kept = int(tokens * (1 - ratio))
    if not 0 <= ratio < 1 or kept < 1:
        raise UsageError(f"masking ratio {ratio} keeps {kept} of {tokens} tokens; choose from 0 to below 1")
    noise = torch.rand(batch, tokens, generator=generator)
    return noise.argsort(dim=1)[:, :kept].sort(dim=1).values


def gather(x: Tensor, kept: Tensor, extra: int) -> Tensor:
    """Keep the extra tokens and the chosen grid tokens of (batch, tokens, ...)."""
    front, grid = x[:, :extra], x[:, extra:]
    index = kept.view(*kept.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
    return torch.cat([front, grid.gather(1, index)], dim=1)
