"""Every coding that can be written here is read right: its length, its samples and stretches of it."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ossicle.errors import AudioError
from ossicle.sound.audio import find, load, probe

SECONDS = 2
TARGET = 8000
# Of these a reader must be told rate and coding, or nothing here can write them.
UNWRITTEN = {("MP3", "MPEG_LAYER_I"), ("MP3", "MPEG_LAYER_II"), ("WAV", "MPEG_LAYER_III"), ("AIFF", "DWVW_12")}
UNREAD = ("DWVW_16", "DWVW_24")
CODINGS = [
    (kind, subtype)
    for kind in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(kind)
    if kind != "RAW" and (kind, subtype) not in UNWRITTEN
]
TELEPHONE = ("GSM610", "G721", "G723", "NMS_ADPCM")
# How far apart codings are from what was written; all others are right to 1 part in 100.
COARSE = {"DPCM_8": 0.02, "OPUS": 0.03}


def tone(rate: int, seconds: float = SECONDS) -> np.ndarray:
    time = np.arange(int(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 60 * time) * time)).astype(np.float32)


def rate_of(kind: str, subtype: str) -> int:
    if subtype.startswith(TELEPHONE) or kind == "WVE":
        return 8000
    if subtype == "OPUS":
        return 48_000
    return 44_100 if kind in ("MP3", "XI", "MPC2K", "SD2") else 16_000


def agrees(path: Path, late_s: float = 0.0) -> None:
    """The tone is all there, and stretches of the file are stretches of the whole."""
    info, wave = probe(path), load(path, TARGET)
    assert abs(info.duration_s - SECONDS) < 0.07 + late_s
    assert abs(len(wave) / TARGET - info.duration_s) < 0.05
    expected = torch.from_numpy(tone(TARGET))[:15_000]
    shifts = range(int(late_s * TARGET) + 1)
    best = max(torch.corrcoef(torch.stack([wave[k : k + 15_000], expected]))[0, 1].item() for k in shifts)
    assert best > 0.99
    for start, end in ((0.0, 0.5), (0.737, 1.25), (1.5, None)):
        part = load(path, TARGET, start=start, end=end)
        same = wave[round(start * TARGET) : None if end is None else round(end * TARGET)]
        assert part.shape == same.shape and (part - same).abs().max() < 1e-5


@pytest.mark.parametrize("kind, subtype", CODINGS)
def test_every_coding_of_libsndfile(kind, subtype, tmp_path):
    path, rate = tmp_path / f"made.{kind.lower()}", rate_of(kind, subtype)
    soundfile.write(path, tone(rate), rate, format=kind, subtype=subtype)
    if subtype in UNREAD:
        with pytest.raises(AudioError, match="is in DWVW, which nothing here can decode"):
            load(path, TARGET)
        return
    if kind == "VOC" and subtype == "PCM_U8":  # its rates are 1,000,000 / n
        assert probe(path).rate_hz == 16_129 and len(load(path, TARGET)) == round(32_000 / 16_129 * TARGET)
        return
    agrees(path)


def made(path: Path, codec: str, rate: int, mono: bool = True, container: str | None = None) -> Path:
    """A file by PyAV."""
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'ossicle[containers]'")
    samples, layout = tone(rate), "mono" if mono else "stereo"
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout, options={"strict": "experimental"})
        fit = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        for at in range(0, len(samples), 960):
            part = np.ascontiguousarray(np.stack([samples[at : at + 960]] * (1 if mono else 2)))
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.rate, frame.pts = rate, at
            for fitted in fit.resample(frame):
                out.mux(stream.encode(fitted))
        out.mux(stream.encode(None))
    return path


# Container and codec: what libsndfile calls malformed, and what cannot be sought in.
OTHERS = {
    "flac in wav": ("wav", "flac", 44_100, 0.0),
    "mp2 in wav": ("wav", "mp2", 44_100, 0.03),
    "ac3 in wav": ("wav", "ac3", 44_100, 0.03),
    "G.726 in wav": ("wav", "adpcm_g726", 8000, 0.0),
    "G.722 in wav": ("wav", "adpcm_g722", 16_000, 0.01),
    "Yamaha's ADPCM in wav": ("wav", "adpcm_yamaha", 44_100, 0.0),
    "64 bits in wav": ("wav", "pcm_s64le", 44_100, 0.0),
    "flac in W64": ("w64", "flac", 44_100, 0.0),
    "flac in ogg": ("oga", "flac", 44_100, 0.0),
    "flac in caf": ("caf", "flac", 44_100, 0.0),
    "alac in caf": ("caf", "alac", 44_100, 0.05),
    "Apple's ADPCM in caf": ("caf", "adpcm_ima_qt", 44_100, 0.0),
    "flac in mka": ("mka", "flac", 44_100, 0.0),
    "alac in m4a": ("m4a", "alac", 44_100, 0.0),
    "wavpack": ("wv", "wavpack", 44_100, 0.0),
    "true audio": ("tta", "tta", 44_100, 0.0),
    "mp2": ("mp2", "mp2", 44_100, 0.03),
    "ac3": ("ac3", "ac3", 44_100, 0.03),
}


@pytest.mark.parametrize("name", OTHERS)
def test_codings_that_libsndfile_refuses(name, tmp_path):
    suffix, codec, rate, late_s = OTHERS[name]
    agrees(made(tmp_path / f"made.{suffix}", codec, rate), late_s)


def test_a_flac_in_wav_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    path = made(tmp_path / "made.wav", "flac", 44_100)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(AudioError, match=r'Malformed.*pip install "ossicle\[containers\]"'):
        load(path, TARGET)


def tag(size: int, footer: bool = False) -> bytes:
    """An ID3v2 tag of so many bytes of content."""
    length = bytes(size >> 7 * k & 0x7F for k in (3, 2, 1, 0))
    return b"ID3\4\0" + (b"\x10" if footer else b"\0") + length + bytes(size) + (b"3DI\4\0\x10" + length) * footer


@pytest.mark.parametrize("tags", [tag(0), tag(5000), tag(300, footer=True), tag(10) + tag(200_000)], ids=range(4))
@pytest.mark.parametrize("kind", ["flac", "ogg", "wav", "aiff"])
def test_tags_in_front_of_any_kind_change_nothing(kind, tags, tmp_path, capfd):
    plain, path = tmp_path / f"plain.{kind}", tmp_path / f"tagged.{kind}"
    soundfile.write(plain, tone(44_100), 44_100)
    path.write_bytes(tags + plain.read_bytes())
    assert probe(path) == probe(plain)
    assert torch.equal(load(path, TARGET), load(plain, TARGET))
    assert torch.equal(load(path, TARGET, start=0.737, end=1.25), load(plain, TARGET, start=0.737, end=1.25))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("behind", [bytes(777), b"\x11\xff\xfb\x90\x44" * 2000], ids=["zeros", "a picture"])
def test_a_flac_behind_a_tag_that_ends_later_than_it_says(behind, tmp_path):
    plain, path = tmp_path / "plain.flac", tmp_path / "tagged.flac"
    soundfile.write(plain, tone(44_100), 44_100)
    path.write_bytes(tag(300) + behind + plain.read_bytes() + b"TAG" + b"a" * 125)
    assert probe(path) == probe(plain) and torch.equal(load(path, TARGET), load(plain, TARGET))


@pytest.mark.parametrize("suffix", ["au", "snd", "gsm", "vox", "ul", "al", "raw", "g722", "aptx", "sw"])
@pytest.mark.parametrize("kind", ["text", "noise", "zeros"])
def test_nothing_becomes_sound_by_its_name(kind, suffix, tmp_path):
    path = tmp_path / f"named.{suffix}"
    content = {"text": b"these are notes, not sound\n" * 400, "noise": np.random.default_rng(0).bytes(9000)}
    path.write_bytes(content.get(kind, bytes(9000)))
    with pytest.raises(AudioError):
        load(path, TARGET)


def test_gsm_needs_no_header(tmp_path):
    path = tmp_path / "made.gsm"
    soundfile.write(path, tone(8000), 8000, format="RAW", subtype="GSM610")
    agrees(path)


def test_raw_samples_are_told_and_a_wav_of_that_name_is_read(tmp_path):
    path = tmp_path / "made.raw"
    path.write_bytes((tone(16_000) * 32_767).astype("<i2").tobytes())
    for call in (probe, lambda p: load(p, TARGET)):
        with pytest.raises(AudioError, match="has no header of any sound"):
            call(path)
    soundfile.write(tmp_path / "made.wav", tone(16_000), 16_000)
    shutil.copy(tmp_path / "made.wav", path)
    assert torch.equal(load(path, TARGET), load(tmp_path / "made.wav", TARGET))


def test_a_damaged_flac_or_ogg_is_not_read_in_part_by_another_decoder(tmp_path):
    for kind in ("flac", "ogg", "mp3"):
        path = tmp_path / f"made.{kind}"
        soundfile.write(path, tone(44_100), 44_100)
        data = bytearray(path.read_bytes())
        data[40:3000] = bytes(2960)
        path.write_bytes(data)
        try:
            assert abs(len(load(path, TARGET)) / TARGET - SECONDS) < 0.1
        except AudioError as error:
            assert "damaged" in str(error) or "cut off" in str(error)


@pytest.mark.parametrize("frames, size", [(0, None), (1, 2000)])
def test_an_mp3_whose_count_was_never_written_is_read_to_its_end(frames, size, tmp_path, caplog):
    plain, path = tmp_path / "plain.mp3", tmp_path / "made.mp3"
    soundfile.write(plain, tone(44_100, 20), 44_100)
    data = bytearray(plain.read_bytes())
    at = max(data.find(b"Xing"), data.find(b"Info"))
    assert at > 0 and data[at + 7] & 3 == 3
    data[at + 8 : at + 12] = frames.to_bytes(4, "big")
    if size is not None:
        data[at + 12 : at + 16] = size.to_bytes(4, "big")
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "ossicle.sound"):
        assert abs(probe(path).duration_s - 20) < 0.1
    assert "does not know how many frames follow; read to its end at 20." in caplog.text
    part, same = load(path, 44_100), load(plain, 44_100)
    lag = len(part) - len(same)
    assert min((part[k : k + 44_100] - same[:44_100]).abs().max() for k in range(lag + 1)) < 1e-6


def test_a_flac_of_unknown_length_is_told(tmp_path, caplog):
    pytest.importorskip("av")
    path = tmp_path / "made.flac"
    soundfile.write(path, tone(44_100), 44_100)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "ossicle.sound"):
        agrees(path)
    assert [r.getMessage() for r in caplog.records] == [
        f"{path}: its header does not say how long it is; read to its end"
    ]


def test_folders_list_every_kind_of_sound(tmp_path):
    names = ["a.aifc", "b.au", "c.snd", "d.rf64", "e.mp2", "f.wv", "g.tta", "h.ac3", "i.spx", "j.voc", "k.sph", "l.gsm"]
    for name in [*names, "notes.txt", "picture.png"]:
        (tmp_path / name).touch()
    assert [path.name for path in find([tmp_path])] == names
