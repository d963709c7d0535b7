"""Our LoRA computes what peft's does on the same backbone, forward and backward."""

from dataclasses import replace

import peft
import pytest
import torch
import transformers

from ossicle.adapters import inject, load_state, parse, trainable
from ossicle.backbones import freeze, keys, patches

pytestmark = pytest.mark.numerics
KW = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48, "max_length": 60}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
def test_lora_equals_peft_on_ast() -> None:
    torch.manual_seed(0)
    reference = transformers.ASTModel(transformers.ASTConfig(**KW)).eval()
    state = keys.vit(dict(reference.state_dict()))
    ours = patches.make("tiny", replace(patches.infer(state, patches.PatchSizes(eps=1e-12)), heads=3))
    ours.load_state_dict(state, strict=False)
    freeze(ours)
    inject(ours, parse("lora(rank=4,alpha=8,targets=qv)"))

    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    theirs = peft.get_peft_model(reference, config).eval()
    names = {"lora_A.default": "down", "lora_B.default": "up"}
    copied = {}
    for key, value in theirs.named_parameters():
        if "lora_" in key:
            block, rest = key.split(".layers.")[1].split(".", 1)
            rest = rest.replace("attention.", "attn.")
            for a, b in names.items():
                rest = rest.replace(a, b)
            copied[f"blocks.{block}.{rest}"] = value
    load_state(ours, "default", {k: v.detach() for k, v in copied.items()})

    features = torch.randn(2, 60, 128)
    towards = torch.randn(theirs(features).last_hidden_state.shape)
    expected, got = theirs(features).last_hidden_state, ours.encode(features).tokens
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    (expected * towards).mean().backward()  # not of squares: the last norm keeps their mean, so nothing would flow
    (got * towards).mean().backward()
    for key, value in trainable(ours, "default").items():
        size = copied[key].grad.abs().max()
        assert size > 1e-5
        torch.testing.assert_close(value.grad / size, copied[key].grad / size, atol=1e-4, rtol=0)
