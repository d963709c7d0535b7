"""The one transformer block. Every part takes (x, context), so an adapter can wrap any of them.

    x ─ norm1 ─ attn ─ scale1 ─(+)─ norm2 ─ mlp ─ scale2 ─(+)─
    └───────────────────────────┘└───────────────────────────┘

Sub-layer names are the same for every backbone: `norm1 attn.{q,k,v,out}_proj norm2 mlp.{fc1,fc2}`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.contracts import Context


class Linear(nn.Linear):
    """A linear map that ignores its context."""

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return F.linear(x, self.weight, self.bias)


class Norm(nn.LayerNorm):
    """A layer norm that ignores its context."""

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Normalise the last dimension of x."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Scale(nn.Module):
    """LayerScale: a learnt gain per channel (Touvron et al. 2021, section 2.1).

    Args:
        dim: channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., dim)."""
        return x * self.gain


class Socket(nn.Module):
    """A place where an adapter may put tokens in front; without one, nothing happens there."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(batch, tokens, dim) as they came."""
        return x


class Attention(nn.Module):
    """Multi-head self-attention with separate projections; `keys` and `values` are sockets for more of them.

    Args:
        dim: width of the tokens.
        heads: number of heads; divides dim.
        k_bias: whether the key projection has a bias (Whisper's has none).
    """

    def __init__(self, dim: int, heads: int, *, k_bias: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim ({dim}) must be divisible by heads ({heads})")
        self.heads = heads
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim, bias=k_bias)
        self.v_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)
        self.keys, self.values = Socket(), Socket()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Mix (batch, tokens, dim) over tokens; keys outside `context.mask` are not looked at."""
        q, k, v, mask = self.project(x, context)
        bias = self.bias(q, k, mask, context)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (batch, heads, tokens, head_dim)
        y = y.transpose(1, 2).reshape(x.shape)
        mixed: Tensor = self.out_proj(y, context)
        return mixed

    def weights(self, x: Tensor, context: Context) -> Tensor:
        """How much each token takes from each key: (batch, heads, tokens, keys), each row adding up to 1."""
        q, k, _, mask = self.project(x, context)
        bias = self.bias(q, k, mask, context)
        one = torch.eye(k.shape[2], dtype=q.dtype, device=q.device).expand(*k.shape[:3], -1)
        return F.scaled_dot_product_attention(q, k, one, attn_mask=bias)

    def bias(self, q: Tensor, k: Tensor, mask: Tensor | None, context: Context) -> Tensor | None:
        """What is added to the products of queries and keys, or a bool mask of the keys; None if nothing is."""
        return mask

    def project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values, each (batch, heads, tokens, head_dim), and the mask of the keys."""
        q = self.q_proj(x, context)
        k = self.keys(self.k_proj(x, context), context)
        v = self.values(self.v_proj(x, context), context)
        mask, more = context.mask, k.shape[1] - x.shape[1]
        if mask is not None and more:
            mask = F.pad(mask, (more, 0), value=True)
        return self._split(q), self._split(k), self._split(v), mask

    def _split(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        return x.view(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear maps with GELU between.

    Args:
        dim: width of the tokens.
        hidden: width between the maps.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map (batch, tokens, dim) to the same shape."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x, context)), context)
        return y


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        dim: width of the tokens.
        heads: attention heads.
        hidden: width inside the MLP.
        eps: of both norms.
        k_bias: whether keys have a bias.
        layer_scale: whether both branches have a LayerScale.
    """

    def __init__(
        self, dim: int, heads: int, hidden: int, *, eps: float = 1e-6, k_bias: bool = True, layer_scale: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = Norm(dim, eps=eps)
        self.attn = Attention(dim, heads, k_bias=k_bias)
        self.scale1 = Scale(dim) if layer_scale else nn.Identity()
        self.norm2 = Norm(dim, eps=eps)
        self.mlp = Mlp(dim, hidden)
        self.scale2 = Scale(dim) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map (batch, tokens, dim) to the same shape."""
        x = x + self.scale1(self.attn(self.norm1(x, context), context))
        y: Tensor = x + self.scale2(self.mlp(self.norm2(x, context), context))
        return y


class Standardize(nn.Module):
    """Subtract a mean and divide by a spread that are set once and never move.

    Args:
        width: of the vectors.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, vectors: Tensor) -> None:
        """Take mean and spread of (rows, width)."""
        self.mean.copy_(vectors.mean(dim=0))
        if len(vectors) > 1:
            self.std.copy_(vectors.std(dim=0).clamp(min=1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) to the same shape."""
        return (x - self.mean) / self.std
