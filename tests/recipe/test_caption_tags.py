"""Captioners from tags from recipe to folder and back: from sounds, from captions alone, by another tagger."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests import tiny

from ossicle import terminal
from ossicle.adapters import store
from ossicle.backbones import seq2seq
from ossicle.contracts import Clip
from ossicle.data import Dataset
from ossicle.errors import (
    AdapterError,
    CheckpointError,
    DataError,
    RecipeError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from ossicle.recipe import backbone, build, config, iterate
from ossicle.recipe.caption_tags import VOCABULARY, TagsPlan
from ossicle.training import loop
from ossicle.training.evaluate import predict_rows

QUICK = [
    "train.epochs=2", "train.batch=4", "train.precision=float32", "train.lr=0.01", "data.hold_out=0",
    "task.small.width=16", "task.small.layers=1", "task.small.heads=2", "task.small.inner=24",
    "task.small.vocabulary=400", "task.decoding.method=greedy", "task.decoding.max_tokens=6",
]  # fmt: skip
KINDS = {"mn04": "mobile", "yamnet": "yamnet", "whisper-tiny.en": "whisper"}


class Words:
    """In place of the sentence model: texts are as like as the words they share."""

    def __init__(self, name: str) -> None:
        self.name = name

    def embed(self, texts):
        rows = torch.zeros(len(texts), 997)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().replace(",", " ").split():
                row[sum(map(ord, word)) * 31 % 997] += 1
        return torch.nn.functional.normalize(rows, dim=1)


def frozen(recipe):
    name = recipe.backbone.name
    made = tiny.encoder(KINDS[name], seed=1 if recipe.backbone.weights else 0)
    made.name, made.origin = name, {"source": "hub", "origin": f"made/{name}", "verified": True}
    return made


def stand_ins(patch, home: Path) -> None:
    """Tiny taggers under the names of real ones, and no sentence model."""
    patch.setenv("OSSICLE_HOME", str(home))
    patch.setattr(backbone, "frozen", frozen)
    patch.setattr("ossicle.recipe.caption_tags.Sentences", Words)


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch, tmp_path):
    stand_ins(monkeypatch, tmp_path / "home")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("tones")
    said = {"low": 300.0, "high": 3000.0}
    return [
        Clip(
            tiny.write_tone(folder / f"{word}{i}.wav", hz + 20 * i, 0.4, seed=i), split=str(i), name=f"{word}{i}.wav",
            captions=(f"a {word} tone", f"the tone is {word}"),
        )
        for i in range(4)
        for word, hz in said.items()
    ]  # fmt: skip


def texts() -> list[Clip]:
    """Captions without sound; one names no class at all."""
    said = ["a dog barks", "rain then a dog", "a train horn and speech", "nothing with a name of its own"]
    return [
        Clip(
            Path(f"t{i}"), end=10.0, captions=(one,), split=str(i % 2 * 3), name=f"t{i}", group=f"t{i}", text_only=True
        )
        for i, one in enumerate(said)
    ]


def recipe(*changes: str) -> config.Recipe:
    return config.read(None, [*QUICK, *changes], {"task": {"kind": "caption-tags"}})


def trained(out: Path, clips: list[Clip], *changes: str, **options) -> dict:
    return build.train(recipe(*changes), Dataset("tones", tuple(clips)), out, quiet=True, **options)


def captions(task, clips) -> list[tuple[str | None, float | None]]:
    return [(row.caption, row.score) for row in predict_rows(task, clips, batch=4, precision="float32")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return store.read_weights(folder)


@pytest.fixture(scope="module")
def first(clips, tmp_path_factory) -> Path:
    """A captioner that was trained on sounds and on captions alone, with mn04's tags."""
    out = tmp_path_factory.mktemp("first") / "first"
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(patch, out.parent / "home")
        trained(out, [*clips, *texts()])
    return out


