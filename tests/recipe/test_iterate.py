"""Few validation clips: they choose how long, and are then learnt from; stopped anywhere, a run ends the same."""

import json
from pathlib import Path

import pytest
import torch
from tests.recipe.joined import recipe, stand_ins, tones, trained

from ossicle import terminal
from ossicle.adapters import store
from ossicle.contracts import Clip
from ossicle.errors import UsageError
from ossicle.recipe import build, iterate
from ossicle.recipe.classify import ClassifyPlan
from ossicle.recipe.partition import split
from ossicle.training import loop
from ossicle.training.checkpoint import LAST

ONE = ["backbone.name=whisper-tiny.en", "adapter.spec=lora(rank=2)+norm()", "data.hold_out=0.25", "train.epochs=4"]


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch, tmp_path):
    stand_ins(monkeypatch, tmp_path / "home")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    return tones(tmp_path_factory.mktemp("tones"), 4)


def fits(patch: pytest.MonkeyPatch) -> list[dict]:
    """What every training in epochs was given, from now on."""
    seen, fit = [], iterate.fit

    def watched(task, train, val, settings, out, **options):
        given = {"train": list(train), "val": list(val), "out": out.name, "last": options["last"]}
        seen.append(given)
        given["history"] = fit(task, train, val, settings, out, **options)
        return given["history"]

    patch.setattr(iterate, "fit", watched)
    return seen


def scored(patch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """The log losses of validation clips, epoch by epoch."""
    inner, left = loop.evaluate, list(losses)

    def evaluate(*given, **options):
        rows, scores = inner(*given, **options)
        return rows, scores | {"log_loss": left.pop(0)}

    patch.setattr(loop, "evaluate", evaluate)


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / store.MANIFEST).read_text(encoding="utf-8"))


def log_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / loop.METRICS).read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same(one: Path, two: Path) -> None:
    """All that is kept of two runs, but for the time they took."""
    ours, theirs = store.read_weights(one), store.read_weights(two)
    assert ours.keys() == theirs.keys() and [k for k in ours if not torch.equal(ours[k], theirs[k])] == []
    assert manifest_of(one) == manifest_of(two) and log_of(one) == log_of(two)
    assert (one / build.RECIPE).read_bytes() == (two / build.RECIPE).read_bytes()


# --- twice -----------------------------------------------------------------------------------------------------------


def test_the_final_training_is_on_all_clips_for_the_epochs_chosen(tmp_path, clips, monkeypatch):
    seen = fits(monkeypatch)
    scored(monkeypatch, [0.9, 0.5, 0.7, 0.6])
    manifest = trained(tmp_path / "out", clips, *ONE)
    first, last = seen
    held, learnt = {c.path for c in first["val"]}, {c.path for c in first["train"]}
    assert len(held) == 3 and not held & learnt and held | learnt == {c.path for c in clips}
    assert {c.path for c in last["train"]} == held | learnt and last["val"] == [] and len(last["train"]) == 12
    assert (first["out"], first["last"], last["out"], last["last"]) == (iterate.FIRST, 0, "out", 2)
    assert (len(first["history"]), len(last["history"]), manifest["epochs"]) == (4, 2, 2)
    assert manifest["kept"] == "epoch 2 of a training on all 12 clips, as 3 held out before chose"
    assert manifest["data"]["train"] == 12
    rate = [line["lr"] for line in last["history"]]
    assert rate[-1] > 0  # on the schedule of all epochs, of which it is the second


def test_the_scores_are_those_of_the_clips_that_were_held_out(tmp_path, clips, monkeypatch):
    """Of a model that never learnt them: the kept weights of the first training, scored by hand."""
    settings = recipe(*ONE)
    manifest = trained(tmp_path / "out", clips, *ONE)
    parts = split(clips, settings.data, settings.train.seed)
    first = ClassifyPlan.learn(settings, parts).task(for_training=False)
    store.restore(first.parts(), store.read_weights(tmp_path / "out" / iterate.FIRST))
    _, scores = loop.evaluate(first, parts.val, batch=4, precision="float32", window_s=10.0)
    assert manifest["scores"]["val"] == pytest.approx(scores)
    assert manifest["scores"].keys() == {"val"}
    assert "| val |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("head", ["fitted", "trained"])
@pytest.mark.parametrize(("folder", "epoch"), [(iterate.FIRST, 1), (iterate.FIRST, 4), ("out", 1)])
def test_stopped_in_either_part_it_goes_on_exactly(tmp_path, clips, monkeypatch, head, folder, epoch):
    changes = [*ONE, f"task.head={head}", "task.augment.gain_db=3", "task.dropout=0.2", "train.accumulate=2"]
    trained(tmp_path / "whole" / "out", clips, *changes)
    chosen = json.loads((tmp_path / "whole" / "out" / iterate.FIRST / iterate.CHOSEN).read_text())
    saved = loop._Run.save

    def save(run) -> None:
        saved(run)
        if run.epoch == epoch and run.out.name == folder:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Run, "save", save)
        trained(tmp_path / "cut" / "out", clips, *changes)
    seen = fits(monkeypatch)
    torch.manual_seed(123)
    trained(tmp_path / "cut" / "out", clips, *changes, resume=True)
    assert_same(tmp_path / "cut" / "out", tmp_path / "whole" / "out")
    assert chosen == json.loads((tmp_path / "cut" / "out" / iterate.FIRST / iterate.CHOSEN).read_text())
    assert [one["out"] for one in seen] == (["out"] if folder == "out" else [iterate.FIRST, "out"])


