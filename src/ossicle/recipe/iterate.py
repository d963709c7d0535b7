"""Training in epochs: with a validation part that is too small to choose by, first without it and then with it.

Few validation clips choose a lucky epoch, and are missed in training. So a first training without them says after how
many epochs their log loss is least and gives the scores; the one that is kept then learns from all clips for as long.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ossicle import devices, terminal
from ossicle.adapters import store
from ossicle.contracts import Batch, Clip
from ossicle.errors import OssicleError
from ossicle.files import write_atomic
from ossicle.recipe.config import Recipe
from ossicle.recipe.partition import Split
from ossicle.recipe.plan import Plan
from ossicle.training import checkpoint
from ossicle.training.checkpoint import LAST
from ossicle.training.evaluate import bound, cut, evaluate
from ossicle.training.loop import METRICS, best_epoch, fit

FEWEST = 50
FIRST = "validated"
CHOSEN = "chosen.json"
TRIED = 8


def twice(recipe: Recipe, parts: Split) -> bool:
    """Whether the clips held out for validation are too few to choose an epoch by and to do without."""
    chosen = parts.drawn and recipe.train.keep == "best"  # a split that the data or the user names is never learnt from
    return chosen and recipe.task.kind == "classify" and 0 < len(parts.val) < FEWEST


def begin(plan: Plan, task: Any, out: Path, init: Path | None, *, resume: bool) -> None:
    """Give a task the weights it begins with: those of a stopped run, of the folder `init`, or its own fresh ones."""
    for module in task.parts().values():
        module.to(devices.device())
    if resume:
        store.restore(task.parts(), checkpoint.load(out)["tensors"])
    else:
        plan.begin(task, init)


def prepare(plan: Plan, task: Any, clips: Sequence[Clip], out: Path, *, starts: bool) -> None:
    """Give a task that starts what it starts with, such as a head that fits."""
    if starts:
        out.mkdir(parents=True, exist_ok=True)
        plan.start(task, clips, out)


def epochs(
    task: Any, parts: Split, recipe: Recipe, out: Path,
    *, caches: bool, last: int = 0, resume: bool = False, quiet: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train in epochs; the lines of metrics.jsonl."""
    window_s, clips = recipe.task.window_s, parts.train
    if caches:  # what is cached is whole windows, not random crops
        clips = [w for c in bound(clips, window_s) for w in cut(c, window_s)]
    return fit(task, clips, parts.val, recipe.train, out, window_s=window_s, last=last, resume=resume, quiet=quiet)


def validated(
    plan: Plan, parts: Split, out: Path, init: Path | None, *, resume: bool, quiet: bool
) -> dict[str, Any]:  # fmt: skip
    """The training without the validation clips: after how many epochs they are scored best, and the scores.

    Args:
        plan: of the task.
        parts: with few validation clips.
        out: of the whole training; this one is in a folder below.
        init: a trained folder whose weights it begins with.
        resume: take what an earlier run found, or go on with it.
        quiet: no progress bar.
    """
    folder, recipe = out / FIRST, plan.recipe
    if resume and (folder / CHOSEN).is_file():
        known: dict[str, Any] = json.loads((folder / CHOSEN).read_text(encoding="utf-8"))
        if known["of"] == recipe.train.epochs:
            return known
    begun = resume and (folder / LAST).is_file()
    task = plan.task(for_training=True)
    begin(plan, task, folder, init, resume=begun)
    caches = plan.caches(task)
    prepare(plan, task, parts.train, folder, starts=not begun and init is None)
    history = epochs(task, parts, recipe, folder, caches=caches, resume=begun, quiet=quiet)
    batch, precision = recipe.train.batch, devices.resolve(recipe.train.precision)
    _, scores = evaluate(task, parts.val, batch=batch, precision=precision, window_s=recipe.task.window_s)
    found = {
        "of": recipe.train.epochs,
        "clips": len(parts.val),
        "epochs": best_epoch(history, task.best_by) or len(history),
        "scores": scores,
    }
    text = json.dumps(found)
    write_atomic(folder / CHOSEN, lambda part: part.write_text(text, encoding="utf-8"))
    return found


