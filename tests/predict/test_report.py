import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from tests.tiny import write_tone

from ossicle.contracts import Prediction
from ossicle.errors import CheckpointError, UsageError
from ossicle.pictures.spectrogram import Spectrogram
from ossicle.predict import report
from ossicle.predict.report import Item, Model

MODEL = Model("birds<1>", "whisper-tiny.en", "lora(rank=8)", 12_288, 650, 8_208_384, 52_400)
SCORES = {"cat": 0.5, "dog": 0.2, "sea_waves": 0.15, "<i>&\"'": 0.1, "hen": 0.03, "cow": 0.02}
VOID = {"meta", "img", "polygon"}
HOSTILE = "<script>alert('x')&\"onload=\".wav"


class Page(HTMLParser):
    """Elements with their attributes and the text below them; tags must nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {**dict(attrs), "tag": tag, "text": "", "parents": [id(e) for e in self.open]}
        assert len(element) == len(attrs) + 3, f"an attribute of {tag} is given twice"
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, within: dict[str, Any] | None = None, **wanted: str) -> list[dict[str, Any]]:
        return [
            e for e in self.elements
            if e["tag"] == tag and (within is None or id(within) in e["parents"])
            and all(value in (e.get(key) or "").split() for key, value in wanted.items())
        ]  # fmt: skip

    def cards(self) -> list[dict[str, Any]]:
        return self.all("article")


def heard(path: Path, expected: str | None = None, scores: dict[str, float] | None = None) -> Item:
    if not path.exists():
        write_tone(path, 440.0, 0.2)
    wave = np.sin(np.arange(3200) / 10).astype(np.float32) / 2
    power = np.linspace(-1, 1, 20 * 80, dtype=np.float32).reshape(20, 80)
    features = Spectrogram(power, np.linspace(50.0, 7800.0, 80), 0.01)
    return Item(Prediction(str(path), scores=scores or SCORES), wave, features, 0.2, 0.05, expected)


def failed(path: Path) -> Item:
    return Item(Prediction(str(path), error=f"{path}: holds <b>no</b> sound; copy it again"), expected="dog")


def page(items: list[Item], folder: Path | None = None, **more: Any) -> Page:
    return Page(
        report.html_report(items, title="What <b>it</b> heard", model=MODEL, took_s=1.25, folder=folder, **more)
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Path]:
    """Three sounds, one of a hostile name, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("sounds")
    items = [
        heard(folder / "cat.wav", "cat"), heard(folder / HOSTILE), failed(folder / "<img src=x>.wav"),
        heard(folder / "sea.wav", "sea_waves"),
    ]  # fmt: skip
    return page(items, folder, notes=["CC0 & free"]), folder


def test_every_sound_has_a_card_with_picture_player_and_waveform(shown: tuple[Page, Path]) -> None:
    made, folder = shown
    good = [card for card in made.cards() if "failed" not in card["class"]]
    assert len(good) == 3
    for card, name in zip(good, ["cat.wav", HOSTILE, "sea.wav"], strict=True):
        (image,) = made.all("img", card)
        assert name in image["alt"] and "80 mel bands" in image["alt"]
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
        (player,) = made.all("audio", card)
        assert "controls" in player and name in player["aria-label"]
        assert base64.b64decode(player["src"].removeprefix("data:audio/wav;base64,")) == (folder / name).read_bytes()
        (wave,) = made.all("svg", card)
        assert wave["role"] == "img" and name in wave["aria-label"] and "peak 0.50" in wave["aria-label"]


def test_every_card_is_named_by_its_heading(shown: tuple[Page, Path]) -> None:
    made, _ = shown
    for card in made.cards():
        (heading,) = made.all("h2", card)
        assert heading["id"] == card["aria-labelledby"]
    names = [heading["text"] for heading in made.all("h2")]
    assert names == ["cat.wav", HOSTILE, "<img src=x>.wav", "sea.wav"]


