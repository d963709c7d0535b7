"""Tracks that are made up for captions: what a caption names, in which order, and with what kin."""

from collections import Counter

import numpy as np
import pytest
import torch
from tests.conftest import pulled

from ossicle.metrics.caption.sbert import Sentences
from ossicle.tasks import pseudo
from ossicle.tasks.pseudo import Clauses, Confusions, Event, Pretence
from ossicle.tasks.tracks import Track, heard

TAGGERS = ("mn04", "yamnet")


class Words:
    """Sentences that are as like as the words that they share: enough to see how clauses are taken apart."""

    def embed(self, texts):
        rows = torch.zeros(len(texts), 997)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().replace(",", " ").split():
                row[sum(map(ord, word)) * 31 % 997] += 1
        return torch.nn.functional.normalize(rows, dim=1)


NAMES = ("Dog", "Rain", "Speech", "Silence", "Train horn")


def events(caption: str) -> list[Event]:
    return Clauses([caption], Words()).events(NAMES)[caption]


def named(caption: str) -> list[tuple[str, int]]:
    return [(NAMES[event.classes[0]], event.part) for event in events(caption)]


def event(number: int, part: int = 0) -> Event:
    return Event(np.array([number]), np.array([1.0]), part)


def draws(pretence: Pretence, named: list[Event], count: int) -> list[Track]:
    return [pretence.draw(named, np.random.default_rng(seed)) for seed in range(count)]


# --- clauses ---------------------------------------------------------------------------------------------------------


def test_a_caption_is_taken_apart_at_its_joints():
    assert named("Rain, speech and a dog") == [("Rain", 0), ("Speech", 0), ("Dog", 0)]
    assert named("A dog while rain") == [("Dog", 0), ("Rain", 0)]
    assert named("rain then a dog followed by speech") == [("Rain", 0), ("Dog", 1), ("Speech", 2)]
    assert named("RAIN THEN A DOG") == [("Rain", 0), ("Dog", 1)]
    assert named("Something nobody has a name for") == []


def test_words_that_are_shared_count_and_chances_add_up():
    [one] = events("train horns")  # no word is the same, but their stems are
    assert NAMES[one.classes[0]] == "Train horn"
    assert one.chances.sum() == pytest.approx(1.0) and (np.diff(one.chances) <= 0).all()


def test_a_caption_that_comes_twice_is_known_once():
    clauses = Clauses(["a dog", "a dog", "rain"], Words())
    assert clauses.captions == ["a dog", "rain"] and set(clauses.events(NAMES)) == {"a dog", "rain"}


@pytest.mark.parametrize("tagger", TAGGERS)
def test_real_captions_name_what_a_person_would_say(tagger):
    pulled("all-minilm-l6-v2")
    names = pseudo.load(tagger).names
    wanted = {
        "A dog barks twice": ["Dog", "Bark"],
        "Rain falls on a roof and thunder rumbles": ["Rain", "Rain on surface", "Thunder"],
        "A man is talking as water runs from a faucet": ["Male speech, man speaking", "Speech", "Water tap, faucet"],
        "A train blows its horn": ["Train horn", "Train whistle"],
    }
    found = Clauses(list(wanted), Sentences("all-minilm-l6-v2")).events(names)
    for caption, those in wanted.items():
        told = {names[n] for one in found[caption] for n in one.classes[:2]}
        assert told & set(those), (caption, told)
    parts = [{names[n] for n in one.classes[:3]} for one in found["Rain falls on a roof and thunder rumbles"]]
    assert parts[0] & {"Rain", "Rain on surface", "Raindrop"} and "Thunder" in parts[1]


# --- tracks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tagger", TAGGERS)
def test_a_dog_brings_itself_and_its_kin_and_chance_does_not(tagger):
    pretence = Pretence(pseudo.load(tagger))
    names = list(pretence.of.names)
    dog, rain = (draws(pretence, [event(names.index(name))], 60) for name in ("Dog", "Rain"))

    def among(found: list[Track]) -> Counter:
        return Counter(tag.name for one in found for tag in heard(one, names, most=10, least=0.03))

    with_dog, with_rain = among(dog), among(rain)
    for kin in ("Dog", "Domestic animals, pets"):
        assert with_dog[kin] >= 45 and with_dog[kin] >= 8 * with_rain[kin], (kin, with_dog[kin], with_rain[kin])
    assert with_dog["Animal"] >= 25 and with_dog["Animal"] >= 1.5 * with_rain["Animal"]
    assert with_rain["Rain"] >= 50 and with_dog["Rain"] <= 5
    strange = [name for name in with_dog if name not in {t.name for t in heard(dog[0], names, most=10, least=0.03)}]
    assert len(strange) > 10, "other classes come that nobody named"


@pytest.mark.parametrize("tagger", TAGGERS)
def test_a_real_caption_gives_a_dog(tagger):
    """From words to tags, with the sentence model and the confusions that ship."""
    pulled("all-minilm-l6-v2")
    confusions = pseudo.load(tagger)
    said = ["A dog barks", "Rain falls heavily"]
    found = Clauses(said, Sentences("all-minilm-l6-v2")).events(confusions.names)
    kin = {"Dog", "Bark", "Bow-wow", "Yip", "Growling", "Howl", "Whimper (dog)"}
    counts = [
        sum(bool(kin & {t.name for t in heard(one, confusions.names, most=10, least=0.03)})
            for one in draws(Pretence(confusions), found[caption], 40))
        for caption in said
    ]  # fmt: skip
    assert counts[0] >= 32 and counts[1] <= 10, counts


