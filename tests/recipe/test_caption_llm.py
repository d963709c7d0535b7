"""Captioners from recipe to folder, in stages, merged, and back, on a tiny encoder and a tiny language model."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from tests import tiny

from ossicle.adapters import store
from ossicle.backbones import text
from ossicle.contracts import Clip
from ossicle.data import Dataset
from ossicle.deliver.merge import EXACT, merge
from ossicle.errors import AdapterError, CheckpointError, DataError, UnknownNameError, UsageError
from ossicle.recipe import backbone, build, config, iterate
from ossicle.recipe.caption_llm import CaptionPlan
from ossicle.training import loop
from ossicle.training.evaluate import predict_rows

QUICK = [
    "train.epochs=2", "train.batch=4", "train.precision=float32", "train.lr=0.01", "data.hold_out=0",
    "task.lora.rank=2", "task.layers=[2,3]", "task.squeeze=2", "task.decoding.method=greedy",
    "task.decoding.max_tokens=6", "task.window_s=2.0",
]  # fmt: skip


def stand_ins(patch, home: Path) -> None:
    """A tiny encoder and a tiny language model in the places of the real ones."""
    patch.setenv("OSSICLE_HOME", str(home))
    patch.setattr(backbone, "frozen", lambda recipe: tiny.encoder("whisper"))
    patch.setattr("ossicle.recipe.caption_llm.language_model", lambda name, **options: tiny.language())


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


def recipe(*changes: str) -> config.Recipe:
    return config.read(None, [*QUICK, *changes], {"task": {"kind": "caption-llm"}})


def trained(out: Path, clips: list[Clip], *changes: str, **options) -> dict:
    return build.train(recipe(*changes), Dataset("tones", tuple(clips)), out, quiet=True, **options)


def captions(task, clips) -> list[tuple[str | None, float | None]]:
    return [(row.caption, row.score) for row in predict_rows(task, clips, batch=4, precision="float32")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return store.read_weights(folder)


@pytest.fixture(scope="module")
def first(clips, tmp_path_factory) -> Path:
    """A first captioner that others begin with."""
    out = tmp_path_factory.mktemp("first") / "first"
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(patch, out.parent / "home")
        trained(out, clips)
    return out


@pytest.fixture(scope="module")
def five(first, clips) -> list[str]:
    """The first and four more LoRAs over its mapper."""
    folders = [first]
    for seed in range(1, 5):
        folders.append(first.with_name(f"lora{seed}"))
        with pytest.MonkeyPatch.context() as patch:
            stand_ins(patch, first.parent / "home")
            trained(folders[-1], clips, "task.stage=lora-only", f"train.seed={seed}", init=first)
    return [str(folder) for folder in folders]


# --- train, save, load -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["probe()", "lora(rank=2)"])
def test_what_was_saved_captions_the_same(tmp_path, clips, spec, monkeypatch):
    made, fit = [], iterate.fit
    monkeypatch.setattr(
        iterate, "fit", lambda task, *given, **options: made.append(task) or fit(task, *given, **options)
    )
    manifest = trained(tmp_path / "out", clips, f"adapter.spec={spec}", "data.val=['3']")
    (ear,) = made[0].listener.ears
    assert (ear.store is not None) == (spec == "probe()")
    ear.store = None
    loaded = build.load(str(tmp_path / "out"))
    assert captions(loaded.task, clips) == captions(made[0], clips)
    assert "cider_d" in manifest["scores"]["val"] and manifest["language model"]["name"] == "tiny-llama"
    sizes = manifest["parameters"]
    assert sizes["llm_lora"] == sum(v.numel() for v in loaded.task.language.saved().values()) > 0
    judged = [json.loads(line) for line in (tmp_path / "out" / build.JUDGED.format("val")).read_text().splitlines()]
    assert [line["references"] for line in judged] == [
        ["a low tone", "the tone is low"],
        ["a high tone", "the tone is high"],
    ]
    everything = [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".json", ".toml", ".md", ".jsonl")]
    assert len(everything) >= 5 and str(tmp_path) not in "".join(p.read_text() for p in everything)


def test_the_lora_lies_in_pefts_format(first):
    model = peft.LoraConfig.from_pretrained(str(first / store.LLM))
    assert (model.r, set(model.target_modules)) == (2, {"q_proj", "k_proj"})
    keys = weights(first)
    assert all(key.startswith(("mapper/", "llm/base_model.model.model.layers.")) for key in keys)
    assert not any(key.startswith("llm/") for key in load_file(first / store.WEIGHTS))


def test_a_stopped_run_goes_on_exactly(tmp_path, clips, monkeypatch):
    changes = ["train.epochs=3", "train.accumulate=2", "task.augment.gain_db=3", "data.val=['3']"]
    trained(tmp_path / "whole", clips, *changes)
    saved = loop._Run.save

    def once(run) -> None:
        saved(run)
        if run.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Run, "save", once)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", clips, *changes)
    monkeypatch.setattr(loop._Run, "save", saved)
    trained(tmp_path / "cut", clips, *changes, resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)


def test_usual_settings_are_the_papers():
    chosen = config.read(None, [], {"task": {"kind": "caption-llm"}})
    assert (chosen.train.epochs, chosen.train.lr, chosen.train.warmup, chosen.train.milestones) == (50, 3e-4, 0.1, ())
    lora = chosen.caption.lora
    assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (16, 32.0, 0.05, ("q_proj", "k_proj"))
    assert (chosen.caption.pooling, chosen.caption.soft_tokens, chosen.adapter.spec) == ("mean", 1, "probe()")
    assert config.check(tomllib.loads(config.write(chosen)), "again") == chosen


# --- stages ----------------------------------------------------------------------------------------------------------


def test_a_further_lora_leaves_the_mapper_as_it_is(five, clips):
    one, two = weights(Path(five[0])), weights(Path(five[1]))
    for key in one:
        assert torch.equal(one[key], two[key]) == key.startswith("mapper/")
    loaded = [build.load(folder) for folder in five[:2]]
    assert captions(loaded[0].task, clips) != captions(loaded[1].task, clips)


def test_a_second_stage_begins_with_all_of_the_first(tmp_path, first, clips):
    """AudioCaps, then Clotho: no step of training changes nothing of what the first stage learnt."""
    trained(tmp_path / "second", clips, "train.lr=0", "train.epochs=1", init=first)
    one, two = weights(first), weights(tmp_path / "second")
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_is_begun_with_is_noted_and_asked_for_again(tmp_path, first, clips, monkeypatch):
    def stopped(*given, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(iterate, "fit", stopped)
        trained(tmp_path / "second", clips, init=first)
    with pytest.raises(UsageError, match="was begun with the weights of first; give it by --init-from again"):
        trained(tmp_path / "second", clips, resume=True)
    trained(tmp_path / "second", clips, resume=True, init=first)
    assert "--init-from first" in (tmp_path / "second" / "README.md").read_text()


def test_a_second_stage_keeps_what_the_mapper_was_standardised_on(tmp_path, first, clips):
    trained(tmp_path / "second", clips[:4], "train.lr=0", "train.epochs=1", "task.name_first=1", init=first)
    one, two = weights(first), weights(tmp_path / "second")
    assert all(torch.equal(one[key], two[key]) for key in one if key.startswith("mapper/"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["task.best_by=ciderd"], "unknown task.best_by for metrics bleu, rouge_l, cider 'ciderd'; did"),
        (["task.metrics=['bleu']"], "unknown task.best_by for metrics bleu 'cider_d'"),
        (["task.metrics=['bleuu']"], "unknown caption metric 'bleuu'; did you mean 'bleu'"),
        (["task.metrics=['spice']", "task.best_by=spice"], r"task\.metrics has spice, but .*"),
    ],
)  # fmt: skip
def test_metrics_are_looked_at_before_training(tmp_path, clips, changes, told):
    with pytest.raises(UsageError, match=told):
        trained(tmp_path / "out", clips, "data.val=['3']", *changes)
    assert not (tmp_path / "out").exists()


def test_decoding_is_looked_at_before_training(tmp_path, clips):
    with pytest.raises(UsageError, match="greedy decoding writes 1 caption but 3"):
        trained(tmp_path / "out", clips, "task.decoding.method=greedy", "task.decoding.candidates=3")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_recipe_can_be_changed_where_a_captioner_is_loaded(first):
    loaded = build.load(str(first), ["task.decoding.method=beam", "task.decoding.beams=2"])
    assert (loaded.task.decoding.method, loaded.task.decoding.beams) == ("beam", 2)


def test_stages_that_cannot_be(tmp_path, first, clips):
    with pytest.raises(UsageError, match="was trained with another prompt_form, squeeze; give its"):
        trained(tmp_path / "out", clips, "task.squeeze=1", "task.prompt_form=plain", init=first)
    with pytest.raises(
        UsageError, match="lora-only trains over a mapper that is there; give its folder by --init-from"
    ):
        trained(tmp_path / "out", clips, "task.stage=lora-only")
    with pytest.raises(UsageError, match=r"trained with another backbone\.frames"):
        trained(tmp_path / "out", clips, "task.stage=lora-only", "backbone.frames=50", init=first)
    with pytest.raises(AdapterError, match="saved mapper does not fit"):
        trained(tmp_path / "out", clips, "task.hidden=8", init=first)
    with pytest.raises(AdapterError, match="or another rank"):
        trained(tmp_path / "out", clips, "task.lora.rank=3", init=first)
    with pytest.raises(DataError, match="have no caption"):
        trained(tmp_path / "out", [replace(clips[0], captions=()), *clips])
    assert not (tmp_path / "out").exists()


def test_another_language_model_is_refused(first, monkeypatch):
    monkeypatch.setattr("ossicle.recipe.caption_llm.language_model", lambda name, **options: tiny.language(seed=5))
    with pytest.raises(AdapterError, match="made for the language model tiny-llama, not for tiny-llama.*other weights"):
        build.load(str(first))
    monkeypatch.setattr("ossicle.recipe.caption_llm.language_model", lambda name, **options: tiny.language(width=48))
    with pytest.raises(AdapterError, match="another language model than tiny-llama"):
        build.load(str(first))
    shutil.rmtree((other := Path(shutil.copytree(first, first.with_name("bare")))) / store.LLM)
    with pytest.raises(AdapterError, match=r"not for tiny-llama: vocabulary, width and layers .* came"):
        build.load(str(other))


def test_a_template_is_needed_for_chat(monkeypatch):
    monkeypatch.setattr(
        "ossicle.recipe.caption_llm.language_model", lambda name, **options: tiny.language(template=None)
    )
    with pytest.raises(UsageError, match=r"no chat template; set task\.prompt_form='plain'"):
        CaptionPlan(recipe()).task(for_training=False)
    task = CaptionPlan(recipe("task.prompt_form=plain")).task(for_training=False)
    assert len(task.prompt.before) > 0


# --- merging ---------------------------------------------------------------------------------------------------------


def corrections(folder: Path) -> dict[str, torch.Tensor]:
    """The alpha / rank · B A of each linear map, by hand."""
    state = text.read_lora(folder / store.LLM)
    settings = json.loads((folder / store.LLM / text.CONFIG).read_text())
    scale = settings["lora_alpha"] / settings["r"]
    return {k: scale * state[k.replace("lora_A", "lora_B")] @ state[k] for k in state if "lora_A" in k}


@pytest.mark.numerics
@pytest.mark.parametrize("shares", [None, [1.0, 1.0, 1.0, 1.0, 1.0], [0.5, -0.25, 0.25, 0.25, 0.25]])
def test_concatenation_is_the_weighted_sum(tmp_path, five, shares):
    told = merge(five, tmp_path / "out", weights=shares)
    assert told["rank"] == 10 and told["difference"] < EXACT
    parts = [corrections(Path(folder)) for folder in five]
    for key, whole in corrections(tmp_path / "out").items():
        wanted = sum(w * part[key] for w, part in zip(shares or [0.2] * 5, parts, strict=True))
        torch.testing.assert_close(whole, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.numerics
def test_the_merged_forward_is_that_of_peft_and_of_the_folded_sum(tmp_path, five):
    merge(five, tmp_path / "out")
    ours = build.load(str(tmp_path / "out")).task.language
    ids = torch.tensor([[1, 2, 3, 4]])
    told = ours.model(input_ids=ids).logits
    with pytest.warns():
        theirs = peft.PeftModel.from_pretrained(tiny.language().model, str(Path(five[0]) / store.LLM), "a0")
        for i, folder in enumerate(five[1:], 1):
            theirs.load_adapter(str(Path(folder) / store.LLM), f"a{i}")
    names = [f"a{i}" for i in range(5)]
    theirs.add_weighted_adapter(names, [0.2] * 5, "cat", combination_type="cat")
    theirs.set_adapter("cat")
    torch.testing.assert_close(theirs.eval()(input_ids=ids).logits, told, atol=1e-4, rtol=0)
    saved = peft.get_peft_model_state_dict(theirs, adapter_name="cat", save_embedding_layers=False)
    state = text.read_lora(tmp_path / "out" / store.LLM)
    assert saved.keys() == state.keys() and all(torch.equal(saved[key], state[key]) for key in saved)
    folded = tiny.language().model
    for folder in five:
        for key, delta in corrections(Path(folder)).items():
            path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            folded.get_submodule(path).weight.data += 0.2 * delta
    torch.testing.assert_close(folded(input_ids=ids).logits, told, atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", ["linear", "ties", "dare_linear", "svd"])
def test_other_ways_of_merging(tmp_path, five, how, clips):
    told = merge(five[:2], tmp_path / "out", how=how)
    assert told["rank"] == 2 and told["difference"] > EXACT
    manifest = json.loads((tmp_path / "out" / store.MANIFEST).read_text())
    assert manifest["merged"]["from"] == ["first", "lora1"] and manifest["scores"] == {}
    assert manifest["language model"]["lora"]["rank"] == told["rank"]
    assert "captions sound with tiny-llama" in (tmp_path / "out" / "README.md").read_text()
    assert len(captions(build.load(str(tmp_path / "out")).task, clips)) == len(clips)


def copied(folder: str, out: Path) -> Path:
    return Path(shutil.copytree(folder, out))


def test_merges_that_cannot_be(tmp_path, five, first, clips):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="1 folder was given; merging wants two or more"):
        merge(five[:1], out)
    with pytest.raises(UsageError, match=r"2 weights for 3 folders: \[1.0, 2.0\]; give one number for each"):
        merge(five[:3], out, weights=[1.0, 2.0])
    with pytest.raises(UnknownNameError, match="unknown way of merging 'cut'; did you mean 'cat'"):
        merge(five, out, how="cut")
    trained(tmp_path / "wide", clips, "task.stage=lora-only", "task.lora.rank=3", init=first)
    with pytest.raises(AdapterError, match=r"wide has rank 3, .*first rank 2; 'linear' wants equal ranks, use cat"):
        merge([five[0], str(tmp_path / "wide")], out, how="linear")
    assert merge([five[0], str(tmp_path / "wide")], tmp_path / "both")["rank"] == 5
    trained(tmp_path / "other", clips, "train.seed=7")
    with pytest.raises(AdapterError, match=r"other has another mapper or encoder than .*first.*--stage lora-only"):
        merge([five[0], str(tmp_path / "other")], out)
    (copied(five[1], tmp_path / "bare") / store.WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=f"bare has no {store.WEIGHTS}"):
        merge([five[0], str(tmp_path / "bare")], out)
    strange = copied(five[1], tmp_path / "strange")
    manifest = json.loads((strange / store.MANIFEST).read_text())
    manifest["language model"] |= {"name": "gpt", "sizes": [1, 2, 3]}
    store.save_manifest(strange, manifest)
    with pytest.raises(AdapterError, match="strange was made for the language model gpt, .*first for tiny-llama"):
        merge([five[0], str(strange)], out)
    (copied(five[1], tmp_path / "broken") / store.LLM / text.WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        merge([five[0], str(tmp_path / "broken")], out)
    with pytest.raises(UsageError, match="is there already"):
        merge(five, first)
    assert not out.exists()


def test_captions_whose_words_are_all_alike_have_none_to_name(tmp_path, clips):
    alike = [replace(clip, captions=("a tone",)) for clip in clips]
    trained(tmp_path / "out", alike, "task.name_first=1")
    assert all(value.isfinite().all() for value in weights(tmp_path / "out").values())