def test_bars_are_the_five_best_classes(shown: tuple[Page, Path]) -> None:
    made, _ = shown
    card = made.cards()[0]
    assert [e["text"] for e in made.all("span", card, **{"class": "name"})] == [
        "cat",
        "dog",
        "sea waves",
        "<i>&\"'",
        "hen",
    ]
    values = [float(e["text"].rstrip("%")) for e in made.all("span", card, **{"class": "value"})]
    widths = [float(e["style"].removeprefix("width:").rstrip("%")) for e in made.all("span", card, **{"class": "fill"})]
    assert values == widths == [50, 20, 15, 10, 3]
    assert sum(values) <= 100


def test_hostile_names_stay_text(shown: tuple[Page, Path]) -> None:
    made, _ = shown
    assert not made.all("script") and not made.all("i") and not made.all("b")
    assert not [e for e in made.elements if any(key.startswith("on") for key in e)]
    assert made.all("title")[0]["text"] == "What <b>it</b> heard"
    assert made.all("dd")[0]["text"] == "birds<1>lora(rank=8)"


def test_nothing_is_asked_of_the_network(shown: tuple[Page, Path]) -> None:
    made, _ = shown
    assert not made.all("link") and not made.all("a") and not made.all("iframe")
    assert all(e["src"].startswith("data:") for e in made.elements if "src" in e)
    assert not re.search(r"url\(|@import", made.all("style")[0]["text"])
    policy = next(e["content"] for e in made.all("meta") if e.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "script-src" not in policy


def test_an_unreadable_sound_says_why_without_naming_its_folder(shown: tuple[Page, Path]) -> None:
    made, folder = shown
    (card,) = made.all("article", **{"class": "failed"})
    assert "<img src=x>.wav: holds <b>no</b> sound; copy it again" in card["text"]
    assert not made.all("img", card) and not made.all("audio", card) and not made.all("li", card)
    assert str(folder) not in made.all("html")[0]["text"]


def test_header_says_what_was_done(shown: tuple[Page, Path]) -> None:
    made, _ = shown
    assert made.all("p", **{"class": "verdict"})[0]["text"] == "1 of 3 labels right, 1 could not be read"
    facts = {name["text"]: value["text"] for name, value in zip(made.all("dt"), made.all("dd"), strict=True)}
    assert facts["Trained parameters"] == "12,9380.16% of the backbone: adapter 12,288, head 650"
    assert facts["Size of what was trained"].startswith("52 KB")
    assert facts["Sounds"] == "40.6 s of sound"
    assert facts["Time taken"].startswith("1.2 s")
    assert "CC0 & free" in made.all("footer")[0]["text"]


def test_badges_tell_right_wrong_and_unknown(shown: tuple[Page, Path]) -> None:
    made, _ = shown
    assert [e["text"] for e in made.all("span", **{"class": "badge"})] == [
        "label right", "label: not a class the model knows", "could not be read", "label wrong, it is sea waves",
    ]  # fmt: skip


def test_a_caption_is_shown_as_text(tmp_path: Path) -> None:
    row = Prediction(str(tmp_path / "a.xyz"), scores=SCORES, caption="A <b>dog</b> barks")
    assert [p["text"] for p in page([Item(row)]).all("p", **{"class": "said"})] == ["A <b>dog</b> barks"]
    assert not page([heard(tmp_path / "b.wav")]).all("p", **{"class": "said"})


def test_tags_lie_under_the_spectrogram_and_the_caption_below_and_only_the_label_is_judged(tmp_path: Path) -> None:
    item = heard(tmp_path / "cat.wav", "cat")
    tags = [("Purr", 0.25, 0.0, 0.1), ("<i>Cat</i>", 0.75, 0.05, 0.15)]
    made = page([replace(item, row=replace(item.row, caption="A cat purrs", tags=tags))])
    assert [e["text"] for e in made.all("span", **{"class": "badge"})] == [
        "label right", "tags, not judged", "caption, not judged",
    ]  # fmt: skip
    (named,) = made.all("ol", **{"class": "tags"})
    assert [e["text"] for e in made.all("span", named, **{"class": "name"})] == ["<i>Cat</i>", "Purr"]
    assert [e["text"] for e in made.all("span", named, **{"class": "value"})] == ["75.0%", "25.0%"]
    bars = [e["style"].rsplit(";", 1)[0] for e in made.all("span", named, **{"class": "bar"})]
    assert bars == ["left:25.00%;width:50.00%", "left:0.00%;width:50.00%"]
    order = [e["tag"] for e in made.elements if e["tag"] in ("img", "ol", "svg") or e.get("class") == "said"]
    assert order == ["img", "ol", "p", "svg", "ol"]
    assert not page([item]).all("ol", **{"class": "tags"})


def test_verdict_is_computed(tmp_path: Path) -> None:
    cat = tmp_path / "cat.wav"
    assert report.verdict([heard(cat, "cat"), heard(cat, "dog"), heard(cat), failed(cat)]) == "1 of 3 labels right"
    assert report.verdict([heard(cat)]) == ""
    assert not page([Item(Prediction(str(cat), scores=SCORES))]).all("p", **{"class": "verdict"})


def test_best_is_sorted_and_empty_for_errors() -> None:
    row = Prediction("a.wav", scores={"a": 0.1, "b": 0.7, "c": 0.2})
    assert report.best(row, 2) == [("b", 0.7), ("c", 0.2)]
    assert report.best(Prediction("a.wav", error="no"), 2) == []


def test_a_big_sound_is_linked_from_the_page_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "EMBEDDED_BYTES", 1000)
    sound = write_tone(tmp_path / "in" / "50% <loud> #1?.wav", 440.0, 0.2)
    (player,) = page([heard(sound)], tmp_path / "out").all("audio")
    assert unquote(player["src"]) == "../in/50% <loud> #1?.wav"
    assert not set(player["src"]) & set("<> #?")


