"""Every port equals transformers on the same random weights, and the original AST its goldens."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ossicle.backbones import keys, patches, whisper
from ossicle.backbones.encoder import Encoder

pytestmark = pytest.mark.numerics
TOLERANCE = 1e-4
VIT_KW = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}


def randomise(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=generator).mul_(0.3)
    return model.eval()


def build(state: dict[str, Tensor], sizes: patches.PatchSizes) -> Encoder:
    renamed = keys.vit(dict(state))
    found = replace(patches.infer(renamed, sizes), heads=3)
    encoder = patches.make("tiny", found).eval()
    missing, unknown = encoder.load_state_dict(renamed, strict=False)
    assert not missing and not unknown
    return encoder


@pytest.mark.parametrize("frames", [100, 60])
def test_ast_equals_transformers(frames: int) -> None:
    reference = randomise(transformers.ASTModel(transformers.ASTConfig(**VIT_KW, max_length=frames)))
    features = torch.randn(2, frames, 128, generator=torch.Generator().manual_seed(1))
    encoder = build(reference.state_dict(), patches.PatchSizes(eps=1e-12))
    with torch.no_grad():
        expected = reference(features, output_hidden_states=True)
        got = encoder.encode(features, layers=(0, 1, 2))
    assert torch.allclose(got.tokens, expected.last_hidden_state, atol=TOLERANCE)
    assert torch.allclose(got.hidden[0], expected.hidden_states[0], atol=TOLERANCE)
    assert torch.allclose(got.hidden[1], expected.hidden_states[1], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("config", "model", "sizes"),
    [
        (
            transformers.ViTConfig(**VIT_KW, image_size=64),
            transformers.ViTModel,
            patches.PatchSizes(table=(4, 4), stride=(16, 16), eps=1e-12, channels=3, resize="bicubic", extra=1),
        ),
        (
            transformers.DeiTConfig(**VIT_KW, image_size=64),
            transformers.DeiTModel,
            patches.PatchSizes(table=(4, 4), stride=(16, 16), eps=1e-12, channels=3, extra=2),
        ),
        (
            transformers.Dinov2Config(**VIT_KW | {"mlp_ratio": 2}, image_size=56, patch_size=14),
            transformers.Dinov2Model,
            patches.PatchSizes(
                table=(4, 4), patch=(14, 14), stride=(14, 14), eps=1e-6, channels=3, resize="bicubic", extra=1
            ),
        ),
    ],
    ids=["vit", "deit", "dinov2"],
)
def test_vision_equals_transformers(config: object, model: type[nn.Module], sizes: patches.PatchSizes) -> None:
    reference = randomise(model(config))
    side = config.image_size  # type: ignore[attr-defined]
    image = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    encoder = build(reference.state_dict(), sizes)
    with torch.no_grad():
        expected = reference(image).last_hidden_state
        x, grid, _ = encoder.stem.embed(image)  # type: ignore[operator]
        assert grid.tokens == x.shape[1]
        got = run_blocks(encoder, x, grid)
    assert torch.allclose(got, expected, atol=TOLERANCE)


def test_dinov2_positions_reach_another_grid_as_in_transformers() -> None:
    config = transformers.Dinov2Config(**VIT_KW | {"mlp_ratio": 2}, image_size=56, patch_size=14)
    reference = randomise(transformers.Dinov2Model(config))
    image = torch.randn(1, 3, 126, 70, generator=torch.Generator().manual_seed(3))
    encoder = build(
        reference.state_dict(),
        patches.PatchSizes(table=(4, 4), patch=(14, 14), stride=(14, 14), channels=3, resize="bicubic", extra=1),
    )
    with torch.no_grad():
        expected = reference.embeddings(image)
        got = encoder.stem.embed(image)[0]  # type: ignore[operator]
    assert torch.allclose(got, expected, atol=TOLERANCE)


def run_blocks(encoder: Encoder, x: Tensor, grid: object) -> Tensor:
    from ossicle.contracts import Context

    context = Context(grid=grid)  # type: ignore[arg-type]
    for block in encoder.blocks:
        x = block(x, context)
    return encoder.norm(x, context)  # type: ignore[no-any-return]


def test_summed_colours_equal_a_grey_image() -> None:
    reference = randomise(transformers.ViTModel(transformers.ViTConfig(**VIT_KW, image_size=64)))
    three = patches.PatchSizes(table=(4, 4), stride=(16, 16), channels=3, resize="bicubic", extra=1)
    grey = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(4))
    one = build(reference.state_dict(), replace(three, channels=1))
    full = build(reference.state_dict(), three)
    got = one.stem.embed(grey)[0]  # type: ignore[operator]
    expected = full.stem.embed(grey.expand(-1, 3, -1, -1))[0]  # type: ignore[operator]
    assert torch.allclose(got, expected, atol=TOLERANCE)


def test_whisper_equals_transformers() -> None:
    config = transformers.WhisperConfig(
        d_model=24, encoder_layers=2, encoder_attention_heads=3, encoder_ffn_dim=96, max_source_positions=50
    )
    reference = randomise(WhisperEncoder(config))
    features = torch.randn(2, 80, 100, generator=torch.Generator().manual_seed(5))
    state = whisper.rename(dict(reference.state_dict()))
    sizes = replace(whisper.infer(state, whisper.WhisperSizes()), heads=3)
    encoder = whisper.make("tiny", sizes).eval()
    assert not any(encoder.load_state_dict(state, strict=False))
    with torch.no_grad():
        expected = reference(features).last_hidden_state
        got = encoder.encode(features.transpose(1, 2)).tokens
    assert torch.allclose(got, expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("case", "stride", "frames"), [("g8x32", 16, 512), ("g8x8", 16, 128), ("g12x50", 10, 512)], ids=str
)
def test_ast_built_from_deit_equals_the_original(shared: Path, case: str, stride: int, frames: int) -> None:
    """The original AST adds the mean of class and distillation tokens to a LayerNormed linear head."""
    golden = load_file(shared / "goldens" / "ast_original.safetensors")
    state = {k.removeprefix("deit/sd/"): v for k, v in golden.items() if k.startswith("deit/sd/")}
    renamed = keys.vit(state)
    sizes = patches.PatchSizes(dim=16, heads=2, stride=(stride, stride), table=(24, 24), eps=1e-6)
    found = patches.infer(renamed, sizes)
    encoder = patches.make("ast", found).eval()
    assert not any(encoder.load_state_dict(renamed, strict=False))
    assert torch.allclose(renamed["stem.proj.weight"], golden["out/patch_proj_weight_1ch"], atol=1e-6)
    features = golden[f"in/x_{frames}"].float() / 32
    with torch.no_grad():
        encoded = encoder.encode(features)
        grid = encoded.grid
        positions = encoder.stem._grid_positions(grid.freq, grid.time, None)  # type: ignore[operator]
        head = torch.nn.functional.layer_norm(
            encoded.tokens[:, :2].mean(dim=1), (16,), golden["sd/mlp_head.0.weight"], golden["sd/mlp_head.0.bias"]
        )
        logits = head @ golden["sd/mlp_head.1.weight"].T + golden["sd/mlp_head.1.bias"]
    table = positions.flatten(2).transpose(1, 2)
    assert torch.allclose(table, golden[f"{case}/out/pos_embed"][:, 2:], atol=1e-6)
    assert torch.allclose(logits, golden[f"{case}/out/logits"], atol=TOLERANCE)
    if f"{case}/out/final_norm" in golden:
        assert torch.allclose(encoded.tokens, golden[f"{case}/out/final_norm"], atol=TOLERANCE)
