"""Decoding made and real sounds; every way a file can be wrong; listing files; windows."""

import importlib.util
import io
import os
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import tries

from ossicle.errors import AudioError, DataError, UsageError
from ossicle.sound import mpeg
from ossicle.sound.audio import Info, content_hash, find, load, probe, windows

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
KINDS = {
    "wav": (44_100, {}),
    "flac": (44_100, {}),
    "ogg": (44_100, {}),
    "opus": (48_000, {"format": "OGG", "subtype": "OPUS"}),
    "mp3": (44_100, {}),
}
SECONDS = 4
# Amplitude, a few hundred terms of a resampled or decoded sample, epsilon: less than half a step of 16 bits.
ROUNDING = 0.4 * 256 * float(np.finfo(np.float32).eps)


def sweep(rate: int, seconds: float = SECONDS) -> np.ndarray:
    time = np.arange(int(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 150 * time) * time)).astype(np.float32)


def written(folder: Path, kind: str, samples: np.ndarray | None = None) -> Path:
    rate, options = KINDS[kind]
    path = folder / f"made.{kind}"
    soundfile.write(path, sweep(rate) if samples is None else samples, rate, **options)
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    shorter = path.with_name(f"cut{path.suffix}")
    shorter.write_bytes(data[: int(len(data) * share)])
    return shorter


def av_module():
    if importlib.util.find_spec("av") is None:
        pytest.skip("PyAV is not installed: pip install 'ossicle[containers]'")
    import av

    return av


