"""Training: it learns, goes on exactly where it was stopped, and keeps what was saved when something breaks."""

import json
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests import tiny

from ossicle import adapters
from ossicle.adapters import store
from ossicle.contracts import Clip
from ossicle.errors import AdapterError, CheckpointError, DataError, Interrupted, UsageError
from ossicle.tasks.classify import Augment, Classifier
from ossicle.tasks.features import FeatureStore
from ossicle.training import checkpoint
from ossicle.training.evaluate import evaluate, predict_rows
from ossicle.training.loop import METRICS, best_epoch, fit
from ossicle.training.optim import Settings

TONES = {"low": 300.0, "mid": 1200.0, "high": 3500.0}
QUICK = Settings(epochs=2, batch=4, lr=3e-3, precision="float32")
CHANGES = Augment(shift_s=0.1, gain_db=3.0, mixup=0.5, time_mask=8, freq_mask=8, drop_tokens=0.2)


def tones(folder: Path, each: int, seconds: float = 0.4) -> list[Clip]:
    """Clips of every class, their pitches spread a little."""
    return [
        Clip(tiny.write_tone(folder / f"{label}{i}.wav", hz * (1 + 0.02 * i), seconds, seed=i), labels=(label,))
        for i in range(each)
        for label, hz in TONES.items()
    ]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    return tones(tmp_path_factory.mktemp("tones"), 4)


def classifier(spec: str = "lora(rank=4)+norm()", **options) -> Classifier:
    encoder = tiny.encoder("whisper")
    adapters.inject(encoder, adapters.parse(spec))
    torch.manual_seed(0)
    return Classifier(encoder, sorted(TONES), **options)


def bad_clip(folder: Path) -> Clip:
    path = folder / "letter.wav"
    path.write_text("this is a letter")
    return Clip(path, labels=("low",))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return store.read_weights(out)


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


def lines(out: Path) -> list[dict]:
    read = [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read]


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["lora(rank=4)+norm()", "probe()"])
def test_a_separable_problem_is_learnt(tmp_path, spec):
    train, val = tones(tmp_path / "train", 6), tones(tmp_path / "val", 3)
    task = classifier(spec, head_norm="none")
    if spec == "probe()":
        task.listener.ears[0].store = task.listener.ears[0].feature_store(root=tmp_path / "cache")
    settings = replace(QUICK, epochs=12, batch=6, lr=1e-2)
    history = fit(task, train, val, settings, tmp_path / "out", quiet=True)
    assert len(history) == 12 and history[-1]["step"] == 12 * 3
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    _, scores = evaluate(task, val, batch=4, precision="float32")
    assert scores["accuracy"] > 0.9


def test_features_of_a_frozen_encoder_are_computed_once(tmp_path, clips):
    def run(out: str) -> FeatureStore:
        task = classifier("probe()")
        task.listener.ears[0].store = task.listener.ears[0].feature_store(root=tmp_path / "cache")
        fit(task, clips[3:], clips[:3], replace(QUICK, epochs=3), tmp_path / out, quiet=True)
        return task.listener.ears[0].store

    assert run("first").computed == len(clips)
    assert run("second").computed == 0
    assert_equal(weights(tmp_path / "first"), weights(tmp_path / "second"))


