"""From an encoder's tokens to what a language model reads as its own: two linear maps and a pooling."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.backbones.layers import Standardize
from ossicle.errors import UnknownNameError, UsageError
from ossicle.tasks.listen import Heard

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "none": lambda x: x}


class MeanPool(nn.Module):
    """One soft token: the mean of all real tokens.

    Args:
        width: of the tokens.
        tokens: must be 1.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        if tokens != 1:
            raise UsageError(f"pooling mean gives 1 soft token but task.soft_tokens={tokens}; use stride or attention")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, n, width) and (batch, n) float to (batch, 1, width)."""
        return (x * mask[..., None]).sum(dim=1, keepdim=True) / mask.sum(dim=1).clamp(min=1)[:, None, None]


class StridePool(nn.Module):
    """k soft tokens: the mean of each of k equal stretches in time. Short clips repeat a token in two stretches.

    Args:
        width: of the tokens.
        tokens: k.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, n, width) and (batch, n) float to (batch, k, width)."""
        real = mask.sum(dim=1, keepdim=True).long()
        edges = torch.arange(self.tokens + 1, device=x.device) * real  # k times too large, so that they are whole
        place = mask.cumsum(dim=1)[:, None] - 1
        first = (edges[:, :-1] // self.tokens)[..., None]
        last = ((edges[:, 1:] + self.tokens - 1) // self.tokens)[..., None]
        share = ((place >= first) & (place < last)).to(x.dtype) * mask[:, None]
        return share @ x / share.sum(dim=2, keepdim=True).clamp(min=1)


class AttentionPool(nn.Module):
    """k soft tokens: each a mean of all tokens, weighted by their likeness to a learnt query.

    Args:
        width: of the tokens.
        tokens: k.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens, width) * width**-0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, n, width) and (batch, n) float to (batch, k, width)."""
        scores = self.queries @ x.transpose(1, 2)
        return scores.masked_fill(mask[:, None] == 0, float("-inf")).softmax(dim=2) @ x


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),
    "layer": lambda width: nn.LayerNorm(width, elementwise_affine=False),
    "standard": Standardize,
}
POOLINGS: dict[str, type[nn.Module]] = {"mean": MeanPool, "stride": StridePool, "attention": AttentionPool}


class Mapper(nn.Module):
    """Linear, activation, linear, then pooling over time (captioning with BEATs and Llama, section 2).

    Args:
        inputs: width of the encoder's tokens.
        width: of the language model.
        hidden: between the two maps; 0 is `width`.
        activation: gelu, relu, or none, with which the two maps are one.
        pooling: mean (the paper's one soft token), stride or attention.
        tokens: soft tokens.
        norm: of the encoder's tokens before the maps: none, layer (without parameters) or standard (mean and spread of
            the training clips, see `layers.Standardize`).
        dropout: between the two maps, in training.
        others: widths of the tokens of further encoders, each of which has a norm and a first map of its own.
    """

    centre: Tensor
    length: Tensor

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        hidden: int = 0,
        activation: str = "gelu",
        pooling: str = "mean",
        tokens: int = 1,
        norm: str = "none",
        dropout: float = 0.0,
        others: Sequence[int] = (),
    ) -> None:
        super().__init__()
        chosen = (("activation", activation, ACTIVATIONS), ("pooling", pooling, POOLINGS), ("mapper norm", norm, NORMS))
        for kind, name, known in chosen:
            if name not in known:
                raise UnknownNameError(kind, name, known)
        self.norm = NORMS[norm](inputs)
        self.dropout = nn.Dropout(dropout)
        self.first = nn.Linear(inputs, hidden or width)
        self.others = nn.ModuleList(nn.Sequential(NORMS[norm](n), nn.Linear(n, hidden or width)) for n in others)
        self.second = nn.Linear(hidden or width, width)
        self.pool = POOLINGS[pooling](width, tokens)
        self.activation = activation
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("length", torch.zeros(()))

    def aim(self, embeddings: Tensor) -> None:
        """From now on soft tokens lie as far from the mean of (words, width) embeddings as these do.

        Half of a word's embedding may be what all words share; a soft token without it is like no word at all.
        """
        mean = embeddings.float().mean(dim=0)
        self.centre.copy_(mean)
        self.length.copy_((embeddings.float() - mean).square().mean().sqrt())

    @property
    def norms(self) -> list[nn.Module]:
        """The norm of each encoder's tokens."""
        return [self.norm, *(other[0] for other in self.others)]  # type: ignore[index]

    def forward(self, x: Tensor, mask: Tensor | None = None, others: Sequence[Heard] = ()) -> Tensor:
        """Tokens to (batch, soft tokens, width).

        Args:
            x: (batch, n, inputs).
            mask: (batch, n) where they are real; None if all are.
            others: the same of each further encoder; their tokens come after these.
        """
        firsts = [self.first(self.norm(x)), *(m(y) for m, (y, _) in zip(self.others, others, strict=True))]
        reals = [torch.ones(t.shape[:2], device=t.device) if m is None else m for t, m in [(x, mask), *others]]
        mapped = self.second(self.dropout(ACTIVATIONS[self.activation](torch.cat(firsts, dim=1))))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 cannot count beyond 256
            pooled: Tensor = self.pool(mapped.float(), torch.cat([real.float() for real in reals], dim=1))
        if not self.length:
            return pooled
        return self.centre + pooled * (self.length / pooled.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-6))
