"""What makes an encoder a tagger: the head it was published with, and the names of what it tells apart."""

import csv
from functools import cache
from pathlib import Path

from torch import Tensor, nn

LISTS = Path(__file__).parent / "classes"


class Tags(nn.Module):
    """The published head of a tagger.

    Args:
        classes: name of the list in `classes/`: "audioset" or "yamnet".
        head: (…, dim) to (…, classes) logits.
        pooled: one row for a whole clip, from the mean of its tokens; otherwise one a token.
    """

    def __init__(self, classes: str, head: nn.Module, *, pooled: bool) -> None:
        super().__init__()
        self.labels = names(classes)
        self.head = head
        self.pooled = pooled

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, tokens, dim), and where they are real, to (batch, rows, classes) probabilities of each class."""
        if self.pooled and mask is None:
            tokens = tokens.mean(dim=1, keepdim=True)
        elif self.pooled and mask is not None:
            weight = mask.to(tokens.dtype)[..., None]
            tokens = (tokens * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
        logits: Tensor = self.head(tokens)
        return logits.float().sigmoid()


@cache
def names(classes: str) -> tuple[str, ...]:
    """The classes of a list, in the order of a tagger's outputs."""
    with (LISTS / f"{classes}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(row["display_name"] for row in csv.DictReader(file))