@pytest.mark.numerics
def test_only_trainable_parts_move_and_a_run_can_be_repeated(tmp_path, clips):
    task = classifier()
    before = {k: v.clone() for k, v in task.encoder.state_dict().items()}
    fit(task, clips, [], QUICK, tmp_path / "one", quiet=True)
    moved = {k for k, v in task.encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {name for name, p in task.encoder.named_parameters() if p.requires_grad}
    fit(classifier(), clips, [], QUICK, tmp_path / "two", quiet=True)
    assert_equal(weights(tmp_path / "one"), weights(tmp_path / "two"))


# --- going on --------------------------------------------------------------------------------------------------------


def stop_at(task: Classifier, call: int) -> None:
    """Send Ctrl-C to ourselves while the given training batch is loaded."""
    inner, seen = task.collate, 0

    def collate(chosen, generator):
        nonlocal seen
        seen += generator is not None
        if generator is not None and seen == call:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(chosen, generator)

    task.collate = collate  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("spec", "settings", "call"),
    [
        ("lora(rank=4,dropout=0.2)+norm()", QUICK, 2),
        ("lora(rank=4,dropout=0.2)+norm()", replace(QUICK, accumulate=2), 2),
        ("lora(rank=4,dropout=0.2)", replace(QUICK, accumulate=2, keep="last"), 5),
        ("probe()", replace(QUICK, epochs=3), 5),
    ],
    ids=["first epoch", "half an update", "second epoch", "probe"],
)
def test_a_stopped_run_goes_on_exactly(tmp_path, clips, spec, settings, call):
    def made() -> Classifier:
        return classifier(spec, augment=CHANGES, dropout=0.3, head_norm="layer")

    train, val = clips[:9], clips[9:]
    fit(made(), train, val, settings, tmp_path / "whole", quiet=True)
    stopped = made()
    stop_at(stopped, call)
    with pytest.raises(Interrupted, match="--resume"):
        fit(stopped, train, val, settings, tmp_path / "parts", quiet=True)
    assert 0 < checkpoint.load(tmp_path / "parts")["step"] <= 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    other = made()
    torch.manual_seed(77)
    with torch.no_grad():
        other.head.linear.weight.normal_()
    fit(other, train, val, settings, tmp_path / "parts", resume=True, quiet=True)
    assert_equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    ours, theirs = checkpoint.load(tmp_path / "parts"), checkpoint.load(tmp_path / "whole")
    assert_equal(ours["tensors"], theirs["tensors"])


def test_a_finished_run_can_be_resumed_and_stays(tmp_path, clips):
    fit(classifier(), clips, [], QUICK, tmp_path, quiet=True)
    before = weights(tmp_path)
    task = classifier()
    assert len(fit(task, clips, [], QUICK, tmp_path, resume=True, quiet=True)) == 2
    assert_equal(before, weights(tmp_path))
    assert_equal(before, store.collect(task.parts()))


@pytest.mark.parametrize(("keep", "epoch"), [("best", 1), ("last", 2)])
def test_best_or_last_epoch_is_kept(tmp_path, clips, keep, epoch):
    task, seen = classifier(), []

    def score(chosen, rows):
        seen.append(store.collect(task.parts()))
        return {"accuracy": (0.2, 0.9, 0.5)[len(seen) - 1]}

    task.score = score  # type: ignore[method-assign]
    fit(task, clips[3:], clips[:3], replace(QUICK, epochs=3, keep=keep), tmp_path, quiet=True)
    assert_equal(weights(tmp_path), seen[epoch])
    assert_equal(store.collect(task.parts()), seen[epoch])
    assert [line["val_accuracy"] for line in lines(tmp_path)] == [0.2, 0.9, 0.5]


# --- things that break -----------------------------------------------------------------------------------------------


def full_in_epoch_2(task: Classifier, monkeypatch) -> None:
    inner, seen = safetensors.torch.save_file, []

    def save(tensors, path):
        seen.append(path)
        if len(seen) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        inner(tensors, path)

    monkeypatch.setattr(safetensors.torch, "save_file", save)


def small_files_in_epoch_2(task: Classifier, monkeypatch) -> None:
    """The system itself refuses files of more than 1 KiB."""
    limits, inner, seen = resource.getrlimit(resource.RLIMIT_FSIZE), task.collate, []

    def collate(chosen, generator):
        seen.append(generator)
        if len(seen) == 4:  # batches are loaded one ahead; the first of epoch 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        return inner(chosen, generator)

    task.collate = collate  # type: ignore[method-assign]


