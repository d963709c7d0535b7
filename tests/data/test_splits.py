from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import tries

from ossicle.contracts import Clip
from ossicle.data.splits import check_labels, hold_out, per_class, select
from ossicle.errors import DataError, UnknownNameError, UsageError


def clip(number: int, label: str = "", group: str = "", split: str = "", licence: str = "") -> Clip:
    return Clip(
        path=Path(f"{number}.wav"),
        labels=(label,) if label else (),
        group=group,
        split=split,
        licence=licence,
        name=f"{number}.wav",
    )


CLIPS = [
    clip(0, "dog", split="1", licence="CC0"),
    clip(1, "cat", split="1", licence="CC-BY"),
    clip(2, "dog", split="2", licence="CC-BY-NC"),
    clip(3, "cat", split="2"),
]


def test_select_by_split_and_licence() -> None:
    assert select(CLIPS) == CLIPS
    assert select(CLIPS, ["2"]) == CLIPS[2:]
    assert select(CLIPS, None, ["cc0", "CC-BY"]) == CLIPS[:2]
    assert select(CLIPS, ["1"], ["CC-BY"]) == [CLIPS[1]]


def test_select_refuses_what_leaves_nothing() -> None:
    with pytest.raises(UnknownNameError, match="unknown split '5'; choose from: 1, 2"):
        select(CLIPS, ["1", "5"])
    with pytest.raises(UnknownNameError, match="this data set has none"):
        select([clip(0)], ["train"])
    with pytest.raises(DataError, match=r"found \(none stated\) \(1 clips\), CC-BY-NC \(1 clips\)"):
        select(CLIPS, ["2"], ["CC0"])
    with pytest.raises(DataError, match="no clip is left"):
        select([], None, None)


def test_a_clip_without_licence_is_never_allowed() -> None:
    with pytest.raises(DataError):
        select([clip(0, "dog")], None, [""])


def test_hold_out_is_stratified_and_repeatable() -> None:
    clips = [clip(n, ("dog", "cat", "hen")[n % 3]) for n in range(60)]
    train, val = hold_out(clips, 0.2, seed=3)
    assert Counter(c.labels[0] for c in val) == {"dog": 4, "cat": 4, "hen": 4}
    assert (train, val) == hold_out(clips, 0.2, seed=3)
    assert val != hold_out(clips, 0.2, seed=4)[1]
    backwards = hold_out(clips[::-1], 0.2, seed=3)
    assert set(backwards[1]) == set(val)
    without_hens = hold_out([c for c in clips if c.labels != ("hen",)], 0.2, seed=3)
    assert set(without_hens[1]) == {c for c in val if c.labels != ("hen",)}


def test_hold_out_keeps_a_single_group_in_training() -> None:
    clips = [clip(n, "dog", group="one") for n in range(5)] + [clip(5, "cat"), clip(6, "cat")]
    train, val = hold_out(clips, 0.5, seed=0)
    assert [c for c in train if c.labels == ("dog",)] == clips[:5]
    assert [c.labels for c in val] == [("cat",)]


def test_hold_out_keeps_the_only_group_of_a_second_class() -> None:
    shared = [clip(0, "dog", "mixed"), clip(1, "dog", "mixed"), clip(2, "cat", "mixed")]
    clips = [*shared, clip(3, "dog", "alone"), clip(4, "dog", "alone")]
    for seed in range(10):
        train, _ = hold_out(clips, 0.5, seed)
        assert set(shared) <= set(train)


def test_hold_out_without_groups_keeps_stretches_of_one_file_together() -> None:
    clips = [Clip(Path(f"{n // 4}.wav"), start=float(n % 4), labels=("dog",)) for n in range(40)]
    train, val = hold_out(clips, 0.3, seed=0)
    assert len(val) == 12
    assert not {c.path for c in train} & {c.path for c in val}


def test_hold_out_of_nothing_and_of_too_much() -> None:
    assert hold_out(CLIPS, 0.0, seed=0) == (CLIPS, [])
    assert hold_out([], 0.2, seed=0) == ([], [])
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="outside"):
            hold_out(CLIPS, fraction, seed=0)


@tries(150)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 8)), max_size=50),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 3),
)
def test_hold_out_never_splits_a_group_and_loses_nothing(
    rows: list[tuple[str, int]], fraction: float, seed: int
) -> None:
    clips = [clip(n, label, f"g{group}" if group else "") for n, (label, group) in enumerate(rows)]
    train, val = hold_out(clips, fraction, seed)
    assert sorted(train + val, key=clips.index) == clips
    assert train == [c for c in clips if c in train]
    assert val == [c for c in clips if c in val]
    assert not {c.group for c in train if c.group} & {c.group for c in val if c.group}
    assert {c.labels for c in train} == {c.labels for c in clips}
    groups: dict[tuple[str, ...], set[str]] = {}
    for c in clips:
        groups.setdefault(c.labels, set()).add(c.group or c.name)
    pure = len({g for found in groups.values() for g in found}) == sum(len(found) for found in groups.values())
    if pure and fraction > 0:
        assert {c.labels for c in val} == {labels for labels, found in groups.items() if len(found) > 1}


def test_per_class_is_sorted_and_nested() -> None:
    clips = [clip(n, "dog" if n % 2 else "cat") for n in range(40)]
    four, eight = per_class(clips, 4, seed=1), per_class(clips[::-1], 8, seed=1)
    assert Counter(c.labels[0] for c in four) == {"cat": 4, "dog": 4}
    assert set(four) <= set(eight)
    assert four == sorted(four, key=lambda c: (c.labels, c.name))
    assert four != per_class(clips, 4, seed=2)


def test_per_class_refuses_small_classes() -> None:
    with pytest.raises(DataError, match=r"3 clips per class.*cat \(2\), dog \(2\)"):
        per_class(CLIPS, 3, seed=0)
    with pytest.raises(UsageError):
        per_class(CLIPS, 0, seed=0)


def test_check_labels_names_every_fault() -> None:
    assert check_labels(CLIPS) == []
    faults = check_labels([*CLIPS, clip(4, "hen"), clip(5), Clip(Path("x/6.wav"), labels=("dog", "cat"))])
    assert len(faults) == 3
    assert "1 clip(s) have no label: 5.wav" in faults[0]
    assert "more than one label: 6.wav" in faults[1]
    assert "label 'hen' has 1 clip, at least 2 are wanted" in faults[2]
    assert "'dog' is the only label" in check_labels([clip(0, "dog"), clip(1, "dog")])[0]
