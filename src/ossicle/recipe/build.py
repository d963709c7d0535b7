"""From a recipe to objects: data split, encoder with adapter, task; train it, save it, load it again.

What differs between kinds of tasks is in a plan of its own: `recipe.classify`, `recipe.caption_llm`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ossicle import adapters, backbones, devices, terminal
from ossicle.adapters import store
from ossicle.contracts import Clip
from ossicle.data import Dataset
from ossicle.data.clips import readable, reason
from ossicle.errors import CheckpointError, UsageError
from ossicle.files import write_atomic
from ossicle.recipe import config, iterate, trained
from ossicle.recipe.backbone import check_same, settled, signature
from ossicle.recipe.caption_llm import RECIPE, CaptionPlan
from ossicle.recipe.caption_tags import TagsPlan
from ossicle.recipe.classify import LABELS, ClassifyPlan
from ossicle.recipe.config import Recipe
from ossicle.recipe.partition import Split, check_heard, split
from ossicle.recipe.plan import Plan
from ossicle.share import zoo
from ossicle.training.checkpoint import LAST
from ossicle.training.evaluate import evaluate, heard
from ossicle.training.loop import METRICS

__all__ = ["JUDGED", "LABELS", "RECIPE", "Loaded", "load", "train"]

JUDGED = "judged_{}.jsonl"
CARD = "README.md"
VERBS = {"classify": "predict", "caption-llm": "caption", "caption-tags": "caption"}
PLANS: dict[str, type[Plan]] = {"classify": ClassifyPlan, "caption-llm": CaptionPlan, "caption-tags": TagsPlan}
CAPTIONERS = ("caption-llm", "caption-tags")


@dataclass
class Loaded:
    """An adapter folder ready to predict.

    Args:
        task: with its weights, in eval mode; of the kind the recipe says.
        recipe: as it was trained.
        manifest: of the folder.
        name: the folder's name, for result rows.
    """

    task: Any
    recipe: Recipe
    manifest: dict[str, Any]
    name: str


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a task and save it as a folder.

    Args:
        recipe: checked settings.
        dataset: clips with labels or captions.
        out: the folder to make.
        resume: go on from where an earlier run in `out` stopped.
        init: a trained folder of the same kind whose weights this one begins with.
        quiet: no progress bar.

    Returns:
        The folder's manifest, with validation and test scores.

    Raises:
        OssicleError: of every kind its parts raise; what was saved before stays.
    """
    devices.prepare()
    _check_out(out, resume)
    recipe = _settled(recipe, out if resume else None)
    held_out = recipe.data.hold_out if PLANS[recipe.task.kind].validates(recipe) else 0.0
    data = recipe.data.model_copy(update={"hold_out": held_out})
    parts, bad = _readable(split(dataset.clips, data, recipe.train.seed))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": dataset.name})})
    plan = PLANS[recipe.task.kind].learn(recipe, parts, init or _begun_before(out, resume))
    go_on = resume and _begun(out, plan)
    task = plan.task(for_training=True)
    manifest = _manifest(plan, task, parts, bad)
    manifest |= _begun_with(out, init, resume)
    iterate.begin(plan, task, out, init, resume=go_on)
    if not resume:
        iterate.forget(out)
    _save_texts(out, plan, manifest)
    caches = plan.caches(task)
    if not go_on:
        iterate.foretell(plan, task, parts, quiet=quiet)
    parts = _learn(plan, task, parts, manifest, out, init, caches, resume=resume, go_on=go_on, quiet=quiet)
    with _telling(f"scoring {len(parts.val) + len(parts.test):,} clips", quiet):
        return _finish(plan, task, parts, manifest, out)


def _learn(
    plan: Plan, task: Any, parts: Split, manifest: dict[str, Any], out: Path, init: Path | None, caches: bool,
    *, resume: bool, go_on: bool, quiet: bool,
) -> Split:  # fmt: skip
    """Fit the head and train in epochs, as the plan says; what was learnt from. The manifest is told of it."""
    recipe, first = plan.recipe, {}
    if plan.validates(recipe) and iterate.twice(recipe, parts):
        first = iterate.validated(plan, parts, out, init, resume=resume, quiet=quiet)
        parts = iterate.all_clips(parts)
    with _telling(f"listening to {len(parts.train):,} clips", quiet):
        iterate.prepare(plan, task, parts.train, out, starts=not go_on and init is None)
    check_heard(parts.train, *heard(task, parts.train))
    manifest |= plan.kept() | ({"scores": {"val": first["scores"]}} if first else {})
    if not plan.trains(task):
        store.save_weights(out, task.parts())
        return parts
    store.save_manifest(out, manifest)  # a run that goes on does not fit the head again
    last = int(first.get("epochs", 0))
    history = iterate.epochs(task, parts, recipe, out, caches=caches, last=last, resume=go_on, quiet=quiet)
    manifest |= {"epochs": len(history), "kept": iterate.why_kept(task, recipe, parts, history, first)}
    return parts