def test_stopped_between_the_parts_the_first_is_not_done_again(tmp_path, clips, monkeypatch):
    trained(tmp_path / "whole", clips, *ONE)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(iterate, "all_clips", lambda parts: (_ for _ in ()).throw(KeyboardInterrupt))
        trained(tmp_path / "cut", clips, *ONE)
    seen = fits(monkeypatch)
    trained(tmp_path / "cut", clips, *ONE, resume=True)
    assert [one["out"] for one in seen] == ["cut"]
    assert_same(tmp_path / "cut", tmp_path / "whole")


def stop_in_first(patch: pytest.MonkeyPatch, out: Path, clips: list[Clip], *changes: str) -> None:
    with patch.context() as inner, pytest.raises(KeyboardInterrupt):
        saved = loop._Run.save
        inner.setattr(loop._Run, "save", lambda run: (saved(run), (_ for _ in ()).throw(KeyboardInterrupt)))
        trained(out, clips, *changes)
    assert (out / iterate.FIRST / LAST).is_file() and not (out / LAST).exists()


def test_settings_hold_from_the_first_part_on(tmp_path, clips, monkeypatch):
    stop_in_first(monkeypatch, tmp_path, clips, *ONE)
    with pytest.raises(UsageError, match=r"begun with train\.lr 0\.01 \(now 0\.5\); resume with those"):
        trained(tmp_path, clips, *ONE, "train.lr=0.5", resume=True)