def test_then_puts_events_one_after_another():
    pretence = Pretence(pseudo.load("mn04"))
    names = list(pretence.of.names)
    dog, rain = names.index("Dog"), names.index("Rain")

    def order(first: int, second: int) -> list[float]:
        """By how many seconds the middle of the second comes after that of the first."""
        found = []
        for one in draws(pretence, [event(first, 0), event(second, 1)], 60):
            time = np.arange(len(one.rows)) + 0.5
            middles = [(one.rows[:, n] ** 2 @ time) / (one.rows[:, n] ** 2).sum() for n in (first, second)]
            found.append(middles[1] - middles[0])
        return found

    assert np.mean(np.array(order(dog, rain)) > 0) > 0.85
    assert np.mean(np.array(order(rain, dog)) > 0) > 0.85
    together = [
        (one.rows[:, dog] ** 2).argmax() - (one.rows[:, rain] ** 2).argmax()
        for one in draws(pretence, [event(dog), event(rain)], 60)
    ]
    assert 10 < sum(gap > 0 for gap in together) < 50


def test_the_same_seed_gives_the_same_track():
    pretence = Pretence(pseudo.load("yamnet"))
    one, two, other = (pretence.draw([event(5)], np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one.rows, two.rows) and np.array_equal(one.whole, two.whole) and one.seconds == two.seconds
    assert one.rows.shape != other.rows.shape or not np.array_equal(one.rows, other.rows)


@pytest.mark.parametrize("tagger", TAGGERS)
def test_tracks_are_probabilities_of_six_to_thirty_seconds(tagger):
    found = draws(Pretence(pseudo.load(tagger)), [], 30)
    assert {one.seconds for one in found} >= {10.0} and all(6 <= one.seconds <= 30 for one in found)
    assert all(len(one.rows) == round(one.seconds) for one in found)
    assert all(one.rows.min() > 0 and one.rows.max() < 1 and 0 < one.whole.min() < one.whole.max() < 1 for one in found)
    assert all(heard(one, pseudo.load(tagger).names, most=10, least=0.03) for one in found)


# --- confusions ------------------------------------------------------------------------------------------------------


def test_what_ships_has_the_classes_of_its_tagger():
    from ossicle.backbones import tags

    assert pseudo.known() == ["mn04", "yamnet"] and pseudo.load("whisper-tiny.en") is None
    assert pseudo.load("mn04").names == tags.names("audioset")
    assert pseudo.load("yamnet").names == tags.names("yamnet")


def test_saving_keeps_what_was_measured(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    names = ("Bee, wasp, etc.", "Silence", "Dog")
    beside, apart = np.array([[1, 2], [1, 1], [300, 0]]), random.normal(size=(3, 2, 2))
    made = Confusions(names, random.normal(-5, 2, 3), np.asfortranarray(random.normal(size=(3, 2))), 0.25, 0.5,
                      beside, apart, (1.5, 0.75), (1.25, -0.5, 0.125))  # fmt: skip
    made.save(tmp_path / "mine.safetensors")
    monkeypatch.setattr(pseudo, "MEASURED", tmp_path)
    found = pseudo.load("mine")
    np.testing.assert_allclose(found.mean, made.mean, rtol=1e-3)
    np.testing.assert_allclose(found.factor, made.factor, rtol=1e-3)
    np.testing.assert_allclose(found.apart, made.apart, rtol=1e-3)
    assert np.array_equal(found.beside, beside)
    numbers = (found.names, found.noise, found.shared, found.level, found.whole)
    assert numbers == (names, 0.25, 0.5, (1.5, 0.75), (1.25, -0.5, 0.125))


def test_measuring_finds_what_goes_together():
    """Classes 0 and 1 sound together, 2 by itself, and rows of silence say nothing."""
    random = np.random.default_rng(0)
    names, found, known = ("Dog", "Animal", "Rain", "Silence"), [], []
    for number in range(200):
        on = number % 2
        logits = np.full((10, 4), -6.0) + 0.3 * random.standard_normal((10, 4))
        logits[:, :2] += 5 * on
        logits[:, 2] += 5 * (1 - on)
        logits[8:] = (-9, -9, -9, 5)
        rows = 1 / (1 + np.exp(-logits))
        found.append(Track(rows.mean(axis=0), rows, 10.0))
        known.append((0,) if on else ())
    made = pseudo.measured(found, names, known)
    covariance = made.factor @ made.factor.T
    spread = np.sqrt(np.diag(covariance))
    together = covariance / np.outer(spread, spread)
    assert together[0, 1] > 0.95 and together[0, 2] < -0.8
    assert made.mean[0] == pytest.approx(-3.5, abs=0.2) and made.level[0] > 0
    pretence = Pretence(made)
    assert pretence.follow[1, 0] > 0.8 and pretence.follow[2, 0] == 0
    assert [list(row[:2]) for row in made.beside] == [[1, 0], [0, 1], [2, 2], [3, 3]], "dogs with animals, rain alone"
    assert made.apart[0, 0] == pytest.approx((0.0, 0.3 * 2**0.5), abs=0.05)


@pytest.mark.parametrize("tagger", TAGGERS)
def test_parents_and_kin_come_as_often_as_with_real_sounds(tagger):
    """Of real dogs of ESC-50 nine in ten have each of these; by correlations alone, "Animal" came with one in eight."""
    pretence = Pretence(pseudo.load(tagger))
    names = list(pretence.of.names)
    found = draws(pretence, [event(names.index("Bark"))], 60)
    for kin in ("Animal", "Dog", "Domestic animals, pets"):
        often = sum(kin in {tag.name for tag in heard(one, names, most=10, least=0.1)} for one in found)
        assert often >= 40, (kin, often)
