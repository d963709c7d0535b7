import re

import numpy as np
import pytest

from ossicle.contracts import Tag
from ossicle.pictures.spectrogram import Spectrogram
from ossicle.predict import timeline

HEARD = Spectrogram(np.linspace(-1, 1, 1600).reshape(20, 80), np.linspace(50.0, 7800.0, 80), 0.01)


def parts(tags: list[Tag], seconds: float = 10.0) -> dict[str, tuple[tuple[float, float, float], ...]]:
    return {bar.name: bar.parts for bar in timeline.bars(tags, seconds)}


def test_the_strongest_eight_names_come_first_by_their_highest_score() -> None:
    tags: list[Tag] = [(f"tag {n}", n / 20, 0.0, 10.0) for n in range(10)]
    tags += [("tag 0", 0.9, 9.0, 10.0), ("tag 9", 0.01, 1.0, 2.0)]
    found = timeline.bars(tags, 10.0)
    assert [bar.name for bar in found] == ["tag 0", *(f"tag {n}" for n in range(9, 2, -1))]
    assert found[0].score == 0.9 and found[0].parts == ((0.0, 0.0, 9.0), (0.9, 9.0, 10.0))


def test_where_windows_overlap_the_higher_score_counts() -> None:
    assert parts([("a", 0.2, 0.0, 2.0), ("a", 0.8, 1.0, 3.0), ("a", 0.8, 3.0, 4.0), ("a", 0.1, 6.0, 7.0)]) == {
        "a": ((0.2, 0.0, 1.0), (0.8, 1.0, 4.0), (0.1, 6.0, 7.0))
    }
    assert parts([("a", 0.8, 1.0, 2.0), ("a", 0.2, 0.0, 3.0)]) == {
        "a": ((0.2, 0.0, 1.0), (0.8, 1.0, 2.0), (0.2, 2.0, 3.0))
    }
    (bar,) = timeline.bars([("a", 0.2, 0.0, 2.0), ("a", 0.8, 1.0, 3.0), ("a", 0.1, 6.0, 7.0)], 10.0)
    assert bar.spans == [(0.0, 3.0), (6.0, 7.0)]


def test_bars_end_where_the_sound_ends() -> None:
    """A tagger that goes on in silence hears past the end."""
    assert parts([("a", 0.5, 9.6, 10.6), ("b", 0.9, 10.0, 11.0), ("c", 0.1, -1.0, 0.5)]) == {
        "a": ((0.5, 9.6, 10.0),), "c": ((0.1, 0.0, 0.5),),
    }  # fmt: skip


def test_a_bar_lies_at_its_seconds_and_is_told_in_words() -> None:
    made = timeline.shown("a.wav", HEARD, [("Bee_<b>", 0.83, 1.0, 2.5), ("Bee_<b>", 0.4, 4.0, 5.0)], 5.0)
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)%", made) == [("20.00", "30.00"), ("80.00", "20.00")]
    assert 'title="Bee &lt;b&gt; 83.0%, 1.00 to 2.50 s"' in made and "<b>" not in made
    assert "1.00 to 2.50 s, 4.00 to 5.00 s</span>" in made and 'class="value">83.0%' in made
    times = re.findall(r'<div class="seconds" aria-hidden="true"><span class="unit">s</span>(.*?)</div>', made)
    assert len(times) == 2 and times[0] == times[1]  # one axis for both
    assert re.findall(r'left:([\d.]+)%">([\d.]+)</span>', times[0])[1] == ("20.00", "1")
    assert re.findall(r'bottom:[\d.]+%">([\d.]+)</span>', made) == ["0.1", "1", "2", "4"]
    assert "0.05 to 7.8 kHz in 80 mel bands" in made


def test_many_stretches_are_told_shortly() -> None:
    made = timeline.shown("a.wav", None, [("Tick", 0.5, float(n), n + 0.1) for n in range(60)], 60.0)
    assert made.count('class="bar"') == 60
    assert "0.00 to 0.10 s, 1.00 to 1.10 s, 2.00 to 2.10 s, 57 more times</span>" in made


@pytest.mark.parametrize(("heard", "tags"), [(HEARD, []), (None, [("a", 0.5, 0.0, 1.0)]), (None, [])])
def test_either_may_be_absent(heard: Spectrogram | None, tags: list[Tag]) -> None:
    made = timeline.shown("a.wav", heard, tags, 0.2 if heard else 0.0)
    assert ("<img" in made) == (heard is not None) and ('class="tags"' in made) == bool(tags)
    assert (made == "") == (heard is None and not tags)