def test_a_run_begun_anew_takes_nothing_of_one_that_was_stopped(tmp_path, clips, monkeypatch):
    """Stopped, begun with other settings, stopped at once, gone on: nothing of the first may come back."""
    stop_in_first(monkeypatch, tmp_path / "out", clips, *ONE)
    changes = [*ONE, "train.lr=0.003"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ClassifyPlan, "start", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        trained(tmp_path / "out", clips, *changes)
    trained(tmp_path / "out", clips, *changes, resume=True)
    trained(tmp_path / "whole", clips, *changes)
    assert_same(tmp_path / "out", tmp_path / "whole")


def test_more_epochs_are_chosen_among_anew(tmp_path, clips, monkeypatch):
    scored(monkeypatch, [0.9, 0.5, 0.4, 0.3, 0.2, 0.6])
    short = [*ONE[:-1], "train.epochs=2"]
    assert trained(tmp_path / "out", clips, *short)["epochs"] == 2
    manifest = trained(tmp_path / "out", clips, *ONE, "train.epochs=6", resume=True)
    assert manifest["epochs"] == 5 and "as 3 held out before chose" in manifest["kept"]


def test_fewer_epochs_than_were_done_are_told_as_what_they_are(tmp_path, clips):
    settings, parts = recipe(*ONE), split(clips, recipe(*ONE).data, 0)
    task = ClassifyPlan.learn(settings, parts).task(for_training=False)
    told = iterate.why_kept(task, settings, parts, [{"epoch": n} for n in (1, 2, 3)], {"clips": 3, "epochs": 2})
    assert told == "epoch 3 of a training on all 9 clips, where 3 held out before now choose 2"


# --- once ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [["data.val=['3']"], ["train.keep=last"], ["data.hold_out=0"]])
def test_one_training_where_nothing_is_to_be_chosen_by_few(tmp_path, clips, monkeypatch, changes):
    seen = fits(monkeypatch)
    manifest = trained(tmp_path / "out", clips, *ONE, *changes)
    assert [one["out"] for one in seen] == ["out"] and not (tmp_path / "out" / iterate.FIRST).exists()
    held = {c.path for c in seen[0]["val"]}
    assert not held & {c.path for c in seen[0]["train"]} and manifest["data"]["train"] == 12 - len(held)
    assert len(held) == (0 if "hold_out" in changes[0] else 3)


@pytest.mark.parametrize("name", ["val", "dev", "validation"])
def test_a_validation_split_of_the_data_is_never_learnt_from(tmp_path, clips, monkeypatch, name):
    """It is not named in the recipe, but the table of the data names it."""
    own = [Clip(c.path, labels=c.labels, split=name if c.split == "3" else "train") for c in clips]
    seen = fits(monkeypatch)
    manifest = trained(tmp_path / "out", own, *ONE)
    (once,) = seen
    assert {c.split for c in once["train"]} == {"train"} and {c.split for c in once["val"]} == {name}
    assert manifest["data"]["train"] == 9 and "on 3 validation clips" in manifest["kept"]


def test_enough_validation_clips_are_left_out(tmp_path, clips, monkeypatch):
    seen = fits(monkeypatch)
    monkeypatch.setattr(iterate, "FEWEST", 3)
    trained(tmp_path / "out", clips, *ONE)
    assert len(seen) == 1 and len(seen[0]["val"]) == 3


@pytest.mark.parametrize(("losses", "done", "chosen"), [([0.5, 0.4, 0.4, 0.6], 4, 3), ([0.3, 0.4, 0.5, 0.2], 3, 1)])
def test_ties_go_to_the_later_epoch_and_patience_ends_it(tmp_path, clips, monkeypatch, losses, done, chosen):
    seen = fits(monkeypatch)
    scored(monkeypatch, losses)
    manifest = trained(tmp_path / "out", clips, *ONE, "train.patience=2")
    assert (len(seen[0]["history"]), manifest["epochs"]) == (done, chosen)


# --- how long it will take -------------------------------------------------------------------------------------------


def plan_of(clips: list[Clip], *changes: str) -> tuple:
    settings = recipe(*ONE, *changes)
    parts = split(clips, settings.data, settings.train.seed)
    plan = ClassifyPlan.learn(settings, parts)
    return plan, plan.task(for_training=True), parts


def said(patch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    patch.setattr(terminal, "say", lambda text, **options: told.append(text))
    return told


@pytest.mark.parametrize("spec", ["lora(rank=2,dropout=0.3)", "probe()", "full()"])
def test_foretelling_changes_nothing(clips, tmp_path, monkeypatch, spec):
    plan, task, parts = plan_of(clips, f"adapter.spec={spec}", "task.dropout=0.3", "task.head=trained")
    before = store.collect(task.parts())
    modes = {name: m.training for part in task.parts().values() for name, m in part.named_modules()}
    torch.manual_seed(5)
    wanted = torch.rand(4)
    torch.manual_seed(5)
    told = said(monkeypatch)
    iterate.foretell(plan, task, parts, quiet=False)
    assert torch.equal(torch.rand(4), wanted)
    assert len(told) == 1 and told[0].startswith(f"{spec} on whisper-tiny.en, 9 clips: about ")
    after = store.collect(task.parts())
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None for part in task.parts().values() for p in part.parameters())
    assert modes == {name: m.training for part in task.parts().values() for name, m in part.named_modules()}
    assert not (tmp_path / "home" / "features").exists() and task.unreadable == {}


def test_a_run_that_was_foretold_is_that_which_was_not(tmp_path, clips):
    trained(tmp_path / "quiet", clips, *ONE)
    trained(tmp_path / "loud", clips, *ONE, quiet=False)
    assert_same(tmp_path / "quiet", tmp_path / "loud")


def test_foretelling_hears_windows_never_whole_recordings(tmp_path, clips, monkeypatch):
    """An hour at once would need more memory than the training ever does."""
    long = tones(tmp_path, 2, seconds=3.3)
    plan, task, parts = plan_of([*clips, *long], "task.window_s=1.0", "train.batch=2")
    inner, heard = task.collate, []

    def collate(given, generator):
        heard.append(given)
        return inner(given, generator)

    task.collate = collate
    iterate.foretell(plan, task, parts, quiet=False)
    assert heard and all(len(given) == 2 for given in heard)
    assert all(
        c.end is not None and c.end - c.start <= 1.0 for given in heard for c in given if c.path.parent == tmp_path
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("no memory")])
def test_foretelling_never_ends_a_run(tmp_path, clips, monkeypatch, error):
    def fails(batch):
        raise error

    plan, task, parts = plan_of(clips)
    task.loss = fails
    told = said(monkeypatch)
    iterate.foretell(plan, task, parts, quiet=False)
    bad = tmp_path / "letter.wav"
    bad.write_text("a letter")
    plan, task, _ = plan_of(clips)
    iterate.foretell(plan, task, type(parts)([Clip(bad, labels=("low",))], [], []), quiet=False)
    assert told == [] and task.unreadable == {}


def test_what_takes_longer_is_said_to(clips, monkeypatch):
    times = {}
    monkeypatch.setattr(iterate, "_learning", lambda task, batch: 3.0 * len(batch.clips))  # 3 s a clip
    for name, changes in {
        "twice": [], "once": ["train.keep=last"], "long": ["train.epochs=400"],
        "fitted": ["adapter.spec=probe()", "data.hold_out=0"],
    }.items():  # fmt: skip
        told = said(monkeypatch)
        plan, task, parts = plan_of(clips, *changes)
        iterate.foretell(plan, task, parts, quiet=False)
        times[name] = told[0].rpartition("about ")[2]
    assert times["long"].endswith(" h at most") and times["fitted"] in ("1 s", "2 s")
    twice, once = (int(times[name].partition(" min at most")[0]) for name in ("twice", "once"))
    assert abs(twice - 2 * once) <= 2 and once >= 2