# --- train, save, load -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sounds", "texts", "both"])
@pytest.mark.parametrize("reads", ["list", "sequence"])
def test_what_was_saved_captions_the_same(tmp_path, clips, what, reads, monkeypatch):
    given = {"sounds": clips, "texts": texts(), "both": [*clips, *texts()]}[what]
    made, fit = [], iterate.fit
    monkeypatch.setattr(iterate, "fit", lambda task, *a, **o: made.append(task) or fit(task, *a, **o))
    manifest = trained(tmp_path / "out", given, "data.val=['3']", f"task.reads={reads}")
    loaded = build.load(str(tmp_path / "out"))
    assert loaded.task.kind == "caption-tags" and loaded.task.reads == reads
    assert captions(loaded.task, clips) == captions(made[0], clips)
    keys = weights(tmp_path / "out")
    assert {key.partition("/")[0] for key in keys} == {"mapper", "llm"}
    sizes = manifest["parameters"]
    assert sizes["llm_trained"] == sizes["language_model"] == sum(v.numel() for k, v in keys.items() if "llm" in k)
    assert {"cider_d", "rouge_l"} <= manifest["scores"]["val"].keys() and manifest["data"]["unreadable"] == {}
    judged = [json.loads(line) for line in (tmp_path / "out" / build.JUDGED.format("val")).read_text().splitlines()]
    assert len(judged) == manifest["data"]["val"] and all(line["tags"] and line["references"] for line in judged)
    everything = [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".json", ".toml", ".md", ".jsonl")]
    assert len(everything) >= 6 and str(tmp_path) not in "".join(p.read_text() for p in everything)
    assert "a small BART, trained from nothing" in (tmp_path / "out" / "README.md").read_text()


def test_its_vocabulary_is_saved_and_needed(first, clips, tmp_path):
    text = (first / VOCABULARY).read_text()
    read = seq2seq.tokenizer_of(text)
    assert len(read) == 400 and read.get_vocab() == build.load(str(first)).task.language.tokenizer.get_vocab()
    broken = Path(shutil.copytree(first, tmp_path / "broken"))
    (broken / VOCABULARY).write_text(seq2seq.byte_pairs(["other words"], 400))
    with pytest.raises(CheckpointError, match=rf"{VOCABULARY} is not the one it was saved with"):
        build.load(str(broken))
    (broken / VOCABULARY).unlink()
    with pytest.raises(CheckpointError, match=VOCABULARY):
        build.load(str(broken))


def test_a_stopped_run_goes_on_exactly(tmp_path, clips, monkeypatch):
    given = [*clips, *texts()]
    changes = ["train.epochs=3", "data.val=['3']"]
    trained(tmp_path / "whole", given, *changes)
    saved = loop._Run.save

    def once(run) -> None:
        saved(run)
        if run.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Run, "save", once)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", given, *changes)
    monkeypatch.setattr(loop._Run, "save", saved)
    with pytest.raises(UsageError, match=r"was begun with other vocabulary than those here; give the data it began"):
        trained(tmp_path / "cut", [*given, replace(texts()[0], captions=("quite other words",))], *changes, resume=True)
    trained(tmp_path / "cut", given, *changes, resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)


def test_a_second_training_begins_with_the_first_and_its_vocabulary(tmp_path, first, clips):
    trained(tmp_path / "second", clips[:4], "train.lr=0", "train.epochs=1", init=first)
    one, two = weights(first), weights(tmp_path / "second")
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert (tmp_path / "second" / VOCABULARY).read_text() == (first / VOCABULARY).read_text()
    loaded = [build.load(str(folder)) for folder in (first, tmp_path / "second")]
    assert captions(loaded[0].task, clips) == captions(loaded[1].task, clips)
    with pytest.raises(UsageError, match=r"was trained with task\.reads=list"):
        trained(tmp_path / "third", clips, "task.reads=sequence", init=first)


def test_a_few_captions_are_learnt_by_the_vocabulary_of_many(tmp_path, monkeypatch):
    """What is learnt from few texts is smaller than what the first training learnt from many."""
    many = [replace(one, captions=(f"{one.captions[0]} {n} {n * 37 % 101}",), name=f"{one.name}-{n}", group=str(n))
            for n in range(40) for one in texts()]  # fmt: skip
    size = "task.small.vocabulary=4000"
    trained(tmp_path / "many", many, size)
    wide = weights(tmp_path / "many")
    stop = pytest.raises(KeyboardInterrupt)
    saved = loop._Run.save
    with monkeypatch.context() as patch, stop:

        def once(run) -> None:
            saved(run)
            raise KeyboardInterrupt

        patch.setattr(loop._Run, "save", once)
        trained(tmp_path / "few", texts(), size, init=tmp_path / "many")
    trained(tmp_path / "few", texts(), size, resume=True)
    found = weights(tmp_path / "few")
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in wide.items()}
    assert (tmp_path / "few" / VOCABULARY).read_text() == (tmp_path / "many" / VOCABULARY).read_text()
    assert build.load(str(tmp_path / "few")).task.language.sizes()[0] == len(found["llm/model.shared.weight"])
    trained(tmp_path / "fresh", texts(), size)
    assert len(weights(tmp_path / "fresh")["llm/model.shared.weight"]) < len(found["llm/model.shared.weight"])


