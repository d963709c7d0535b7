"""Random changes of what an encoder hears."""

import torch
from tests import tiny

from ossicle.tasks.listen import SoundAugment


def test_samples_behind_the_bands_are_only_rolled():
    """A mask over samples, or noise as loud as decibels, would be no change of a spectrogram."""
    encoder = tiny.encoder("panns")
    features, _ = encoder.listen(tiny.waves(2, seconds=2.0))
    bands = encoder.frontend.bands
    assert (bands, features.shape[2]) == (64, 64 + 320)
    changes = SoundAugment(time_warp=8, time_mask=60, freq_mask=20, noise=3.0, mask_fill=-50.0)
    changed = changes.features(features, torch.Generator().manual_seed(0), bands)
    assert torch.equal(changed[..., bands:], features[..., bands:])
    moved = (changed[..., :bands] != features[..., :bands]).any(dim=2)
    assert moved.float().mean() > 0.9
    rolled = SoundAugment(roll=20).features(features, torch.Generator().manual_seed(0), bands)
    for row, own in zip(rolled, features, strict=True):
        assert any(torch.equal(row, own.roll(step, dims=0)) for step in range(-20, 21))
    assert not torch.equal(rolled, features)


def test_without_samples_all_columns_are_bands():
    features = torch.randn(2, 40, 128, generator=torch.Generator().manual_seed(0))
    changes = SoundAugment(time_mask=20, freq_mask=40, noise=1.0, roll=4)
    one = changes.features(features, torch.Generator().manual_seed(1))
    two = changes.features(features, torch.Generator().manual_seed(1), 128)
    assert torch.equal(one, two) and not torch.equal(one, features)
