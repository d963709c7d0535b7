"""LoRA goes to PEFT's folder and back, and PEFT itself computes the same with it."""

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ossicle.adapters import inject, parse, trainable
from ossicle.adapters.peft_format import CONFIG, FAMILIES, WEIGHTS, from_peft, to_peft
from ossicle.backbones import BACKBONES, freeze, keys, patches, skeleton, whisper
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.whisper import WhisperSizes
from ossicle.errors import AdapterError, CheckpointError

pytestmark = [
    pytest.mark.numerics,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # peft asks transformers for it
]
SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 48}
LORA = "lora(rank=4,alpha=2,targets=kvo,blocks=1-2)+norm()"


def whisper_pair() -> tuple[torch.nn.Module, Encoder]:
    config = transformers.WhisperConfig(
        d_model=24, encoder_layers=3, encoder_attention_heads=3, encoder_ffn_dim=96, max_source_positions=60
    )  # fmt: skip
    reference = WhisperEncoder(config)
    ours = whisper.make("whisper-tiny.en", WhisperSizes(dim=24, depth=3, heads=3, positions=60))
    ours.load_state_dict(whisper.rename(reference.state_dict()), strict=False)
    return reference, ours


def ast_pair() -> tuple[torch.nn.Module, Encoder]:
    reference = transformers.ASTModel(transformers.ASTConfig(**SIZES, max_length=60))
    state = keys.vit(dict(reference.state_dict()))
    sizes = patches.PatchSizes(dim=24, depth=3, heads=3, hidden=48, table=(12, 5), eps=1e-12)
    ours = patches.make("ast-base", sizes)
    ours.load_state_dict(state, strict=False)
    return reference, ours


def dinov2_pair() -> tuple[torch.nn.Module, Encoder]:
    config = transformers.Dinov2Config(**SIZES | {"mlp_ratio": 2}, image_size=70, patch_size=14)
    reference = transformers.Dinov2Model(config)
    state = keys.vit(dict(reference.state_dict()))
    sizes = patches.PatchSizes(
        dim=24, depth=3, heads=3, hidden=48, patch=(14, 14), stride=(14, 14), table=(5, 5), extra=1, channels=3,
        layer_scale=True, resize="bicubic",
    )  # fmt: skip
    ours = patches.make("dinov2-small", sizes)
    ours.load_state_dict(state, strict=False)
    return reference, ours


PAIRS = {"whisper": whisper_pair, "ast": ast_pair, "dinov2": dinov2_pair}
INPUTS = {"whisper": (2, 80, 120), "ast": (2, 60, 128), "dinov2": (2, 3, 70, 70)}


def shaken(ours: Encoder, text: str) -> Encoder:
    freeze(ours)
    inject(ours, parse(text))
    with torch.no_grad():
        for value in trainable(ours, "default").values():
            value.add_(torch.randn_like(value) * 0.1)
    return ours


def tokens(ours: Encoder, kind: str, x: torch.Tensor) -> torch.Tensor:
    if kind == "dinov2":
        grown, grid, valid = ours.stem.embed(x)  # type: ignore[operator]
        return ours.upper(grown, grid, valid).tokens
    return ours.encode(x.transpose(1, 2) if kind == "whisper" else x).tokens


@pytest.mark.parametrize("kind", PAIRS)
def test_peft_computes_the_same_and_the_way_back_loses_nothing(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference, ours = PAIRS[kind]()
    shaken(ours, LORA)
    to_peft(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(reference.eval(), tmp_path).eval()
    x = torch.randn(INPUTS[kind])
    with torch.no_grad():
        expected = tokens(ours, kind, x)
        assert torch.allclose(theirs(x).last_hidden_state, expected, atol=1e-4)
    reference_again, fresh = PAIRS[kind]()
    frozen = {k: v for k, v in ours.state_dict().items() if ".deltas." not in k}
    fresh.load_state_dict({k.replace(".base", ""): v for k, v in frozen.items()})
    freeze(fresh)
    from_peft(fresh, tmp_path, name="back")
    with torch.no_grad():
        assert torch.equal(tokens(fresh, kind, x), expected)


def test_every_backbone_of_transformers_has_names() -> None:
    transformers = {name for name in BACKBONES if skeleton(name).depth}
    assert set(FAMILIES) == transformers - {"beats-iter3+"}


def test_a_folder_made_by_peft_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference, ours = whisper_pair()
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], use_rslora=True, init_lora_weights=False)
    theirs = peft.get_peft_model(reference, config).eval()
    theirs.save_pretrained(tmp_path)
    from_peft(freeze(ours), tmp_path)
    x = torch.randn(2, 80, 120)
    with torch.no_grad():
        assert torch.allclose(tokens(ours, "whisper", x), theirs(x).last_hidden_state, atol=1e-4)


@pytest.mark.parametrize("text", ["bottleneck(rank=2)", "lora(rank=2)+bottleneck(rank=2)", "norm()", "bitfit()"])
def test_what_peft_cannot_hold_is_refused(text: str, tmp_path: Path) -> None:
    ours = shaken(whisper_pair()[1], text)
    with pytest.raises(AdapterError, match=r"PEFT holds one lora"):
        to_peft(ours, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no PEFT folder"):
        from_peft(whisper_pair()[1], tmp_path)
    to_peft(shaken(whisper_pair()[1], "lora(rank=2)"), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(AdapterError, match="no plain PEFT LoRA"):
        from_peft(freeze(whisper_pair()[1]), tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    state = load_file(tmp_path / WEIGHTS)
    save_file({k.replace("layers.1", "layers.7"): v for k, v in state.items()}, tmp_path / WEIGHTS)
    with pytest.raises(AdapterError, match="no attention projection of this encoder"):
        from_peft(freeze(whisper_pair()[1]), tmp_path)
    fresh = whisper_pair()[1]
    fresh.name = "my-own"
    with pytest.raises(AdapterError, match="has no names in transformers"):
        to_peft(shaken(fresh, "lora(rank=2)"), tmp_path)
