"""BEATs equals its original code (golden), with and without padding; its place among backbones, adapters and masks."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ossicle import backbones
from ossicle.adapters import inject, parse, remove, trainable
from ossicle.backbones import beats, freeze
from ossicle.backbones.beats import BeatsSizes, buckets_of
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context
from ossicle.errors import AdapterError, WeightsError
from tests import tiny

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "goldens" / "beats_encoder.safetensors")


@pytest.fixture(scope="module")
def state(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("sd/"): v for k, v in golden.items() if k.startswith("sd/")}


@pytest.fixture(scope="module")
def encoder(state: dict[str, Tensor]) -> Encoder:
    named = beats.rename(state)
    sizes = beats.infer(named, BeatsSizes(furthest=24))
    assert sizes == BeatsSizes(32, 2, 4, 64, 20, 16, 128, 16, 32, 24)
    made = beats.make("tiny-beats", sizes)
    made.load_state_dict(named, strict=True)
    return freeze(made)


TEXTS = [
    "lora(rank=2,targets=qkvo)", "bottleneck(sites=both,rank=2)+norm()", "bottleneck(place=after,rank=2)",
    "lookaside(rank=2)", "convpass(rank=2,conv=grid)", "hydra(rank=2)", "prompts(tokens=3,deep=true)",
    "prefix(tokens=4)+lora(rank=2)", "bitfit()", "norm(which=blocks)",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_adapters_fit_and_go_without_a_trace(text: str, state: dict[str, Tensor]) -> None:
    named = beats.rename(state)
    made = beats.make("tiny-beats", beats.infer(named, BeatsSizes(furthest=24)))
    made.load_state_dict(named)
    freeze(made)
    sound = tiny.waves(2, seconds=0.8)
    with torch.no_grad():
        before = made(sound).tokens
    inject(made, parse(text))
    with torch.no_grad():
        assert torch.equal(made(sound).tokens, before) or "tokens=" in text
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.5)
    start = {k: v.detach().clone() for k, v in trainable(made, "default").items()}
    target = torch.randn(1, 1, made.dim, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        optimizer.zero_grad()
        (made(sound).tokens - target).square().mean().backward()
        optimizer.step()
    still = [k for k, v in trainable(made, "default").items() if torch.equal(v, start[k])]
    assert [k for k in still if not k.endswith("k_proj.bias")] == []
    long = torch.zeros(2, 16_000)
    long[:, :12_800] = sound
    both = made(long, torch.tensor([16_000, 12_800]))
    alone = made(sound[1:]).tokens[0]
    assert both.mask is not None and torch.allclose(both.tokens[1][both.mask[1]], alone, atol=1e-4)
    remove(made, "default")
    with torch.no_grad():
        assert torch.equal(made(sound).tokens, before)


def test_the_released_layout_with_its_settings(state: dict[str, Tensor], encoder: Encoder, tmp_path: Path) -> None:
    torch.save({"cfg": {"max_distance": 24, "encoder_layers": 2}, "model": state}, tmp_path / "BEATs_iter3.pt")
    loaded = backbones.load("beats-iter3+", weights_from=str(tmp_path / "BEATs_iter3.pt"))
    assert loaded.bias.furthest == 24  # type: ignore[union-attr]
    sound = tiny.waves(1, seconds=0.8)
    with torch.no_grad():
        assert torch.equal(loaded(sound).tokens, encoder(sound).tokens)
    with pytest.raises(WeightsError, match=r"released as a file only.*--file FILE"):
        backbones.load("beats-iter3+", source="hub")
    with pytest.raises(AdapterError, match="normalise first"):
        inject(loaded, parse("hydra(skip=normed)"))


def waves(golden: dict[str, Tensor]) -> Tensor:
    return golden["in/wav_i16"].float() / 32768


def near(got: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> bool:
    return got.shape == wanted.shape and float((got - wanted).abs().max()) < tolerance


def test_buckets(golden: dict[str, Tensor]) -> None:
    places = torch.arange(32)
    assert torch.equal(buckets_of(places[None] - places[:, None], 32, 24), golden["out/rel_bucket"].long())


def test_every_stage_equals_the_original(encoder: Encoder, golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        frames, _ = encoder.listen(waves(golden))
        assert near(frames, golden["out/fbank"], 1e-3)  # as the goldens ask
        stem = encoder.stem
        patches = stem.norm_patch(stem.proj(frames[:, None]).flatten(2).transpose(1, 2))  # type: ignore[operator, union-attr]
        assert near(patches, golden["out/nomask/patch_tokens_normed"])
        encoded = encoder(waves(golden), layers=(0, 1, 2))
    assert near(encoded.hidden[1], golden["out/nomask/layer0"])
    assert near(encoded.hidden[2], golden["out/nomask/layer1"])
    assert near(encoded.tokens, golden["out/nomask/x"])
    assert (encoded.grid.freq, encoded.grid.time, encoded.grid.order) == (8, 4, "time")


def test_a_padding_mask_as_the_original_makes_it(encoder: Encoder, golden: dict[str, Tensor]) -> None:
    """Its mask keeps a patch that is real in part, so it is given from outside here."""
    real = ~golden["out/mask/padding_mask"].bool()
    with torch.no_grad():
        frames, _ = encoder.listen(waves(golden))
        stem = encoder.stem
        x = stem.widen(stem.norm_patch(stem.proj(frames[:, None]).flatten(2).transpose(1, 2)))  # type: ignore[operator, union-attr]
        grid = stem.grid(x.shape[1], 128)  # type: ignore[operator, union-attr]
        encoded = encoder.upper(stem.place(x, real), grid, real)  # type: ignore[operator, union-attr]
    assert near(encoded.tokens[real], golden["out/mask/x"][real])


def test_fine_tuned_files_lose_their_classifier(encoder: Encoder, state: dict[str, Tensor], shared: Path) -> None:
    classifier = load_file(shared / "goldens" / "beats_classifier.safetensors")
    extra = {k.removeprefix("sd/"): v for k, v in classifier.items() if k.startswith("sd/")}
    named = beats.rename({**state, **extra})
    assert set(named) == set(encoder.state_dict())
    with torch.no_grad():
        tokens = encoder(torch.stack([w for w in load_file(shared / "goldens" / "beats_encoder.safetensors")[
            "in/wav_i16"].float() / 32768])).tokens  # fmt: skip
        probs = torch.nn.functional.linear(tokens, extra["predictor.weight"], extra["predictor.bias"]).mean(1).sigmoid()
    assert near(probs, classifier["out/nomask/probs"], 1e-5)  # as the goldens ask


def test_newer_torch_spells_weight_norm_otherwise(encoder: Encoder, state: dict[str, Tensor]) -> None:
    spelt = {
        k.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): v
        for k, v in state.items()
    }
    assert torch.equal(beats.rename(spelt)["stem.positions.weight"], encoder.state_dict()["stem.positions.weight"])
    with pytest.raises(WeightsError, match="not a BEATs encoder"):
        beats.rename({"blocks.0.attn.qkv.weight": torch.zeros(1)})


def test_weights_hold_the_gated_bias(encoder: Encoder) -> None:
    attn, seen = encoder.blocks[1].attn, []
    hook = attn.register_forward_hook(lambda _, given, made: seen.append((*given, made)))  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        encoder(tiny.waves(2, seconds=0.8), torch.tensor([12_800, 8_000]))
        hook.remove()
        x, context, made = seen[0]
        values = attn.project(x, context)[2]  # type: ignore[union-attr, operator]
        mixed = (attn.weights(x, context) @ values).transpose(1, 2).reshape(x.shape)  # type: ignore[union-attr, operator]
        assert near(attn.out_proj(mixed, context), made)  # type: ignore[union-attr, operator]


def test_dropped_tokens_keep_their_places(encoder: Encoder, golden: dict[str, Tensor]) -> None:
    """With every token kept but one, attention among the others is what a mask on that one gives."""
    with torch.no_grad():
        frames, _ = encoder.listen(waves(golden))
        x, grid, _ = encoder.stem(frames, None)  # type: ignore[operator]
        kept = torch.tensor([[i for i in range(32) if i != n] for n in (5, 20)])
        few = x.gather(1, kept[..., None].expand(-1, -1, x.shape[-1]))
        got = encoder.upper(few, grid, None, kept=kept).tokens
        mask = torch.ones(2, 32, dtype=torch.bool)
        mask[0, 5] = mask[1, 20] = False
        wanted = encoder.upper(x, grid, mask).tokens
    assert near(got, wanted.gather(1, kept[..., None].expand(-1, -1, x.shape[-1])))
    assert encoder.blocks[0].attn._bias(32, Context(grid)).shape == (1, 4, 32, 32)  # type: ignore[union-attr, operator]
