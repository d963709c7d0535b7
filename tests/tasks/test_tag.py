from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.conftest import pulled

from ossicle import backbones
from ossicle.backbones import efficientat, freeze, weights, yamnet
from ossicle.backbones.efficientat import MobileSizes
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.yamnet import YamnetSizes
from ossicle.contracts import Batch, Clip
from ossicle.errors import UnknownNameError, UsageError
from ossicle.predict.predictor import Predictor
from ossicle.sound import audio
from ossicle.tasks import tag
from ossicle.tasks.tag import Tagger

MAKERS: dict[str, Callable[[], Encoder]] = {
    "mobile": lambda: efficientat.make("tiny-mobile", MobileSizes(0.1)),
    "yamnet": lambda: yamnet.make("tiny-yamnet", YamnetSizes((8,) * 14)),
}


def tagger(kind: str) -> Tagger:
    """A tagger of random weights whose probabilities are spread from near 0 to near 1."""
    made = MAKERS[kind]()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=generator).mul_(0.5)
        assert made.tags is not None
        weight, bias = list(made.tags.head.parameters())[-2:]
        bias.zero_()
        weight.div_(made.tags.head(made(tiny.waves(1, 2.0)).tokens).std())
        bias.normal_(generator=generator).mul_(2)
    made.digest = f"tiny-{kind}"
    return Tagger(freeze(made))


def clips(folder: Path, *seconds: float) -> list[Clip]:
    return [Clip(tiny.write_tone(folder / f"{i}.wav", 300 * (i + 1), s, seed=i)) for i, s in enumerate(seconds)]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_row_has_the_mean_over_tokens_of_the_probabilities(tmp_path: Path, kind: str) -> None:
    task = tagger(kind)
    [clip] = clips(tmp_path, 2.0)
    [row] = task.predict(task.collate([clip], None))
    wave = audio.load(clip.path, task.encoder.rate_hz)[None]
    scores = task.encoder.scores(task.encoder(wave))[0]
    assert len(scores) == (1 if kind == "mobile" else 4)
    means = scores.mean(dim=0)
    assert row.label == task.labels[int(means.argmax())] and row.error is None
    assert row.scores == {
        task.labels[i]: pytest.approx(float(means[i]), rel=1e-5) for i in range(len(means)) if means[i] >= 0.01
    }
    assert 10 < len(row.scores) < len(task.labels)


@pytest.mark.parametrize("kind", MAKERS)
def test_scores_begin_with_the_best_and_end_at_a_hundredth(tmp_path: Path, kind: str) -> None:
    task = tagger(kind)
    [row] = task.predict(task.collate(clips(tmp_path, 1.0), None))
    values = list(row.scores.values())
    assert values == sorted(values, reverse=True) and values[-1] >= 0.01
    assert (row.label, row.score) == next(iter(row.scores.items()))
    assert all(value == float(f"{value:.6g}") for value in values)


def test_the_best_class_is_told_even_below_a_hundredth() -> None:
    task = tagger("yamnet")
    probabilities = torch.full((len(task.labels),), 0.001)
    probabilities[7] = 0.0099999996  # six digits of it are a hundredth
    row = task.row(Clip(Path("a.wav")), probabilities.numpy())
    assert (row.label, row.score, row.scores) == (task.labels[7], 0.01, {task.labels[7]: 0.01})
    probabilities[7] = 0.009
    row = task.row(Clip(Path("a.wav")), probabilities.numpy())
    assert (row.label, row.score, row.scores) == (task.labels[7], 0.009, {})


@pytest.mark.parametrize("kind", MAKERS)
def test_neighbours_of_other_lengths_never_change_a_row(tmp_path: Path, kind: str) -> None:
    task = tagger(kind)
    given = clips(tmp_path, 0.6, 3.1, 1.7)
    together = task.collate(given, None)
    assert together.lengths is not None
    for clip, row in zip(given, task.predict(together), strict=True):
        [alone] = task.predict(task.collate([clip], None))
        assert row.label == alone.label and row.scores == pytest.approx(alone.scores, abs=2e-5)


def test_a_probability_that_is_no_number_is_an_error_row(tmp_path: Path) -> None:
    task = tagger("mobile")
    assert task.encoder.tags is not None
    with torch.no_grad():
        list(task.encoder.tags.head.parameters())[-1][5] = torch.nan  # one class of 527
    [[(_, [row])]] = [list(Predictor(task, "tiny", 2.0).files([clips(tmp_path, 1.0)[0].path]))]
    assert row.label is None and row.error is not None and "not a number" in row.error


def test_bad_and_too_short_files_are_error_rows_of_their_own(tmp_path: Path) -> None:
    good, short = (clip.path for clip in clips(tmp_path, 1.0, 0.01))
    text = tmp_path / "text.wav"
    text.write_text("this is a letter")
    for kind in MAKERS:
        rows = {path: rows for path, rows in Predictor(tagger(kind), "tiny", 2.0).files([text, short, good])}
        assert [len(own) for own in rows.values()] == [1, 1, 1]
        assert "text" in str(rows[text][0].error) and "short" in str(rows[short][0].error)
        assert rows[good][0].error is None


def test_what_is_no_tagger_is_told_before_weights_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*_: object) -> Path:
        raise AssertionError("weights were fetched")

    monkeypatch.setattr(weights, "fetch", fetched)
    wanted = "give a tagger such as mn04 or yamnet"
    with pytest.raises(UsageError, match=f"'whisper-tiny.en' is a backbone without classes of its own; {wanted}"):
        tag.load("whisper-tiny.en")
    with pytest.raises(UsageError, match=f"'mn04\\+yamnet' joins 2 encoders, .*{wanted} alone"):
        tag.load("mn04+yamnet")
    with pytest.raises(UnknownNameError, match="did you mean"):
        tag.load("mn4")


@pytest.mark.parametrize(("name", "kinds"), [("mn04", {"Dog", "Bark", "Bow-wow"}), ("yamnet", {"Dog", "Animal"})])
def test_taggers_as_published_know_a_dog(esc50: Path, name: str, kinds: set[str]) -> None:
    pulled(name)
    task = tag.load(name)
    batch = task.collate([Clip(esc50 / "audio" / "1-30226-A-0.opus")], None)
    [row] = task.predict(batch.to(next(task.encoder.parameters()).device))
    assert isinstance(batch, Batch) and row.label in kinds
    assert set(row.scores) >= {"Dog", "Animal"} and backbones.spec(name).name == name
