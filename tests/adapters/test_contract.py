"""Every adapter on every tiny encoder: the promises of an adapter, one test each."""

import contextlib
import re
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ossicle.adapters import inject, load_state, merge, parse, remove, trainable
from ossicle.adapters.base import Adapted
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Encoded
from ossicle.errors import AdapterError, OssicleError
from ossicle.tasks.features import pool
from tests import tiny
from tests.adapters.cases import CASES, Case
from tests.conftest import tries

pytestmark = pytest.mark.numerics
KINDS = ("ast", "dinov2", "whisper")
TOLERANCE = 1e-4  # as between ports: other batches are other float32 sums
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.text)


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest) -> Iterator[Encoder]:
    case = request.node.callspec.params.get("case")
    if case is not None and case.rows and request.param == "whisper":
        pytest.skip("tokens of Whisper run in time only; test_lookaside proves the error")
    yield tiny.encoder(request.param)


def real(encoded: Encoded, row: int) -> Tensor:
    """The real tokens of one row."""
    return encoded.tokens[row] if encoded.mask is None else encoded.tokens[row][encoded.mask[row]]


def output(encoder: Encoder, **options: object) -> Tensor:
    with torch.no_grad():
        return encoder(tiny.waves(), **options).tokens  # type: ignore[arg-type]


