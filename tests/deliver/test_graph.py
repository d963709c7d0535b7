"""Before the encoders: convolution front ends equal the real ones, resampling in the graph equals soxr's."""

import numpy as np
import pytest
import soxr
import torch
from tests import tiny

from ossicle.deliver import graph
from ossicle.errors import UsageError
from ossicle.sound.frontends import FRONTENDS, EfficientAtMel, KaldiFbank, MagnitudeMel


# At one rate or another: less than a patch of YAMNet, a length that no hop divides, several patches.
@pytest.mark.parametrize("seconds", [0.3, 0.90007, 2.5])
@pytest.mark.parametrize("name", FRONTENDS)
def test_the_convolution_front_end_equals_the_real_one(name: str, seconds: float) -> None:
    front = FRONTENDS[name]()
    waves = tiny.waves(3, seconds=seconds * front.rate_hz / tiny.RATE_HZ)
    expected, _ = front(waves)
    got = graph.form(front)(waves)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 2e-3  # quiet bands of pure tones; probabilities are held to 1e-4


def test_the_convolution_front_end_pads_and_cuts_to_a_target() -> None:
    for frames in (40, 200):
        for front in (KaldiFbank(target_frames=frames), MagnitudeMel(target_frames=frames)):
            got = graph.form(front)(tiny.waves(1, seconds=0.9))
            assert got.shape == (1, frames, 128)
            assert (got - front(tiny.waves(1, seconds=0.9))[0]).abs().max() < 2e-3


def test_a_front_end_without_a_form_is_refused_even_where_its_parent_has_one() -> None:
    class Louder(EfficientAtMel):
        """Would come out as its parent."""

    with pytest.raises(UsageError, match="front end Louder has no form for an ONNX file; those that have: Efficient"):
        graph.form(Louder())


def test_every_front_end_of_the_table_has_a_form() -> None:
    assert {type(make()) for make in FRONTENDS.values()} == set(graph.FORMS)


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
