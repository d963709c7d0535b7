"""What encoders give beside tags: whose rows they are, when each was heard, and which go with which tag."""

import pytest
import torch
from tests import tiny
from tests.tasks.test_caption_tags_paper import load

from ossicle.contracts import Clip
from ossicle.data.clips import load_waves
from ossicle.errors import AudioError
from ossicle.tasks.embeddings import Embedder, Embeddings, Heard
from ossicle.tasks.tracks import Tag


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))


def test_what_embeddings_are_of_each_kind(tmp_path):
    clip = Clip(tiny.write_tone(tmp_path / "tone.wav", 900.0, 4.3))
    (wave,) = load_waves([clip], 16_000)
    whisper = Embedder(load("whisper-tiny.en"))
    (heard,) = whisper.get([clip])
    tokens = whisper.encoder(wave[None]).tokens[0]
    torch.testing.assert_close(heard.rows, tokens, atol=2e-3, rtol=2e-3)
    assert heard.times[0, 0] == 0 and heard.times[-1, 1] == pytest.approx(4.3)
    step = 4.3 / len(tokens)
    first, last = round(1.0 / step), round(2.0 / step)
    over = heard.over(first * step, last * step)
    torch.testing.assert_close(over, tokens[first:last].mean(dim=0), atol=2e-3, rtol=2e-3)
    (vggish,) = Embedder(load("vggish")).get([clip])
    assert len(vggish.rows) == 4 and vggish.times[3].tolist() == pytest.approx([2.88, 3.84])
    torch.testing.assert_close(vggish.over(0.96, 1.92), vggish.rows[1], atol=1e-4, rtol=1e-4)
    assert torch.equal(vggish.over(4.0, 4.3), vggish.rows[3])  # behind the last one
    (panns,) = Embedder(load("panns-wavegram-cnn14")).get([clip])
    assert panns.rows.shape == (1, tiny.PANNS.hidden) and (panns.rows >= 0).all()


def test_a_long_sound_has_embeddings_all_along(tmp_path):
    path = tiny.write_tone(tmp_path / "long.wav", 500.0, 25.0)
    clip = Clip(path)
    (panns,) = Embedder(load("panns-wavegram-cnn14")).get([clip])
    assert panns.times.tolist() == [[0, 10], [10, 20], [20, 30]]
    (tokens,) = Embedder(load("whisper-tiny.en")).get([clip])
    assert float(tokens.times[-1, 1]) == pytest.approx(25.0) and (tokens.times[1:, 0] == tokens.times[:-1, 1]).all()
    whole = Embedder(load("vggish"))
    monthly = Embedder(load("vggish"))
    (rows,) = whole.get([clip])
    assert len(rows.rows) == 26
    (stored,) = monthly.get([clip])
    assert torch.equal(stored.rows, rows.rows) and (whole.computed, monthly.computed) == (1, 0)


def test_rows_go_beside_tags_by_number_as_in_the_paper_or_by_time():
    more = Embeddings([load("vggish")], 8, "add")
    rows = torch.arange(3.0)[:, None].expand(3, tiny.VGGISH.dim)
    heard = Heard(rows, torch.tensor([[0.0, 0.96], [0.96, 1.92], [1.92, 2.88]]))
    names, beside = more.of_rows([heard], ["a", "b", "c", "d"], 3.8, paced=True)
    assert names == ["a", "b", "c"] and torch.equal(beside, rows)
    names, beside = more.of_rows([heard], ["a", "b"], 2.88, paced=False)
    assert names == ["a", "b"]
    assert beside[:, 0].tolist() == pytest.approx([(0 * 0.96 + 1 * 0.48) / 1.44, (1 * 0.48 + 2 * 0.96) / 1.44])
    tag = Tag("a", 0.5, 0.5, 0.96, 2.88, 1.0)
    assert more.of_tags([heard], [tag])[0, 0] == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["vggish", "panns-wavegram-cnn14", "whisper-tiny.en", "yamnet"])
def test_a_short_sound_has_an_embedding_and_a_broken_one_a_reason(tmp_path, name):
    short = Clip(tiny.write_tone(tmp_path / "short.wav", 900.0, 0.3))
    broken = Clip(tmp_path / "broken.wav")
    broken.path.write_bytes(b"no sound")
    found, why = Embedder(load(name)).get([short, broken])
    assert len(found.rows) >= 1 and found.rows.isfinite().all() and found.rows.std() > 0
    assert isinstance(why, AudioError)


def test_a_stretch_of_a_file_is_heard_by_itself(tmp_path):
    path = tiny.write_tone(tmp_path / "tone.wav", 900.0, 6.0)
    whole, part = Embedder(load("vggish")).get([Clip(path), Clip(path, start=1.92, end=4.0)])
    torch.testing.assert_close(part.rows, whole.rows[2:4], atol=2e-3, rtol=2e-3)
    assert part.times[0].tolist() == pytest.approx([0.0, 0.96])
