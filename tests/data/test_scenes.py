"""Scenes: what is written is true, the same every time, and goes on where it stopped."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ossicle.contracts import Clip
from ossicle.data import mixing, open_data, scenes, wordings
from ossicle.data.phrases import Clause, Phrase, Phrases, fallback, read
from ossicle.data.phrases import esc50 as shipped
from ossicle.errors import DataError, UsageError
from ossicle.metrics.caption import events

RATE = 16_000
LABELS = ("dog", "rain", "cat", "Bench grinder")
SMALL = {"seconds": 5.0, "rate_hz": 8000}
LINKS = re.compile(r"\b(?:then|followed|before|after|while|as|with|and|during|background|together|once)\b|,")


def put(path: Path, value: float, *, pad_s: float = 0.5, seconds: float = 1.5) -> Path:
    """A steady noise between silences."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = value * np.random.default_rng(int(value * 1000)).uniform(-1, 1, int(seconds * RATE))
    pad = np.zeros(int(pad_s * RATE))
    soundfile.write(path, np.concatenate([pad, noise, pad]).astype(np.float32), RATE)
    return path


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    made = []
    for k, label in enumerate(LABELS):
        for n, licence in enumerate(("CC0", "CC-BY", "")):
            path = put(tmp_path / "sounds" / label / f"{n}.wav", 0.1 + 0.05 * k + 0.01 * n, seconds=1.5 + k)
            made.append(Clip(path, labels=(label,), licence=licence, name=f"{label}/{n}.wav"))
    return made


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_opens_as_captioned_clips(clips: list[Clip], tmp_path: Path) -> None:
    made = scenes.make(clips, tmp_path / "out", 12, **SMALL)
    data = open_data(str(tmp_path / "out"))
    assert len(data.clips) == len(made) == 12
    for clip, scene in zip(data.clips, made, strict=True):
        assert (clip.name, clip.labels, clip.captions) == (scene.file_name, scene.labels, scene.captions)
        assert len(set(clip.captions)) == 5
        assert len(set(scene.labels)) == len(scene.labels) == len(scene.events)
        assert [e.start for e in scene.events] == sorted(e.start for e in scene.events)
        stated = {next(c.licence for c in clips if c.name == e.source) or "unknown" for e in scene.events}
        assert clip.licence == ("" if stated == {"unknown"} else "; ".join(sorted(stated)))
    assert {scene.relation for scene in made} <= {shape[0] for shape in scenes.SHAPES}
    assert scenes.read(tmp_path / "out")[3]["events"][0]["label"] == made[3].events[0].label


def test_same_seed_same_bytes_whatever_the_count(clips: list[Clip], tmp_path: Path) -> None:
    scenes.make(clips, tmp_path / "a", 9, **SMALL)
    scenes.make(clips[::-1], tmp_path / "b", 4, **SMALL)
    four = everything(tmp_path / "b")
    scenes.make(clips, tmp_path / "b", 9, **SMALL)
    whole = everything(tmp_path / "a")
    assert everything(tmp_path / "b") == whole
    assert all(whole[name] == data for name, data in four.items() if name != scenes.TABLE)
    assert whole[scenes.TABLE].startswith(four[scenes.TABLE])
    assert len(scenes.make(clips, tmp_path / "b", 2, **SMALL)) == 2
    assert everything(tmp_path / "b") == whole
    scenes.make(clips, tmp_path / "c", 9, seed=1, **SMALL)
    assert everything(tmp_path / "c")[scenes.TABLE] != whole[scenes.TABLE]