def _readable(parts: Split) -> tuple[Split, dict[str, str]]:
    """Training clips whose headers say that they can be read, and why the others cannot."""
    kept, bad = readable(parts.train)
    check_heard(parts.train, kept, bad)
    return replace(parts, train=kept), bad


def _settled(recipe: Recipe, begun: Path | None) -> Recipe:
    """The recipe with backbone and adapter named; those of a run that goes on are never chosen anew."""
    if begun is not None and (begun / RECIPE).is_file():
        before = config.read(begun / RECIPE)
        for table, key in (("backbone", "name"), ("adapter", "spec")):
            known = getattr(getattr(before, table), key)
            if not getattr(getattr(recipe, table), key):
                recipe = recipe.model_copy(update={table: getattr(recipe, table).model_copy(update={key: known})})
    recipe, notice = settled(recipe)
    if notice:
        terminal.note(notice)
    return recipe


def _telling(text: str, quiet: bool) -> AbstractContextManager[object]:
    """Something to look at while there is no progress bar."""
    return nullcontext() if quiet else terminal.waiting(text)


def _finish(plan: Plan, task: Any, parts: Split, manifest: dict[str, Any], out: Path) -> dict[str, Any]:
    """Score the kept weights; write manifest, card and curve."""
    from ossicle.pictures import plots  # matplotlib takes longer to import than a prediction to make

    data = manifest["data"]
    kept, bad = heard(task, parts.train)
    check_heard(parts.train, kept, bad)
    manifest["scores"] = manifest.get("scores", {}) | _final_scores(plan, task, parts, out, data)
    data |= _learnt_from(kept) | {"unreadable": dict(sorted((data["unreadable"] | bad).items()))}
    store.save_manifest(out, manifest)
    text = plan.card(out.resolve().name, manifest)
    write_atomic(out / CARD, lambda part: part.write_text(text, encoding="utf-8"))
    if (out / METRICS).is_file():
        plots.training_curve(out / METRICS, out / "curve.png")
    return manifest


