"""Random changes: shapes, bounds, repeatability, and that the draw and the apply are apart."""

import pytest
import torch

from ossicle.errors import UsageError
from ossicle.sound.augment import (
    draw_masks,
    draw_mixup,
    gain,
    mix_rows,
    mixup,
    noise,
    roll_rows,
    shift,
    spec_augment,
    time_warp,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CHANGES = {
    "spec_augment": lambda x, g: spec_augment(x[:, :, None].expand(-1, -1, 8), g, time=20, freq=4),
    "mixup": lambda x, g: mixup(x, torch.eye(len(x)), g, alpha=10.0)[0],
    "gain": lambda x, g: gain(x, g, low_db=-6.0, high_db=6.0),
    "time_warp": lambda x, g: time_warp(x[:, :, None] * torch.linspace(0, 1, 100)[:, None], g, most=10),
    "noise": lambda x, g: noise(x[:, :, None], g, height=0.1),
    "shift": lambda x, g: shift(x, g, max_seconds=1.0, rate_hz=50),
}


@pytest.mark.parametrize("name", CHANGES)
def test_same_seed_same_numbers_and_the_input_is_untouched(name):
    waves = torch.rand(4, 100, generator=seeded()) + 1.0
    before = waves.clone()
    first, again = CHANGES[name](waves, seeded(1)), CHANGES[name](waves, seeded(1))
    other = CHANGES[name](waves, seeded(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(waves, before)


def test_masks_are_one_short_stretch_per_row_and_differ_between_rows():
    masks = draw_masks(500, 40, seeded(), widest=10, masks=1)
    lengths = masks.sum(1)
    assert lengths.min() == 0
    assert lengths.max() == 9
    assert abs(lengths.float().mean() - 4.5) < 0.5
    changes = (masks[:, 1:] != masks[:, :-1]).sum(1)
    assert changes.max() <= 2
    assert masks.any(0).all()
    assert len({tuple(row) for row in masks.tolist()}) > 100


def test_masks_wider_than_the_axis_stay_inside():
    assert draw_masks(50, 5, seeded(), widest=1000, masks=2).shape == (50, 5)


def test_spec_augment_fills_only_masked_places():
    features = torch.rand(8, 60, 16, generator=seeded()) + 1.0
    out = spec_augment(features, seeded(), time=20, freq=6, time_masks=2, freq_masks=2, fill=-3.0)
    changed = out != features
    assert changed.any()
    assert (out[changed] == -3.0).all()
    assert torch.equal(spec_augment(features, seeded(), time=0, freq=0), features)


def test_masks_filled_with_the_rows_own_mean():
    features = torch.rand(4, 60, 16, generator=seeded()) + torch.arange(4)[:, None, None]
    out = spec_augment(features, seeded(), time=20, freq=6, fill=None)
    means = features.mean(dim=(1, 2), keepdim=True).expand_as(out)
    assert (out != features).any()
    assert torch.equal(out[out != features], means[out != features])


def test_time_warp_moves_one_moment_and_keeps_both_ends():
    ramp = torch.arange(100.0)[None, :, None].expand(400, -1, 3)
    warped = time_warp(ramp, seeded(), most=5)
    assert torch.equal(warped[:, 0], ramp[:, 0])
    assert torch.allclose(warped[:, -1], ramp[:, -1])
    assert torch.equal(warped[..., 0], warped[..., 2])
    steps = warped[:, 1:, 0] - warped[:, :-1, 0]
    assert (steps >= 0).all()
    moved = (warped - ramp)[..., 0].abs().amax(1)
    assert 4.9 < moved.max() < 5.001
    assert (moved == 0).any()  # a move of none
    assert torch.equal(time_warp(ramp[:, :10], seeded(), most=5), ramp[:, :10])


def test_noise_is_even_and_its_height_is_drawn_for_each_row():
    added = noise(torch.zeros(200, 50, 20), seeded(), height=0.1)
    heights = added.amax((1, 2))
    assert added.min() >= 0 and 0.09 < heights.max() < 0.1 and heights.min() < 0.01
    assert (added.mean((1, 2)) / heights - 0.5).abs().max() < 0.05


def test_a_share_of_the_rows_is_mixed():
    targets = torch.eye(2000)
    _, soft = mixup(torch.rand(2000, 3, generator=seeded()), targets, seeded(), alpha=10.0, rows=0.6)
    mixed = (soft != targets).any(1).float().mean()
    assert 0.55 < mixed < 0.65


def test_frames_are_rolled_like_samples():
    frames = torch.rand(3, 30, 4, generator=seeded())
    offsets = torch.tensor([2, 0, -3])
    rolled = roll_rows(frames, offsets)
    for row, offset in enumerate(offsets.tolist()):
        assert torch.equal(rolled[row], frames[row].roll(offset, 0))


def test_mixup_keeps_the_sum_of_targets_and_uses_the_same_share_for_both():
    waves, targets = torch.eye(6), torch.eye(6)
    mixed, soft = mixup(waves, targets, seeded(), alpha=10.0)
    assert torch.equal(mixed, soft)
    torch.testing.assert_close(soft.sum(1), torch.ones(6))


@pytest.mark.parametrize(("alpha", "beta", "mean"), [(10.0, 10.0, 0.5), (8.0, 2.0, 0.8)])
def test_mixup_shares_follow_the_beta_distribution(alpha, beta, mean):
    partner, share = draw_mixup(20_000, seeded(), alpha=alpha, beta=beta)
    variance = alpha * beta / ((alpha + beta) ** 2 * (alpha + beta + 1))
    assert abs(share.mean() - mean) < 0.01
    assert abs(share.var() - variance) < 0.002
    assert torch.equal(partner.sort().values, torch.arange(20_000))


def test_mix_rows_with_a_full_share_changes_nothing():
    rows = torch.rand(3, 5)
    assert torch.equal(mix_rows(rows, torch.tensor([1, 2, 0]), torch.ones(3)), rows)


def test_gain_stays_within_its_decibels():
    factors = gain(torch.ones(1000, 1), seeded(), low_db=-20.0, high_db=0.0)
    assert factors.min() >= 0.1 - 1e-6
    assert factors.max() <= 1.0
    assert torch.equal(gain(torch.ones(2, 3), seeded(), low_db=0.0, high_db=0.0), torch.ones(2, 3))


def test_roll_rows_is_torch_roll_row_by_row():
    waves = torch.rand(3, 11)
    offsets = torch.tensor([-4, 0, 25])
    expected = torch.stack([row.roll(int(n)) for row, n in zip(waves, offsets, strict=True)])
    assert torch.equal(roll_rows(waves, offsets), expected)


WRONG = {
    "two axes": (lambda g: spec_augment(torch.rand(3, 4), g, time=1, freq=1), r"\(3, 4\)"),
    "negative mask": (lambda g: spec_augment(torch.rand(1, 3, 4), g, time=-1, freq=1), "-1"),
    "class numbers": (lambda g: mixup(torch.rand(2, 9), torch.tensor([0, 1]), g, alpha=1.0), "one-hot"),
    "alpha of zero": (lambda g: mixup(torch.rand(2, 9), torch.eye(2), g, alpha=0.0), "Beta"),
    "gain upside down": (lambda g: gain(torch.rand(2, 9), g, low_db=3.0, high_db=-3.0), "3.0 to -3.0"),
    "negative shift": (lambda g: shift(torch.rand(2, 9), g, max_seconds=-1.0, rate_hz=10), "-1.0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_names_the_value(case):
    call, words = WRONG[case]
    with pytest.raises(UsageError, match=words):
        call(seeded())


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHANGES)
def test_a_cpu_generator_serves_a_gpu_tensor(name):
    waves = torch.rand(4, 100, generator=seeded())
    if name == "mixup":
        on_gpu = mixup(waves.cuda(), torch.eye(4).cuda(), seeded(1), alpha=10.0)[0]
    else:
        on_gpu = CHANGES[name](waves.cuda(), seeded(1))
    torch.testing.assert_close(on_gpu.cpu(), CHANGES[name](waves, seeded(1)))
