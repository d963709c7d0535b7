"""The captioner from tags: what it reads of sounds and of captions alone, what a row says was heard, strictness."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import tiny
from tests.conftest import pulled

from ossicle.backbones import prompt, seq2seq, tags
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.seq2seq import Sizes
from ossicle.backbones.text import Lora
from ossicle.contracts import Clip
from ossicle.errors import AudioError, DataError, UsageError
from ossicle.tasks import pseudo
from ossicle.tasks.caption_tags import NUMBERS, TagCaptioner
from ossicle.tasks.decode import Decoding, Written
from ossicle.tasks.pseudo import Event, Pretence
from ossicle.tasks.tracks import Track
from ossicle.training.evaluate import predict_rows

SIZES = Sizes(width=16, layers=1, heads=2, inner=24, vocabulary=600, dropout=0.0)
SHORT = Decoding(method="greedy", max_tokens=6)
SAID = ("a low tone", "a high tone", "a tone in between")
ASKED = "One hears: [audio]"


def language(sizes: Sizes = SIZES):
    names = [name.lower() for kind in ("audioset", "yamnet") for name in tags.names(kind)]
    return seq2seq.small(sizes, seq2seq.tokenizer_of(seq2seq.byte_pairs([*SAID, *names], sizes.vocabulary)))


def captioner(encoder: Encoder | None = None, *, causal: bool = False, **options) -> TagCaptioner:
    writes = tiny.language() if causal else options.pop("language", None) or language()
    if causal:
        writes.add_lora(Lora(rank=2))
        options["prompt"] = prompt.prompt(writes.tokenizer, ASKED, chat=True)
    torch.manual_seed(0)
    numbers = torch.nn.Linear(NUMBERS, writes.width)
    options.setdefault("decoding", SHORT)
    return TagCaptioner(encoder or tiny.encoder("mobile"), writes, numbers, **options)


def pretence(tagger: str, **events: str) -> tuple[Pretence, dict[str, list[Event]]]:
    """A tagger that is pretended; captions by keyword, each naming one class."""
    made = Pretence(pseudo.load(tagger))
    named = {
        caption.replace("_", " "): [Event(np.array([made.of.names.index(name)]), np.ones(1), 0)]
        for caption, name in events.items()
    }
    return made, named


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))


@pytest.fixture
def clips(tmp_path) -> list[Clip]:
    return [
        Clip(tiny.write_tone(tmp_path / f"{i}.wav", 300.0 * (i + 1), 0.5 + i, seed=i), captions=(text, text + "!"))
        for i, text in enumerate(SAID)
    ]


def text_only(caption: str) -> Clip:
    return Clip(Path(caption), end=10.0, captions=(caption,), name=caption, text_only=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def read(task: TagCaptioner, batch, row: int) -> str:
    """The text that the language model reads of a row."""
    ids = batch.ids[row][batch.mask[row]]
    return task.language.tokenizer.decode(ids, skip_special_tokens=True)


def track(of: TagCaptioner, seconds: float = 4.0, **rows: list[float]) -> Track:
    table = np.full((4, len(of.tracker.names)), 1e-4, np.float32)
    for name, values in rows.items():
        table[:, of.tracker.names.index(name)] = values
    return Track(table.mean(axis=0), table, seconds)


def hears(task: TagCaptioner, monkeypatch, found: Track) -> None:
    monkeypatch.setattr(task.tracker, "get", lambda clips: [found] * len(clips))


# --- what is read ----------------------------------------------------------------------------------------------------


def test_tags_are_read_in_order_each_with_its_numbers(clips, monkeypatch):
    task = captioner()
    hears(task, monkeypatch, track(task, Dog=[0, 0.8, 0, 0], Rain=[0.5, 0.5, 0.5, 0.5]))
    batch = task.collate(clips[:1], None)
    assert read(task, batch, 0) == "rain. dog."
    tokenizer = task.language.tokenizer
    stop = tokenizer.convert_tokens_to_ids(".")
    ids = batch.ids[0].tolist()
    rain, dog = torch.tensor([0.5, 0.5, 0.5, 0, 1, 1]), torch.tensor([0.44 / 1.3, 0.2, 0.8, 0.25, 0.5, 1])
    wanted, now = [], rain
    for token in ids:
        special = token in (tokenizer.bos_token_id, tokenizer.eos_token_id, stop)
        wanted.append(torch.zeros(NUMBERS) if special else now)
        now = dog if token == stop else now
    torch.testing.assert_close(batch.tokens[0], torch.stack(wanted), atol=1e-4, rtol=0)
    embedded = task.given(batch).embedded[0]
    plain = task.language.embed(batch.ids)[0]
    torch.testing.assert_close(embedded, plain + task.numbers(batch.tokens[0]))


def test_as_in_the_paper_a_tag_is_read_a_row(clips, monkeypatch):
    task = captioner(reads="sequence")
    hears(task, monkeypatch, track(task, Dog=[0, 0.8, 0, 0.9], Rain=[0.5, 0.5, 0.5, 0.5]))
    batch = task.collate(clips[:1], None)
    assert read(task, batch, 0) == "rain. dog. rain. dog."
    assert torch.equal(task.given(batch).embedded, task.language.embed(batch.ids))
    drawn = {read(task, task.collate(clips[:1], generator(seed)), 0) for seed in range(12)}
    assert len(drawn) > 3


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_behind_what_an_encoder_reads_and_before_what_a_prompt_is(clips, causal, monkeypatch):
    task = captioner(causal=causal)
    tracks = [track(task, Dog=[0.9] * 4), track(task, Dog=[0.9] * 4, Rain=[0.8] * 4, Wind=[0.7] * 4)]
    monkeypatch.setattr(task.tracker, "get", lambda those: tracks)
    batch = task.collate(clips[:2], None)
    assert batch.mask[1].all() and not batch.mask[0].all()
    assert bool(batch.mask[0, 0]) != causal and bool(batch.mask[0, -1]) == causal
    front = task.language.tokenizer.decode(batch.ids[0][batch.mask[0]])
    if causal:
        assert front == "<|start|>user\nOne hears: Dog.<|end|>\n<|start|>assistant\n"
        inside = batch.tokens[0][batch.mask[0]].abs().sum(dim=1) > 0
        assert task.language.tokenizer.decode(batch.ids[0][batch.mask[0]][inside]) == " Dog"


@pytest.mark.numerics
@pytest.mark.parametrize("causal", [False, True])
def test_neighbours_change_neither_loss_nor_captions(clips, causal):
    task = captioner(causal=causal)
    whole = task.collate(clips, None)
    rows = task.predict(whole)
    for i, clip in enumerate(clips):
        [alone] = task.predict(task.collate([clip], None))
        assert alone.caption == rows[i].caption and alone.tags == rows[i].tags
        assert alone.score == pytest.approx(rows[i].score, abs=1e-4)
    counts = [int((task.collate([clip], None).targets != -100).sum()) for clip in clips]
    sums = [task.loss(task.collate([clip], None)) * n for clip, n in zip(clips, counts, strict=True)]
    torch.testing.assert_close(task.loss(whole), sum(sums) / sum(counts), atol=1e-4, rtol=0)


def test_more_tags_than_there_are_places_are_a_fault_of_that_sound(clips):
    task = captioner(language=language(replace(SIZES, places=20)), most=30, least=0.0)
    with pytest.raises(
        AudioError, match=r"30 tags are \d+ tokens, but a small BART reads 20 at the most; give shorter"
    ):
        task.collate(clips[:1], None)
    rows = predict_rows(task, clips, batch=2, precision="float32")
    assert all("30 tags are" in row.error for row in rows)


# --- captions alone --------------------------------------------------------------------------------------------------


def test_sounds_and_captions_alone_are_mixed_in_a_batch(clips):
    task = captioner(pretences=[pretence("mn04", dogs="Dog", rain="Rain")])
    mixed = [text_only("dogs"), clips[0], text_only("rain"), clips[1]]
    batch = task.collate(mixed, None)
    assert list(batch.clips) == mixed and len(batch.heard) == 4
    [real] = task.tracker.get([clips[0]])
    assert np.array_equal(batch.heard[1][0].rows, real.rows) and batch.heard[1][1] == task.tracker.names
    assert "dog" in read(task, batch, 0) or "animal" in read(task, batch, 0)
    written = [task.language.tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in batch.targets]
    assert written == ["dogs", SAID[0], "rain", SAID[1]]
    assert torch.isfinite(task.loss(batch))


def test_a_made_track_is_always_the_same_without_a_generator_and_drawn_with_one():
    task = captioner(pretences=[pretence("mn04", dogs="Dog")])
    one, two = (task.collate([text_only("dogs")], None) for _ in range(2))
    assert torch.equal(one.ids, two.ids) and torch.equal(one.tokens, two.tokens)
    drawn = {read(task, task.collate([text_only("dogs")], generator(seed)), 0) for seed in range(8)}
    assert len(drawn) > 4
    again = [task.collate([text_only("dogs")], generator(3)).ids for _ in range(2)]
    assert torch.equal(*again)


def test_a_pretended_tagger_names_its_own_classes():
    """YAMNet and mn04 order their classes otherwise: by another's list a dog would be something else."""
    task = captioner(pretences=[pretence("yamnet", dogs="Dog")])
    assert task.tracker.names == tags.names("audioset")
    for seed in range(12):
        [(found, names)] = task.collate([text_only("dogs")], generator(seed)).heard
        assert names == tags.names("yamnet") and found.rows.shape[1] == len(names) == 521
    texts = [read(task, task.collate([text_only("dogs")], generator(seed)), 0) for seed in range(12)]
    assert sum("dog" in text or "animal" in text for text in texts) >= 10
    both = captioner(pretences=[pretence("yamnet", dogs="Dog"), pretence("mn04", dogs="Dog")])
    counts = {len(both.collate([text_only("dogs")], generator(seed)).heard[0][1]) for seed in range(12)}
    assert counts == {521, 527}


