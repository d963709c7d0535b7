"""What a tagger hears over time: rows, the whole, long sounds in stretches, the cache, tags and their times."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests import tiny

from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Clip
from ossicle.errors import AudioError
from ossicle.sound import audio
from ossicle.tasks import tracks
from ossicle.tasks.tracks import Track, Tracker, heard

KINDS = ("mobile", "yamnet")
NAMES = ("Speech", "Dog", "Silence", "Rain")


def tracker(kind: str, folder: Path, **options) -> Tracker:
    return Tracker(tiny.encoder(kind), root=folder / "cache", **options)


def scores(encoder: Encoder, wave: torch.Tensor) -> np.ndarray:
    """(rows, classes) of one wave, as the tagger gives them."""
    with torch.no_grad():
        return encoder.scores(encoder(wave[None]))[0].numpy()


def track(rows: list[list[float]], whole: list[float] | None = None, seconds: float | None = None) -> Track:
    table = np.array(rows, np.float32)
    return Track(table.mean(axis=0) if whole is None else np.array(whole), table, seconds or float(len(rows)))


def close(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.numerics
def test_a_tagger_of_whole_windows_hears_two_seconds_around_every_second(tmp_path):
    made = tracker("mobile", tmp_path)
    clip = Clip(tiny.write_tone(tmp_path / "a.wav", 400, 4.6))
    [found] = made.get([clip])
    assert isinstance(found, Track) and found.rows.shape == (5, 527) and found.seconds == pytest.approx(4.6, abs=1e-3)
    rate = made.tagger.rate_hz
    wave = audio.load(clip.path, rate)
    for row, first in enumerate((0.0, 0.5, 1.5, 2.5, 2.6)):  # the first and the last lie inside
        at = round(first * rate)
        close(found.rows[row], scores(made.tagger, wave[at : at + 2 * rate])[0])
    close(found.whole, scores(made.tagger, wave)[0])


@pytest.mark.numerics
def test_the_whole_of_a_longer_sound_is_the_mean_of_pieces_of_ten_seconds(tmp_path):
    made = tracker("mobile", tmp_path)
    clip = Clip(tiny.write_tone(tmp_path / "a.wav", 400, 13.0))
    [found] = made.get([clip])
    rate = made.tagger.rate_hz
    wave = audio.load(clip.path, rate)
    pieces = [scores(made.tagger, wave[: 10 * rate])[0], scores(made.tagger, wave[-10 * rate :])[0]]
    close(found.whole, np.mean(pieces, axis=0))
    assert found.rows.shape[0] == 13


@pytest.mark.numerics
def test_a_tagger_of_tokens_gives_every_second_row_and_the_mean(tmp_path):
    made = tracker("yamnet", tmp_path)
    clip = Clip(tiny.write_tone(tmp_path / "a.wav", 400, 4.0))
    [found] = made.get([clip])
    rows = scores(made.tagger, audio.load(clip.path, made.tagger.rate_hz))
    assert len(rows) > 4 and len(found.rows) == (len(rows) + 1) // 2
    close(found.rows, rows[::2])
    close(found.whole, rows.mean(axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_sound_has_a_row(tmp_path, kind):
    [found] = tracker(kind, tmp_path).get([Clip(tiny.write_tone(tmp_path / "a.wav", 400, 0.3))])
    assert isinstance(found, Track) and len(found.rows) == 1 and found.seconds == pytest.approx(0.3, abs=1e-3)
    [longer] = tracker(kind, tmp_path, shortest_s=2.5).get([Clip(tmp_path / "a.wav")])
    assert isinstance(longer, Track) and len(longer.rows) > 1 and longer.seconds == pytest.approx(2.5, abs=1e-3)


@pytest.mark.numerics
@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_never_change_a_track(tmp_path, kind):
    clips = [Clip(tiny.write_tone(tmp_path / f"{i}.wav", 300 * (i + 1), s)) for i, s in enumerate((0.7, 3.2, 1.9))]
    together = tracker(kind, tmp_path / "one").get(clips)
    for clip, found in zip(clips, together, strict=True):
        [alone] = tracker(kind, tmp_path / "two").get([clip])
        assert np.array_equal(alone.rows, found.rows) and np.array_equal(alone.whole, found.whole)


def test_a_part_of_a_file_is_heard_alone(tmp_path):
    made = tracker("mobile", tmp_path)
    path = tiny.write_tone(tmp_path / "a.wav", 400, 5.0)
    [part] = made.get([Clip(path, start=1.0, end=3.0)])
    wave = audio.load(path, made.tagger.rate_hz, start=1.0, end=3.0)
    assert part.seconds == pytest.approx(2.0) and len(part.rows) == 2
    np.testing.assert_allclose(part.whole, scores(made.tagger, wave)[0], atol=1e-5)


# --- long sounds -----------------------------------------------------------------------------------------------------


@pytest.mark.numerics
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_long_sound_is_heard_in_stretches_and_joined(tmp_path, kind, start, monkeypatch):
    monkeypatch.setattr(tracks, "LONG_S", 4.0)
    path = tiny.write_tone(tmp_path / "long.wav", 400, 10.0 + start)
    loaded = []
    load = tracks.load_waves
    monkeypatch.setattr(tracks, "load_waves", lambda clips, *a, **o: loaded.extend(clips) or load(clips, *a, **o))
    made = tracker(kind, tmp_path)
    [found] = made.get([Clip(path, start=start)])
    spans = [(clip.start, clip.end) for clip in loaded]
    assert spans == [(start, start + 4.0), (start + 4.0, start + 8.0), (start + 8.0, None)]
    parts = made.get([Clip(path, start=a, end=b) for a, b in spans])
    np.testing.assert_array_equal(found.rows, np.concatenate([part.rows for part in parts]))
    weights = np.array([part.seconds for part in parts])
    close(found.whole, sum(p.whole * w for p, w in zip(parts, weights, strict=True)) / weights.sum())
    assert found.seconds == pytest.approx(10.0, abs=1e-3)


def test_a_long_sound_whose_end_is_broken_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tracks, "LONG_S", 2.0)
    path = tiny.write_tone(tmp_path / "long.wav", 400, 5.0)
    load = tracks.load_waves
    monkeypatch.setattr(
        tracks, "load_waves",
        lambda clips, *a, **o: [
            AudioError(f"{c.path} ends early") if c.start >= 4 else w
            for c, w in zip(clips, load(clips, *a, **o), strict=True)
        ],
    )  # fmt: skip
    [found] = tracker("mobile", tmp_path).get([Clip(path)])
    assert isinstance(found, AudioError) and "ends early" in str(found)


# --- the cache and faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_heard_is_kept_on_disk(tmp_path, kind, monkeypatch):
    clip = Clip(tiny.write_tone(tmp_path / "a.wav", 400, 2.2), captions=("a tone",), labels=("x",))
    [first] = tracker(kind, tmp_path).get([clip])
    monkeypatch.setattr(tracks, "load_waves", lambda clips, *a, **o: [] if not clips else pytest.fail("heard again"))
    again = tracker(kind, tmp_path)
    [found] = again.get([Clip(clip.path, captions=("another caption",))])
    assert np.array_equal(found.rows, first.rows) and np.array_equal(found.whole, first.whole)
    assert found.seconds == pytest.approx(first.seconds)


def test_another_tagger_or_length_is_heard_anew(tmp_path):
    clip = Clip(tiny.write_tone(tmp_path / "a.wav", 400, 0.5))
    root = tmp_path / "cache"
    [one] = Tracker(tiny.encoder("mobile"), root=root).get([clip])
    [other] = Tracker(tiny.encoder("mobile", seed=1), root=root).get([clip])
    [longer] = Tracker(tiny.encoder("mobile"), shortest_s=1.0, root=root).get([clip])
    assert not np.allclose(one.whole, other.whole) and not np.allclose(one.whole, longer.whole)


def test_what_cannot_be_heard_is_said_and_the_others_go_on(tmp_path):
    good = Clip(tiny.write_tone(tmp_path / "good.wav", 400, 1.0))
    (tmp_path / "text.wav").write_text("a letter")
    short = Clip(tiny.write_tone(tmp_path / "short.wav", 400, 0.001))
    found = tracker("mobile", tmp_path).get([Clip(tmp_path / "text.wav"), good, short, Clip(tmp_path / "no.wav")])
    assert [isinstance(one, AudioError) for one in found] == [True, False, True, True]
    assert "short" in str(found[2]) and "no.wav" in str(found[3])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_are_no_numbers_are_an_error_and_never_kept(tmp_path, kind):
    made = tracker(kind, tmp_path)
    head = list(made.tagger.tags.head.parameters())[-1]
    before = head.clone()
    clip = Clip(tiny.write_tone(tmp_path / "a.wav", 400, 1.0))
    with torch.no_grad():
        head[5] = torch.nan
    [found] = made.get([clip])
    assert isinstance(found, AudioError) and f"a.wav: a score of {made.tagger.name} is not a number" in str(found)
    with torch.no_grad():
        head.copy_(before)
    assert isinstance(made.get([clip])[0], Track)


# --- tags ------------------------------------------------------------------------------------------------------------


def test_tags_are_in_the_order_of_their_strength_without_silence():
    """Speech lasts; a dog is short but loud; strength is the score of the whole and 0.3 of the peak, over 1.3."""
    found = heard(
        track([[0.4, 0.9, 0.95, 0.0], [0.4, 0.0, 0.95, 0.1], [0.4, 0.0, 0.95, 0.0]]), NAMES, most=4, least=0.0
    )
    assert [tag.name for tag in found] == ["Dog", "Speech", "Rain"]
    dog, speech, _ = found
    assert dog.strength == pytest.approx((0.3 + 0.3 * 0.9) / 1.3) and speech.strength == pytest.approx(0.4)
    assert (dog.score, dog.peak) == (pytest.approx(0.3), pytest.approx(0.9))


def test_times_are_where_a_tag_is_above_half_of_its_peak():
    rows = [[0, 0.1, 0, 0.8], [0, 0.5, 0, 0.1], [0, 0.9, 0, 0.3], [0, 0.45, 0, 0.5], [0, 0.44, 0, 0.39]]
    dog, rain = heard(track(rows, seconds=10.0), NAMES, most=2, least=0.0)
    assert (dog.name, dog.start, dog.end, dog.share) == ("Dog", 2.0, 8.0, 1.0)
    assert (rain.name, rain.start, rain.end, rain.share) == ("Rain", 0.0, 8.0, 0.5)


def test_most_and_least():
    one = track([[0.5, 0.2, 0.9, 0.02]])
    assert [t.name for t in heard(one, NAMES, most=1, least=0.0)] == ["Speech"]
    assert [t.name for t in heard(one, NAMES, most=2, least=0.0)] == ["Speech", "Dog"]
    assert [t.name for t in heard(one, NAMES, most=9, least=0.1)] == ["Speech", "Dog"]
    assert [t.name for t in heard(one, NAMES, most=9, least=0.9)] == ["Speech"], "one at the least"
    silent = track([[0.001, 0.0, 1.0, 0.0]])
    assert [t.name for t in heard(silent, NAMES, most=3, least=0.1)] == ["Speech"]


def test_mn04_hears_a_dog_when_it_barks(esc50, tmp_path):
    """Four seconds of nothing, then barks: the tag does not begin before them."""
    import soundfile
    from tests.conftest import pulled

    from ossicle import backbones

    pulled("mn04")
    tagger = backbones.load("mn04")
    barks = audio.load(esc50 / "audio" / "1-30226-A-0.opus", 32_000).numpy()
    soundfile.write(tmp_path / "late.wav", np.concatenate([np.zeros(4 * 32_000, np.float32), barks]), 32_000)
    [found] = Tracker(tagger, root=tmp_path / "cache").get([Clip(tmp_path / "late.wav")])
    tags = {tag.name: tag for tag in heard(found, tagger.tags.labels, most=8, least=0.0)}
    assert "Silence" not in tags and {"Dog", "Animal"} <= set(tags)
    assert 3.0 <= tags["Dog"].start < tags["Dog"].end <= 9.01