@pytest.mark.parametrize("fill", [full_in_epoch_2, small_files_in_epoch_2], ids=["refused", "file limit"])
def test_a_full_disk_leaves_what_was_saved(tmp_path, clips, monkeypatch, fill):
    fit(classifier(), clips, [], replace(QUICK, epochs=1), tmp_path / "one", quiet=True)
    task = classifier()
    fill(task, monkeypatch)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError, match="cannot write .*earlier file is intact"):
            fit(task, clips, [], QUICK, tmp_path / "two", quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    assert checkpoint.load(tmp_path / "two")["epoch"] == 1
    assert weights(tmp_path / "two").keys() == weights(tmp_path / "one").keys()
    assert [p.name for p in (tmp_path / "two").iterdir() if p.name.endswith(".part")] == []
    fit(classifier(), clips, [], QUICK, tmp_path / "two", resume=True, quiet=True)
    fit(classifier(), clips, [], QUICK, tmp_path / "whole", quiet=True)
    assert_equal(weights(tmp_path / "two"), weights(tmp_path / "whole"))


def test_a_folder_that_cannot_be(tmp_path, clips):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot write"):
        checkpoint.save(tmp_path / "file" / "out", {})


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other", "list", "folder"])
def test_a_damaged_state_says_so(tmp_path, clips, damage):
    fit(classifier("probe()"), clips[:4], [], replace(QUICK, epochs=1), tmp_path, quiet=True)
    state = tmp_path / checkpoint.LAST
    whole = state.read_bytes()
    state.unlink()
    if damage == "folder":
        state.mkdir()
    elif damage in ("other", "list"):
        torch.save({"epoch": 1} if damage == "other" else [1, 2], state)
    else:
        state.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"dear diary\n"}[damage])
    with pytest.raises(CheckpointError, match=r"last\.ckpt.*without --resume"):
        fit(classifier("probe()"), clips[:4], [], QUICK, tmp_path, resume=True, quiet=True)


def test_a_state_that_does_not_fit_is_refused(tmp_path, clips):
    fit(classifier(), clips[:4], [], replace(QUICK, epochs=1), tmp_path, quiet=True)
    with pytest.raises(AdapterError, match="does not fit"):
        fit(classifier("lora(rank=2)"), clips[:4], [], QUICK, tmp_path, resume=True, quiet=True)
    with pytest.raises(CheckpointError, match=r"begun with other \[train\] settings"):
        fit(classifier(), clips[:4], [], replace(QUICK, decay_all=True), tmp_path, resume=True, quiet=True)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        fit(classifier(), clips[:4], [], QUICK, tmp_path / "new", resume=True, quiet=True)


def test_nothing_to_train_and_nothing_to_train_on(tmp_path, clips):
    with pytest.raises(UsageError, match="no training clips"):
        fit(classifier(), [], clips, QUICK, tmp_path, quiet=True)
    task = classifier("probe()")
    task.head.requires_grad_(False)
    with pytest.raises(UsageError, match="nothing is trainable"):
        fit(task, clips, [], QUICK, tmp_path, quiet=True)
    bad = bad_clip(tmp_path)
    for many in (1, 9):
        with pytest.raises(DataError, match="no training clip can be read.*is text"):
            fit(classifier(), [bad] * many, [], QUICK, tmp_path / "out", quiet=True)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_one_unreadable_clip_costs_itself_only(tmp_path, clips, batch):
    bad = bad_clip(tmp_path)
    short = Clip(tiny.write_tone(tmp_path / "short.wav", 300, 0.01), labels=("low",))
    task = classifier()
    settings = replace(QUICK, batch=batch, accumulate=2)
    history = fit(task, [*clips[:6], bad, short], [*clips[6:], bad], settings, tmp_path / "out", quiet=True)
    assert set(task.unreadable) == {str(bad.path), str(short.path)}
    assert "is text" in task.unreadable[str(bad.path)] and "0.025 s" in task.unreadable[str(short.path)]
    assert all(0.01 < line["train_loss"] < 20 for line in history) and history[-1]["val_accuracy"] >= 0


def test_the_row_of_a_lone_bad_clip_has_its_own_reason(tmp_path, clips):
    bad = bad_clip(tmp_path)
    for given in ([bad], [clips[0], bad], [bad, clips[0], bad]):
        rows = predict_rows(classifier(), given, batch=len(given), precision="float32")
        errors = [row.error for row in rows if row.path == str(bad.path)]
        assert all("is text" in error and "of this batch" not in error for error in errors)
        assert [row.error is None for row in rows] == [clip is not bad for clip in given]


