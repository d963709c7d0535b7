import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ossicle.contracts import Clip
from ossicle.data.clips import WaveCache, load_waves, stack
from ossicle.errors import AudioError, UsageError

RATE = 8000
KEY = ("a", 0, 0, 0.0, None, 0, RATE)


def put(path: Path, value: float = 0.5, samples: int = RATE) -> Clip:
    soundfile.write(path, np.full(samples, value, dtype=np.float32), RATE, subtype="FLOAT")
    return Clip(path)


def test_order_is_kept_and_a_bad_file_stands_in_its_place(tmp_path: Path) -> None:
    clips = [put(tmp_path / f"{n}.wav", n / 10) for n in range(8)]
    (tmp_path / "3.wav").write_bytes(b"not a sound")
    clips[5] = Clip(tmp_path / "absent.wav")
    for cache in (None, WaveCache(10**6)):
        waves = load_waves(clips, RATE, cache=cache, threads=3)
        assert [isinstance(wave, AudioError) for wave in waves] == [n in (3, 5) for n in range(8)]
        for n, wave in enumerate(waves):
            if not isinstance(wave, AudioError):
                assert wave.dtype == torch.float32
                assert wave.shape == (RATE,)
                assert torch.allclose(wave, torch.full((RATE,), n / 10))


def test_stretches_are_cut(tmp_path: Path) -> None:
    whole = put(tmp_path / "a.wav")
    (wave,) = load_waves([Clip(whole.path, start=0.25, end=0.5)], RATE)
    assert not isinstance(wave, AudioError)
    assert wave.shape == (RATE // 4,)


def test_silence_makes_no_sound_of_less_than_an_encoder_hears(tmp_path: Path) -> None:
    clips = [put(tmp_path / f"{samples}.wav", samples=samples) for samples in (1, 99, 100, 500)]
    waves = load_waves(clips, RATE, shortest_s=0.05, fewest=100)
    assert [None if isinstance(wave, AudioError) else len(wave) for wave in waves] == [None, None, 400, 500]
    for clip, wave, samples in zip(clips, waves, (1, 99), strict=False):
        assert f"{clip.path}: only {samples} sample(s)" in str(wave) and "shorter than 100 (0.0125 s)" in str(wave)


def test_the_cache_saves_decoding_and_notices_a_changed_file(tmp_path: Path) -> None:
    clip = put(tmp_path / "a.wav")
    cache = WaveCache(10**6)
    (first,) = load_waves([clip], RATE, cache=cache)
    assert cache.bytes == 4 * RATE
    assert load_waves([clip], RATE, cache=cache)[0] is first
    assert len(load_waves([clip], RATE // 2, cache=cache)) == 1
    assert len(cache) == 2
    load_waves([replace(clip, channel=1)], RATE, cache=cache)
    assert len(cache) == 3
    put(tmp_path / "a.wav", 0.25)
    os.utime(clip.path, ns=(1, 1))
    (again,) = load_waves([clip], RATE, cache=cache)
    assert not isinstance(again, AudioError)
    assert again[0] == 0.25


def test_the_cache_drops_what_was_not_used_for_longest() -> None:
    cache = WaveCache(3 * 40)
    keys = [(str(n), *KEY[1:]) for n in range(4)]
    for key in keys[:3]:
        cache.put(key, torch.zeros(10))
    cache.get(keys[0])
    cache.put(keys[3], torch.zeros(10))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    assert cache.bytes == 120
    cache.put(keys[0], torch.zeros(30))
    assert (len(cache), cache.bytes) == (1, 120)


def test_the_cache_keeps_no_more_than_it_may() -> None:
    cache = WaveCache(100)
    cache.put(KEY, torch.zeros(26))
    assert (len(cache), cache.bytes) == (0, 0)
    cache.put(KEY, torch.zeros(1000)[:10])
    kept = cache.get(KEY)
    assert kept is not None
    assert kept.untyped_storage().nbytes() == 40
    cache.put(KEY, torch.zeros(20))
    assert (len(cache), cache.bytes) == (1, 80)
    with pytest.raises(UsageError):
        WaveCache(-1)


def test_no_clips_and_no_threads(tmp_path: Path) -> None:
    assert load_waves([], RATE) == []
    with pytest.raises(UsageError, match="0 decoding threads"):
        load_waves([Clip(tmp_path)], RATE, threads=0)


def test_stack_pads_with_zeros() -> None:
    waves = [torch.ones(3), torch.ones(5), torch.ones(0)]
    batch, lengths = stack(waves)
    assert batch.tolist() == [[1, 1, 1, 0, 0], [1] * 5, [0] * 5]
    assert lengths is not None
    assert lengths.dtype == torch.int64
    assert lengths.tolist() == [3, 5, 0]


def test_stack_of_equal_lengths_needs_no_lengths() -> None:
    batch, lengths = stack([torch.zeros(4), torch.ones(4)])
    assert lengths is None
    assert batch.shape == (2, 4)
    with pytest.raises(UsageError):
        stack([])