def test_what_cannot_be_played_is_said(tmp_path: Path) -> None:
    sound = write_tone(tmp_path / "a.wav", 440.0, 0.2)
    odd = sound.rename(tmp_path / "a.w64")
    gone = Prediction(str(tmp_path / "gone.mp3"), scores=SCORES)
    made = page([heard(odd), Item(gone)])
    assert not made.all("audio")
    assert [e["text"] for e in made.all("p", **{"class": "note"})] == [
        "Browsers do not play .w64 files.", "The sound is not where it was; there is nothing to play.",
    ]  # fmt: skip


def test_bytes_that_are_no_text_do_not_stop_the_page(tmp_path: Path) -> None:
    row = Prediction(f"{tmp_path}/caf\udce9.wav", error="it broke")
    text = report.html_report([Item(row)], title="t", model=MODEL, took_s=0)
    report.save(text, tmp_path / "deep" / "report.html")
    assert "caf?.wav" in (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("wave", [np.zeros(0), np.zeros(5000), np.ones(1), -np.ones(7)])
def test_any_waveform_is_drawn_inside_its_box(tmp_path: Path, wave: np.ndarray) -> None:
    made = page([Item(Prediction(str(tmp_path / "a.xyz"), scores=SCORES), wave)])
    numbers = [float(pair.split(",")[1]) for pair in made.all("polygon")[0]["points"].split()]
    assert 2 <= min(numbers) <= max(numbers) <= 62
    assert "-0.00" not in made.all("figcaption")[0]["text"]


def test_features_that_are_no_spectrogram_are_refused(tmp_path: Path) -> None:
    item = Item(
        Prediction(str(tmp_path / "a.wav"), scores=SCORES),
        features=Spectrogram(np.zeros(3), [1.0], 0.01),
        duration_s=1.0,
    )
    with pytest.raises(UsageError, match=r"\(3,\)"):
        page([item])


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(CheckpointError, match=r"report\.html"):
        report.save("page", tmp_path / "report.html")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]