def test_one_of_the_captions_is_drawn_and_is_what_is_pretended():
    task = captioner(pretences=[pretence("mn04", dogs="Dog", rain="Rain")], most=4)
    clip = replace(text_only("dogs"), captions=("dogs", "rain"))
    heard: dict[str, list[bool]] = {"dogs": [], "rain": []}
    for seed in range(30):
        batch = task.collate([clip], generator(seed))
        said = task.language.tokenizer.decode(batch.targets[0], skip_special_tokens=True)
        heard[said].append({"dogs": "dog.", "rain": "rain."}[said] in read(task, batch, 0))
    assert all(len(those) > 5 and np.mean(those) > 0.7 for those in heard.values())


# --- faults ----------------------------------------------------------------------------------------------------------


def test_an_unreadable_clip_is_noted_and_left_out(clips, tmp_path):
    (tmp_path / "text.wav").write_text("a letter")
    bad = Clip(tmp_path / "text.wav", captions=("a letter",))
    task = captioner()
    batch = task.collate([clips[0], bad, clips[1]], None)
    assert list(batch.clips) == [clips[0], clips[1]] and len(batch.ids) == len(batch.targets) == 2
    assert list(task.unreadable) == [str(bad.path)] and "text.wav" in task.unreadable[str(bad.path)]
    with pytest.raises(DataError, match=r"no clip of this batch can be read; first: .*text\.wav"):
        task.collate([bad], None)
    rows = predict_rows(captioner(), [clips[0], bad, clips[1]], batch=3, precision="float32")
    assert [row.error is None for row in rows] == [True, False, True] and rows[1].caption is None


