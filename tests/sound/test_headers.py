"""Recordings whose header is wrong about the sound behind it: all of it is read, and that is told."""

import logging
import struct
from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import tries

from ossicle.errors import AudioError
from ossicle.sound import headers
from ossicle.sound.audio import load, probe

RATE, SECONDS = 16_000, 2
STALE = 4088
ONES = 0xFFFFFFFF


def tone(rate: int = RATE, seconds: float = SECONDS) -> np.ndarray:
    time = np.arange(int(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 60 * time) * time)).astype(np.float32)


def whole(folder: Path, kind: str, subtype: str, samples: np.ndarray | None = None) -> Path:
    path = folder / f"whole.{kind.lower()}"
    soundfile.write(path, tone() if samples is None else samples, RATE, format=kind, subtype=subtype)
    return path


def patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


def wav(data: bytes, size: int) -> bytes:
    return patched(patched(data, 4, "<I", min(size + 36, ONES) if size else 0), data.index(b"data") + 4, "<I", size)


def apple(data: bytes, size: int) -> bytes:
    """AVAudioFile's: a size of its own for the whole and 0 for the sound."""
    return patched(wav(data, size), 4, "<I", STALE)


def rf64(data: bytes, size: int) -> bytes:
    return patched(data, data.index(b"ds64") + 8, "<qqq", size, size, size)


def w64(data: bytes, size: int) -> bytes:
    return patched(patched(data, 16, "<q", size), data.index(b"data") + 16, "<q", size)


def aiff(data: bytes, size: int) -> bytes:
    return patched(patched(data, 4, ">I", size), data.index(b"SSND") + 4, ">I", size)


def uncounted(data: bytes, size: int) -> bytes:
    return patched(aiff(data, size), data.index(b"COMM") + 10, ">I", 0)


def au(data: bytes, size: int) -> bytes:
    return patched(data, 8, ">I", size)


def caf(data: bytes, size: int) -> bytes:
    return patched(data, data.index(b"data") + 4, ">q", size)


UNKNOWN, EMPTY, SHORT = "does not say how long it is", "says that it is empty", "says 0.13 s"
WAVS = [
    *((kind, subtype, wav, size, UNKNOWN) for kind, subtype in [("WAV", "PCM_16")] for size in (ONES, 0x7FFFF000)),
    *(("WAV", subtype, wav, 0, EMPTY) for subtype in ("PCM_16", "FLOAT", "IMA_ADPCM", "GSM610")),
    *[("WAVEX", "PCM_24", wav, 0, EMPTY), ("WAV", "PCM_16", apple, 0, EMPTY), ("WAV", "PCM_16", wav, STALE, SHORT)],
    *[("RF64", "PCM_16", rf64, 0, UNKNOWN), ("RF64", "FLOAT", rf64, -1, UNKNOWN)],
    *[("W64", "PCM_16", w64, 0, EMPTY), ("W64", "PCM_16", w64, 24, EMPTY), ("W64", "PCM_16", w64, -1, UNKNOWN)],
    *[("W64", "PCM_16", w64, STALE + 24, SHORT), ("W64", "PCM_24", w64, 2**62, UNKNOWN)],
]
OTHERS = [
    *(("AIFF", subtype, uncounted, 0, EMPTY) for subtype in ("PCM_16", "PCM_U8", "PCM_24", "FLOAT", "ULAW")),
    *[
        ("AIFF", "PCM_16", aiff, 0, EMPTY),
        ("AIFF", "PCM_16", aiff, ONES, UNKNOWN),
        ("AIFF", "IMA_ADPCM", aiff, 0, EMPTY),
    ],
    *[("AIFF", "PCM_16", aiff, STALE + 8, "4,088 bytes")],
    *[("AU", "PCM_16", au, 0, EMPTY), ("AU", "FLOAT", au, ONES, UNKNOWN), ("AU", "PCM_16", au, STALE, "4,088 bytes")],
    *[("CAF", "PCM_16", caf, 0, EMPTY), ("CAF", "FLOAT", caf, -1, UNKNOWN), ("CAF", "PCM_16", caf, 4, EMPTY)],
    *[("CAF", "ULAW", caf, 1000, "996 bytes")],
]


@pytest.mark.parametrize("kind, subtype, change, size, told", [*WAVS, *OTHERS])
def test_what_a_killed_recorder_left_is_read_to_its_end_and_told(kind, subtype, change, size, told, tmp_path, caplog):
    good = whole(tmp_path, kind, subtype)
    expected, info = load(good, RATE), probe(good)
    path = tmp_path / f"killed.{kind.lower()}"
    path.write_bytes(change(good.read_bytes(), size))
    with caplog.at_level(logging.WARNING, "ossicle.sound"):
        assert probe(path) == info
        assert (load(path, RATE) - expected).abs().max() == 0
        part = load(path, RATE, start=0.731, end=1.25)
    assert (part - expected[round(0.731 * RATE) : 20_000]).abs().max() == 0
    (message,) = {record.getMessage() for record in caplog.records}
    assert str(path) in message and told in message and f"read to its end at {info.duration_s:.2f} s" in message
    assert path.read_bytes() == change(good.read_bytes(), size)


