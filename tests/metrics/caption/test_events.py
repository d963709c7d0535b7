"""What captions state of sounds and their order, and whether wrong ones are caught."""

from typing import Any

import numpy as np
import pytest

from ossicle.data.phrases import esc50
from ossicle.data.wordings import TEMPLATES, Slots, compose
from ossicle.errors import DataError
from ossicle.metrics.caption.events import mentions, pairs, score, truth

LABELS = sorted(esc50().entries)


def rows(slots: Slots, background: str | None) -> list[dict[str, Any]]:
    """The table of events of a scene."""
    found = [
        {"label": label, "start": 2.0 * turn, "end": 2.0 * turn + 1}
        for turn, group in enumerate(slots)
        for label in group
    ]
    return found + ([{"label": background, "start": 0.0, "end": 9.0}] if background else [])


def scene(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Slots, str | None]:
    """Labels for a shape, sometimes over a background."""
    labels = [LABELS[k] for k in rng.permutation(len(LABELS))]
    slots = []
    for size in shape:
        slots.append(tuple(labels.pop() for _ in range(size)))
    under = next(label for label in labels if esc50().of(label).background) if rng.random() < 0.4 else None
    return tuple(slots), under


def made(count: int, seed: int = 0) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Five captions for each of `count` scenes, one row each."""
    rng = np.random.default_rng(seed)
    captions, table = {}, []
    for k in range(count):
        shape = list(TEMPLATES)[k % len(TEMPLATES)]
        slots, under = scene(rng, shape)
        for n, text in enumerate(compose(slots, esc50(), rng, background=under)):
            captions[f"{k}_{n}.flac"] = text
            table.append({"file_name": f"audio/{k}_{n}.flac", "events": rows(slots, under)})
    return captions, table


def test_own_captions_are_right_in_all() -> None:
    captions, table = made(1200)
    found = score(captions, table)
    items = found.pop("items")
    assert [item for item in items if item["missed"] or item["invented"] or item["wrong"]] == []
    shares = {value for key, value in found.items() if not key.endswith("_pairs")}
    assert shares == {1.0}
    assert {e["label"] for row in table for e in row["events"]} == set(LABELS)
    assert found["order_pairs"] > 3000
    assert found["together_pairs"] > 3000


def test_a_swapped_order_is_caught() -> None:
    captions, table = made(120, seed=1)
    swapped = [
        row | {"events": [e if e["end"] == 9.0 else e | {"start": 8 - e["end"], "end": 8 - e["start"]} for e in events]}
        for row in table
        for events in [row["events"]]
    ]
    found = score(captions, swapped)
    assert found["order_accuracy"] == 0.0
    assert found["order_coverage"] == found["together_accuracy"] == found["event_f1"] == 1.0
    wrong = [item for item in found["items"] if item["wrong"]]
    assert len(wrong) == sum(item["counts"]["order_pairs"] > 0 for item in found["items"])


def test_sounds_at_once_said_to_be_in_order_are_caught() -> None:
    table = [{"file_name": "a", "events": rows((("dog", "cat"),), None)}]
    found = score({"a": "A dog barks then a cat meows"}, table)
    assert (found["together_accuracy"], found["together_coverage"], found["order_accuracy"]) == (0.0, 1.0, None)
    assert found["items"][0]["wrong"] == [["cat", "dog", "after"]]
    found = score({"a": "A dog barks and a cat meows"}, table)
    assert (found["together_accuracy"], found["together_coverage"]) == (None, 0.0)


def test_a_replaced_sound_is_caught() -> None:
    captions, table = made(60, seed=2)
    for row in table:
        own = {e["label"] for e in row["events"]}
        row["events"][0]["label"] = next(label for label in LABELS if label not in own)
    found = score(captions, table)
    assert all(len(item["missed"]) == len(item["invented"]) == 1 for item in found["items"])
    assert found["event_recall"] == found["event_precision"] < 0.8


@pytest.mark.parametrize(
    ("caption", "labels"),
    [
        ("A fire engine siren wails as an engine runs", ["siren", "engine"]),
        ("A rooster crows, a crow caws", ["rooster", "crow"]),
        ("Rain pours while water pours into a glass", ["rain", "pouring_water", "glass_breaking"]),
        ("An alarm clock rings and a clock ticks", ["clock_alarm", "clock_tick"]),
        ("An airplane flies overhead, flies buzz", ["airplane", "insects"]),
        ("A helicopter engine, a plane engine, a chain saw", ["helicopter", "airplane", "chainsaw"]),
        ("Someone knocks on a wooden door, the door creaks", ["door_wood_knock", "door_wood_creaks"]),
        ("A mouse clicks before keyboard clicking", ["mouse_click", "keyboard_typing"]),
        ("Crickets are loudly chirping and birds chirp", ["crickets", "chirping_birds"]),
        ("Thunder claps and people clap", ["thunderstorm", "clapping"]),
        ("A baby laughs", ["laughing"]),
        ("A dog can be heard", ["dog"]),
        ("A train horn honks, a car honks", ["train", "car_horn"]),
        ("Water drips from rain drops", ["water_drops", "rain"]),
        ("A man speaks", []),
        ("", []),
    ],
)
def test_mentions_in_free_text(caption: str, labels: list[str]) -> None:
    assert [one.label for one in mentions(caption, esc50())] == labels


def test_positions_are_those_of_the_words() -> None:
    caption = "Then a DOG barks"
    assert [caption[m.start : m.end] for m in mentions(caption, esc50())] == ["DOG barks"]


@pytest.mark.parametrize(
    ("caption", "stated"),
    [
        ("A dog barks followed by rain", "dog<rain"),
        ("A dog barks after rain falls", "rain<dog"),
        ("After rain, a dog barks and a cat meows", "rain<dog rain<cat"),
        ("Before a dog barks, rain falls", "rain<dog"),
        ("Rain falls while a dog barks, then a cat meows", "dog=rain dog<cat rain<cat"),
        ("Rain falls while a dog barks then a cat meows", "dog=rain dog<cat"),
        ("A dog barks then a cat meows while rain falls", "dog<cat cat=rain"),
        ("A dog barks then a cat meows then rain falls", "dog<cat dog<rain cat<rain"),
        ("As rain falls, a dog barks and then a cat meows", "dog=rain cat=rain dog<cat"),
        ("A dog barks then a cat meows with rain in the background", "dog=rain cat=rain dog<cat"),
        ("In the background rain falls, a dog barks, then a cat meows", "dog=rain cat=rain dog<cat"),
        ("A dog barks and a cat meows at the same time, then rain falls", "cat=dog dog<rain cat<rain"),
        ("A dog barks before a cat meows and rain falls at the same time", "dog<cat dog<rain cat=rain"),
        ("A dog barks and at the same time a cat meows", "cat=dog"),
        ("A dog barks together with a cat", "cat=dog"),
        ("A dog barks after a while rain falls", "dog<rain"),
        ("A dog barks as well as a cat", ""),
        ("A dog barks, a cat meows", ""),
        ("A dog barks, then a cat meows, then a dog barks", "dog?cat"),
        ("A dog barks and a man speaks in the background", ""),
        ("A dog barks", ""),
        ("", ""),
    ],
)
def test_what_a_caption_states(caption: str, stated: str) -> None:
    found = pairs(caption, esc50())
    signs = {"before": "<", "together": "=", "mixed": "?"}
    told = {
        f"{a}{signs[kind]}{b}"
        for (a, b), kind in found.items()
        if kind == "before" or (kind == "together" and a < b) or (kind == "mixed" and a > b)
    }
    assert told == set(stated.split())
    for (a, b), kind in found.items():
        assert found[b, a] == {"before": "after", "after": "before"}.get(kind, kind)


def test_truth_is_read_off_the_times() -> None:
    found = truth([
        {"label": "a", "start": 0.0, "end": 1.0},
        {"label": "b", "start": 1.0, "end": 2.0},
        {"label": "c", "start": 1.5, "end": 3.0},
    ])  # fmt: skip
    assert found == {
        ("a", "b"): "before", ("b", "a"): "after", ("a", "c"): "before", ("c", "a"): "after",
        ("b", "c"): "together", ("c", "b"): "together",
    }  # fmt: skip


def test_counts_are_over_all_events() -> None:
    table = [
        {"file_name": "audio/1.flac", "events": rows((("dog",), ("cat",)), None)},
        {"file_name": "audio/2.flac", "events": rows((("rain",),), None)},
    ]
    found = score({"1.flac": "A dog barks then a pig oinks", "2.flac": ""}, table)
    assert (found["event_recall"], found["event_precision"]) == (1 / 3, 1 / 2)
    assert found["event_f1"] == pytest.approx(0.4)
    assert found["order_coverage"] == 0.0
    assert found["items"][0]["invented"] == ["pig"]
    assert found["items"][1]["missed"] == ["rain"]


def test_labels_of_the_users_own() -> None:
    table = [{"file_name": "a", "events": rows((("Bench grinder",), ("wren",)), None)}]
    found = score({"a": "The sound of a bench grinder and then wrens"}, table)
    assert found["event_f1"] == found["order_accuracy"] == 1.0


def test_captions_and_scenes_must_go_together() -> None:
    table = [{"file_name": "a.flac", "events": rows((("dog",),), None)}]
    with pytest.raises(DataError, match=r"1 scene\(s\) have no caption: a.flac; 1 caption\(s\) have no scene: b.flac"):
        score({"b.flac": "A dog"}, table)
    with pytest.raises(DataError, match="no events"):
        score({"a.flac": "A dog"}, [{"file_name": "a.flac"}])
    with pytest.raises(DataError, match="no scenes"):
        score({}, [])


def test_scenes_of_one_name_in_two_folders_keep_their_own_captions() -> None:
    table = [{"file_name": f"{label}/0.flac", "events": rows(((label,),), None)} for label in ("dog", "cat")]
    found = score({"/s/cat/0.flac": "A cat meows", "/s/dog/0.flac": "A dog barks"}, table)
    assert found["event_f1"] == 1.0
    with pytest.raises(DataError, match="1 scene\\(s\\) come more than once: dog/0.flac"):
        score({"dog/0.flac": "A dog barks"}, [table[0], table[0]])