def contained(folder: Path, suffix: str, codec: str, rate: int) -> Path:
    av = av_module()
    path = folder / f"made.{suffix}"
    samples = sweep(rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        for at in range(0, len(samples), 960):
            part = np.ascontiguousarray(np.stack([samples[at : at + 960]] * 2))
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            frame.rate, frame.pts = rate, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    both = min(len(first), len(second))
    return float(torch.corrcoef(torch.stack([first[:both], second[:both]]))[0, 1])


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_length_range_and_content(self, kind, tmp_path):
        path = written(tmp_path, kind)
        wave = load(path, 16_000)
        assert wave.dtype == torch.float32
        assert wave.shape == (SECONDS * 16_000,)
        assert wave.abs().max() <= 1.0
        assert correlation(wave, torch.from_numpy(sweep(16_000))) > 0.999

    def test_probe_agrees_with_what_is_decoded(self, kind, tmp_path):
        rate = KINDS[kind][0]
        assert probe(written(tmp_path, kind)) == Info(SECONDS, rate, 1, SECONDS * rate)

    def test_a_stretch_is_the_same_stretch_of_the_whole(self, kind, tmp_path):
        path = written(tmp_path, kind)
        whole = load(path, 16_000)
        for start, end in ((0.0, 1.0), (1.234, 2.5), (3.1, None), (3.1, 3.9)):
            part = load(path, 16_000, start=start, end=end)
            expected = whole[round(start * 16_000) : None if end is None else round(end * 16_000)]
            assert part.shape == expected.shape
            assert (part - expected).abs().max() < ROUNDING

    def test_twice_the_same_numbers(self, kind, tmp_path):
        path = written(tmp_path, kind)
        assert torch.equal(load(path, 22_050), load(path, 22_050))

    def test_stereo_is_averaged(self, kind, tmp_path):
        rate = KINDS[kind][0]
        loud = sweep(rate)
        wave = load(written(tmp_path, kind, np.stack([loud, 0 * loud], axis=1)), 16_000)
        assert abs(float(wave.abs().max()) - 0.2) < 0.02

    def test_one_channel_is_heard_alone(self, kind, tmp_path):
        rate = KINDS[kind][0]
        both = written(tmp_path, kind, np.stack([sweep(rate), 0 * sweep(rate)], axis=1))
        left, right = (load(both, 16_000, channel=n) for n in (1, 2))
        assert correlation(left, torch.from_numpy(sweep(16_000))) > 0.99 and right.abs().max() < 0.05
        assert abs(float(left.abs().max()) - 0.4) < 0.03
        with pytest.raises(AudioError, match="has 2 channels, no channel 3"):
            load(both, 16_000, channel=3)

    def test_only_a_header_is_an_audio_error(self, kind, tmp_path):
        with pytest.raises(AudioError) as error:
            load(cut(written(tmp_path, kind), 0.0003), 16_000)
        assert "\n" not in str(error.value)


def test_eight_channels_at_192_khz(tmp_path):
    path = tmp_path / "array.wav"
    soundfile.write(path, np.tile(sweep(192_000, 0.5)[:, None], (1, 8)), 192_000)
    assert probe(path) == Info(0.5, 192_000, 8, 96_000)
    assert correlation(load(path, 16_000), torch.from_numpy(sweep(16_000, 0.5))) > 0.9999


def test_a_mono_sound_is_every_channel(tmp_path):
    path = written(tmp_path, "wav")
    assert torch.equal(load(path, 16_000, channel=2), load(path, 16_000))
    with pytest.raises(UsageError, match="channel came as -1"):
        load(path, 16_000, channel=-1)


def test_channels_in_containers(tmp_path):
    path = contained(tmp_path, "m4a", "aac", 44_100)
    left, right = (load(path, 16_000, channel=n) for n in (1, 2))
    assert not torch.equal(left, right)  # the codec rounds each on its own
    torch.testing.assert_close((left + right) / 2, load(path, 16_000), atol=ROUNDING, rtol=0)
    with pytest.raises(AudioError, match="has 2 channels, no channel 3"):
        load(path, 16_000, channel=3)


def test_what_overshoots_is_clipped(tmp_path):
    path = tmp_path / "loud.wav"
    soundfile.write(path, sweep(16_000) * 4, 16_000, subtype="FLOAT")
    assert load(path, 16_000).abs().max() == 1.0


@pytest.mark.parametrize("kind", ["flac", "mp3", "wav"])
def test_a_file_cut_off_says_how_much_could_be_read(kind, tmp_path):
    path = cut(written(tmp_path, kind), 0.6)
    with pytest.raises(AudioError, match=r"cut off.*2\.\d\d s .*4\.00 s"):
        load(path, 16_000)
    assert load(path, 16_000, start=0.5, end=1.5).shape == (16_000,)


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_ogg_promises_no_length_so_what_is_there_is_read(kind, tmp_path):
    noise = np.random.default_rng(0).standard_normal(KINDS[kind][0] * SECONDS).astype(np.float32) * 0.1
    path = cut(written(tmp_path, kind, noise), 0.6)
    assert 1.0 < len(load(path, 16_000)) / 16_000 < 3.0


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\x02\0" + bytes(256)])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_mp3_without_a_frame_count_is_read_to_its_end(rate, tag, tmp_path):
    quiet = np.random.default_rng(0).standard_normal(rate * 20).astype(np.float32) * 0.1
    quiet[rate:] *= 1e-4  # the first frame is far bigger than the mean
    counted = tmp_path / "counted.mp3"
    soundfile.write(counted, quiet, rate, bitrate_mode="VARIABLE")
    data = counted.read_bytes()
    assert b"Xing" in data[:64]
    bare = tag + data[mpeg.frame_bytes(data, 0) :]
    with soundfile.SoundFile(io.BytesIO(bare)) as file:
        assert file.frames < rate * 5, "libsndfile guesses well now: the recount can go"
    path = tmp_path / "bare.mp3"
    path.write_bytes(bare)
    assert abs(probe(path).duration_s - 20.0) < 0.1
    both = load(path, rate), load(counted, rate)
    lag = len(both[0]) - len(both[1])
    assert 0 < lag < 2 * 1152
    assert min((both[0][k : k + rate] - both[1][:rate]).abs().max() for k in range(lag + 1)) < ROUNDING


@pytest.mark.parametrize(
    "tag", [b"ID3\x03" + bytes(6), b"ID3\x03" + bytes(6) + bytes(100), b"ID3\x04\0\0\0\0\0\x034TC"]
)
def test_odd_tags_of_an_mp3_change_nothing_and_are_not_spoken_of(tag, tmp_path, capfd):
    plain = written(tmp_path, "mp3")
    path = tmp_path / "tagged.mp3"
    path.write_bytes(tag + plain.read_bytes())
    assert torch.equal(load(path, 16_000), load(plain, 16_000))
    assert capfd.readouterr().err == ""


def test_a_flac_that_does_not_know_its_length(tmp_path):
    av_module()
    path = written(tmp_path, "flac")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert load(path, 16_000).shape == (SECONDS * 16_000,)


def test_a_streamed_wav_is_no_cut_wav(tmp_path):
    path = written(tmp_path, "wav")
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:4] + b"\xff" * 4 + data[8:at] + b"\xff" * 4 + data[at + 4 :])
    assert load(path, 16_000).shape == (SECONDS * 16_000,)


CONTAINERS = {"m4a": ("aac", 44_100), "webm": ("libopus", 48_000), "aac": ("aac", 44_100), "mka": ("libopus", 48_000)}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_other_containers_through_pyav(suffix, tmp_path):
    codec, rate = CONTAINERS[suffix]
    path = contained(tmp_path, suffix, codec, rate)
    info, wave = probe(path), load(path, 16_000)
    assert (info.rate_hz, info.channels) == (rate, 2)
    assert abs(info.duration_s - SECONDS) < 0.1
    assert abs(len(wave) / 16_000 - info.duration_s) < 0.1
    part = load(path, 16_000, start=1.5, end=2.5)
    # AAC fills empty bands with noise that depends on where decoding began: far below what is heard
    assert (part - wave[24_000:40_000]).abs().max() < 1e-3


