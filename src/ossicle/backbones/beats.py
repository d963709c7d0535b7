"""BEATs (Chen et al. 2022): patches over frequency and time, deep-norm blocks, gated relative position bias.

Blocks normalise after their sub-layers: x = norm1(alpha x + attn(x)), x = norm2(alpha x + mlp(x)), so there is no final
norm. Sub-layers have the names all backbones share; an adapter's parallel input is here the plain token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.backbones import keys
from ossicle.backbones.encoder import Encoder, Spec
from ossicle.backbones.layers import Attention, Mlp, Norm, Socket
from ossicle.contracts import Context, TokenGrid
from ossicle.errors import AudioError, WeightsError
from ossicle.sound.frontends import FRONTENDS

GATES = 8  # outputs of the gate's linear map: two gates of four each


@dataclass(frozen=True)
class BeatsSizes:
    """Sizes of a BEATs encoder.

    Args:
        dim: token width.
        depth: blocks.
        heads: attention heads.
        hidden: MLP width.
        embed: width of the patches before they are widened to `dim`.
        patch: side of a patch in frames and mel bands.
        kernel: of the convolutional positions, in tokens.
        groups: of that convolution.
        buckets: of relative distances.
        furthest: distance from which on all are alike.
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    embed: int = 512
    patch: int = 16
    kernel: int = 128
    groups: int = 16
    buckets: int = 320
    furthest: int = 800


