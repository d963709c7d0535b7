"""Every checkpoint format users have loads to the same encoder; a wrong one is refused; any clip length works."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ossicle import backbones
from ossicle.backbones import BACKBONES, Encoder, patches, weights, whisper
from ossicle.errors import AudioError, UnknownNameError, UsageError, WeightsError
from ossicle.sound.frontends import NORMS
from tests import tiny

State = dict[str, Tensor]


def tiny_state(sizes: patches.PatchSizes) -> tuple[Encoder, State]:
    encoder = patches.make("tiny", sizes)
    with torch.no_grad():
        for p in encoder.parameters():
            p.normal_()
    return encoder, {k: v.clone() for k, v in encoder.state_dict().items()}


def as_timm(state: State, prefix: str = "") -> State:
    """Our names to those of timm: fused qkv, separate class and distillation tokens."""
    made: State = {}
    for key, value in state.items():
        if ".attn." in key and key.split(".")[3] in ("k_proj", "v_proj"):
            continue
        if ".attn.q_proj." in key:
            parts = [state[key.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            made[key.replace("q_proj", "qkv")] = torch.cat(parts)
            continue
        made[key.replace("out_proj", "proj")] = value
    tokens = made.pop("stem.extra")
    made |= {"cls_token": tokens[:, :1], "dist_token": tokens[:, 1:], "pos_embed": made.pop("stem.positions")}
    made = {k.replace("stem.proj", "patch_embed.proj"): v for k, v in made.items()}
    made |= {"head.weight": torch.ones(3, 3), "head_dist.bias": torch.ones(3)}
    return {f"{prefix}{k}": v for k, v in made.items()}


def as_transformers4(state: State, prefix: str = "") -> State:
    """Our names to those of transformers 4 checkpoints."""
    names = {
        "stem.proj": "embeddings.patch_embeddings.projection", "stem.positions": "embeddings.position_embeddings",
        "attn.q_proj": "attention.attention.query", "attn.k_proj": "attention.attention.key",
        "attn.v_proj": "attention.attention.value", "attn.out_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
        "norm1": "layernorm_before", "norm2": "layernorm_after", "blocks.": "encoder.layer.",
    }  # fmt: skip
    made: State = {}
    for key, value in state.items():
        new = "layernorm." + key[5:] if key.startswith("norm.") else key
        for ours, theirs in names.items():
            new = new.replace(ours, theirs)
        made[new] = value
    tokens = made.pop("stem.extra")
    made |= {"embeddings.cls_token": tokens[:, :1], "embeddings.distillation_token": tokens[:, 1:]}
    return {f"{prefix}{k}": v for k, v in made.items()} | {"classifier.dense.weight": torch.ones(2, 2)}


def petl(state: State) -> State:
    """PETL_AST saves every tensor twice."""
    once = as_transformers4(state)
    return {f"model.{k}": v for k, v in once.items()} | once | {"classification_head.bias": torch.ones(4)}


def ssast(state: State) -> State:
    extra = {"module.mask_embed": torch.ones(1), "module.cpredlayer.0.weight": torch.ones(2, 2)}
    return as_timm(state, "module.v.") | extra | {"module.p_input_fdim": torch.tensor(128)}


FORMATS: dict[str, Callable[[State], object]] = {
    "transformers.bin": lambda s: as_transformers4(s, "audio_spectrogram_transformer."),
    "original.pth": lambda s: as_timm(s, "module.v.") | {"module.mlp_head.1.weight": torch.ones(2, 2)},
    "ssast.pth": ssast,
    "petl_ast.pth": petl,
    "deit.pth": lambda s: {"model": as_timm(s)},
    "epic.pyth": lambda s: {"model_state": as_timm(s, "module.v."), "epoch": 3},
}


@pytest.mark.numerics
@pytest.mark.parametrize("name", FORMATS)
def test_every_ast_format_gives_the_same_encoder(tmp_path: Path, name: str) -> None:
    reference, state = tiny_state(patches.PatchSizes(dim=64, depth=2, heads=1, hidden=96, eps=1e-12))
    file = tmp_path / name
    torch.save(FORMATS[name](state), file)
    loaded = backbones.load("ast-base", weights_from=str(file))
    waves = tiny.waves(1, seconds=1.3)
    frames, _ = loaded.listen(waves)
    with torch.no_grad():
        assert torch.allclose(loaded.encode(frames).tokens, reference.eval().encode(frames).tokens, atol=1e-4)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training


def test_ssast_frame_patches_are_read_from_the_file(tmp_path: Path) -> None:
    sizes = patches.PatchSizes(dim=64, depth=1, heads=1, hidden=96, patch=(128, 2), stride=(128, 2), table=(1, 40))
    _, state = tiny_state(sizes)
    torch.save(ssast(state), tmp_path / "frame.pth")
    loaded = backbones.load("ast-base", weights_from=str(tmp_path / "frame.pth"))
    grid = loaded(tiny.waves(1, seconds=1.0)).grid
    assert (grid.freq, grid.time, grid.extra) == (1, 49, 2)


@pytest.mark.numerics
@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder."])
def test_whisper_encoder_or_whole_model(tmp_path: Path, prefix: str) -> None:
    config = transformers.WhisperConfig(d_model=64, encoder_layers=2, encoder_attention_heads=1, encoder_ffn_dim=256)
    reference = WhisperEncoder(config).eval()
    state = {f"{prefix}{k}": v.contiguous() for k, v in reference.state_dict().items()}
    save_file(state | {"model.decoder.embed_tokens.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    loaded = backbones.load("whisper-tiny.en", weights_from=str(tmp_path / "model.safetensors"))
    frames, _ = loaded.listen(tiny.waves(1, seconds=1.0))
    with torch.no_grad():
        x, _, _ = loaded.stem(frames, None)
        padded = torch.nn.functional.pad(frames, (0, 0, 0, 2900))
        expected = torch.nn.functional.gelu(reference.conv1(padded.transpose(1, 2)))
        expected = torch.nn.functional.gelu(reference.conv2(expected)).transpose(1, 2)[:, :50]
    assert torch.allclose(x[:, :49], (expected + reference.embed_positions.weight[:50])[:, :49], atol=1e-4)


def test_openai_names_are_understood() -> None:
    sizes = whisper.WhisperSizes(dim=64, depth=1, heads=1, positions=50)
    names = whisper.make("tiny", sizes).state_dict()
    theirs = {
        "stem.conv": "encoder.conv", "stem.positions": "encoder.positional_embedding", "blocks.": "encoder.blocks.",
        "norm1": "attn_ln", "norm2": "mlp_ln", "attn.q_proj": "attn.query", "attn.k_proj": "attn.key",
        "attn.v_proj": "attn.value", "attn.out_proj": "attn.out", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2",
    }  # fmt: skip
    state: State = {}
    for key, value in names.items():
        new = key.replace("norm.", "encoder.ln_post.") if key.startswith("norm.") else key
        for ours, other in theirs.items():
            new = new.replace(ours, other)
        state[new] = value
    assert set(whisper.rename(state | {"decoder.ln.weight": torch.ones(2)})) == set(names)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    _, state = tiny_state(tiny.AST)
    torch.save(as_timm(state), tmp_path / "ast.pth")
    with pytest.raises(WeightsError, match="not a Whisper encoder"):
        backbones.load("whisper-tiny.en", weights_from=str(tmp_path / "ast.pth"))
    lost = as_timm(state)
    del lost["blocks.1.norm1.bias"]
    torch.save(lost, tmp_path / "lost.pth")
    with pytest.raises(WeightsError, match=r"missing \['blocks.1.norm1.bias'\]"):
        backbones.load("ast-base", weights_from=str(tmp_path / "lost.pth"))
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not a vision or spectrogram transformer"):
        backbones.load("dinov2-small", weights_from=str(tmp_path / "other.pth"))


def test_options_change_what_is_heard(tmp_path: Path) -> None:
    _, state = tiny_state(tiny.AST)
    torch.save(as_timm(state), tmp_path / "ast.pth")
    file = str(tmp_path / "ast.pth")
    wave = tiny.waves(1, seconds=1.0)
    usual = backbones.load("ast-base", weights_from=file)
    epic = backbones.load("ast-base", weights_from=file, frontend="epic", frames=160)
    assert (usual.rate_hz, epic.rate_hz) == (16_000, 24_000)
    assert epic.listen(wave)[0].shape == (1, 160, usual.frontend.mels)
    assert epic(wave).grid.time != usual(wave).grid.time
    esc50 = backbones.load("ast-base", weights_from=file, statistics="esc50")
    mean, std = NORMS["esc50"]
    torch.testing.assert_close(
        esc50.listen(wave)[0] * 2 * std + mean,
        usual.listen(wave)[0] * 2 * NORMS["audioset"][1] + NORMS["audioset"][0],
        atol=1e-4, rtol=0,
    )  # fmt: skip
    assert not backbones.load("ast-base", weights_from=file, zero_positions=True).stem.positions.any()
    with pytest.raises(UnknownNameError, match="front end 'epik'; did you mean 'epic'"):
        backbones.load("ast-base", weights_from=file, frontend="epik")
    with pytest.raises(UsageError, match="whisper gives 80 mel bands but ast-base wants 128"):
        backbones.load("ast-base", weights_from=file, frontend="whisper")
    with pytest.raises(UsageError, match=r"is not normalised; leave backbone\.statistics out"):
        backbones.load("ast-base", weights_from=file, frontend="epic", statistics="esc50")


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'whisper-tiny.en'"):
        backbones.load("whisper-tini.en")


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_a_source_and_a_skeleton(name: str) -> None:
    assert BACKBONES[name].weights in weights.SOURCES
    encoder = backbones.skeleton(name)
    assert all(p.is_meta and not p.requires_grad for p in encoder.parameters())
    assert encoder.depth == len(encoder.blocks)


@pytest.mark.parametrize("kind", tiny.MAKERS)
@pytest.mark.parametrize("seconds", [0.3, 0.9, 2.7])
def test_any_clip_length_has_positions(kind: str, seconds: float) -> None:
    encoder = tiny.encoder(kind)
    encoded = encoder(tiny.waves(1, seconds=seconds), layers=(0, min(1, encoder.depth), encoder.depth))
    assert encoded.tokens.shape[1] == encoded.grid.tokens
    assert torch.isfinite(encoded.tokens).all()
    assert torch.equal(encoded.hidden[encoder.depth], encoded.tokens)


@pytest.mark.parametrize("kind", ["ast", "dinov2"])
def test_a_clip_shorter_than_a_patch_says_so(kind: str) -> None:
    with pytest.raises(AudioError, match="frames but a patch needs"):
        tiny.encoder(kind)(tiny.waves(1, seconds=0.1))


@pytest.mark.numerics
def test_real_whisper_equals_transformers_on_a_real_clip(whisper_weights: Path, esc50: Path) -> None:
    """Positions cut to the clip: transformers runs on the same 5 s once its table is cut too."""
    from ossicle.sound import audio

    wave = audio.load(esc50 / "audio" / "1-100032-A-0.opus", 16_000)[None]
    encoder = backbones.from_checkpoint("whisper-tiny.en", whisper_weights)
    reference = WhisperEncoder.from_pretrained(whisper_weights)
    frames, _ = encoder.listen(wave)
    reference.embed_positions = torch.nn.Embedding.from_pretrained(reference.embed_positions.weight[:250])
    reference.config.max_source_positions = reference.max_source_positions = 250
    with torch.no_grad():
        expected = reference(frames.transpose(1, 2)).last_hidden_state
        got = encoder.encode(frames).tokens
    assert torch.allclose(got, expected, atol=1e-4)
