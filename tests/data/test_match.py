"""Names of two files that belong together: paths of different folders, one name in several folders, nothing lost."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import tries

from ossicle.data.match import match


@pytest.mark.parametrize(
    ("first", "second", "pairs"),
    [
        (["a.wav", "b.wav"], ["b.wav", "a.wav"], {"a.wav": "a.wav", "b.wav": "b.wav"}),
        (["/x/a.wav"], ["clotho/a.wav"], {"/x/a.wav": "clotho/a.wav"}),
        (["./dog/1.wav", "cat\\1.wav"], ["dog/1.wav", "cat/1.wav"],
         {"./dog/1.wav": "dog/1.wav", "cat\\1.wav": "cat/1.wav"}),
        (["/r/dog/1.wav", "/r/cat/1.wav"], ["cat/1.wav", "dog/1.wav"],
         {"/r/dog/1.wav": "dog/1.wav", "/r/cat/1.wav": "cat/1.wav"}),
        (["/r/1.wav", "/r/old/1.wav"], ["old/1.wav", "1.wav"], {"/r/1.wav": "1.wav", "/r/old/1.wav": "old/1.wav"}),
        (["/r/dog/1.wav", "/s/cat/1.wav", "/s/2.wav"], ["dog/1.wav", "cat/1.wav", "two/2.wav"],
         {"/r/dog/1.wav": "dog/1.wav", "/s/cat/1.wav": "cat/1.wav", "/s/2.wav": "two/2.wav"}),
    ],
)  # fmt: skip
def test_all_find_their_partner(first: list[str], second: list[str], pairs: dict[str, str]) -> None:
    found = match(first, second)
    assert found.pairs == pairs and found.faults("", "") == ""


@pytest.mark.parametrize(
    ("first", "second", "lone", "absent"),
    [
        (["a.wav", "z.wav"], ["a.wav", "b.wav"], ("z.wav",), ("b.wav",)),
        (["1.wav", "2.wav"], ["dog/1.wav", "cat/1.wav", "2.wav"], ("1.wav",), ("dog/1.wav", "cat/1.wav")),
        (["cow/1.wav", "dog/1.wav"], ["cat/1.wav", "dog/1.wav"], ("cow/1.wav",), ("cat/1.wav",)),
        (["/r/dog/1.wav", "/s/dog/1.wav"], ["dog/1.wav"], ("/r/dog/1.wav", "/s/dog/1.wav"), ("dog/1.wav",)),
        (["dog/1.wav"], ["dog/1.wav", "cat/1.wav"], (), ("cat/1.wav",)),
    ],
)
def test_what_could_be_either_is_neither(
    first: list[str], second: list[str], lone: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    found = match(first, second)
    assert (found.lone, found.absent) == (lone, absent)
    told = found.faults("have no label", "have no row")
    assert all(name in told for name in (*lone, *absent))
    assert ("several files are called 1.wav" in told) == (any("1.wav" in name for name in lone))


names = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)


@tries(300)
@given(st.lists(names, unique=True, max_size=6), st.lists(names, unique=True, max_size=6), st.randoms())
def test_nobody_has_two_partners_and_none_is_lost_in_any_order(
    first: list[str], second: list[str], rng: random.Random
) -> None:
    found = match(first, second)
    assert len(set(found.pairs.values())) == len(found.pairs)
    assert {*found.pairs, *found.lone} == set(first) and {*found.pairs.values(), *found.absent} == set(second)
    assert all(one.split("/")[-1] == other.split("/")[-1] for one, other in found.pairs.items())
    again = match(rng.sample(first, len(first)), rng.sample(second, len(second)))
    assert again.pairs == found.pairs
    back = match(second, first)
    assert {v: k for k, v in back.pairs.items()} == found.pairs


def test_many_files_of_one_name_take_no_time() -> None:
    began = time.perf_counter()
    found = match([f"/r/{i}/audio.wav" for i in range(20_000)], [f"{i}/audio.wav" for i in range(1, 20_001)])
    assert len(found.pairs) == 19_999 and found.lone == ("/r/0/audio.wav",)
    assert time.perf_counter() - began < 5