def test_without_the_score_that_chooses_the_last_epoch_is_kept(tmp_path, clips):
    task = classifier("probe()")
    task.best_by = "nothing"
    history = fit(task, clips, clips[:2], replace(QUICK, epochs=2, keep="best"), tmp_path / "out", quiet=True)
    assert len(history) == 2 and store.read_weights(tmp_path / "out")


# --- which epoch is kept ---------------------------------------------------------------------------------------------


def scores_of(task: Classifier, values: list[float | None]) -> list[dict[str, torch.Tensor]]:
    """Validation scores, epoch by epoch; the weights of each of these epochs."""
    seen: list[dict[str, torch.Tensor]] = []

    def score(chosen, rows):
        seen.append(store.collect(task.parts()))
        value = values[len(seen) - 1]
        return {} if value is None else {task.best_by: value}

    task.score = score  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize(
    ("best_by", "values", "kept"),
    [
        ("log_loss", [0.9, 0.2, 0.5], 2),
        ("log_loss", [0.2, 0.2, 0.5], 2),
        ("log_loss", [0.2, 0.2, 0.2], 3),
        ("log_loss", [0.1, 0.9, 0.9], 1),
        ("accuracy", [0.1, 0.9, 0.5], 2),
        ("accuracy", [0.9, 0.9, 0.5], 2),
        ("map_macro", [0.5, 0.4, 0.5], 3),
        ("log_loss", [None, 0.5, None], 2),
        ("log_loss", [float("nan"), 0.5, 0.7], 2),
        ("accuracy", [0.5, float("nan"), 0.4], 1),
    ],
)
def test_the_best_epoch_is_kept_and_of_equals_the_later(tmp_path, clips, best_by, values, kept):
    task = classifier(best_by=best_by)
    seen = scores_of(task, values)
    history = fit(task, clips[3:], clips[:3], replace(QUICK, epochs=3), tmp_path, quiet=True)
    assert best_epoch(history, best_by) == kept
    assert_equal(weights(tmp_path), seen[kept - 1])
    assert_equal(store.collect(task.parts()), seen[kept - 1])


@pytest.mark.parametrize(
    ("values", "settings", "done"),
    [
        ([0.5, 0.6, 0.7, 0.4], {"patience": 2}, 3),
        ([0.5, 0.6, 0.5, 0.6, 0.7, 0.1], {"patience": 2}, 5),  # as good is not worse
        ([0.5, 0.6, 0.7, 0.4], {"patience": 0}, 4),
        ([0.5, 0.6, 0.7, 0.4], {"patience": 2, "keep": "last"}, 4),
        ([None] * 4, {"patience": 1}, 4),
        ([0.5, 0.6, 0.7, 0.4], {"patience": 4}, 4),
    ],
)
def test_patience_ends_a_run_and_a_resumed_one_too(tmp_path, clips, values, settings, done):
    chosen = replace(QUICK, epochs=len(values), **settings)
    task = classifier()
    scores_of(task, values)
    history = fit(task, clips[3:], clips[:3], chosen, tmp_path, quiet=True)
    assert len(history) == done
    before = weights(tmp_path)
    again = classifier()
    assert fit(again, clips[3:], clips[:3], chosen, tmp_path, resume=True, quiet=True) == history
    assert_equal(before, weights(tmp_path))


def test_an_earlier_end_is_on_the_schedule_of_all_epochs(tmp_path, clips):
    whole = fit(classifier(), clips, [], replace(QUICK, epochs=5), tmp_path / "whole", quiet=True)
    part = fit(classifier(), clips, [], replace(QUICK, epochs=5), tmp_path / "part", last=2, quiet=True)
    assert [line["lr"] for line in part] == [line["lr"] for line in whole[:2]] and len(part) == 2
    assert [line["train_loss"] for line in part] == [line["train_loss"] for line in whole[:2]]
    fit(classifier(), clips, [], replace(QUICK, epochs=5), tmp_path / "part", resume=True, quiet=True)
    assert_equal(weights(tmp_path / "part"), weights(tmp_path / "whole"))
