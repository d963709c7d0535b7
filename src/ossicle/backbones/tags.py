"""What makes an encoder a tagger: the head it was published with, and the names of what it tells apart."""

import csv
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

LISTS = Path(__file__).parent / "classes"


class Tags(nn.Module):
    """The published head of a tagger.

    Args:
        classes: name of the list in `classes/`: "audioset" or "yamnet".
        head: (…, dim) to (…, classes) logits.
        pooled: one row for a whole clip, from the mean of its tokens; otherwise one a token.
        peaks: the largest value of each channel is added to the mean.
    """

    def __init__(self, classes: str, head: nn.Module, *, pooled: bool, peaks: bool = False) -> None:
        super().__init__()
        self.labels = names(classes)
        self.head = head
        self.pooled, self.peaks = pooled, peaks

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, tokens, dim), and where they are real, to (batch, rows, classes) probabilities of each class."""
        if self.pooled:
            real = torch.ones_like(tokens[..., :1]) if mask is None else mask.to(tokens.dtype)[..., None]
            mean = (tokens * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)
            peak = tokens.masked_fill(real == 0, -torch.inf).amax(dim=1, keepdim=True)
            tokens = mean + peak if self.peaks else mean
        logits: Tensor = self.head(tokens)
        return logits.float().sigmoid()


@cache
def names(classes: str) -> tuple[str, ...]:
    """The classes of a list, in the order of a tagger's outputs."""
    with (LISTS / f"{classes}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(row["display_name"] for row in csv.DictReader(file))
