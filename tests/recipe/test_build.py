"""From recipe to folder and back, on a tiny encoder in the place of the real one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests import tiny

from ossicle.adapters import store
from ossicle.contracts import Clip
from ossicle.data import Dataset
from ossicle.errors import AdapterError, CheckpointError, DataError, RecipeError, UsageError
from ossicle.recipe import backbone, build, config, iterate
from ossicle.recipe.classify import ClassifyPlan
from ossicle.tasks.features import FeatureStore, TokenStore
from ossicle.tasks.listen import Ear
from ossicle.training import checkpoint
from ossicle.training.evaluate import predict_rows

TONES = {"low": 300.0, "high": 3000.0}
QUICK = [
    *("train.epochs=1", "train.batch=4", "train.precision=float32"),
    *("backbone.name=whisper-tiny.en", "adapter.spec=lora(rank=8)+norm()"),
]


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch, tmp_path):
    """A tiny encoder and an empty cache."""
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(backbone, "frozen", lambda recipe: tiny.encoder("whisper"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("tones")
    return [
        Clip(tiny.write_tone(folder / f"{label}{i}.wav", hz + 20 * i, 0.4, seed=i), labels=(label,), split=str(i))
        for i in range(4)
        for label, hz in TONES.items()
    ]


def recipe(*changes: str) -> config.Recipe:
    return config.read(None, [*QUICK, *changes])


def trained(out: Path, clips: list[Clip], *changes: str, resume: bool = False) -> dict:
    return build.train(recipe(*changes), Dataset("tones", tuple(clips)), out, resume=resume, quiet=True)


# --- train, save, load -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["lora(rank=2)+norm()", "probe()", "full()"])
def test_what_was_saved_predicts_the_same(tmp_path, clips, spec, monkeypatch):
    made, start = [], ClassifyPlan.start
    monkeypatch.setattr(
        ClassifyPlan, "start", lambda plan, task, *given: made.append(task) or start(plan, task, *given)
    )
    manifest = trained(tmp_path / "out", clips, f"adapter.spec={spec}", "data.val=['3']")
    assert manifest["data"] | {"licences": {}} == {
        "name": "tones", "train": 6, "val": 2, "test": 0, "licences": {}, "unreadable": {},
    }  # fmt: skip
    loaded = build.load(str(tmp_path / "out"))
    assert loaded.manifest["scores"] == manifest["scores"] and loaded.recipe.data.source == "tones"
    task = made[-1]
    task.listener.ears[0].store = None
    rows, again = (predict_rows(t, clips, batch=4, precision="float32") for t in (task, loaded.task))
    assert rows == again and {row.label for row in rows} <= set(TONES)
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.[jtm][sod]*"))


@pytest.mark.parametrize("spec", ["probe()", "full()"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("mn04", "mobile"), ("panns-wavegram-cnn14", "panns"), ("vggish", "vggish"), ("yamnet", "yamnet")],
)
def test_a_convolutional_encoder_that_was_saved_predicts_the_same(tmp_path, clips, monkeypatch, name, kind, spec):
    monkeypatch.setattr(backbone, "frozen", lambda recipe: tiny.encoder(kind))
    made, start = [], ClassifyPlan.start
    monkeypatch.setattr(
        ClassifyPlan, "start", lambda plan, task, *given: made.append(task) or start(plan, task, *given)
    )
    changes = ["task.augment.time_mask=8", "task.augment.roll=3"] if spec == "full()" else []
    settings = [f"backbone.name={name}", f"adapter.spec={spec}", "data.val=['3']", "task.head=trained", *changes]
    trained(tmp_path / "out", clips, *settings)
    loaded = build.load(str(tmp_path / "out"))
    with torch.no_grad():
        one, two = (
            task.logits(task.collate(clips[:3], None)) for task in (made[0], loaded.task)
        )  # fmt: skip
    assert torch.allclose(one, two, atol=1e-5)


def test_tokens_of_a_convolutional_encoder_cannot_be_dropped(tmp_path, clips, monkeypatch):
    """Told before weights are fetched or a clip is read, of a joined backbone too."""
    monkeypatch.setattr(backbone, "frozen", lambda recipe: pytest.fail("weights were fetched"))
    for name, bare in (("mn04", "mn04"), ("yamnet+whisper-tiny.en", "yamnet"), ("whisper-tiny.en+vggish", "vggish")):
        changes = [f"backbone.name={name}", "adapter.spec=probe()", "task.head=trained"]
        with pytest.raises(UsageError, match=rf"drop_tokens spares .* but {bare} is convolutional and has none;"):
            trained(tmp_path / "out", clips, *changes, "task.augment.drop_tokens=0.3")


def test_several_labels_a_clip(tmp_path, clips):
    both = [Clip(c.path, labels=("low", "high")) for c in clips[:2]]
    manifest = trained(tmp_path / "out", [*clips, *both], "task.multi_label=true", "data.hold_out=0.25")
    assert "map_macro" in manifest["scores"]["val"]
    assert build.load(str(tmp_path / "out")).task.multi_label


def test_cached_tokens_by_recipe(tmp_path, clips):
    def made(*changes: str) -> Ear:
        plan = ClassifyPlan(recipe("task.cache_versions=2", *changes), list(TONES))
        task = plan.task(for_training=True)
        plan.caches(task)
        return task.listener.ears[0]

    ear = made("adapter.spec=lora(rank=2,blocks=top:1)", "task.layers=[3]")
    assert isinstance(ear.tokens, TokenStore) and (ear.tokens.number, ear.versions) == (2, 2)
    assert made("adapter.spec=norm()", "task.layers=[1,3]").tokens.number == 1
    probe = made("adapter.spec=probe()")
    assert probe.tokens is None and probe.store is not None
    with pytest.raises(UsageError, match=r"full\(\) trains it"):
        made("adapter.spec=full()")
    with pytest.raises(UsageError, match=r"layers 0 \(stem\) to 3 but got 9"):
        trained(tmp_path / "none", clips, "task.layers=[9]")
    assert not (tmp_path / "none").exists()
    manifest = trained(
        tmp_path / "out", clips, "task.cache_versions=2", "adapter.spec=norm()", "task.augment.gain_db=6"
    )
    assert manifest["epochs"] == 1


def cut_off(path: Path) -> Path:
    """A file whose header promises more than is there, which only shows when it is decoded."""
    path.write_bytes(tiny.write_tone(path, 500.0, 0.4, seed=9).read_bytes()[:-4000])
    return path


@pytest.mark.parametrize("spec", ["lora(rank=2)", "probe()"])
def test_unreadable_clips_are_named_with_the_reason_and_not_counted(tmp_path, clips, spec):
    bad = tmp_path / "letter.wav"
    bad.write_text("a letter")
    half = cut_off(tmp_path / "half.wav")
    short = tiny.write_tone(tmp_path / "short.wav", 500.0, 0.005)
    faults = [
        Clip(bad, labels=("low",), name="x/letter.wav", licence="CC-BY"),
        Clip(half, labels=("high",), name="half.wav"),
        Clip(short, labels=("low",)),
        Clip(clips[0].path, start=7.0, end=9.0, labels=("low",), name="late.wav"),
        Clip(bad, labels=("low",), name="val/letter.wav", split="3"),
    ]
    manifest = trained(tmp_path / "out", [*clips, *faults], f"adapter.spec={spec}", "data.val=['3']", "train.batch=1")
    data = manifest["data"]
    assert (data["train"], data["val"], data["licences"]) == (6, 2, {"not stated": 6})
    reasons = {
        "x/letter.wav": "is text",
        "half.wav": "cut off",
        "short.wav": "only 80 sample(s)",
        "val/letter.wav": "is text",
    }
    reasons["late.wav"] = "seconds 7.0 to 9.0 were asked for but the sound ends at 0.40 s"
    assert set(data["unreadable"]) == set(reasons)
    assert [(name, why) for name, why in data["unreadable"].items() if reasons[name] not in why] == []
    assert str(tmp_path) not in json.dumps(manifest)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "6 clips to train, 2 to validate" in card and "5 files that could not be read" in card


@pytest.mark.parametrize("spec", ["lora(rank=2)", "probe()"])
@pytest.mark.parametrize("fault", ["text", "cut off"])
def test_a_class_without_a_readable_clip_is_an_error(tmp_path, clips, fault, spec):
    bad = tmp_path / "crow.wav"
    bad.write_text("a letter")
    if fault == "cut off":
        cut_off(bad)
    lost = [Clip(bad, labels=("crow",), name="crow/1.wav"), Clip(bad, labels=("crow",), name="crow/2.wav")]
    with pytest.raises(DataError, match=rf"1 class\(es\) have no training clip .*'crow' \(crow/1\.wav: .*{fault}"):
        trained(tmp_path / "out", [*clips, *lost], "data.hold_out=0", f"adapter.spec={spec}")
    assert not (tmp_path / "out" / "curve.png").exists()


@pytest.mark.parametrize("change", ["task.multi_label=true", "task.multi_label=false"])
def test_clips_without_any_label_say_what_to_do(tmp_path, clips, change):
    bare = [Clip(c.path, captions=("A tone.",)) for c in clips]
    with pytest.raises(DataError, match=r"none of \d training clips has a label; .*train caption-llm"):
        trained(tmp_path / "out", bare, change)
    bare = [Clip(c.path) for c in clips]
    with pytest.raises(DataError, match=r"none of \d training clips has a label; add a label column"):
        trained(tmp_path / "out", bare, change)


def test_no_training_clip_at_all(tmp_path):
    bad = tmp_path / "letter.wav"
    bad.write_text("a letter")
    with pytest.raises(DataError, match=r"no training clip can be read; first: .*is text"):
        trained(tmp_path / "none", [Clip(bad, labels=(label,)) for label in ("low", "high") * 2], "data.hold_out=0")


def test_out_that_cannot_be(tmp_path, clips):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; give a folder"):
        trained(tmp_path / "file", clips)
    with pytest.raises(CheckpointError, match="cannot write"):
        trained(tmp_path / "file" / "out", clips)
    trained(tmp_path / "out", clips)
    with pytest.raises(UsageError, match="already holds a trained adapter.*--resume"):
        trained(tmp_path / "out", clips)


# --- going on --------------------------------------------------------------------------------------------------------


def test_resume_needs_a_run_and_its_classes(tmp_path, clips):
    named = ["data.val=['3']"]
    with pytest.raises(CheckpointError, match="nothing to resume"):
        trained(tmp_path / "out", clips, *named, resume=True)
    assert not (tmp_path / "out").exists()
    trained(tmp_path / "out", clips, *named)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()}
    others = [replace(clip, labels=(f"{clip.labels[0]}er",)) for clip in clips]
    with pytest.raises(UsageError, match="begun with other labels"):
        trained(tmp_path / "out", others, *named, resume=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()} == before
    with pytest.raises(UsageError, match=r"begun with train\.lr .* \(now 0\.5\); resume with those"):
        trained(tmp_path / "out", clips, *named, "train.lr=0.5", resume=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()} == before
    assert trained(tmp_path / "out", clips, *named, "train.epochs=2", resume=True)["epochs"] == 2
    (tmp_path / "out" / checkpoint.LAST).unlink()
    with pytest.raises(CheckpointError, match="nothing to resume"):
        trained(tmp_path / "out", clips, *named, resume=True)


def test_a_run_stopped_before_its_first_state_begins_anew(tmp_path, clips, monkeypatch):
    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(ClassifyPlan, "start", stopped)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "out", clips)
    monkeypatch.undo()
    monkeypatch.setattr(backbone, "frozen", lambda recipe: tiny.encoder("whisper"))
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    trained(tmp_path / "out", clips, resume=True)
    trained(tmp_path / "whole", clips)
    ours, whole = (store.read_weights(tmp_path / name) for name in ("out", "whole"))
    assert all(torch.equal(ours[key], whole[key]) for key in whole)


# --- folders that are broken -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSSICLE_HOME", str(out.parent / "home"))
        patch.setattr(backbone, "frozen", lambda recipe: tiny.encoder("whisper"))
        trained(out, clips)
    return out


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_other_weights_are_refused(folder, monkeypatch):
    monkeypatch.setattr(backbone, "frozen", lambda recipe: tiny.encoder("whisper", seed=1))
    with pytest.raises(AdapterError, match=r"trained on other weights of whisper-tiny\.en.*digest tiny-whispe"):
        build.load(str(folder))
    monkeypatch.setattr(backbone, "frozen", lambda recipe: tiny.encoder("ast"))
    with pytest.raises(AdapterError, match="trained on other weights"):
        build.load(str(folder))


@pytest.mark.parametrize("name", [store.MANIFEST, store.WEIGHTS, build.RECIPE, build.LABELS])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage", "folder"])
def test_a_damaged_file_says_so(folder, name, damage):
    file = folder / name
    whole = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "garbage": b"\xff\x00{" * 40}[damage])
    with pytest.raises((CheckpointError, RecipeError), match=r"copy.* (again|--out)|copy has no"):
        build.load(str(folder))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (store.MANIFEST, []),
        (store.MANIFEST, {"format": 1}),
        (store.MANIFEST, {"format": 1, "backbone": {"signature": "x", "digest": ""}}),
        (build.LABELS, 3),
        (build.LABELS, None),
    ],
)
def test_json_of_another_shape_says_so(folder, name, content):
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="again"):
        build.load(str(folder))


def test_a_newer_format_and_folders_that_are_none(folder, tmp_path):
    manifest = json.loads((folder / store.MANIFEST).read_text())
    (folder / store.MANIFEST).write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(CheckpointError, match="format 2 but this version reads up to 1; upgrade"):
        build.load(str(folder))
    with pytest.raises(CheckpointError, match="is not an adapter folder"):
        build.load(str(tmp_path))
    with pytest.raises(CheckpointError, match="no adapter folder 'absent'"):
        build.load("absent")


def test_weights_of_another_adapter_are_refused(folder):
    recipe_file = folder / build.RECIPE
    recipe_file.write_text(recipe_file.read_text().replace("rank=8", "rank=4"))
    with pytest.raises(CheckpointError, match="recipe.toml is not the one it was saved with"):
        build.load(str(folder))
    manifest = json.loads((folder / store.MANIFEST).read_text())
    del manifest["sha256"]
    (folder / store.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(AdapterError, match="does not fit"):
        build.load(str(folder))


def test_a_folder_of_an_earlier_version_is_read(folder, clips):
    """Its recipe has a setting of training that is gone, and the manifest does not know where weights came from."""
    wanted = predict_rows(build.load(str(folder)).task, clips, batch=4, precision="float32")
    file = folder / build.RECIPE
    file.write_text(file.read_text().replace("[task]\n", "[task]\nhead_first = 5\n"))
    manifest = json.loads((folder / store.MANIFEST).read_text())
    del manifest["sha256"], manifest["backbone"]["encoders"]
    (folder / store.MANIFEST).write_text(json.dumps(manifest))
    assert predict_rows(build.load(str(folder)).task, clips, batch=4, precision="float32") == wanted
    with pytest.raises(RecipeError, match=r"task\.head_first is gone, .*; leave it out"):
        config.read(file)  # of a training it would have to do something


@pytest.mark.parametrize(("spec", "loud"), [("lora(rank=2)", False), ("prompts(tokens=20)", True)])
def test_the_head_is_standardised_on_what_the_encoder_gives_at_first(tmp_path, clips, spec, loud, monkeypatch):
    """Prompts shift what is pooled from the start; statistics of the frozen encoder would not fit it."""
    fresh = ClassifyPlan(recipe(f"adapter.spec={spec}"), ["high", "low"]).task(for_training=False)
    (ear,) = fresh.listener.ears
    expected = torch.stack(ear.feature_store(root=tmp_path / "own").get(clips)).mean(0)
    usual = torch.stack(FeatureStore(tiny.encoder("whisper"), ear.layers, ear.kind).get(clips)).mean(0)
    assert torch.allclose(expected, usual, atol=1e-3) != loud
    made, fit = [], iterate.fit

    def watched(task, *given, **options):
        made.append(task.head.norm.mean.clone())
        return fit(task, *given, **options)

    monkeypatch.setattr(iterate, "fit", watched)
    trained(tmp_path / "out", clips, f"adapter.spec={spec}", "task.head_norm=standard", "data.hold_out=0")
    assert torch.allclose(made[-1], expected, atol=1e-4)


def test_cached_tokens_refuse_changes_they_cannot_have(tmp_path, clips):
    with pytest.raises(UsageError, match=r"cannot have task\.augment\.noise"):
        trained(tmp_path / "out", clips, "task.cache_versions=2", "task.augment.noise=0.1", "task.augment.gain_db=3")


def test_a_sigmoid_for_each_class_comes_from_the_recipe(tmp_path, clips):
    trained(tmp_path / "out", clips, "task.loss=binary")
    task = build.load(str(tmp_path / "out")).task
    assert task.binary and not task.multi_label


def test_every_setting_of_the_backbone_reaches_it(monkeypatch):
    monkeypatch.undo()
    given = {}
    monkeypatch.setattr(backbone.backbones, "load", lambda name, **options: given.update(options, name=name))
    tables = {
        "name": "whisper-tiny.en",
        "stride": 8,
        "frontend": "epic",
        "frames": 40,
        "statistics": "esc50",
        "positions": "zero",
    }
    backbone.frozen(config.read(None, [f"backbone.{key}={value}" for key, value in tables.items()]))
    assert given == {
        "name": "whisper-tiny.en", "weights_from": None, "source": "auto", "stride": 8, "frontend": "epic",
        "frames": 40, "statistics": "esc50", "zero_positions": True,
    }  # fmt: skip