def load(where: str, changes: Sequence[str] = (), *, kinds: Sequence[str] = ()) -> Loaded:
    """An adapter folder, or the name of one that ships, as a task that predicts.

    Args:
        where: the folder, its name, or a repository on the hub.
        changes: "task.llm=FOLDER" texts that win over its recipe.
        kinds: of task it must be one of; empty takes any.

    Raises:
        UsageError: if it is of another kind, or a change would do nothing.
        CheckpointError: if it is not an adapter folder or is broken.
        AdapterError: if it was trained on another backbone than the one at hand.
    """
    devices.prepare()
    folder = zoo.find(where)
    manifest = store.read_manifest(folder)
    _check_whole(folder, manifest)
    _check_kind(where, str(manifest.get("task")), kinds)
    try:
        recipe = config.saved(folder / RECIPE)
        plan = PLANS[recipe.task.kind].saved(recipe, folder)
        known = [float(spread) for spread in manifest["backbone"]["signature"]]
        trained_on = str(manifest["backbone"]["digest"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"{folder} is incomplete: {err}; train or fetch it again") from err
    plan.recipe = recipe = trained.changed(recipe, changes)
    tensors = store.read_weights(folder)
    task: Any = plan.task(for_training=False)
    told = (
        f"{folder.name} was trained on other weights of {recipe.backbone.name} than those here "
        f"(digest {trained_on[:12]}, here {task.encoder.digest[:12]})"
    )
    other = task.encoder.name != manifest["backbone"]["name"]
    if not (other and recipe.task.kind == "caption-tags"):  # tags are text: another tagger may give them
        check_same(known, task.encoder, told)
    plan.check(task, manifest)
    store.restore(task.parts(), tensors)
    for module in task.parts().values():
        module.eval().requires_grad_(False).to(devices.device())
    return Loaded(task, recipe, manifest, folder.name)


def _check_kind(where: str, here: str, wanted: Sequence[str]) -> None:
    if wanted and here not in wanted:
        told = " or ".join(wanted)
        raise UsageError(f"{where} holds a {here} adapter, not a {told} one; use `ossicle {VERBS.get(here)}`")


def _check_whole(folder: Path, manifest: dict[str, Any]) -> None:
    for name, digest in dict(manifest.get("sha256", {})).items():
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            raise CheckpointError(
                f"{folder} is broken: {name} is not the one it was saved with; train or fetch it again"
            )


def _check_out(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")
    if not resume and (out / store.WEIGHTS).exists():
        raise UsageError(f"{out} already holds a trained adapter; give another --out, or --resume to go on")


def _begun(out: Path, plan: Plan) -> bool:
    """Whether there is a state to go on from; a run that was stopped before its first one begins anew.

    Raises:
        CheckpointError: if no run was begun there.
        UsageError: if it was begun with other classes or settings; only the number of epochs may change.
    """
    begun = (out / LAST).is_file()
    if not begun and (out / store.WEIGHTS).exists() and not plan.trains(None):
        raise UsageError(f"{out} holds a fitted head, which is done at once; there is nothing to resume")
    if not begun and ((out / store.WEIGHTS).exists() or not (out / RECIPE).is_file()):
        raise CheckpointError(f"nothing to resume: {out / LAST} does not exist; train without --resume first")
    for name, text in plan.texts().items():
        try:
            known = json.loads((out / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if known != json.loads(text):
            raise UsageError(
                f"{out} was begun with other {Path(name).stem} than those here; give the data it began with"
            )
    if iterate.begun(out):
        _check_settings(out, plan.recipe)
    return begun


def _check_settings(out: Path, recipe: Recipe) -> None:
    """Settings that a run was begun with hold to its end."""
    before, now = (_flat(r.model_dump(mode="json")) for r in (config.read(out / RECIPE), recipe))
    other = [key for key in now if before.get(key) != now[key] and key != "train.epochs"]
    if other:
        told = ", ".join(f"{key} {before.get(key)} (now {now[key]})" for key in other[:3])
        raise UsageError(f"{out} was begun with {told}; resume with those, or train anew into another --out")


def _flat(tables: dict[str, Any], front: str = "") -> dict[str, Any]:
    """Nested settings as "train.lr" and so on."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= _flat(value, f"{front}{key}.") if isinstance(value, dict) else {f"{front}{key}": value}
    return found


def _begun_before(out: Path, resume: bool) -> Path | None:
    """The folder of a run that goes on, if it was begun with weights of another one."""
    there = resume and (out / store.MANIFEST).is_file()
    return out if there and store.read_manifest(out).get("begun with") else None


def _begun_with(out: Path, init: Path | None, resume: bool) -> dict[str, Any]:
    """What the manifest says of the weights and the head a training began with.

    Raises:
        UsageError: if a run that is to go on began with a folder that is not given again.
    """
    known = store.read_manifest(out) if resume else {}
    earlier = known.get("begun with")
    if resume and (out / LAST).is_file():
        return {key: known[key] for key in ("begun with", "head") if key in known}
    if init is not None:
        file = init / store.WEIGHTS
        digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
        return {"begun with": {"name": init.resolve().name, "digest": digest}}
    if earlier:
        raise UsageError(f"{out} was begun with the weights of {earlier['name']}; give it by --init-from again")
    return {}


def _manifest(plan: Plan, task: Any, parts: Split, bad: dict[str, str]) -> dict[str, Any]:
    recipe = plan.recipe
    own = adapters.trainable(task.encoder, "default")
    return {
        "task": recipe.task.kind,
        "backbone": {
            "name": recipe.backbone.name, "digest": task.encoder.digest, "signature": signature(task.encoder),
            "encoders": {part.name: part.origin for part in task.encoder.encoders},
        },
        "adapter": recipe.adapter.spec,
        **plan.facts(task),
        "parameters": {
            "adapter": sum(p.numel() for p in own.values()),
            **plan.sizes(task),
            "backbone": sum(backbones.size(name) for name in backbones.names_of(recipe.backbone.name)),
        },
        "data": {
            "name": recipe.data.source,
            "val": len(parts.val), "test": len(parts.test), **_learnt_from(parts.train), "unreadable": bad,
        },
    }  # fmt: skip


def _learnt_from(clips: Sequence[Clip]) -> dict[str, Any]:
    """How many clips were trained on, and under which licences."""
    licences = Counter(clip.licence or "not stated" for clip in clips)
    return {"train": len(clips), "licences": dict(sorted(licences.items()))}


def _save_texts(out: Path, plan: Plan, manifest: dict[str, Any]) -> None:
    """Recipe, the plan's texts and a manifest that knows them, so that a damaged one is noticed."""
    texts = {RECIPE: config.write(plan.recipe), **plan.texts()}
    for name, text in texts.items():
        write_atomic(out / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    manifest["sha256"] = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    store.save_manifest(out, manifest)


def _final_scores(plan: Plan, task: Any, parts: Split, out: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Scores of the kept weights, and what was said of every clip; `data` learns how many were scored, and why not."""
    scores: dict[str, Any] = {}
    train = plan.recipe.train
    precision, window_s = devices.resolve(train.precision), plan.recipe.task.window_s
    for name, clips in (("val", parts.val), ("test", parts.test)):
        if clips:
            rows, scores[name] = evaluate(task, clips, batch=train.batch, precision=precision, window_s=window_s)
            failed = {c.name or c.path.name: reason(c, r.error) for c, r in zip(clips, rows, strict=True) if r.error}
            data["unreadable"] |= failed
            data[name] = sum(row.error is None for row in rows)
            _save_judged(out / JUDGED.format(name), clips, plan.judged(task, clips, rows, out))
    return scores


def _save_judged(path: Path, clips: Sequence[Clip], told: Sequence[dict[str, Any]]) -> None:
    """What was said of every scored clip, by its name in the data set: for comparing two runs clip by clip."""
    lines = [{"name": c.name or c.path.name, "start": c.start, **one} for c, one in zip(clips, told, strict=True)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))
