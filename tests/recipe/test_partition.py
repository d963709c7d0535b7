"""Which clips are for what, and the classes they have."""

from dataclasses import replace
from pathlib import Path

import pytest

from ossicle.contracts import Clip
from ossicle.errors import DataError, UnknownNameError
from ossicle.recipe import config
from ossicle.recipe.partition import Split, class_weights, labels_of, split


def recipe(*changes: str) -> config.Recipe:
    return config.read(None, changes)


@pytest.fixture
def clips() -> list[Clip]:
    """Two classes in four folds."""
    return [
        Clip(Path(f"{label}{fold}.wav"), labels=(label,), split=str(fold))
        for label in ("low", "high")
        for fold in range(4)
    ]


def splits(clips: list[Clip], *changes: str) -> tuple[set[str], set[str], set[str]]:
    parts = split(clips, recipe(*changes).data, 0)
    return tuple({clip.split for clip in part} for part in (parts.train, parts.val, parts.test))  # type: ignore[return-value]


def test_splits(clips):
    assert splits(clips, "data.val=['1']", "data.test=['2']") == ({"0", "3"}, {"1"}, {"2"})
    assert splits(clips, "data.train=['0']", "data.val=['1']") == ({"0"}, {"1"}, set())
    assert splits(clips, "data.hold_out=0") == ({"0", "1", "2", "3"}, set(), set())
    parts = split(clips, recipe("data.hold_out=0.25").data, 0)
    assert len(parts.train) == 6 and {clip.labels for clip in parts.val} == {("low",), ("high",)}
    assert len(split(clips, recipe("data.per_class=2", "data.hold_out=0").data, 0).train) == 4
    heard = split(clips, recipe("data.val=['1']", "data.test=['2']", "data.channel=2").data, 0)
    assert {clip.channel for part in (heard.train, heard.val, heard.test) for clip in part} == {2}


def test_splits_that_cannot_be(clips):
    with pytest.raises(UnknownNameError, match="split 'dev'"):
        splits(clips, "data.val=['dev']")
    with pytest.raises(DataError, match="no clip of 8 is left to train on"):
        splits(clips, "data.test=['0','1','2','3']")
    with pytest.raises(DataError, match="licence CC0"):
        splits(clips, "data.licences=['CC0']")
    with pytest.raises(DataError, match=r"9 clips per class.*high \(4\)"):
        splits(clips, "data.per_class=9")


def labels(train: str, val: str = "", test: str = "", multi_label: bool = False) -> list[str]:
    """Clips from label texts: 'a b a+b' is three clips, the last with two labels."""
    parts = [
        [Clip(Path(f"{i}.wav"), labels=tuple(t.split("+"))) for i, t in enumerate(text.split())]
        for text in (train, val, test)
    ]
    return labels_of(Split(*parts), recipe(f"task.multi_label={str(multi_label).lower()}"))


def test_a_split_is_not_trained_on_and_scored(clips):
    for change in ("data.test=['1']", "data.val=['1']"):
        with pytest.raises(DataError, match="split '1' is in data.train and"):
            split(clips, recipe("data.train=['0','1']", change).data, 0)
    assert splits(clips, "data.val=['1']", "data.test=['1']")[1:] == ({"1"}, {"1"})


@pytest.mark.parametrize(("labels", "told"), [((), "have no label"), (("low", "high"), "have more than one label")])
def test_test_clips_have_one_label_each(clips, labels, told):
    odd = Clip(Path("odd.wav"), labels=labels)
    with pytest.raises(DataError, match=f"test clips: 1 clip.s. {told}: odd.wav"):
        labels_of(Split(clips, [], [odd]), recipe())
    if labels:
        assert labels_of(Split(clips, [], [odd]), recipe("task.multi_label=true")) == ["high", "low"]


def test_labels():
    assert labels("b a a b", "a", "b") == ["a", "b"]
    for given, told in [
        (("a a b",), "'b' has 1 clip"),
        (("a a",), "'a' is the only label"),
        (("a a b b", "c"), "'c' has 1 clip"),
        (("a a b b", "c c"), "no training clip has: c"),
        (("a a b b", "a", "d"), "no training clip has: d"),
        (("a a b b a+b",), "more than one label"),
    ]:
        with pytest.raises(DataError, match=told):
            labels(*given)


def test_labels_of_clips_with_several():
    assert labels("a+b b+c a+c", multi_label=True) == ["a", "b", "c"]
    with pytest.raises(DataError, match="'d' has 1 clip"):
        labels("a+b a+b+d", multi_label=True)


def test_splits_the_data_names_itself_are_used_unless_the_recipe_says_otherwise():
    names = ["train", "train", "valid", "test"]
    clips = [Clip(Path(f"{n}{i}.wav"), labels=(n,), split=s) for n in "ab" for i, s in enumerate(names)]
    assert splits(clips) == ({"train"}, {"valid"}, {"test"})
    assert splits(clips, "data.test=['test']", "data.hold_out=0") == ({"train", "valid"}, set(), {"test"})
    for names in (
        ["Train", "Train", "Val", "Test"],
        ["training", "training", "dev", "testing"],
        ["train"] * 2 + ["VALID", "eval"],
    ):
        called = [replace(c, split=names[i % 4]) for i, c in enumerate(clips)]
        assert splits(called) == ({names[0]}, {names[2]}, {names[3]})
    odd = [Clip(Path(f"{i}.wav"), labels=("a",), split="siteA") for i in range(4)]
    assert splits(odd, "data.hold_out=0") == ({"siteA"}, set(), set())


def test_class_weights_are_inverse_to_counts_and_one_on_average():
    clips = [Clip(Path("x.wav"), labels=(label,)) for label in "aaab"]
    assert class_weights(recipe().task, clips, ["a", "b"]) is None
    weights = class_weights(recipe("task.class_weights=balanced").task, clips, ["a", "b"])
    assert weights is not None
    assert weights.tolist() == pytest.approx([0.5, 1.5])