def test_a_container_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    path = contained(tmp_path, "m4a", "aac", 44_100)
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (probe, lambda p: load(p, 16_000)):
        with pytest.raises(AudioError, match=r'pip install "ossicle\[containers\]"'):
            call(path)


def test_a_cut_container_is_an_audio_error(tmp_path):
    with pytest.raises(AudioError, match="cannot be decoded"):
        load(cut(contained(tmp_path, "m4a", "aac", 44_100), 0.6), 16_000)


def not_finite(path: Path, value: float) -> None:
    samples = sweep(16_000)
    samples[77] = value
    soundfile.write(path, samples, 16_000, subtype="FLOAT")


def impossible(path: Path) -> None:
    soundfile.write(path, sweep(16_000), 16_000)
    data = bytearray(path.read_bytes())
    data[34:36] = (36_880).to_bytes(2, "little")  # bits of a sample
    path.write_bytes(data)


def folder(path: Path) -> None:
    path.mkdir()


WRONG_FILES = {
    "missing": (lambda path: None, "no such file"),
    "a folder": (folder, "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "0 bytes"),
    "text": (lambda path: path.write_text("these are notes, not sound\n" * 9), "is text, not sound"),
    "noise bytes": (lambda path: path.write_bytes(bytes(range(256)) * 9), "cannot be decoded"),
    "no samples": (lambda path: soundfile.write(path, np.zeros(0), 16_000), "no samples"),
    "nan": (lambda path: not_finite(path, np.nan), "not numbers"),
    "inf": (lambda path: not_finite(path, np.inf), "not numbers"),
    "no full scale": (lambda path: not_finite(path, 32_768.0), "32768.*divide"),
    "36,880 bits a sample": (impossible, "a coding that nothing here can decode"),
    "one sample a second": (lambda path: soundfile.write(path, np.zeros(9), 1), "1 Hz"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files_are_told_in_one_line(case, tmp_path):
    make, words = WRONG_FILES[case]
    path = tmp_path / "given.wav"
    make(path)
    with pytest.raises(AudioError, match=words) as error:
        load(path, 16_000)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def damaged(data: bytes, random: Random) -> bytes:
    """A file with bytes changed, lost, put in, or cut off."""
    made = bytearray(data)
    for _ in range(random.choice([1, 1, 3, 10])):
        at = random.randrange(min(len(made), random.choice([64, 600, len(made)])))
        some = bytes(random.randrange(256) for _ in range(random.randrange(1, 40)))
        end, new = random.choice([(at + 1, some[:1]), (at + len(some), b""), (at, some), (len(made), b"")])
        made[at:end] = new
        if len(made) < 2:
            break
    return bytes(made)


@tries(60)
@given(kind=st.sampled_from([*KINDS, *CONTAINERS]), seed=st.integers(0, 2**32))
def test_a_damaged_file_is_sound_or_an_audio_error(kind, seed, tmp_path_factory):
    whole = tmp_path_factory.getbasetemp() / "whole"
    whole.mkdir(exist_ok=True)
    path = whole / f"made.{kind}"
    if not path.exists():
        written(whole, kind) if kind in KINDS else contained(whole, kind, *CONTAINERS[kind])
    broken = path.with_name(f"broken.{kind}")
    broken.write_bytes(damaged(path.read_bytes(), Random(seed)))
    try:
        probe(broken)
        wave = load(broken, 16_000)
        assert len(wave) and wave.isfinite().all() and wave.abs().max() <= 1
    except AudioError as error:
        assert "\n" not in str(error)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the super-user may read everything")
def test_permission_denied(tmp_path):
    path = written(tmp_path, "wav")
    path.chmod(0)
    with pytest.raises(AudioError, match="permissions"):
        load(path, 16_000)


@pytest.mark.parametrize("start, end", [(2.0, 1.0), (-1.0, None), (1.0, 1.0), (9.0, None), (1.0, 5.0), (0.0, 1e-9)])
def test_wrong_stretches_name_the_seconds(start, end, tmp_path):
    with pytest.raises(AudioError, match=f"seconds {start} to {end}"):
        load(written(tmp_path, "wav"), 16_000, start=start, end=end)


def test_an_end_just_after_the_sound_is_its_end(tmp_path):
    assert load(written(tmp_path, "wav"), 16_000, start=3.0, end=4.05).shape == (16_000,)


def test_a_rate_of_zero_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="rate_hz came as 0"):
        load(written(tmp_path, "wav"), 0)


def touched(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_find_lists_sounds_deeply_sorted_and_once(tmp_path):
    touched(tmp_path, "b.wav", "a/z.FLAC", "a/notes.txt", ".hidden/x.wav", "a/.x.wav", "odd.dat")
    assert find([tmp_path]) == [tmp_path / "a/z.FLAC", tmp_path / "b.wav"]
    assert find([tmp_path / "b.wav", str(tmp_path)]) == [tmp_path / "b.wav", tmp_path / "a/z.FLAC"]
    assert find([f"{tmp_path}/*.wav"]) == [tmp_path / "b.wav"]
    assert find([f"{tmp_path}/**/*"]) == [tmp_path / "a/z.FLAC", tmp_path / "b.wav"]
    assert find([tmp_path / "odd.dat"]) == [tmp_path / "odd.dat"]


@pytest.mark.parametrize("where", ["", "**/*.wav", "**", "**/z/**/*"])
def test_find_follows_links_and_not_those_that_lead_back(where, tmp_path):
    for name in ("store/y/b.wav", "sounds/z/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    sounds = tmp_path / "sounds"
    links = {"z/in": tmp_path / "store", "z/out": sounds, "self": sounds, "also": sounds, "gone": tmp_path / "no"}
    for name, target in links.items():
        (sounds / name).symlink_to(target)
    (tmp_path / "store" / "y" / "back").symlink_to(sounds / "z")
    passed: list[str] = []
    assert find([f"{sounds}/{where}"], passed) == [sounds / "z/a.wav", sounds / "z/in/y/b.wav"]
    assert sorted(line.removeprefix(f"{sounds}/").partition(" is a link")[0] for line in passed) == [
        "also", "gone", "self", "z/in/y/back", "z/out",
    ]  # fmt: skip


def test_find_tells_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"x")
    (tmp_path / "secret").mkdir()
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    passed: list[str] = []
    assert find([tmp_path], passed) == [tmp_path / "a.wav"]
    assert passed == [f"{tmp_path}/secret cannot be read (Permission denied) and is passed over; check its permissions"]


def test_find_takes_a_name_with_brackets_as_it_is(tmp_path):
    touched(tmp_path, "take[1].wav")
    assert find([tmp_path / "take[1].wav"]) == [tmp_path / "take[1].wav"]


@pytest.mark.parametrize("name, words", [("gone", "no such"), ("*.mp3", "no such"), ("dry", "no sound files")])
def test_find_says_what_is_missing(name, words, tmp_path):
    touched(tmp_path, "dry/notes.txt")
    with pytest.raises(DataError, match=words):
        find([tmp_path / name])


@pytest.mark.parametrize(
    "duration, window, hop, spans",
    [
        (3.0, 5.0, 5.0, [(0, 3)]),
        (5.0, 5.0, 2.5, [(0, 5)]),
        (10.0, 5.0, 2.5, [(0, 5), (2.5, 7.5), (5, 10)]),
        (12.3, 5.0, 5.0, [(0, 5), (5, 10), (10, 12.3)]),
        (11.0, 5.0, 4.0, [(0, 5), (4, 9), (8, 11)]),
        (0.3, 0.1, 0.1, [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]),
    ],
)
def test_windows_cover_the_whole_file(duration, window, hop, spans):
    given = windows(duration, window, hop)
    assert [value for span in given for value in span] == pytest.approx([value for span in spans for value in span])
    assert given[-1][1] == duration


@pytest.mark.parametrize("lengths", [(0.0, 5.0, 5.0), (9.0, 5.0, 6.0), (9.0, 5.0, 0.0), (float("nan"), 5.0, 5.0)])
def test_windows_with_gaps_or_without_length_are_wrong_use(lengths):
    with pytest.raises(UsageError, match=f"windows of {lengths[1]}"):
        windows(*lengths)


def test_content_hash_is_of_bytes_not_of_names(tmp_path):
    path = written(tmp_path, "wav")
    copy = tmp_path / "copy.bin"
    copy.write_bytes(path.read_bytes())
    assert content_hash(path) == content_hash(copy)
    assert len(content_hash(path)) == 32
    copy.write_bytes(b"x")
    assert content_hash(path) != content_hash(copy)
    with pytest.raises(AudioError, match="cannot be read"):
        content_hash(tmp_path)


REAL = {"esc50/audio": 5.0, "fsdd": None, "speech_commands_4": None}


@pytest.mark.parametrize("name", REAL)
def test_real_clips(name):
    where = DATA / name
    if not where.is_dir():
        reason = f"../shared/data/{name} is absent"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    for path in find([where])[::400][:5]:
        wave, info = load(path, 16_000), probe(path)
        assert abs(len(wave) - info.duration_s * 16_000) <= 1
        assert REAL[name] is None or info.duration_s == pytest.approx(REAL[name], abs=0.05)
        assert wave.isfinite().all()