def test_usual_settings():
    chosen = config.read(None, [], {"task": {"kind": "caption-tags"}})
    assert (chosen.backbone.name, chosen.adapter.spec, chosen.tags.pretend) == ("mn04", "probe()", ["mn04", "yamnet"])
    assert config.check(tomllib.loads(config.write(chosen)), "again") == chosen


def test_an_unreadable_sound_is_left_out_of_training(tmp_path, clips):
    empty = tmp_path / "empty.wav"
    empty.write_bytes(clips[0].path.read_bytes()[:44])
    bad = replace(clips[0], path=empty, name="empty.wav")
    manifest = trained(tmp_path / "out", [*clips, bad])
    assert list(manifest["data"]["unreadable"]) == ["empty.wav"] and manifest["data"]["train"] == len(clips)


# --- another tagger --------------------------------------------------------------------------------------------------


def test_a_folder_hears_by_another_tagger(first, clips):
    one, two = build.load(str(first)), build.load(str(first), ["backbone.name=yamnet"])
    assert one.task.encoder.name == "mn04" and two.task.encoder.name == "yamnet"
    rows = predict_rows(two.task, clips, batch=4, precision="float32")
    names = set(two.task.tracker.names)
    assert all(row.caption is not None and row.tags and {tag[0] for tag in row.tags} <= names for row in rows)
    assert rows[0].tags != predict_rows(one.task, clips[:1], batch=4, precision="float32")[0].tags
    for key, value in one.task.language.saved().items():
        assert torch.equal(value, two.task.language.saved()[key])


def test_the_same_tagger_with_other_weights_is_refused(first):
    with pytest.raises(AdapterError, match="was trained on other weights of mn04 than those here"):
        build.load(str(first), ["backbone.weights=mine.pt"])


def absent(patch, *names: str) -> list[str]:
    """Weights of these taggers cannot be had; what is said to the user."""
    said: list[str] = []

    def load(recipe):
        if recipe.backbone.name in names:
            raise WeightsError(f"{recipe.backbone.name} is nowhere")
        return frozen(recipe)

    patch.setattr(backbone, "frozen", load)
    patch.setattr(terminal, "note", said.append)
    return said


def test_another_tagger_hears_where_the_first_cannot_be_had(tmp_path, clips, monkeypatch):
    trained(tmp_path / "out", clips, "task.instead=yamnet")
    said = absent(monkeypatch, "mn04")
    loaded = build.load(str(tmp_path / "out"), ["backbone.weights=there.pt"])
    assert loaded.task.encoder.name == "yamnet" and said == ["yamnet hears instead of mn04: mn04 is nowhere"]
    assert backbone.signature(loaded.task.encoder) == backbone.signature(tiny.encoder("yamnet")), "not mn04's file"
    assert all(caption for caption, _ in captions(loaded.task, clips[:2]))
    absent(monkeypatch, "mn04", "yamnet")
    with pytest.raises(WeightsError, match="yamnet is nowhere"):
        build.load(str(tmp_path / "out"))
    with pytest.raises(WeightsError, match="mn04 is nowhere"):
        trained(tmp_path / "other", clips)


def test_a_training_that_heard_by_another_says_by_which(tmp_path, clips, monkeypatch):
    absent(monkeypatch, "mn04")
    manifest = trained(tmp_path / "out", clips, "task.instead=yamnet")
    assert manifest["backbone"]["name"] == "yamnet" and list(manifest["backbone"]["encoders"]) == ["yamnet"]
    monkeypatch.setattr(backbone, "frozen", frozen)
    assert build.load(str(tmp_path / "out")).task.encoder.name == "yamnet"


# --- a language model of others --------------------------------------------------------------------------------------


def folder_of(language, folder: Path) -> str:
    language.model.save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def causal(tmp_path) -> str:
    return folder_of(tiny.language(), tmp_path / "causal")


@pytest.fixture
def bart(tmp_path) -> str:
    read = seq2seq.tokenizer_of(seq2seq.byte_pairs(["a low tone. the tone is high."], 300))
    sizes = seq2seq.Sizes(width=16, layers=1, heads=2, inner=24, vocabulary=300)
    return folder_of(seq2seq.small(sizes, read), tmp_path / "bart")


