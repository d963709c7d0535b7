"""Pooling and the disk cache: what its keys follow from, and what may happen to its files."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import tiny

from ossicle.adapters import inject, parse
from ossicle.contracts import Clip, Encoded, TokenGrid
from ossicle.errors import AudioError, UnknownNameError, UsageError
from ossicle.tasks import features
from ossicle.tasks.features import FeatureStore, pool

LAYERS = (1, 3)


@pytest.fixture
def clip(tmp_path) -> Clip:
    return Clip(tiny.write_tone(tmp_path / "in" / "a.wav", 440, 0.6))


def store(root: Path, kind: str = "ast", layers=LAYERS, pooling: str = "mean", change=None) -> FeatureStore:
    encoder = tiny.encoder(kind)
    if change is not None:
        change(encoder)
    return FeatureStore(encoder, layers, pooling, root=root)


def other_digest(encoder) -> None:
    encoder.digest = "others"


def other_stride(encoder) -> None:
    encoder.stem.stride = encoder.stem.proj.stride = (8, 8)


def other_frontend(encoder) -> None:
    told = encoder.frontend.settings()
    encoder.frontend.settings = lambda: {**told, "version": "2"}


def other_name(encoder) -> None:
    encoder.name = "other"


def no_positions(encoder) -> None:
    encoder.stem.positions.requires_grad_(False).zero_()


@pytest.mark.parametrize(
    "changed",
    [
        {"change": other_digest},
        {"change": other_stride},
        {"change": other_frontend},
        {"change": other_name},
        {"change": no_positions},
        {"kind": "whisper"},
        {"layers": (1, 2)},
        {"layers": (3, 1)},
        {"pooling": "cls"},
    ],
    ids=["weights", "stride", "front end", "name", "positions", "backbone", "layers", "order of layers", "pooling"],
)
def test_the_key_follows_from_the_encoder(tmp_path, clip, changed):
    first = store(tmp_path / "cache")
    first.get([clip])
    same, other = store(tmp_path / "cache"), store(tmp_path / "cache", **changed)
    same.get([clip])
    other.get([clip])
    assert (first.computed, same.computed, other.computed) == (1, 0, 1)
    again = store(tmp_path / "cache", **changed)
    again.get([clip])
    assert again.computed == 0


def test_the_key_follows_from_the_sound(tmp_path, clip):
    def computed(*clips: Clip) -> int:
        made = store(tmp_path / "cache")
        made.get(clips)
        return made.computed

    assert computed(clip) == 1
    moved = Path(shutil.copy(clip.path, tmp_path / "renamed.wav"))
    assert computed(clip, replace(clip, path=moved, labels=("x",), split="test")) == 0
    assert computed(replace(clip, start=0.1)) == 1
    assert computed(replace(clip, end=0.5)) == 1
    assert computed(replace(clip, start=0.1, end=0.5)) == 1
    assert computed(replace(clip, channel=1)) == 1
    assert computed(clip, replace(clip, start=0.1)) == 0
    data = bytearray(clip.path.read_bytes())
    data[-1] ^= 1
    clip.path.write_bytes(data)
    assert computed(clip) == 1


def test_decoding_versions_have_their_own_files(tmp_path, clip, monkeypatch):
    store(tmp_path / "cache").get([clip])
    monkeypatch.setattr(features.audio, "DECODE_VERSION", "next")
    other = store(tmp_path / "cache")
    other.get([clip])
    assert other.computed == 1


DAMAGE = {
    "empty": lambda data: b"",
    "text": lambda data: b"dear diary\n",
    "cut in the header": lambda data: data[:20],
    "cut in the data": lambda data: data[:-5],
    "zeros": lambda data: bytes(len(data)),
    "a header that lies": lambda data: data.replace(b"(48,)", b"(4e9,", 1),
    "a huge array": lambda data: data.replace(b"(48,), }   ", b"(48**9,), }", 1),
    "a broken header": lambda data: data.replace(b"(48,)", b"(48,'", 1),
    "objects": lambda data: data.replace(b"'<f4'", b"'|O' ", 1),
    "texts": lambda data: data.replace(b"'<f4'", b"'<U1'", 1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_made_anew(tmp_path, clip, damage):
    (wanted,) = store(tmp_path / "cache").get([clip])
    (file,) = (tmp_path / "cache").rglob("*.npy")
    whole = file.read_bytes()
    assert damage(whole) != whole
    file.write_bytes(damage(whole))
    again = store(tmp_path / "cache")
    assert torch.equal(again.get([clip])[0], wanted) and again.computed == 1
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_only_costs_the_cache(tmp_path, clip, monkeypatch):
    (wanted,) = store(tmp_path / "cache").get([clip])
    (tmp_path / "file").write_text("not a folder")
    blocked = store(tmp_path / "file" / "cache")
    assert torch.equal(blocked.get([clip])[0], wanted)
    assert torch.equal(blocked.get([clip])[0], wanted) and blocked.computed == 1

    def full(*given, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    other = store(tmp_path / "full")
    assert torch.equal(other.get([clip])[0], wanted)
    assert [path for path in (tmp_path / "full").rglob("*") if path.is_file()] == []


@pytest.mark.numerics
def test_order_doubles_and_faults(tmp_path, clip):
    other = Clip(tiny.write_tone(tmp_path / "in" / "b.wav", 880, 0.7))
    short = Clip(tiny.write_tone(tmp_path / "in" / "c.wav", 880, 0.01))
    made = store(tmp_path / "cache")
    found = made.get([other, clip, Clip(tmp_path / "missing.wav"), other, short])
    assert [isinstance(value, AudioError) for value in found] == [False, False, True, False, True]
    assert torch.equal(found[0], found[3]) and found[0].shape == (48,)
    alone = store(tmp_path / "alone")
    torch.testing.assert_close(alone.get([clip])[0], found[1], atol=1e-4, rtol=0)


def test_class_tokens_are_pooled_without_prompts_in_every_layer():
    encoder = tiny.encoder("ast")
    inject(encoder, parse("prompts(tokens=5,deep=true)"))
    with torch.no_grad():
        encoded = encoder(tiny.waves(2, seconds=1.0), layers=(0, 3))
    assert encoded.hidden[3].shape[1] == encoded.hidden[0].shape[1] + 5
    expected = torch.cat([encoded.hidden[n][:, :2].mean(1) for n in (0, 3)], dim=1)
    torch.testing.assert_close(pool(encoded, (0, 3), "extra"), expected)


def test_pooling():
    tokens = torch.arange(24.0).view(2, 4, 3)
    encoded = Encoded(tokens, TokenGrid(1, 2, extra=2), None, {3: tokens}, front=2)
    torch.testing.assert_close(pool(encoded, [3], "mean"), tokens.mean(1))
    assert torch.equal(pool(encoded, [3], "cls"), tokens[:, 0])
    assert torch.equal(pool(encoded, [3, 3], "extra"), tokens[:, :2].mean(1).repeat(1, 2))
    for kind in ("cls", "extra"):
        with pytest.raises(UsageError, match="this backbone has none; use mean"):
            pool(replace(encoded, front=0), [3], kind)
    masked = replace(encoded, mask=torch.tensor([[True] * 4, [True, True, False, False]]))
    torch.testing.assert_close(pool(masked, [3], "mean")[1], tokens[1, :2].mean(0))
    with pytest.raises(UnknownNameError, match="pooling 'meen'; did you mean 'mean'"):
        pool(encoded, [3], "meen")
