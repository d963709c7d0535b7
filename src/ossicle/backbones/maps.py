"""Convolutional maps of clips of unequal length, where the end of a row would be heard by what stands before it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def by_length(
    features: Tensor, frames: Tensor | None, make: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Make maps of rows of one length together, so that neighbours never change a row.

    Args:
        features: (batch, frames, mels).
        frames: (batch,) real frames of each row, None if all are.
        make: (batch, frames, mels) of one length to (batch, time, freq, dim).

    Returns:
        (batch, longest, freq, dim) with zeros after the end of a row, and (batch, longest) bool where it is real; None
        if all are.
    """
    if frames is None:
        return make(features), None
    own = frames.tolist()
    groups = {n: [i for i, other in enumerate(own) if other == n] for n in sorted(set(own))}
    if len(groups) == 1:
        return make(features[:, : own[0]]), None
    maps = {n: make(features[rows, :n]) for n, rows in groups.items()}
    longest = max(made.shape[1] for made in maps.values())
    padded = [F.pad(made, (0, 0, 0, 0, 0, longest - made.shape[1])) for made in maps.values()]
    order = torch.tensor([i for rows in groups.values() for i in rows], device=features.device).argsort()
    real = torch.tensor([maps[n].shape[1] for n in own], device=features.device)
    return torch.cat(padded)[order], torch.arange(longest, device=features.device) < real[:, None]