def test_a_clip_without_a_caption_is_captioned_but_not_learnt_from(clips):
    task = captioner()
    batch = task.collate([replace(clips[0], captions=()), clips[1]], None)
    assert batch.targets is None and len(task.predict(batch)) == 2
    with pytest.raises(DataError, match=r"no caption to learn from: 0\.wav"):
        task.loss(batch)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_says_what_was_heard_in_seconds_of_the_file(clips, monkeypatch):
    task = captioner()
    hears(task, monkeypatch, track(task, Dog=[0, 0.8, 0, 0], Rain=[0.5, 0.5, 0.5, 0.5], Speech=[0.02] * 4))
    [row] = task.predict(task.collate([replace(clips[2], start=20.0, end=24.0)], None))
    assert row.tags == [("Rain", 0.5, 20.0, 24.0), ("Dog", 0.8, 21.0, 22.0)], "and not what is hardly heard"
    assert (row.start, row.end) == (20.0, 24.0) and row.caption is not None


def test_the_row_of_a_clips_windows_has_the_tags_of_all(clips, monkeypatch):
    task = captioner()
    hears(task, monkeypatch, track(task, Dog=[0, 0.8, 0, 0], seconds=1.0))
    windows = [replace(clips[2], start=float(n), end=n + 1.0) for n in range(3)]
    rows = task.predict(task.collate(windows, None))
    rows[1] = replace(rows[1], caption="the surest", score=0.99)
    joined = task.average(rows)
    assert (joined.start, joined.end, joined.caption) == (0.0, 3.0, "the surest")
    assert joined.tags == [("Dog", 0.8, n + 0.25, n + 0.5) for n in range(3)]


