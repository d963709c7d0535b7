"""Captioners on several encoders: each one's tokens through a map of its own, trained, saved and loaded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.recipe.joined import stand_ins, tones

from ossicle.adapters import store
from ossicle.contracts import Clip
from ossicle.data import Dataset
from ossicle.data.clips import load_waves
from ossicle.errors import AdapterError, UsageError
from ossicle.recipe import build, config, iterate
from ossicle.recipe.caption_llm import CaptionPlan
from ossicle.tasks.caption_llm import Captioner
from ossicle.tasks.features import sequence
from ossicle.training.evaluate import predict_rows

QUICK = [
    "train.epochs=2", "train.batch=4", "train.precision=float32", "train.lr=0.01", "data.hold_out=0",
    "task.lora.rank=2", "task.squeeze=2", "task.decoding.method=greedy", "task.decoding.max_tokens=6",
    "task.pooling=stride", "task.soft_tokens=3", "backbone.name=mn04+whisper-tiny.en",
]  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch, tmp_path):
    stand_ins(monkeypatch, tmp_path / "home")
    monkeypatch.setattr("ossicle.recipe.caption_llm.language_model", lambda name, **options: tiny.language())


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    """Of unequal lengths, each with two captions."""
    folder = tmp_path_factory.mktemp("tones")
    made = [tones(folder / str(n), 1, seconds=0.4 + 0.35 * n) for n in range(3)]
    return [
        replace(c, split=str(n), name=f"{n}{c.name}", captions=(f"a {c.labels[0]} tone", f"the tone is {c.labels[0]}"))
        for n, group in enumerate(made)
        for c in group
    ]


def recipe(*changes: str) -> config.Recipe:
    return config.read(None, [*QUICK, *changes], {"task": {"kind": "caption-llm"}})


def trained(out: Path, clips: list[Clip], *changes: str, **options) -> dict:
    return build.train(recipe(*changes), Dataset("tones", tuple(clips)), out, quiet=True, **options)


def fresh(*changes: str) -> tuple[CaptionPlan, Captioner]:
    plan = CaptionPlan(recipe(*changes))
    return plan, plan.task(for_training=True)


def captions(task: Captioner, clips: list[Clip], batch: int = 4) -> list[tuple[str | None, float | None]]:
    return [(r.caption, r.score) for r in predict_rows(task, clips, batch=batch, precision="float32")]


@torch.no_grad()
def test_soft_tokens_are_made_of_the_tokens_of_each_part_in_turn(clips):
    _, task = fresh()
    task.mapper.eval()
    for clip in clips:
        heard = []
        for ear in task.listener.ears:
            (wave,) = load_waves([clip], ear.encoder.rate_hz)
            heard.append(sequence(ear.encoder(wave[None], layers=ear.layers), ear.layers, 2)[0])
        (first, second), (tagger, whisper) = [task.mapper.first, task.mapper.others[0][1]], task.mapper.norms
        mapped = [first(tagger(heard[0])), second(whisper(heard[1]))]
        joined = task.mapper.second(torch.nn.functional.gelu(torch.cat(mapped, dim=1)))
        wanted = task.mapper.pool(joined, torch.ones(joined.shape[:2]))
        torch.testing.assert_close(task.mapper(*task.heard(task.collate([clip], None))), wanted)


@pytest.mark.parametrize("pooling", ["stride", "attention"])
@torch.no_grad()
def test_neighbours_of_other_lengths_change_nothing(clips, pooling):
    _, task = fresh(f"task.pooling={pooling}")
    for part in task.parts().values():
        part.eval()
    together = task.prefix(task.collate(clips, None))
    for row, clip in zip(together, clips, strict=True):
        torch.testing.assert_close(task.prefix(task.collate([clip], None))[0], row, atol=2e-5, rtol=1e-4)


def test_cached_tokens_give_the_same_loss(clips):
    plan, task = fresh()
    for part in task.parts().values():
        part.eval()
    plain = task.loss(task.collate(clips, None))
    assert plan.caches(task) and all(ear.store is not None for ear in task.listener.ears)
    for _ in range(2):
        torch.testing.assert_close(task.loss(task.collate(clips, None)), plain, atol=2e-3, rtol=2e-3)
    assert [ear.store.computed for ear in task.listener.ears] == [9, 9]
    plan, task = fresh("adapter.spec=whisper-tiny.en:lora(rank=2)")
    plan.caches(task)
    assert [ear.store is None for ear in task.listener.ears] == [False, True]
    for part in task.parts().values():
        part.eval()
    torch.testing.assert_close(task.loss(task.collate(clips, None)), plain, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("spec", ["probe()", "whisper-tiny.en:lora(rank=2)"])
def test_what_was_saved_captions_the_same(tmp_path, clips, spec, monkeypatch):
    made, fit = [], iterate.fit
    monkeypatch.setattr(iterate, "fit", lambda task, *given, **more: made.append(task) or fit(task, *given, **more))
    manifest = trained(tmp_path / "out", clips, f"adapter.spec={spec}", "data.val=['2']")
    for ear in made[0].listener.ears:
        ear.store = None
    loaded = build.load(str(tmp_path / "out")).task
    assert captions(loaded, clips) == captions(made[0], clips)
    alone, together = (captions(loaded, clips, batch=size) for size in (1, 9))
    assert [text for text, _ in alone] == [text for text, _ in together]
    assert [score for _, score in alone] == pytest.approx([score for _, score in together], abs=1e-5)
    saved = store.read_weights(tmp_path / "out")
    assert {f"mapper/others.0.{key}" for key in ("0.mean", "0.std", "1.weight", "1.bias")} <= set(saved)
    assert any(key.startswith("backbone/whisper-tiny.en/") for key in saved) == ("lora" in spec)
    assert manifest["parameters"]["mapper"] == sum(p.numel() for p in loaded.mapper.parameters())
    assert "weights of mn04" in (tmp_path / "out" / "README.md").read_text()
    for norm, ear in zip(loaded.mapper.norms, loaded.listener.ears, strict=True):
        assert norm.mean.shape == (ear.width,) and norm.mean.abs().max() > 0.01


def test_it_learns_from_both_and_is_standardised_on_each(tmp_path, clips):
    """The map of either encoder moves; the norm of each is of its own tokens."""
    trained(tmp_path / "out", clips)
    _, task = fresh()
    before, after = store.collect(task.parts()), store.read_weights(tmp_path / "out")
    for key in ("mapper/first.weight", "mapper/others.0.1.weight"):
        assert not torch.equal(before[key], after[key])
    mapper = build.load(str(tmp_path / "out")).task.mapper
    for norm, (tokens, mask) in zip(mapper.norms, task.listener.sequences(task.collate(clips, None)), strict=True):
        real = norm(tokens.flatten(0, 1) if mask is None else tokens[mask])
        assert real.mean(0).abs().max() < 0.2 and (real.std(0) - 1).abs().max() < 0.3


def test_the_mapper_learns_to_name_words_from_both(tmp_path, clips):
    manifest = trained(tmp_path / "out", clips, "task.name_first=1", "train.epochs=1")
    assert manifest["epochs"] == 1 and captions(build.load(str(tmp_path / "out")).task, clips)


def test_what_cannot_be(tmp_path, clips):
    with pytest.raises(UsageError, match=r"task\.layers=\[1\] is of one encoder, mn04\+whisper-tiny\.en has several"):
        trained(tmp_path / "out", clips, "task.layers=[1]")
    assert not (tmp_path / "out").exists()
    trained(tmp_path / "both", clips, "train.epochs=1")
    with pytest.raises(AdapterError, match="saved mapper does not fit"):
        trained(tmp_path / "out", clips, "backbone.name=mn04", init=tmp_path / "both")


def test_few_validation_clips_of_captions_are_left_out(tmp_path, clips, monkeypatch):
    """Only classifiers learn from them in the end."""
    seen, fit = [], iterate.fit
    monkeypatch.setattr(
        iterate,
        "fit",
        lambda task, train, val, *given, **more: seen.append((train, val)) or fit(task, train, val, *given, **more),
    )
    manifest = trained(tmp_path / "out", clips, "data.hold_out=0.3")
    ((train, val),) = seen
    assert len(val) > 1 and not {c.path for c in train} & {c.path for c in val} and "val" in manifest["scores"]
    assert json.loads((tmp_path / "out" / store.MANIFEST).read_text())["data"]["train"] == len({c.path for c in train})