class BeatsStem(nn.Module):
    """Patches in time-major order, widened, with convolutional positions.

    Args:
        sizes: flat sizes; only read here.
    """

    def __init__(self, sizes: BeatsSizes) -> None:
        super().__init__()
        self.patch = (sizes.patch, sizes.patch)
        self.proj = nn.Conv2d(1, sizes.embed, self.patch, stride=self.patch, bias=False)
        self.norm_patch = Norm(sizes.embed)
        self.widen = nn.Linear(sizes.embed, sizes.dim) if sizes.embed != sizes.dim else nn.Identity()
        self.positions = nn.Conv1d(
            sizes.dim, sizes.dim, sizes.kernel, padding=sizes.kernel // 2, groups=sizes.groups
        )  # fmt: skip
        self.norm = Norm(sizes.dim)

    def forward(self, features: Tensor, frames: Tensor | None) -> tuple[Tensor, TokenGrid, Tensor | None]:
        """(batch, frames, mels) to tokens; see `encoder.Stem`.

        Raises:
            AudioError: if a clip has fewer frames than a patch.
        """
        shortest = features.shape[1] if frames is None else int(frames.min())
        if shortest < self.patch[0]:
            raise AudioError(
                f"clip has {shortest} frames but a patch needs {self.patch[0]}; use longer clips or windows"
            )
        x = self.proj(features[:, None])  # (batch, embed, time, freq)
        grid = TokenGrid(freq=x.shape[3], time=x.shape[2], order="time")
        real = None
        if frames is not None:
            columns = torch.arange(grid.time, device=x.device) < (frames // self.patch[0])[:, None]
            real = columns.repeat_interleave(grid.freq, dim=1)
        return self.place(self.widen(self.norm_patch(x.flatten(2).transpose(1, 2))), real), grid, real

    def place(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Add convolutional positions to (batch, tokens, dim) and normalise; tokens that are not real count as zero."""
        if real is not None:
            x = x * real[..., None].to(x.dtype)
        positions = self.positions(x.transpose(1, 2))
        if self.positions.kernel_size[0] % 2 == 0:
            positions = positions[..., :-1]
        y: Tensor = self.norm(x + F.gelu(positions).transpose(1, 2))
        return y

    def grid(self, tokens: int, mels: int) -> TokenGrid:
        """The grid of a row of this many tokens over this many mel bands."""
        return TokenGrid(freq=mels // self.patch[1], time=tokens // (mels // self.patch[1]), order="time")


def buckets_of(distance: Tensor, buckets: int, furthest: int) -> Tensor:
    """T5's buckets of signed distances: exact when near, logarithmic further off, half of them for each direction.

    Args:
        distance: key place minus query place, int64.
        buckets: how many.
        furthest: distance from which on all share the last one.
    """
    half = buckets // 2
    near = half // 2
    far = distance.abs().clamp(min=1).float()
    log = near + ((far / near).log() / math.log(furthest / near) * (half - near)).long()
    size = torch.where(distance.abs() < near, distance.abs(), log.clamp(max=half - 1))
    return size + (distance > 0) * half


class Bias(nn.Module):
    """Relative position bias that all blocks share.

    Args:
        heads: attention heads.
        buckets: see `buckets_of`.
        furthest: see `buckets_of`.
    """

    def __init__(self, heads: int, buckets: int, furthest: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(buckets, heads))
        self.buckets, self.furthest = buckets, furthest

    def forward(self, tokens: int) -> Tensor:
        """(heads, tokens, tokens), rows queries."""
        places = torch.arange(tokens, device=self.weight.device)
        table = buckets_of(places[None, :] - places[:, None], self.buckets, self.furthest)
        return self.weight[table].permute(2, 0, 1)


class GatedAttention(Attention):
    """Attention with a relative position bias that every head gates by its own query.

    Args:
        dim: width of the tokens.
        heads: number of heads.
        bias: shared by all blocks.
    """

    def __init__(self, dim: int, heads: int, bias: Bias) -> None:
        super().__init__(dim, heads)
        self.gate = nn.Linear(dim // heads, GATES)
        self.gate_scale = nn.Parameter(torch.ones(1, heads, 1, 1))
        self._shared = (bias,)  # in a tuple: it belongs to the encoder, not to every block

    def bias(self, q: Tensor, k: Tensor, mask: Tensor | None, context: Context) -> Tensor:
        """The gated bias, minus infinity outside the mask: (batch, heads, tokens, keys)."""
        first, second = self.gate(q).unflatten(-1, (2, GATES // 2)).sum(-1).sigmoid().unbind(-1)
        gate = first[..., None] * (second[..., None] * self.gate_scale - 1.0) + 2.0  # (batch, heads, tokens, 1)
        bias = gate * self._bias(q.shape[2], context)
        bias = F.pad(bias, (k.shape[2] - bias.shape[-1], 0))  # keys a prefix adds have no place
        if mask is not None:
            bias = bias.masked_fill(~mask, float("-inf"))
        return bias.to(q.dtype)

    def _bias(self, tokens: int, context: Context) -> Tensor:
        """(1 or batch, heads, tokens, tokens): prompts in front have no place, dropped tokens leave theirs."""
        grid = context.grid
        whole = self._shared[0](grid.freq * grid.time)
        if context.kept is not None:
            rows = context.kept[:, None, :, None].expand(-1, whole.shape[0], -1, whole.shape[-1])
            some = whole.expand(len(context.kept), -1, -1, -1).gather(2, rows)
            columns = context.kept[:, None, None, :].expand(-1, whole.shape[0], some.shape[2], -1)
            whole = some.gather(3, columns)
        extra = tokens - whole.shape[-1]
        return F.pad(whole if whole.dim() == 4 else whole[None], (extra, 0, extra, 0))


class BeatsBlock(nn.Module):
    """Deep-norm transformer block (Wang et al. 2022): residuals weigh more, norms come after.

    Args:
        sizes: flat sizes; only read here.
        bias: shared by all blocks.
    """

    def __init__(self, sizes: BeatsSizes, bias: Bias) -> None:
        super().__init__()
        self.attn = GatedAttention(sizes.dim, sizes.heads, bias)
        self.norm1 = Norm(sizes.dim)
        self.mlp = Mlp(sizes.dim, sizes.hidden)
        self.norm2 = Norm(sizes.dim)
        self.alpha = (2 * sizes.depth) ** 0.25

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map (batch, tokens, dim) to the same shape."""
        x = self.norm1(x * self.alpha + self.attn(x, context), context)
        y: Tensor = self.norm2(x * self.alpha + self.mlp(x, context), context)
        return y


class Beats(Encoder):
    """The encoder with the bias its blocks share."""

    def __init__(self, name: str, stem: BeatsStem, blocks: Sequence[nn.Module], bias: Bias, dim: int) -> None:
        super().__init__(name, frontend=FRONTENDS["beats"](), stem=stem, blocks=blocks, norm=Socket(), dim=dim)
        self.bias = bias


def make(name: str, sizes: BeatsSizes) -> Encoder:
    """An empty BEATs encoder of the given sizes."""
    bias = Bias(sizes.heads, sizes.buckets, sizes.furthest)
    return Beats(name, BeatsStem(sizes), [BeatsBlock(sizes, bias) for _ in range(sizes.depth)], bias, sizes.dim)


RULES: keys.Rules = [
    (r"^patch_embedding\.", "stem.proj."),
    (r"^layer_norm\.", "stem.norm_patch."),
    (r"^post_extract_proj\.", "stem.widen."),
    (r"^encoder\.pos_conv\.0\.", "stem.positions."),
    (r"^encoder\.layer_norm\.", "stem.norm."),
    (r"^encoder\.layers\.0\.self_attn\.relative_attention_bias\.weight$", "bias.weight"),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.final_layer_norm\.", ".norm2."),
    (r"\.self_attn\.grep_linear\.", ".attn.gate."),
    (r"\.self_attn\.grep_a$", ".attn.gate_scale"),
    (r"\.self_attn\.", ".attn."),
    (r"^(blocks\.\d+)\.fc(\d)\.", r"\1.mlp.fc\2."),
]
# The classifier of fine-tuned files is left out; other blocks only name block 0's bias again.
DROPS = (r"^predictor\b", r"relative_attention_bias", r"^(?:quantize|quantize_layer)\b")
FURTHEST = "cfg.max_distance"


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of a BEATs encoder from a released file, self-supervised or fine-tuned; weight norm is multiplied out."""
    named = keys.rename(state, RULES, DROPS)
    if "stem.proj.weight" not in named or "bias.weight" not in named:
        raise WeightsError(f"not a BEATs encoder: no patch_embedding or bias among {', '.join(list(state)[:3])} ...")
    newer = "parametrizations.weight.original"
    for gain, shape in (("weight_g", "weight_v"), (f"{newer}0", f"{newer}1")):
        if f"stem.positions.{gain}" in named:
            g, v = named.pop(f"stem.positions.{gain}"), named.pop(f"stem.positions.{shape}")
            named["stem.positions.weight"] = v * (g / v.norm(dim=(0, 1), keepdim=True))
    return named


def infer(state: dict[str, Tensor], sizes: BeatsSizes) -> BeatsSizes:
    """Sizes as renamed tensors show them; the furthest distance is in the checkpoint's settings, if they are there."""
    furthest = int(state.pop(FURTHEST, torch.tensor(sizes.furthest)))
    embed, _, patch, _ = state["stem.proj.weight"].shape
    dim, per_group, kernel = state["stem.positions.weight"].shape
    buckets, heads = state["bias.weight"].shape
    return replace(
        sizes, dim=dim, depth=keys.count_blocks(state), heads=heads, hidden=len(state["blocks.0.mlp.fc1.weight"]),
        embed=embed, patch=patch, kernel=kernel, groups=dim // per_group, buckets=buckets,
        furthest=furthest,
    )  # fmt: skip


BEATS = Spec(
    "beats-iter3+", "beats-iter3+", BeatsSizes(), make, rename, infer,
    "BEATs, 90 M, self-supervised on AudioSet; also the fine-tuned files",
)  # fmt: skip
