"""The mapper: one soft token exactly, k of them, and nothing of what is padded."""

import pytest
import torch

from ossicle.errors import UnknownNameError, UsageError
from ossicle.tasks.mapper import POOLINGS, Mapper


def mapper(pooling: str = "mean", tokens: int = 1, **options) -> Mapper:
    torch.manual_seed(0)
    return Mapper(6, 8, pooling=pooling, tokens=tokens, **options)


def test_mean_pooling_gives_one_soft_token_the_mean_of_the_mapped():
    x, made = torch.randn(2, 5, 6), mapper(norm="layer")
    by_hand = made.second(torch.nn.functional.gelu(made.first(torch.nn.functional.layer_norm(x, (6,))))).mean(1)
    assert made(x).shape == (2, 1, 8)
    torch.testing.assert_close(made(x)[:, 0], by_hand)


def test_without_an_activation_the_two_maps_are_one():
    x, made = torch.randn(2, 5, 6), mapper(activation="none")
    one = torch.nn.Linear(6, 8)
    with torch.no_grad():
        one.weight.copy_(made.second.weight @ made.first.weight)
        one.bias.copy_(made.second.weight @ made.first.bias + made.second.bias)
    torch.testing.assert_close(made(x)[:, 0], one(x.mean(1)))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_nothing(pooling):
    made = mapper(pooling, 1 if pooling == "mean" else 3)
    x = torch.randn(1, 7, 6)
    padded = torch.cat([x, 100 * torch.randn(1, 4, 6)], dim=1)
    mask = torch.arange(11)[None] < 7
    torch.testing.assert_close(made(padded, mask), made(x))


@pytest.mark.parametrize(("tokens", "length"), [(3, 7), (4, 8), (5, 3), (5, 25), (10, 50)])
def test_strides_are_means_of_equal_stretches(tokens, length):
    made = mapper("stride", tokens)
    x = torch.randn(2, length, 8)
    pooled = made.pool(x, torch.ones(2, length))
    for k in range(tokens):
        first, last = k * length // tokens, -((k + 1) * length // -tokens)
        torch.testing.assert_close(pooled[:, k], x[:, first:last].mean(1))


def test_attention_weighs_by_likeness():
    made = mapper("attention", 2)
    x = torch.randn(1, 5, 8)
    weights = (made.pool.queries @ x[0].T).softmax(1)
    torch.testing.assert_close(made.pool(x, torch.ones(1, 5))[0], weights @ x[0])
    assert made.pool.queries.requires_grad


def test_soft_tokens_lie_where_the_words_lie():
    words = torch.randn(50, 8) * 0.1 + torch.arange(8.0)
    made = mapper("stride", 3)
    made.aim(words)
    soft = made(torch.randn(4, 9, 6))
    mean = words.mean(0)
    wanted = (words - mean).square().mean().sqrt().expand(4, 3)
    torch.testing.assert_close((soft - mean).square().mean(-1).sqrt(), wanted)
    copy = mapper("stride", 3)
    copy.load_state_dict(made.state_dict())
    x = torch.randn(1, 4, 6)
    torch.testing.assert_close(copy(x), made(x))


def test_what_cannot_be():
    with pytest.raises(UsageError, match=r"mean gives 1 soft token but task\.soft_tokens=4"):
        mapper("mean", 4)
    with pytest.raises(UnknownNameError, match="unknown pooling 'strides'; did you mean 'stride'"):
        mapper("strides")
    with pytest.raises(UnknownNameError, match="unknown activation"):
        mapper(activation="swish")


# --- several encoders ------------------------------------------------------------------------------------------------


def joint(pooling: str = "stride", tokens: int = 3, **options) -> Mapper:
    return mapper(pooling, tokens, others=(4, 5), **options)


@pytest.mark.parametrize("norm", ["none", "layer", "standard"])
def test_each_encoder_has_a_first_map_of_its_own_and_its_tokens_come_in_turn(norm):
    made = joint(norm=norm)
    if norm == "standard":
        for each, width in zip(made.norms, (6, 4, 5), strict=True):
            each.fit(3 + 2 * torch.randn(40, width))
    x, y, z = torch.randn(2, 7, 6), torch.randn(2, 3, 4), torch.randn(2, 5, 5)
    firsts = [made.first, *(other[1] for other in made.others)]
    parts = [first(norm(t)) for first, norm, t in zip(firsts, made.norms, (x, y, z), strict=True)]
    by_hand = made.second(torch.nn.functional.gelu(torch.cat(parts, dim=1)))
    torch.testing.assert_close(made(x, None, [(y, None), (z, None)]), made.pool(by_hand, torch.ones(2, 15)))
    assert not torch.allclose(made(x, None, [(y, None), (z, None)]), made(x, None, [(y.flip(2), None), (z, None)]))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_inside_the_row_changes_nothing(pooling):
    """The first encoder's padding stands before the second's tokens."""
    made = joint(pooling, 1 if pooling == "mean" else 3, norm="layer")
    lengths, widths = (7, 3, 5), (6, 4, 5)
    alone = [torch.randn(1, n, w) for n, w in zip(lengths, widths, strict=True)]
    padded = [
        torch.cat([t, 100 * torch.randn(1, more, t.shape[2])], dim=1) for t, more in zip(alone, (4, 2, 6), strict=True)
    ]
    masks = [torch.arange(t.shape[1])[None] < n for t, n in zip(padded, lengths, strict=True)]
    wanted = made(alone[0], None, [(t, None) for t in alone[1:]])
    found = made(padded[0], masks[0], list(zip(padded[1:], masks[1:], strict=True)))
    torch.testing.assert_close(found, wanted)
    mixed = made(alone[0], None, [(padded[1], masks[1]), (alone[2], None)])
    torch.testing.assert_close(mixed, wanted)


def test_one_encoder_has_the_names_and_the_draws_it_always_had():
    """Captioners of one encoder that were saved before still load, and begin as they did."""
    made = mapper("stride", 2, norm="standard")
    assert set(made.state_dict()) == {
        *("norm.mean", "norm.std", "first.weight", "first.bias", "second.weight", "second.bias", "centre", "length")
    }
    more = joint("stride", 2, norm="standard")
    torch.testing.assert_close(more.first.weight, made.first.weight)
    assert set(more.state_dict()) - set(made.state_dict()) == {
        f"others.{n}.{key}" for n in (0, 1) for key in ("0.mean", "0.std", "1.weight", "1.bias")
    }
