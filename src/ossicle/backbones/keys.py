"""Key maps: the checkpoint formats users have, to the encoder's own names.

Our names: `stem.proj.*`, `stem.extra`, `stem.positions`, `blocks.N.{norm1,attn.{q,k,v,out}_proj,norm2,mlp.{fc1,fc2}}`,
`blocks.N.scale{1,2}.gain`, `norm.*`.
"""

import re

import torch
from torch import Tensor

from ossicle.errors import WeightsError

Rules = list[tuple[str, str]]

# Three spellings of a vision transformer: transformers 4, transformers 5, timm (original AST, SSAST, DeiT).
VIT: Rules = [
    (r"^(?:audio_spectrogram_transformer|vit|deit|dinov2|backbone|model)\.", ""),
    (r"^(?:module\.)?v\.", ""),
    (r"^module\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "stem.proj."),
    (r"^patch_embed\.proj\.", "stem.proj."),
    (r"^embeddings\.cls_token$|^cls_token$", "stem.cls"),
    (r"^embeddings\.distillation_token$|^dist_token$", "stem.dist"),
    (r"^embeddings\.position_embeddings$|^pos_embed$", "stem.positions"),
    (r"^encoder\.layers?\.|^layers\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q_proj."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k_proj."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v_proj."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.out_proj."),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$|\.ls(\d)\.gamma$", r".scale\1\2.gain"),
    (r"^layernorm\.", "norm."),
]
# Heads, poolers and pre-training parts a classifier or captioner replaces.
VIT_DROPS = (
    r"^(?:head|head_dist|pooler|classifier|mlp_head|classification_head|fc|pre_logits|cls_classifier)\b",
    r"^distillation_classifier\b",
    r"^(?:mask_embed|p_input_fdim|p_input_tdim|cpredlayer|gpredlayer|mask_token|embeddings\.mask_token)\b",
    r"^unfold\b",
)


def rename(state: dict[str, Tensor], rules: Rules, drops: tuple[str, ...]) -> dict[str, Tensor]:
    """Apply every rule in order to every key, then drop what matches `drops`; aliases of one tensor collapse."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        if not any(re.search(pattern, key) for pattern in drops):
            renamed[key] = value
    return renamed


def vit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes of a vision or spectrogram transformer, from any of the three spellings.

    Fused `attn.qkv` rows are split into query, key, value; class and distillation tokens become `stem.extra`.
    """
    named = rename(state, VIT, VIT_DROPS)
    for key in [k for k in named if ".attn.qkv." in k]:
        for part, rows in zip("qkv", named.pop(key).chunk(3), strict=True):
            named[key.replace(".qkv.", f".{part}_proj.")] = rows.clone()
    tokens = [named.pop(k) for k in ("stem.cls", "stem.dist") if k in named]
    if not tokens or "stem.positions" not in named:
        raise WeightsError(f"not a vision or spectrogram transformer: no class token or positions in {_sample(state)}")
    named["stem.extra"] = torch.cat([t.reshape(1, 1, -1) for t in tokens], dim=1)
    return named


def count_blocks(state: dict[str, Tensor]) -> int:
    """How many transformer blocks renamed tensors hold."""
    return 1 + max((int(m.group(1)) for k in state if (m := re.match(r"blocks\.(\d+)\.", k))), default=-1)


def _sample(state: dict[str, Tensor]) -> str:
    return ", ".join(list(state)[:3]) + (" ..." if len(state) > 3 else "")


def fold_norms(
    state: dict[str, Tensor], eps: float, *, norm: str = r"^(.+)\.1$", conv: str = r"\1.0"
) -> dict[str, Tensor]:
    """Convolutions with the batch norms behind them as one, with a bias.

    Args:
        state: tensors by name.
        eps: of the norms.
        norm: what the name of a norm looks like.
        conv: the name of the convolution in front of it.

    Raises:
        WeightsError: naming what is missing of a norm, or has another shape than its convolution.
    """
    folded = {key: value for key, value in state.items() if not key.endswith(".num_batches_tracked")}
    fronts = {key.rpartition(".")[0] for key in folded if key.endswith((".running_mean", ".running_var"))}
    for front in sorted(front for front in fronts if re.match(norm, front)):
        target = re.sub(norm, conv, front)
        names = [f"{target}.weight", *(f"{front}.{n}" for n in ("weight", "bias", "running_mean", "running_var"))]
        absent = [name for name in names if name not in folded]
        if absent:
            raise WeightsError(f"a batch norm is not whole: missing {absent}; give the file as it was saved")
        weight, *rest = (folded.pop(name).double() for name in names)
        wrong = [f"{n} {tuple(t.shape)}" for n, t in zip(names[1:], rest, strict=True) if t.shape != weight.shape[:1]]
        if weight.ndim < 2 or wrong:
            raise WeightsError(f"wrong shape {wrong}: {target}.weight is {tuple(weight.shape)}; give another file")
        gain, shift, mean, var = rest
        gain = gain / (var + eps).sqrt()
        folded[f"{target}.weight"] = (weight * gain.view(-1, *[1] * (weight.ndim - 1))).float()
        folded[f"{target}.bias"] = (shift - mean * gain).float()
    return folded
