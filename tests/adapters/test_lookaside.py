"""The Look-Aside Adapter: what a kernel may see, edges, orders, dropped tokens; equal to a bottleneck at size 1."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ossicle.adapters import inject, parse
from ossicle.adapters.gridconv import GridConv, SequenceConv
from ossicle.adapters.lookaside import LookAsideDelta
from ossicle.contracts import Context, TokenGrid
from ossicle.errors import AdapterError
from tests import tiny

pytestmark = pytest.mark.numerics
FREQ, TIME, EXTRA, DIM = 4, 6, 2, 5
ROUNDING = 1e-5  # float32: epsilon, 5 channels, 9 taps, values up to 4; a hundredth of it for what starts small


def delta(kernel: tuple[int, int], extra: str = "centre") -> LookAsideDelta:
    return LookAsideDelta(
        DIM, 3, kernel, scale=1.0, extra=extra, init="hf", generator=torch.Generator().manual_seed(0)
    )  # fmt: skip


def touched(kernel: tuple[int, int], order: str, f: int, t: int) -> set[tuple[int, int]]:
    """Grid cells whose correction changes when the token at (f, t) does."""
    grid = TokenGrid(FREQ, TIME, order, EXTRA)  # type: ignore[arg-type]
    x = torch.zeros(1, grid.tokens, DIM)
    place = EXTRA + (f * TIME + t if order == "freq" else t * FREQ + f)
    x[0, place] = 1
    with torch.no_grad():
        y = delta(kernel)(x, Context(grid))[0]
    assert not y[:EXTRA].any()
    hit = y[EXTRA:].abs().sum(dim=1).nonzero()[:, 0].tolist()
    return {divmod(i, TIME) if order == "freq" else divmod(i, FREQ)[::-1] for i in hit}


@pytest.mark.parametrize("order", ["freq", "time"])
def test_a_time_kernel_moves_along_time_only_and_a_frequency_kernel_along_frequency(order: str) -> None:
    # two projections of length 3 in a row reach two cells to either side
    assert touched((1, 3), order, 1, 3) == {(1, t) for t in range(1, 6)}
    assert touched((3, 1), order, 1, 3) == {(f, 3) for f in range(4)}
    assert touched((1, 1), order, 1, 3) == {(1, 3)}
    assert touched((1, 3), order, 0, 0) == {(0, 0), (0, 1), (0, 2)}  # nothing wraps to the next row


def test_size_one_is_a_bottleneck_without_bias() -> None:
    made = delta((1, 1))
    x = torch.randn(2, EXTRA + FREQ * TIME, DIM, generator=torch.Generator().manual_seed(1))
    down, up = made.down.weight[:, :, 0, 0], made.up.weight[:, :, 0, 0]
    expected = F.linear(F.gelu(F.linear(x, down)), up)
    assert torch.allclose(made(x, Context(TokenGrid(FREQ, TIME, extra=EXTRA))), expected, atol=ROUNDING / 100)


def test_extra_tokens_take_the_centre_tap_or_nothing() -> None:
    context = Context(TokenGrid(FREQ, TIME, extra=EXTRA))
    x = torch.randn(2, EXTRA + FREQ * TIME, DIM, generator=torch.Generator().manual_seed(1))
    made = delta((1, 3))
    down, up = made.down.weight[:, :, 0, 1], made.up.weight[:, :, 0, 1]
    expected = F.linear(F.gelu(F.linear(x[:, :EXTRA], down)), up)
    assert torch.allclose(made(x, context)[:, :EXTRA], expected, atol=ROUNDING / 100)
    skipped = delta((1, 3), extra="skip")
    assert not skipped(x, context)[:, :EXTRA].any()
    assert torch.allclose(skipped(x, context)[:, EXTRA:], made(x, context)[:, EXTRA:], atol=ROUNDING / 100)


@pytest.mark.parametrize("conv", [GridConv(DIM, DIM, (3, 3)), SequenceConv(DIM)], ids=["grid", "sequence"])
def test_a_dropped_token_counts_as_zeros(conv: torch.nn.Module) -> None:
    grid = TokenGrid(FREQ, TIME, extra=EXTRA)
    x = torch.randn(2, grid.tokens, DIM, generator=torch.Generator().manual_seed(1))
    kept = torch.tensor([[0, 1, 5, 9, 20], [2, 3, 4, 22, 23]])
    places = torch.cat([torch.arange(EXTRA).expand(2, -1), kept + EXTRA], dim=1)[..., None].expand(-1, -1, DIM)
    zeroed = torch.zeros_like(x).scatter(1, places, x.gather(1, places))
    few = conv(x.gather(1, places), Context(grid, kept=kept))
    assert torch.allclose(few, conv(zeroed, Context(grid)).gather(1, places), atol=ROUNDING)
    other = conv(x.gather(1, places), replace(Context(grid, kept=kept), kept=kept.flip(0)))
    assert not torch.allclose(few, other, atol=1e-3)


@pytest.mark.parametrize("text", ["lookaside()", "lookaside(attn=both,mlp=off)"])
def test_frequency_kernels_need_a_frequency_axis(text: str) -> None:
    encoder = tiny.encoder("whisper")
    with pytest.raises(AdapterError, match=r"tokens of .* run in time only; use time or point"):
        inject(encoder, parse(text))
    assert not encoder.adapters
