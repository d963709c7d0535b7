"""Adapters under the papers' row names. Two modes where paper and code differ: as written, and parity."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One row of a paper.

    Args:
        text: the adapter in text form; the final norm trains too in every row of paper A.
        row: the paper's table and row.
        paper: the trainable parameters the paper prints for AST-base, as printed ("249K"); empty if none.
        counts_norm: whether the paper's count includes the final norm; the linear row's includes the head too.
    """

    text: str
    row: str
    paper: str = ""
    counts_norm: bool = False


PRESETS: dict[str, Preset] = {
    "full": Preset("full()", "A Table I, Full FT", "85.5M", counts_norm=True),
    "linear": Preset("norm()", "A Table I, Linear", "9-40K", counts_norm=True),
    "bitfit": Preset("bitfit()", "A Table I, BitFit", "102K", counts_norm=True),
    "pf-par": Preset(
        "bottleneck(sites=attn)+norm()", "A Table I, Bottleneck PF par; Table III, MHSA-Par-Before", "249K"
    ),
    "pf-seq": Preset(
        "bottleneck(sites=mlp,place=after)+norm()", "A Table I, Bottleneck PF seq; Table III, FFN-Seq/Par-After", "249K"
    ),
    "hou-par": Preset("bottleneck(sites=both)+norm()", "A Table I, Bottleneck HOU par", "498K"),
    "hou-seq": Preset("bottleneck(sites=both,place=after)+norm()", "A Table I, Bottleneck HOU seq", "498K"),
    "hou-mixed": Preset(
        "bottleneck(sites=attn)+bottleneck(sites=mlp,place=after)+norm()", "A Table V, HOU mixed", "498K"
    ),
    "ffn-par-before": Preset("bottleneck(sites=mlp)+norm()", "A Table III, FFN-Par-Before", "249K"),
    "ffn-seq-before": Preset("bottleneck(sites=mlp,place=before)+norm()", "A Table III, FFN-Seq-Before", "249K"),
    "mhsa-seq-after": Preset("bottleneck(sites=attn,place=after)+norm()", "A Table III, MHSA-Seq/Par-After", "249K"),
    "mhsa-seq-before": Preset("bottleneck(sites=attn,place=before)+norm()", "A Table III, MHSA-Seq-Before", "249K"),
    "pf-par-x2": Preset("bottleneck(sites=attn,reduction=32)+norm()", "A Table V, PF MHSA-Par-Before x2", "470K"),
    "pf-seq-x2": Preset(
        "bottleneck(sites=mlp,place=after,reduction=32)+norm()", "A Table V, PF FFN-Seq-After x2", "470K"
    ),
    "lora": Preset("lora(reduction=128,alpha=128)+norm()", "A Table I, LoRA, scale 1 as the paper's s >= 1", "221K"),
    "lora-parity": Preset(
        "lora(reduction=128,alpha=8,init=hf)+norm()", "A Table I, LoRA, scale 8/128 as its code", "221K"
    ),
    "lora-442k": Preset("lora(reduction=64,alpha=64)+norm()", "A Table VI, LoRA", "442K"),
    "lora-q": Preset("lora(reduction=64,alpha=64,targets=q)+norm()", "A Table IV, Wq", "221K"),
    "lora-qk": Preset("lora(reduction=128,alpha=128,targets=qk)+norm()", "A Table IV, Wq Wk", "221K"),
    "lora-qkvo": Preset("lora(reduction=256,alpha=256,targets=qkvo)+norm()", "A Table IV, Wq Wk Wv Wo", "221K"),
    "pf-par-parity": Preset(
        "bottleneck(sites=attn,init=hf)+norm()", "A Table I, PF par, initialised as its code ran", "249K"
    ),
}