def test_a_stopped_run_goes_on(clips: list[Clip], tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scenes.make(clips, tmp_path / "a", 8, progress=stop, **SMALL)
    assert len(open_data(str(tmp_path / "a")).clips) == 5
    (tmp_path / "a" / "audio" / "scene_00004.flac").unlink()
    done: list[int] = []
    scenes.make(clips, tmp_path / "a", 8, progress=done.append, **SMALL)
    assert done == [4, 5, 6, 7, 8]
    scenes.make(clips, tmp_path / "b", 8, **SMALL)
    assert everything(tmp_path / "a") == everything(tmp_path / "b")


def test_times_are_those_of_the_sound(clips: list[Clip], tmp_path: Path) -> None:
    made = scenes.make(clips, tmp_path / "out", 30, **SMALL)
    relations = set()
    for scene in made:
        wave, rate = soundfile.read(tmp_path / "out" / scene.file_name)
        assert (rate, len(wave)) == (8000, 40_000)
        assert 0.01 < np.abs(wave).max() <= 0.951
        inside = np.zeros(len(wave), dtype=bool)
        for event in scene.events:
            low, high = round(event.start * rate), round(event.end * rate)
            assert 0 <= low < high <= len(wave)
            inside[low:high] = True
            assert event.background == (high - low == len(wave))
            if not event.background:  # they begin and end with the sound itself, but for the fades
                assert np.abs(wave[low : low + 400]).max() > 0.01
                assert np.abs(wave[high - 800 : high]).max() > 0.003
        assert not wave[~inside].any()
        front = [e for e in scene.events if not e.background]
        facts = {(a.label, b.label): b.start - a.end for i, a in enumerate(front) for b in front[i + 1 :]}
        relations.add(scene.relation)
        kinds = {"single": [], "overlap": [False], "sequence": [True] * len(facts)}
        if scene.relation in kinds:
            assert [gap > 0 for gap in facts.values()] == kinds[scene.relation]
        else:
            assert sorted(gap > 0 for gap in facts.values()) == [False, True, True]
    assert relations == {"single", "sequence", "overlap", "then overlap", "overlap then"}


def test_captions_agree_with_the_table(clips: list[Clip], tmp_path: Path) -> None:
    made = scenes.make(clips, tmp_path / "out", 20, **SMALL)
    rows = scenes.read(tmp_path / "out")
    for k in range(5):
        found = events.score({s.file_name: s.captions[k] for s in made}, rows)
        assert found["event_f1"] == found["order_accuracy"] == found["together_accuracy"] == 1.0, found["items"]
        assert found["order_coverage"] == found["together_coverage"] == 1.0


def test_bad_clips_are_left_out_and_told(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    silent = put(tmp_path / "silent.wav", 0.0)
    bad = [Clip(tmp_path / "text.wav", labels=("dog",), name="text.wav"), Clip(silent, labels=("cat",), name="silent")]
    notices: list[str] = []
    made = scenes.make([*clips, *bad], tmp_path / "out", 12, notice=notices.append, **SMALL)
    assert len(made) == 12
    assert len(notices) == 2
    assert not {"text.wav", "silent"} & {event.source for scene in made for event in scene.events}
    one = [clips[0], *(Clip(silent, labels=(label,)) for label in "abc")]
    assert {s.relation for s in scenes.make(one, tmp_path / "one", 5, **SMALL)} == {"single"}
    with pytest.raises(DataError, match="none of the clips can be decoded"):
        scenes.make([Clip(silent, labels=(label,)) for label in "abc"], tmp_path / "none", 1)


def test_what_cannot_be_made_is_refused(clips: list[Clip], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="none of 1 clips has exactly one label"):
        scenes.make([Clip(tmp_path / "a.wav", labels=("a", "b"))], out, 1)
    with pytest.raises(DataError, match="clips of cat, dog came; scenes want 3 labels"):
        scenes.make([c for c in clips if c.labels[0] in ("dog", "cat")], out, 1)
    for name, value in (("count", 0), ("seconds", 2.0), ("seed", -1), ("captions", 6), ("rate_hz", 10)):
        with pytest.raises(UsageError, match=f"{name} of the scenes came as {value}"):
            scenes.make(clips, out, **({"count": 1} | {name: value}))
    assert not out.exists()
    scenes.make(clips, out, 1, **SMALL)
    with pytest.raises(DataError, match="made with another seed, seconds"):
        scenes.make(clips, out, 1, seed=3, seconds=6.0, rate_hz=8000)
    with pytest.raises(DataError, match="another clips"):
        scenes.make(clips[1:], out, 1, **SMALL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metadata.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="is not of scenes"):
        scenes.make(clips, tmp_path / "other", 1)
    with pytest.raises(DataError, match="without file_name or events"):
        scenes.read(tmp_path / "other")
    with pytest.raises(DataError, match="cannot be read"):
        scenes.read(tmp_path)


def test_real_clips(esc50: Path, tmp_path: Path) -> None:
    some = [clip for clip in open_data(f"esc50:{esc50}").clips if clip.split == "4"]
    made = scenes.make(some, tmp_path / "out", 15, seed=2)
    assert len({label for scene in made for label in scene.labels}) > 15
    found = events.score({s.file_name: s.captions[0] for s in made}, scenes.read(tmp_path / "out"))
    assert found["event_f1"] == found["order_accuracy"] == found["together_accuracy"] == 1.0
    table = (tmp_path / "out" / scenes.TABLE).read_text()
    assert str(esc50) not in table
    assert json.loads(table.splitlines()[0])["seed"] == 2


def test_active_level_loop() -> None:
    wave = np.zeros(RATE)
    wave[3200:8000] = 0.5
    wave[12_000:] = 0.001  # far below
    assert mixing.active(wave, RATE) == (3200, 8000)
    assert mixing.active(np.zeros(RATE), RATE) == (0, 0)
    assert mixing.active(np.zeros(0), RATE) == (0, 0)
    level = mixing.level(wave, RATE)
    assert np.sqrt(np.mean(level[3200:8000] ** 2)) == pytest.approx(0.1)
    noise = np.random.default_rng(0).standard_normal(RATE)
    looped = mixing.loop(noise, 4 * RATE, RATE)
    assert looped.shape == (4 * RATE,)
    rms = np.sqrt(np.mean(looped[: 35 * 1600].reshape(35, -1) ** 2, axis=1))
    assert rms.min() > 0.85
    assert rms.max() < 1.15
    loud = mixing.mix([np.full(100, 0.8)] * 3, [0, 0, 50], [0.0, 0.0, 0.0], 200)
    assert np.abs(loud).max() == pytest.approx(0.95)


@pytest.mark.parametrize("label", sorted(shipped().entries))
def test_every_wording_is_found_again_and_keeps_to_itself(label: str) -> None:
    entry = shipped().of(label)
    texts = [*entry.nouns, *(c.present for c in entry.clauses), *(c.progressive for c in entry.clauses)]
    assert len(entry.clauses) >= 3
    assert len(entry.things) >= 3
    for text in texts:
        assert [one.label for one in events.mentions(text, shipped())] == [label], text
        assert not LINKS.search(text), text
        assert text == text.strip().replace("  ", " ")


def test_all_labels_of_esc50_have_wordings(esc50: Path) -> None:
    labels = {clip.labels[0] for clip in open_data(f"esc50:{esc50}").clips}
    assert labels == set(shipped().entries)
    assert sum(entry.background for entry in shipped().entries.values()) >= 5


def test_other_labels_are_spoken_of_by_name() -> None:
    known = shipped().including(["Bench grinder", "Sea-Waves", "bark"])
    assert known.of("Bench grinder") == fallback("Bench grinder")
    assert known.of("Sea-Waves").clauses == shipped().of("sea_waves").clauses
    assert "sea_waves" not in known.entries
    text = "The sound of bench grinder is heard, then waves crash and a bark"
    assert [m.label for m in known.mentions(text)] == ["Bench grinder", "Sea-Waves", "bark"]
    assert known.of("Bench grinder").clauses[0].progressive == "the sound of bench grinder is heard"
    rng = np.random.default_rng(0)
    for shape in wordings.TEMPLATES:
        slots = tuple(tuple(f"{k}{n} thing" for n in range(size)) for k, size in enumerate(shape))
        assert len(set(wordings.compose(slots, shipped(), rng))) == 5


def test_wordings_refuse_what_nobody_wrote() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="groups of"):
        wordings.compose((("dog", "cat", "rain"),), shipped(), rng)
    with pytest.raises(UsageError, match="7 captions"):
        wordings.compose((("dog",),), shipped(), rng, count=7)
    few = Phrases({"dog": Phrase("dog", (Clause("a dog", "barks", ""),), ("a dog",), (r"\bdog\b",))})
    with pytest.raises(UsageError, match="give the labels more wordings"):
        wordings.compose((("dog",),), few, rng)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[dog", "cannot be read as TOML"),
        ("", "holds no label"),
        ("dog = 1", "dog: a table is wanted"),
        ("[dog]\nclauses = []", "clauses is empty"),
        ('[dog]\nclauses = [["a"]]\nthings = ["a"]\nwords = ["a"]', "clauses are wanted as"),
        ('[dog]\nclauses = [["a", "", ""]]\nthings = ["a"]\nwords = ["a"]', "no subject or no verb"),
        ('[dog]\nclauses = [["a", "b", ""]]\nthings = ["a"]\nwords = ["("]', "not a regular expression"),
        ('[dog]\nclauses = [["a", "b", ""]]\nthings = ["a"]\nwords = ["a"]\nloud = 1', "loud is not one of"),
        ('[dog]\nclauses = [["a", "b", ""]]\nthings = ["a"]\nwords = ["a"]\nbackground = 1', "true or false"),
    ],
)
def test_faults_of_a_file_of_wordings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "words.toml").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "words.toml")
