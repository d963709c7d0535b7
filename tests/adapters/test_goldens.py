"""Every bottleneck and LoRA variant of PETL_AST's code, layer by layer, against its own outputs in float64."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ossicle.adapters import inject, load_state, parse, trainable
from ossicle.backbones import freeze, keys, patches
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context, TokenGrid

SITES = {"adapter_module_MHSA": "attn", "adapter_module_FFN": "mlp"}
LINEARS = {"linear_downsample": "down", "linear_upsample": "up"}
TARGETS = {"q": "q", "k": "k", "v": "v", "o": "out"}
# variant to adapter; rank is 4 for bottlenecks and 3 for LoRA, whose scale is alpha / reduction = 8 / 8
VARIANTS = {
    "tab3_FFN_parallel_after": "bottleneck(sites=mlp,place=after,rank=4,norms=false)",
    "tab3_FFN_sequential_after": "bottleneck(sites=mlp,place=after,rank=4,norms=false)",
    "tab3_FFN_parallel_before": "bottleneck(sites=mlp,rank=4,norms=false)",
    "tab3_FFN_sequential_before": "bottleneck(sites=mlp,place=before,rank=4,norms=false)",
    "tab3_MHSA_parallel_after": "bottleneck(sites=attn,place=after,rank=4,norms=false)",
    "tab3_MHSA_sequential_after": "bottleneck(sites=attn,place=after,rank=4,norms=false)",
    "tab3_MHSA_parallel_before": "bottleneck(sites=attn,rank=4,norms=false)",
    "tab3_MHSA_sequential_before": "bottleneck(sites=attn,place=before,rank=4,norms=false)",
    "main_Pfeiffer_parallel_res0": "bottleneck(sites=mlp,rank=4,norms=false)",
    "main_Pfeiffer_parallel_res1": "bottleneck(sites=mlp,residual=on,rank=4,norms=false)",
    "main_Pfeiffer_sequential_res0": "bottleneck(sites=mlp,place=after,residual=off,rank=4,norms=false)",
    "main_Pfeiffer_sequential_res1": "bottleneck(sites=mlp,place=after,rank=4,norms=false)",
    "main_Houlsby_parallel_res0": "bottleneck(sites=both,rank=4,norms=false)",
    "main_Houlsby_parallel_res1": "bottleneck(sites=both,residual=on,rank=4,norms=false)",
    "main_Houlsby_sequential_res0": "bottleneck(sites=both,place=after,residual=off,rank=4,norms=false)",
    "main_Houlsby_sequential_res1": "bottleneck(sites=both,place=after,rank=4,norms=false)",
    "lora_main_qv": "lora(rank=3,alpha=3,targets=qv)",
    "lora_tab4_Wq": "lora(rank=3,alpha=3,targets=q)",
    "lora_tab4_Wq_Wk": "lora(rank=3,alpha=3,targets=qk)",
    "lora_tab4_Wq_Wv": "lora(rank=3,alpha=3,targets=qv)",
    "lora_tab4_Wq_Wk_Wv_Wo": "lora(rank=3,alpha=3,targets=qkvo)",
}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "goldens" / "petl_ast_layers.safetensors")


def one_layer(golden: dict[str, Tensor]) -> Encoder:
    """An encoder whose only block is the golden layer, in float64."""
    sizes = patches.PatchSizes(dim=24, depth=1, heads=3, hidden=72, eps=1e-12)
    encoder = freeze(patches.make("golden", sizes)).double()
    state = {f"layers.0.{k.removeprefix('layer/sd/')}": v for k, v in golden.items() if k.startswith("layer/sd/")}
    renamed = keys.rename(state, keys.VIT, keys.VIT_DROPS)
    assert not encoder.load_state_dict(renamed, strict=False).unexpected_keys
    return encoder


def our_name(key: str, sites: str) -> str:
    """The golden's name of an adapter tensor, as ours."""
    *_, module, matrix, kind = [*"..", *key.split(".")]
    if matrix.startswith("lora_"):
        _, way, target = matrix.split("_")
        return f"blocks.0.attn.{TARGETS[target.lower()]}_proj.{way}.{kind}"
    return f"blocks.0.{SITES.get(module, sites)}.{LINEARS[matrix]}.{kind}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_equals_the_original_code(golden: dict[str, Tensor], variant: str) -> None:
    encoder = one_layer(golden)
    inject(encoder, parse(VARIANTS[variant]))
    encoder.double()
    prefix = f"{variant}/sd/"
    sites = "attn" if "MHSA" in variant else "mlp"
    state = {our_name(k.removeprefix(prefix), sites): v for k, v in golden.items() if k.startswith(prefix)}
    assert set(state) == set(trainable(encoder, "default"))
    load_state(encoder, "default", state)
    hidden = golden["in/hidden"].double()
    context = Context(grid=TokenGrid(freq=1, time=hidden.shape[1]), adapter="default")
    with torch.no_grad():
        got = encoder.blocks[0](hidden, context)
    assert (got - golden[f"{variant}/out/y"]).abs().max() < 1e-9