@pytest.mark.parametrize("learns", ["whole", "frozen-decoder", "lora"])
def test_an_encoder_decoder_of_others(tmp_path, clips, bart, learns):
    trained(tmp_path / "out", clips, f"task.llm={bart}", f"task.learns={learns}", "task.lora.rank=2")
    keys = {key.removeprefix("llm/") for key in weights(tmp_path / "out") if key.startswith("llm/")}
    assert all((".lora_" in key) == (learns == "lora") for key in keys) and keys
    assert any("decoder.layers.0.fc1" in key for key in keys) == (learns == "whole")
    assert not (tmp_path / "out" / VOCABULARY).exists()
    loaded = build.load(str(tmp_path / "out"), [f"task.llm={bart}"])
    assert all(caption is not None for caption, _ in captions(loaded.task, clips))


def test_a_causal_language_model_reads_tags_in_its_prompt(tmp_path, clips, causal):
    with pytest.raises(UsageError, match=r"a causal language model, only a LoRA trains; set task\.learns=lora"):
        trained(tmp_path / "out", clips, f"task.llm={causal}")
    assert not (tmp_path / "out").exists()
    manifest = trained(tmp_path / "out", clips, f"task.llm={causal}", "task.learns=lora", "task.lora.rank=2")
    assert manifest["language model"]["name"] == "causal" and (tmp_path / "out" / store.LLM).is_dir()
    loaded = build.load(str(tmp_path / "out"), [f"task.llm={causal}"])
    assert loaded.task.prompt is not None and all(c is not None for c, _ in captions(loaded.task, clips))


# --- wrong inputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        (["task.learns=lora"], UsageError, r"task\.learns=lora wants a language model that is trained; give one by"),
        (["backbone.name=whisper-tiny.en"], UsageError, "need a tagger, such as mn04 or yamnet; whisper-tiny"),
        (["backbone.name=mn4"], UnknownNameError, "unknown backbone 'mn4'; did you mean 'mn40'"),
        (["adapter.spec=full()"], UsageError, r"adapter\.spec=full\(\) would not train; leave it out"),
        (["task.pretend=[]"], UsageError, r"there are 4 captions without sound, but task\.pretend names no tagger"),
        (["task.pretend=['mn04','vggish']"], UsageError, r"task\.pretend=vggish is not measured; give some of mn04"),
        (["task.decoding.max_tokens=300"], UsageError, r"max_tokens=300 came, but a small BART writes 255 tokens"),
        (["task.llm=smollm2-135m"], UnknownNameError, "did you mean 'smollm2-135m-instruct'"),
        (["task.best_by=ciderd", "data.val=['3']"], UsageError, r"unknown task\.best_by for metrics .*did you mean"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told_before_training(tmp_path, clips, changes, kind, told):
    with pytest.raises(kind, match=told):
        trained(tmp_path / "out", [*clips, *texts()], *changes)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_sizes_and_keys_that_cannot_be():
    with pytest.raises(RecipeError, match="width 15 cannot be shared by 2 heads; give a width that is a multiple of"):
        recipe("task.small.width=15")
    with pytest.raises(RecipeError, match=r"did you mean 'task\.small\.width'"):
        recipe("task.small.wdth=15")
    with pytest.raises(RecipeError, match=r"task\.learns='all'"):
        recipe("task.learns=all")


def test_clips_that_cannot_be_learnt_from(tmp_path, clips):
    labelled = [replace(clip, captions=(), labels=("low",)) for clip in clips]
    with pytest.raises(DataError, match="8 of 8 clips have no caption: low0.wav, "):
        trained(tmp_path / "out", labelled)
    foreign = [replace(clip, captions=("un chien aboie dans la rue",)) for clip in texts()]
    with pytest.raises(DataError, match=r"4 of 4 captions do not look English.*task\.language='any'"):
        trained(tmp_path / "out", foreign)
    assert not (tmp_path / "out").exists()


def test_settings_that_do_nothing_to_a_trained_one(first):
    with pytest.raises(UsageError, match=r"--set task\.reads does nothing, since the adapter is trained"):
        build.load(str(first), ["task.reads=sequence"])
    with pytest.raises(UsageError, match="need a tagger, such as mn04 or yamnet; whisper"):
        build.load(str(first), ["backbone.name=whisper-tiny.en"])


def test_the_numbers_of_a_tag_begin_no_louder_than_its_words(tmp_path):
    """Louder, they drown the names: after an epoch on 49,838 captions a model read hardly any of them."""
    said = "a dog barks then rain falls and a man speaks"
    recipe = config.read(None, [], {"task": {"kind": "caption-tags"}})
    task = TagsPlan(recipe, seq2seq.byte_pairs([said] * 50, 400)).task(for_training=True)
    words = task.language.embed(torch.arange(100)).std()
    numbers = task.numbers(torch.rand(200, task.numbers.in_features)).std()
    assert numbers < 2 * words
