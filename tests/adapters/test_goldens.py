"""Every adapter of PETL_AST's code against its own outputs in float64: layer by layer, and whole small models."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ossicle.adapters import inject, load_state, parse, trainable
from ossicle.adapters.convpass import ConvpassDelta
from ossicle.backbones import freeze, keys, patches
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context, TokenGrid
from ossicle.tasks.features import pool

pytestmark = pytest.mark.numerics
SITES = {"adapter_module_MHSA": "attn", "adapter_module_FFN": "mlp"}
LINEARS = {
    "linear_downsample": "down", "linear_upsample": "up",
    "adapter_down": "down", "adapter_conv": "conv", "adapter_up": "up",
}  # fmt: skip
HYDRA = {"adapter_module_par": "parallel.", "adapter_module_seq": "after."}
PREFIX = {"key_tokens": "keys.tokens", "value_tokens": "values.tokens"}
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
    "convpass_MHSA_parallel_before_bug": "convpass(sites=attn,rank=6,conv=unused,norms=false)",
    "convpass_FFN_sequential_after_bug": "convpass(sites=mlp,place=after,rank=6,conv=unused,norms=false)",
    "convpass_Houlsby_parallel_bug": "convpass(sites=both,rank=6,conv=unused,norms=false)",
    "convpass_MHSA_parallel_before_fixed_conv1d": "convpass(sites=attn,rank=6,norms=false)",
    "convpass_FFN_sequential_after_fixed_conv1d": "convpass(sites=mlp,place=after,rank=6,norms=false)",
    "convpass_Houlsby_parallel_fixed_conv1d": "convpass(sites=both,rank=6,norms=false)",
    "hydra_FFN_official": "hydra(sites=mlp,rank=4,norms=false)",
    "hydra_MHSA_official": "hydra(sites=attn,skip=normed,rank=4,norms=false)",
    "prefix": "prefix(tokens=6)",
    "plain": "probe()",
}
# whole models: adapter and pooling
MODELS = {
    "model_spt": ("prompts(tokens=5,extra=drop)", "mean"),
    "model_dpt": ("prompts(tokens=3,deep=true,extra=drop)", "mean"),
    "model_dpt_cls": ("prompts(tokens=3,deep=true,extra=drop)", "cls"),
    "model_prefix": ("prefix(tokens=6)", "mean"),
    "model_lora": ("lora(rank=3,alpha=3)", "mean"),
    "model_adapter_pfeiffer_par": ("bottleneck(rank=4,norms=false)", "mean"),
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


def our_name(key: str, sites: str, block: str = "blocks.0") -> str:
    """The golden's name of an adapter tensor, as ours."""
    *_, module, matrix, kind = [*"..", *key.split(".")]
    if kind in PREFIX:
        return f"{block}.attn.{PREFIX[kind]}"
    if matrix.startswith("lora_"):
        _, way, target = matrix.split("_")
        return f"{block}.attn.{TARGETS[target.lower()]}_proj.{way}.{kind}"
    return f"{block}.{SITES.get(module, sites)}.{HYDRA.get(module, '')}{LINEARS[matrix]}.{kind}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_equals_the_original_code(golden: dict[str, Tensor], variant: str) -> None:
    encoder = one_layer(golden)
    inject(encoder, parse(VARIANTS[variant]))
    encoder.double()
    prefix = f"{variant.replace('_fixed_conv1d', '_bug')}/sd/"
    sites = "attn" if "MHSA" in variant else "mlp"
    state = {our_name(k.removeprefix(prefix), sites): v for k, v in golden.items() if k.startswith(prefix)}
    assert set(state) == set(trainable(encoder, "default"))
    load_state(encoder, "default", state)
    hidden = golden["in/hidden"].double()
    context = Context(grid=TokenGrid(freq=1, time=hidden.shape[1]), adapter="default")
    with torch.no_grad():
        got = encoder.blocks[0](hidden, context)
    assert (got - golden[f"{variant}/out/y"]).abs().max() < 1e-9


def model_state(golden: dict[str, Tensor], variant: str) -> dict[str, Tensor]:
    """The golden's adapter tensors of a whole model under our names."""
    prefix, state = f"{variant}/sd/", {}
    for key, value in golden.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix):
            continue
        if name == "prompt_embeddings":
            state["inlets.0.prompts"] = value
        elif name == "deep_prompt_embeddings":
            state |= {f"inlets.{n}.prompts": row[None] for n, row in enumerate(value, start=1)}
        else:
            state[our_name(name, "mlp", f"blocks.{name.split('.')[2]}")] = value
    return state


@pytest.mark.parametrize("variant", MODELS)
def test_model_equals_the_original_code(golden: dict[str, Tensor], variant: str) -> None:
    text, pooling = MODELS[variant]
    sizes = patches.PatchSizes(dim=24, depth=2, heads=3, hidden=72, table=(5, 7), eps=1e-12)
    encoder = freeze(patches.make("golden", sizes)).double()
    state = {k.removeprefix("model/sd/"): v for k, v in golden.items() if k.startswith("model/sd/")}
    head_weight, head_bias = (state.pop(f"classification_head.{k}").double() for k in ("weight", "bias"))
    state = {k.replace("encoder.layer.", "layers."): v for k, v in state.items()}
    encoder.load_state_dict(keys.vit(state), strict=True)
    inject(encoder, parse(text))
    encoder.double()
    load_state(encoder, "default", model_state(golden, variant))
    with torch.no_grad():
        encoded = encoder.encode(golden["in/spec"].double(), layers=(2,))
        tokens = encoded.tokens
        logits = F.linear(tokens.mean(dim=1) if pooling == "mean" else tokens[:, 0], head_weight, head_bias)
    assert pool(encoded, (2,), pooling).shape == (2, 24)
    assert (logits - golden[f"{variant}/out/logits"]).abs().max() < 1e-9


def test_convolution_on_the_grid_equals_the_original(golden: dict[str, Tensor]) -> None:
    freq, time, extra = golden["conv2d/in/f_t_ncls"].tolist()
    delta = ConvpassDelta(
        24, 5, "grid", scale=1.0, dropout=0.0, init="silent", generator=torch.Generator()
    ).double()  # fmt: skip
    state = {k.removeprefix("conv2d/sd/adapter_"): v for k, v in golden.items() if k.startswith("conv2d/sd/")}
    delta.load_state_dict(state)
    with torch.no_grad():
        got = delta(golden["conv2d/in/x"].double(), Context(grid=TokenGrid(freq=freq, time=time, extra=extra)))
    assert (got - golden["conv2d/out/grid"]).abs().max() < 1e-9


def test_every_variant_of_the_golden_is_covered(golden: dict[str, Tensor]) -> None:
    named = {key.split("/")[0] for key in golden if "/out/" in key}
    assert named == {*VARIANTS, *MODELS, "conv2d"}