def test_a_good_header_is_not_spoken_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "ossicle.sound"):
        for kind in ("WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"):
            subtype = "FLOAT" if kind == "WAV" else None
            path = tmp_path / f"good.{kind.lower()}"
            soundfile.write(path, tone(), RATE, format=kind, subtype=subtype)
            load(path, RATE)
    assert caplog.records == []


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF"])
def test_a_file_that_is_empty_is_an_error(kind, tmp_path):
    with pytest.raises(AudioError, match="no samples"):
        load(whole(tmp_path, kind, "PCM_16", np.zeros(0, np.float32)), RATE)


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


@pytest.mark.parametrize(
    "more",
    [
        *[
            chunk(b"LIST", b"INFO" * 5000),
            chunk(b"bext", bytes(602)) + chunk(b"cue ", b"\1" * 9000),
            b"TAG" + b"x" * 125,
        ],
        *[b"ID3\x04" + b"y" * 70_000, bytes(70_000)],
    ],
    ids=["LIST", "two chunks", "ID3v1", "ID3v2", "zeros"],
)
@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_what_stands_behind_the_sound_is_not_heard(seconds, more, tmp_path, caplog):
    samples = tone(seconds=seconds)
    path = whole(tmp_path, "WAV", "PCM_16", samples)
    path.write_bytes(path.read_bytes() + more)
    with caplog.at_level(logging.WARNING, "ossicle.sound"):
        if len(samples):
            assert load(path, RATE).shape == samples.shape
        else:
            with pytest.raises(AudioError, match="no samples"):
                load(path, RATE)
    assert caplog.records == []


@pytest.mark.parametrize(
    "kind, subtype",
    [
        *[("WAV", "PCM_16"), ("WAV", "GSM610"), ("RF64", "PCM_16"), ("W64", "PCM_24"), ("AIFF", "PCM_16")],
        *[("AIFF", "ALAW"), ("AIFF", "IMA_ADPCM"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "FLOAT")],
    ],
)
def test_every_kind_says_that_it_was_cut_off(kind, subtype, tmp_path):
    path = whole(tmp_path, kind, subtype)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with pytest.raises(AudioError, match=r"cut off.*: 1\.\d\d s could be read but its header says 2\.0\d s"):
        load(path, RATE)
    assert load(path, RATE, start=0.5, end=1.0).shape == (RATE // 2,)


def test_a_wav_of_three_gigabytes_that_was_cut_off_is_no_streamed_one(tmp_path):
    path = whole(tmp_path, "WAV", "PCM_16")
    path.write_bytes(wav(path.read_bytes(), 3_000_000_000))
    with pytest.raises(AudioError, match=r"2\.00 s could be read but its header says 93750\.00 s"):
        load(path, RATE)


def test_a_wav_of_more_than_four_gigabytes_is_as_long_as_it_is(tmp_path, caplog):
    """Its length in 32 bits began again at 0. The file is sparse."""
    path = whole(tmp_path, "WAV", "PCM_16")
    data = path.read_bytes()
    more = bytes(4) + data[44:]
    with path.open("r+b") as file:
        file.seek(44 + 2**32)
        file.write(more + chunk(b"LIST", b"INFO" * 100))
    with path.open("r+b") as file:
        file.write(wav(data, len(more))[:44])
    with caplog.at_level(logging.WARNING, "ossicle.sound"):
        assert probe(path).frames == (2**32 + len(more)) // 2
    assert "its header says 2.00 s" in caplog.text
    end = (2**32 + len(more)) / 2 / RATE
    part = load(path, RATE, start=end - 1.0)
    assert np.abs(part.numpy() - tone()[RATE:]).max() < 1e-4


@pytest.mark.parametrize("said", [ONES, ONES - 36])
def test_a_wav_that_stopped_counting_at_four_gigabytes_is_as_long_as_it_is(said, tmp_path):
    """As ffmpeg leaves one of five gigabytes. The file is sparse."""
    path = whole(tmp_path, "WAV", "PCM_16")
    data = path.read_bytes()
    size = 5_088_049_178
    with path.open("r+b") as file:
        file.write(wav(data, said)[:44])
        file.seek(44 + size - len(data[44:]))
        file.write(data[44:])
    assert probe(path).frames == size // 2
    part = load(path, RATE, start=size / 2 / RATE - 1.0)
    assert np.abs(part.numpy() - tone()[RATE:]).max() < 1e-4


@pytest.mark.parametrize("size, meant", [(0, True), (44, True), (2**31 - 2**17, True), (2**31 - 1, False), (-1, False)])
def test_sizes_that_stand_for_none(size, meant):
    assert headers.unknown(size) is not meant


@pytest.mark.parametrize("cut", [3, 11, 20, 30, 43])
@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF"])
def test_half_a_header_is_told_in_one_line(kind, cut, tmp_path):
    path = whole(tmp_path, kind, "PCM_16")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AudioError) as error:
        load(path, RATE)
    assert "\n" not in str(error.value)


@tries(60)
@given(kind=st.sampled_from(["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF"]), seed=st.integers(0, 2**32))
def test_a_damaged_header_is_sound_or_an_audio_error(kind, seed, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind.lower()}"
    data = bytearray(whole(tmp_path_factory.getbasetemp(), kind, "PCM_16").read_bytes())
    random = Random(seed)
    for _ in range(random.choice([1, 2, 5])):
        at, some = (
            random.randrange(100),
            random.choice([bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", random.randbytes(4)]),
        )
        data[at : at + random.choice([0, 4])] = some
    path.write_bytes(data)
    try:
        probe(path)
        wave = load(path, RATE)
        assert len(wave) and wave.isfinite().all() and wave.abs().max() <= 1
    except AudioError as error:
        assert "\n" not in str(error)
