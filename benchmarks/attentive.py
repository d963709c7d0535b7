"""Pooling that learns with its head: what `quality_pooling.py` compares with means of tokens."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ossicle.tasks.fitted import Fitted

BATCH = 32


class Mean(nn.Module):
    """No pooling of its own, for what is pooled already: the control of a trained head."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, width) to (batch, width)."""
        return (x * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class SimPool(nn.Module):
    """One query, the mean of all tokens, looks at each of them.

    Args:
        width: of tokens.
        gamma: exponent of the values' generalised mean; 1 is the weighted mean.
        start: "usual" has a query that sees all alike.
    """

    def __init__(self, width: int, gamma: float, start: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.gamma = gamma
        if start == "usual":
            nn.init.zeros_(self.query.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, width), (batch, tokens) bool to (batch, width)."""
        mean = (x * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        wanted = self.query(self.norm(mean)) @ self.key.weight  # q.(Kx) is (q K).x: one product a clip, not one a token
        looks = _shares(wanted[:, None], self.norm(x), mask)
        if self.gamma == 1:
            return (looks @ x).squeeze(1)
        least = x.masked_fill(~mask[..., None], torch.inf).amin(dim=(1, 2))[:, None]
        above = (x - least[..., None]).clamp(min=1e-6) ** self.gamma
        return (looks @ above).squeeze(1) ** (1 / self.gamma) + least


class Queries(nn.Module):
    """Efficient probing: several learnt queries look at the tokens themselves, each gives one slice of the values.

    Args:
        width: of tokens.
        queries: how many; they divide the width.
        start: "usual" has values as the tokens are.
    """

    def __init__(self, width: int, queries: int, start: str) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.values = nn.Linear(width, width, bias=False)
        if start == "usual":
            nn.init.eye_(self.values.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, width), (batch, tokens) bool to (batch, width)."""
        count, width = self.queries.shape
        seen = _shares(self.queries[None], x, mask) @ x
        return torch.einsum("bqw,qow->bqo", seen, self.values.weight.view(count, -1, width)).flatten(1)


def _shares(queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """(batch, queries, tokens) shares of the real tokens by how near each query (batch or 1, queries, width) is."""
    scores = queries @ tokens.transpose(1, 2) / math.sqrt(tokens.shape[2])
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=2)


class Pooled(nn.Module):
    """Tokens standardised as the fitted head has them, a pooling, one linear map.

    Args:
        pooling: of the tokens.
        head: fitted to means of tokens.
        start: "usual" begins with that head's weights.
    """

    def __init__(self, pooling: nn.Module, head: Fitted, start: str) -> None:
        super().__init__()
        root = math.sqrt(len(head.mean))
        self.mean, self.std = (torch.from_numpy(v).float() for v in (head.mean, head.std / root))
        self.pooling = pooling
        self.scale = 1 / root if start == "usual" else 1.0
        self.linear = nn.Linear(len(head.mean), len(head.bias))
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(head.weight) if start == "usual" else torch.tensor(0.0))
            self.linear.bias.copy_(torch.from_numpy(head.bias) if start == "usual" else torch.tensor(0.0))

    def vectors(self, tokens: Sequence[Tensor]) -> Tensor:
        """(batch, width) of sequences of any length."""
        rows = [(t.float() - self.mean) / self.std for t in tokens]
        mask = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.bool)
        for n, row in enumerate(rows):
            mask[n, : len(row)] = True
        found: Tensor = self.pooling(nn.utils.rnn.pad_sequence(rows, batch_first=True), mask)
        return found

    @torch.no_grad()
    def all(self, tokens: Sequence[Tensor]) -> Tensor:
        """(rows, width) of any number of sequences."""
        return torch.cat([self.vectors(tokens[n : n + BATCH]) for n in range(0, len(tokens), BATCH)])

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """(batch, classes) logits."""
        found: Tensor = self.linear(self.vectors(tokens) * self.scale)
        return found
