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
        head: (…, dim) to (…, classes) logits. Where it has another number of classes than the list, as in a file that
            was fine-tuned for something else, their names are not known: they are "class 0", "class 1" and so on.
        pooled: one row for a whole clip, from the mean of its tokens; otherwise one a token.
        peaks: the largest value of each channel is added to the mean.
    """

    def __init__(self, classes: str, head: nn.Module, *, pooled: bool, peaks: bool = False) -> None:
        super().__init__()
        count = [part.out_features for part in head.modules() if isinstance(part, nn.Linear)][-1]
        listed = names(classes)
        self.labels = listed if len(listed) == count else tuple(f"class {n}" for n in range(count))
        self.head = head
        self.pooled, self.peaks = pooled, peaks

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, tokens, dim), and where they are real, to (batch, rows, classes) probabilities of each class."""
        logits: Tensor = self.head(self._rows(tokens, mask))
        return logits.float().sigmoid()

    def embedding(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, rows, width) of what the head's last map makes classes of; PANNs' embedding."""
        assert isinstance(self.head, nn.Sequential)
        found: Tensor = self.head[:-1](self._rows(tokens, mask))
        return found.float()

    def _rows(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        if not self.pooled:
            return tokens
        real = torch.ones_like(tokens[..., :1]) if mask is None else mask.to(tokens.dtype)[..., None]
        mean = (tokens * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)
        peak = tokens.masked_fill(real == 0, -torch.inf).amax(dim=1, keepdim=True)
        return mean + peak if self.peaks else mean


@cache
def names(classes: str) -> tuple[str, ...]:
    """The classes of a list, in the order of a tagger's outputs."""
    with (LISTS / f"{classes}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(row["display_name"] for row in csv.DictReader(file))