def test_strict_keeps_candidates_without_a_sound_that_was_not_heard(clips, monkeypatch):
    pulled_home(monkeypatch)
    task = captioner(strict=True)
    hears(task, monkeypatch, track(task, Dog=[0.2, 0.9, 0.1, 0.1], Rain=[0.05] * 4))
    batch = task.collate(clips[:1], None)
    found = [Written(text, -float(n), 3) for n, text in enumerate(["rain falls", "a dog barks", "a siren", "a bark"])]
    assert [w.text for w in task.chosen(batch, 0, found)] == ["a dog barks", "a bark"]
    assert task.chosen(batch, 0, [found[0], found[2]]) == [found[0], found[2]], "all, where each names one"
    assert task.chosen(batch, 0, found[:1]) == found[:1]
    task.strict = False
    assert task.chosen(batch, 0, found) == found


def pulled_home(monkeypatch) -> None:
    """The usual cache, where the sentence model lies."""
    monkeypatch.delenv("OSSICLE_HOME")
    pulled("all-minilm-l6-v2")


# --- learning --------------------------------------------------------------------------------------------------------


def test_it_learns_to_say_what_the_tags_say():
    """From captions alone; a model that never looks at what it reads would give one caption for both."""
    made = pretence("mn04", a_dog_barks="Dog", rain_falls_down="Rain")
    task = captioner(pretences=[made], most=4, language=language(replace(SIZES, width=32)))
    clips = [text_only("a dog barks"), text_only("rain falls down")]
    parts = torch.nn.ModuleDict(task.parts())
    optimizer = torch.optim.Adam([p for p in parts.parameters() if p.requires_grad], lr=0.005)
    frozen = [p.clone() for p in task.encoder.parameters()]
    draw = generator()
    for _ in range(200):
        loss = task.loss(task.collate(clips * 4, draw))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(frozen, task.encoder.parameters(), strict=True))
    task.decoding = replace(SHORT, max_tokens=20)
    said = [row.caption for row in task.predict(task.collate(clips, None))]
    assert said == ["a dog barks", "rain falls down"]


def test_a_name_that_no_tokenizer_can_part_is_told(clips):
    task = captioner()
    task._separator = task.language.tokenizer.convert_tokens_to_ids("a")
    with pytest.raises(UsageError, match=r"tags were read as \d+"):
        task.collate(clips[:1], None)
