"""Sounds a caption names that no tag supports: the words, the support, the share, candidates that are kept."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import need, tries
from torch import Tensor

from ossicle.backbones import tags as taggers
from ossicle.backbones import weights
from ossicle.errors import DataError
from ossicle.metrics.caption import invented
from ossicle.metrics.caption.invented import Heard, Support, words_of
from ossicle.metrics.caption.score import human, score


class Angles:
    """A sentence model: known texts are directions in degrees on a plane, any other stands across all."""

    def __init__(self, **degrees: float) -> None:
        self.degrees, self.asked = degrees, list[str]()

    def embed(self, texts: Sequence[str]) -> Tensor:
        rows = torch.zeros(len(texts), 66)
        for row, text in zip(rows, texts, strict=True):
            self.asked.append(text)
            turn = math.radians(self.degrees.get(text, 0.0))
            known = torch.tensor([math.cos(turn), math.sin(turn)])
            row[:2] = known if text in self.degrees else 0.0
            row[1 + len(self.asked)] = 0.0 if text in self.degrees else 1.0
        return rows


def support(**degrees: float) -> Support:
    return Support(Angles(**degrees))  # type: ignore[arg-type]


@pytest.fixture
def real() -> Support:
    need((weights.home() / "weights" / "all-minilm-l6-v2").is_dir(), "all-minilm-l6-v2 in the cache")
    return invented.usual()


def test_inflected_forms_are_one_word_with_their_base() -> None:
    assert words_of("A dog barks and DOGS are barking; a man’s voice, men's voices") == ["dog", "bark", "man", "voice"]
    assert words_of("Sneezes, snoring, meowed meows") == ["sneeze", "snore", "meow"]
    assert words_of("tick-tock\ntick tock") == ["tick", "tock"]


def test_place_amount_time_and_manner_are_no_sounds() -> None:
    assert words_of("Several loud sounds and noise then in the background at a distance, being heard twice") == []
    assert words_of("someone is training in a crowded room with something made of metal") == []
    assert words_of("") == words_of("雨 … 12") == []


def test_compounds_and_what_is_said_to_be_absent() -> None:
    assert words_of("A fire truck passes wind-chimes and machine guns") == ["firetruck", "chime", "gun"]
    assert words_of("A fire burns in the wind") == ["fire", "wind"]
    assert words_of("Rain without any speech, no music, a toy winds up") == ["rain"]


def test_every_word_can_be_supported_by_a_class(real: Support) -> None:
    """A word that no class is near to would be called invented whatever sounds."""
    classes = {name for listed in ("audioset", "yamnet") for name in taggers.names(listed)}
    assert len(invented.sound_words()) > 500
    assert [w for w in invented.sound_words() if not any(real.supports(name, w) for name in classes)] == []


def test_a_word_in_the_name_of_a_tag_is_supported_without_embeddings() -> None:
    given = support()
    assert given.unsupported("A woman speaks", {"Female speech, woman speaking": 0.1}) == []
    assert given.unsupported("A girl speaks", {"Child speech, kid speaking": 0.5}) == []  # a stand-in
    assert given._sentences.asked == []  # type: ignore[union-attr]


def test_bounds_of_score_and_cosine() -> None:
    model = {"Canine": 0.0, "dog": 59.0, "cat": 61.0}
    assert support(**model).unsupported("a dog and a cat", {"Canine": 0.1}) == ["cat"]
    assert support(**model).unsupported("a dog and a cat", {"Canine": 0.0999}) == ["dog", "cat"]
    assert support(**model).unsupported("a dog", []) == ["dog"]
    later = [("Canine", 0.02, 0.0, 2.0), ("Canine", 0.4, 8.0, 10.0)]
    assert support(**model).unsupported("a dog", later) == []  # anywhere in the file


def test_silence_supports_nothing() -> None:
    assert support(Silence=0.0, talk=0.0).unsupported("people talk", {"Silence": 0.9}) == ["talk"]


def test_embeddings_are_computed_once() -> None:
    given = support(Canine=0.0, dog=10.0)
    for _ in range(3):
        given.heard("a dog", {"Canine": 0.5})
    assert sorted(given._sentences.asked) == ["Canine", "dog"]  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [[["Dog"]], [("Dog", "high")], {"Dog": math.nan}, ["Dog"], [(1, 0.5)], {"Dog": True}])
def test_what_is_no_tag_is_an_error(bad: object) -> None:
    with pytest.raises(DataError, match="wanted as its name and a score"):
        support().heard("a dog", bad)  # type: ignore[arg-type]


def test_real_embeddings(real: Support) -> None:
    heard = {"Bark": 0.6, "Vehicle": 0.2, "Rain": 0.05}
    assert real.heard("A dog barks as a car passes in the rain", heard) == Heard(
        ["dog", "bark", "car", "rain"], ["rain"]
    )
    assert real.unsupported("A crowd applauds", {"Clapping": 0.3}) == ["crowd"]


def test_candidates_without_an_invention_are_kept_and_else_all_with_a_notice() -> None:
    given, heard = support(), {"Dog": 0.5}
    assert given.kept(["a dog", "a dog and a siren", "something"], heard) == ([0, 2], "")
    indices, notice = given.kept(["a siren", "rain and a siren"], heard)
    assert indices == [0, 1] and notice == "every candidate names a sound that no tag supports (siren, rain)"
    assert given.kept([], heard) == ([], "")


texts = st.lists(st.sampled_from(["dog", "siren", "rain", "the", "loud"]), max_size=5).map(" ".join)


@tries(60)
@given(st.lists(texts, min_size=1, max_size=5), st.sets(st.sampled_from(["Dog", "Siren", "Rain"])))
def test_more_tags_never_invent_more(captions: list[str], names: set[str]) -> None:
    one, all_three = support(), dict.fromkeys(["Dog", "Siren", "Rain"], 0.5)
    some = [one.heard(text, dict.fromkeys(names, 0.5)) for text in captions]
    every = [one.heard(text, all_three) for text in captions]
    assert all(not row.unsupported and row.words == less.words for row, less in zip(every, some, strict=True))
    words = sum(len(row.words) for row in some)
    expected = sum(w.title() not in names for row in some for w in row.words)
    assert invented.share(some) == (pytest.approx(expected / words) if words else pytest.approx(math.nan, nan_ok=True))


CAPTIONS = {"a": "a dog barks", "b": "a siren wails", "c": "it is loud", "d": "rain"}
REFERENCES = {name: ["something is heard"] for name in CAPTIONS}
TAGS = {"a": {"Dog": 0.9, "Bark": 0.4}, "b": [["Dog", 0.9, 0.0, 2.0]], "c": {"Dog": 0.9}, "d": []}


def test_the_share_stands_among_the_scores_where_captions_come_with_tags(real: Support) -> None:
    found = score(CAPTIONS, REFERENCES, ("invented",), tags=TAGS)
    assert found.corpus == {"invented": 0.5} and found.absent == {}
    assert found.items == {"a": {"invented": 0.0}, "b": {"invented": 1.0}, "c": {}, "d": {}}
    counted = {key: value for key, value in found.vocabulary.items() if "sound" in key or "tags" in key}
    assert counted == {
        "sound_words": 4, "sound_words_invented": 2, "captions_with_tags": 3, "captions_with_sound_words": 2
    }  # fmt: skip
    assert found.notes == [
        "invented: no tag supports 2 of 4 sound words: siren, wail; 2 of 4 captions name a sound and come with tags,"
        " which 1 lack"
    ]
    usual = score(CAPTIONS, REFERENCES, tags={"a": TAGS["a"]})
    assert usual.corpus["invented"] == 0.0


def test_without_tags_or_words_the_share_is_absent_and_never_zero() -> None:
    plain = score(CAPTIONS, REFERENCES, ("rouge_l", "invented"))
    assert "invented" not in plain.corpus and "no caption comes with tags" in plain.absent["invented"]
    assert plain.notes == [] and "sound_words" not in plain.vocabulary
    wordless = score({"c": CAPTIONS["c"]}, {"c": REFERENCES["c"]}, ("invented",), tags={"c": {"Dog": 0.9}})
    assert wordless.corpus == {} and "names a sound of the list" in wordless.absent["invented"]
    assert "no caption comes with tags" in human({"a": ["rain", "dog"]}, ("invented",)).absent["invented"]