def begun(out: Path) -> bool:
    """Whether there is a state to go on from, of the training or of the one without the validation clips."""
    return any((folder / name).is_file() for folder in (out, out / FIRST) for name in (LAST, CHOSEN))


def forget(out: Path) -> None:
    """Remove what an earlier run left to go on from, so that it is never taken for this one's."""
    for folder in (f for f in (out, out / FIRST) if f.is_dir()):
        for name in (LAST, CHOSEN, METRICS):
            (folder / name).unlink(missing_ok=True)


def all_clips(parts: Split) -> Split:
    """The validation clips among those that are learnt from."""
    return replace(parts, train=[*parts.train, *parts.val], val=[])


def why_kept(
    task: Any, recipe: Recipe, parts: Split, history: Sequence[dict[str, Any]], first: dict[str, Any]
) -> str:  # fmt: skip
    """Which epoch's weights are kept and why, in a line.

    Args:
        task: that was trained.
        recipe: its settings.
        parts: what it learnt from, and what chose.
        history: the lines of metrics.jsonl.
        first: what a first training without some of the clips said; empty if there was none.
    """
    done, best = len(history), best_epoch(history, task.best_by)
    if first:
        chose = f"as {first['clips']} held out before chose"
        if done != first["epochs"]:  # resumed with fewer epochs than were done
            chose = f"where {first['clips']} held out before now choose {first['epochs']}"
        return f"epoch {done} of a training on all {len(parts.train):,} clips, {chose}"
    if not best or recipe.train.keep == "last":
        return f"the last epoch, {done}" + ("" if best else "; there were no clips to choose one by")
    return f"epoch {best} of {done}, with the best {task.best_by} on {len(parts.val):,} validation clips"


def foretell(plan: Plan, task: Any, parts: Split, *, quiet: bool) -> None:
    """Say in one line on stderr about how long the training will take, by the time of a few clips.

    What is heard for it lies in the caches, where there are any; nothing is learnt.
    """
    if quiet:
        return
    recipe, window_s = plan.recipe, plan.recipe.task.window_s
    train, val, test = (
        [cut(clip, window_s) for clip in bound(clips, window_s)] for clips in (parts.train, parts.val, parts.test)
    )
    few, known = min(TRIED, recipe.train.batch), dict(task.unreadable)
    tried = [windows[0] for windows in train[: 2 * few]]
    try:
        with torch.random.fork_rng(enabled=True):
            task.collate(tried[:few], None)  # the first batch also wakes everything up
            began = time.perf_counter()
            batch: Batch = task.collate(tried[few:] or tried, None)
            hear = (time.perf_counter() - began) / len(batch.clips)
            learn = _learning(task, batch) / len(batch.clips) if plan.trains(task) else 0.0
    except (OssicleError, RuntimeError):  # unreadable clips, and too little memory, are the training's to tell
        return
    finally:
        task.unreadable.clear()
        task.unreadable.update(known)
    rounds = recipe.train.epochs * (1 + twice(recipe, parts)) if plan.trains(task) else 0
    windows, scored, tested = (sum(len(group) for group in groups) for groups in (train, val, test))
    seconds = windows * (hear + rounds * learn) + (rounds * scored + tested) * (hear + learn / 3)
    what = f"{recipe.adapter.spec} on {recipe.backbone.name}, {len(parts.train):,} clips"
    terminal.say(f"{what}: about {_spoken(seconds)}" + (" at most" if rounds else ""), error=True)


def _learning(task: Any, batch: Batch) -> float:
    """Seconds of a step, the second of two; its gradients are thrown away."""
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        loss = task.loss(batch.to(devices.device()))
        if loss.requires_grad:
            loss.backward()
        took = time.perf_counter() - began
    for module in task.parts().values():
        module.zero_grad()
    return took


def _spoken(seconds: float) -> str:
    """A time in whole seconds, minutes or hours."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