def shake(encoder: Encoder, name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trainable(encoder, name).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def train_steps(encoder: Encoder, steps: int) -> None:
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    generator = torch.Generator().manual_seed(5)
    target = torch.randn(1, 1, encoder.dim, generator=generator)
    for _ in range(steps):
        tokens = encoder(tiny.waves()).tokens
        optimizer.zero_grad()
        (tokens - target).square().mean().backward()
        optimizer.step()


@cases
def test_starts_silent_or_says_why_not(encoder: Encoder, case: Case) -> None:
    before = output(encoder)
    inject(encoder, parse(case.text))
    after = output(encoder)
    extra = after.shape[1] - before.shape[1]
    assert not extra or "prompts" in case.text
    difference = (after[:, -10:] - before[:, -10:]).abs().max().item()
    assert (difference > 1e-4) if case.loud else (difference == 0)


def unmoved(encoder: Encoder) -> list[str]:
    """Trainable tensors that three steps leave as they were."""
    own = {k: v.detach().clone() for k, v in trainable(encoder, "default").items()}
    train_steps(encoder, 3)
    return [k for k, v in trainable(encoder, "default").items() if torch.equal(v, own[k])]


@pytest.mark.parametrize(
    ("fault", "dead"),
    [
        ("bottleneck(rank=4,init=zero,norms=false)", r"(down|up)\.weight$|down\.bias$"),
        ("convpass(rank=4,conv=unused,norms=false)", r"\.conv\.(weight|bias)$"),
    ],
)
def test_the_two_faults_of_the_original_code_are_seen(fault: str, dead: str) -> None:
    """A bottleneck that starts all zero, a convolution thrown away: the check below finds just their tensors."""
    encoder = tiny.encoder("ast")
    inject(encoder, parse(fault))
    expected = [k for k in trainable(encoder, "default") if re.search(dead, k)]
    assert unmoved(encoder) == expected != []


@cases
def test_all_and_only_its_tensors_move(encoder: Encoder, case: Case) -> None:
    frozen = {k: v.clone() for k, v in encoder.state_dict().items()}
    inject(encoder, parse(case.text))
    gradients = {id(p) for p in encoder.parameters() if p.requires_grad}
    assert gradients == {id(p) for p in trainable(encoder, "default").values()}
    assert [k for k in unmoved(encoder) if not re.search(case.inert, k)] == []
    remove(encoder, "default")
    assert all(torch.equal(v, frozen[k]) for k, v in encoder.state_dict().items())


@cases
def test_first_gradient_reaches_every_tensor_or_says_why_not(encoder: Encoder, case: Case) -> None:
    inject(encoder, parse(case.text))
    encoder(tiny.waves()).tokens.square().mean().backward()
    own = {k: p for k, p in trainable(encoder, "default").items() if not re.search(case.inert, k)}
    silent = [k for k, p in own.items() if p.grad is None or not p.grad.any()]
    assert bool(silent) == bool(case.still)
    assert all(re.search(r"\.down\.|\.conv\.|norm\d\.", key) for key in silent)


@cases
def test_saved_and_loaded_gives_the_same_output(encoder: Encoder, case: Case) -> None:
    inject(encoder, parse(case.text))
    shake(encoder, "default")
    state = {k: v.detach().clone() for k, v in trainable(encoder, "default").items()}
    expected = output(encoder)
    remove(encoder, "default")
    inject(encoder, parse(case.text), seed=99)
    load_state(encoder, "default", state)
    assert torch.equal(output(encoder), expected)


@cases
def test_removed_gives_back_the_frozen_encoder(encoder: Encoder, case: Case) -> None:
    before, keys = output(encoder), list(encoder.state_dict())
    inject(encoder, parse(case.text))
    shake(encoder, "default")
    shaken = output(encoder)
    assert shaken.shape != before.shape or not torch.equal(shaken, before)
    remove(encoder, "default")
    assert torch.equal(output(encoder), before)
    assert list(encoder.state_dict()) == keys
    assert not any(isinstance(m, Adapted) for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())


@cases
def test_count_equals_its_formula(encoder: Encoder, case: Case) -> None:
    inject(encoder, parse(case.text))
    counted = sum(p.numel() for p in trainable(encoder, "default").values())
    remove(encoder, "default")
    first = dict(encoder.blocks[0].named_parameters())
    biases = sum(key.startswith("attn.") and key.endswith(".bias") for key in first)
    assert counted == case.parameters(len(first["mlp.fc1.weight"]), biases)


@cases
def test_merges_if_linear_or_says_what_is_not(encoder: Encoder, case: Case) -> None:
    inject(encoder, parse(case.text))
    shake(encoder, "default")
    expected = output(encoder)
    if not case.linear:
        with pytest.raises(AdapterError, match="is not linear"):
            merge(encoder, "default")
        assert torch.equal(output(encoder), expected)
        return
    merge(encoder, "default")
    assert not encoder.adapters
    assert torch.allclose(output(encoder), expected, atol=TOLERANCE)


@cases
def test_two_adapters_serve_one_batch_row_by_row(encoder: Encoder, case: Case) -> None:
    frozen = output(encoder)
    inject(encoder, parse(case.text), name="one")
    shake(encoder, "one")
    inject(encoder, parse("lora(rank=2)"), name="two")
    shake(encoder, "two")
    with torch.no_grad():
        one, two = (encoder(tiny.waves(), adapter=n) for n in ("one", "two"))
        mixed = encoder(tiny.waves(), adapter=("two", "one"), layers=(1, encoder.depth))
        half = encoder(tiny.waves(), adapter=(None, "one"))
    assert torch.allclose(real(mixed, 0), real(two, 0), atol=TOLERANCE)
    assert torch.allclose(real(mixed, 1), real(one, 1), atol=TOLERANCE)
    assert torch.allclose(real(half, 0), frozen[0], atol=TOLERANCE)
    pooled = pool(mixed, (encoder.depth,), "mean")
    assert torch.allclose(pooled[1], one.tokens[1].mean(dim=0), atol=TOLERANCE)
    remove(encoder, "one")
    assert torch.allclose(output(encoder), two.tokens, atol=TOLERANCE)


@cases
def test_neighbours_never_change_a_row(encoder: Encoder, case: Case) -> None:
    inject(encoder, parse(case.text))
    shake(encoder, "default")
    long = tiny.waves(2, seconds=1.0)
    long[1, 12_000:] = 0
    both = encoder(long, torch.tensor([16_000, 12_000]))
    alone = encoder(long[1:, :12_000]).tokens[0]
    assert both.mask is not None
    assert torch.allclose(real(both, 1), alone, atol=TOLERANCE)


def test_full_trains_everything_and_goes_without_a_trace(encoder: Encoder) -> None:
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    inject(encoder, parse("full()"))
    own = {k: v.detach().clone() for k, v in trainable(encoder, "default").items()}
    assert sum(p.numel() for p in own.values()) == sum(p.numel() for p in encoder.parameters())
    train_steps(encoder, 2)
    # A table position past the clip, an image row that is cut away: used by no token, so never moved.
    unmoved = [k for k, v in trainable(encoder, "default").items() if torch.equal(v, own[k])]
    assert all(re.search(r"stem\.positions|k_proj\.bias$", key) for key in unmoved)
    remove(encoder, "default")
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert not any(p.requires_grad for p in encoder.parameters())


PIECES = ["lora", "bottleneck", "lookaside", "norm", "prompts", *"()=,+:8", "rank", "blocks", "top"]


@tries(100)
@given(text=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=10).map("".join))
def test_any_text_is_an_adapter_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(OssicleError):
        assert parse(text).parts
