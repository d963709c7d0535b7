"""Before the encoders: convolution front ends equal the real ones, resampling in the graph equals soxr's."""

import numpy as np
import pytest
import soxr
import torch
from tests import tiny
from tests.sound import exact

from ossicle.deliver import graph
from ossicle.errors import UsageError
from ossicle.sound.frontends import FRONTENDS, EfficientAtMel, KaldiFbank, MagnitudeMel, PannsMel, VggishMel

FORMS = [name for name, make in FRONTENDS.items() if type(make()) in graph.FORMS]


# At one rate or another: less than a patch of YAMNet, a length that no hop divides, several patches.
@pytest.mark.numerics
@pytest.mark.parametrize("seconds", [0.3, 0.90007, 2.5])
@pytest.mark.parametrize("name", FORMS)
def test_the_convolution_front_end_equals_the_real_one(name: str, seconds: float) -> None:
    front = FRONTENDS[name]()
    waves = tiny.waves(3, seconds=seconds * front.rate_hz / tiny.RATE_HZ)
    for wave, real, got in zip(waves, front(waves)[0], graph.form(front)(waves), strict=True):
        assert got.shape == real.shape
        assert exact.of(front, wave, plain_sums=True).share(got) < 1
        assert exact.of(front, wave).share(real) < 1


@pytest.mark.numerics
def test_the_convolution_front_end_pads_and_cuts_to_a_target() -> None:
    (wave,) = tiny.waves(1, seconds=0.9)
    for frames in (40, 200):
        for front in (KaldiFbank(target_frames=frames), MagnitudeMel(target_frames=frames)):
            (got,) = graph.form(front)(wave[None])
            assert got.shape == (frames, 128)
            assert exact.of(front, wave, plain_sums=True).share(got) < 1


def test_a_front_end_without_a_form_is_refused_even_where_its_parent_has_one() -> None:
    class Louder(EfficientAtMel):
        """Would come out as its parent."""

    with pytest.raises(UsageError, match="front end Louder has no form for an ONNX file; those that have: Efficient"):
        graph.form(Louder())


def test_every_front_end_has_a_form_but_two() -> None:
    assert {type(make()) for make in FRONTENDS.values()} == {*graph.FORMS, PannsMel, VggishMel}


@pytest.mark.parametrize("ratio", [2, 3])
@pytest.mark.parametrize("samples", [1000, 48_001, 64_000, 64_003])
def test_resampling_in_the_graph_is_soxrs_to_the_last_sample(ratio: int, samples: int) -> None:
    waves = 0.3 * np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32)
    expected = np.stack([soxr.resample(wave, 16_000 * ratio, 16_000, quality="HQ") for wave in waves])
    got = graph.Downsample(ratio)(torch.from_numpy(waves)).numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-6


def test_at_the_same_rate_nothing_changes() -> None:
    waves = tiny.waves(2)
    assert graph.Downsample(1)(waves) is waves
