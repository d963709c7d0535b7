"""From a recipe to objects: data split, encoder with adapter, task; train it, save it, load it again."""

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ossicle import adapters, backbones, config, devices, plots, zoo
from ossicle.adapters import store
from ossicle.card import card
from ossicle.config import Recipe
from ossicle.contracts import Clip, Prediction
from ossicle.data import Dataset
from ossicle.errors import AdapterError, CheckpointError, DataError, UsageError
from ossicle.features import FeatureStore, TokenStore
from ossicle.files import write_atomic
from ossicle.metrics import classify as metrics
from ossicle.partition import Split, class_weights, labels_of, split
from ossicle.tasks.classify import Augment, Classifier, Standardize
from ossicle.train.checkpoint import LAST
from ossicle.train.evaluate import bound, cut, evaluate
from ossicle.train.loop import METRICS, fit

RECIPE = "recipe.toml"
JUDGED = "judged_{}.jsonl"
LABELS = "labels.json"
CARD = "README.md"
WAVE_CACHE = 2 * 1024**3
QUERY = r"blocks\.\d+\.attn\.q_proj\.weight"


@dataclass
class Loaded:
    """An adapter folder ready to predict.

    Args:
        task: with its weights, in eval mode.
        recipe: as it was trained.
        manifest: of the folder.
        name: the folder's name, for result rows.
    """

    task: Classifier
    recipe: Recipe
    manifest: dict[str, Any]
    name: str


def classifier(
    recipe: Recipe, labels: Sequence[str], class_weights: torch.Tensor | None = None, *, for_training: bool = True
) -> Classifier:
    """The task of a recipe on its backbone, with a fresh adapter and head.

    Args:
        recipe: checked settings.
        labels: class names.
        class_weights: (classes,) weights in the loss, or None.
        for_training: keep decoded waveforms or features in memory from one epoch to the next.

    Raises:
        UnknownNameError: for an unknown backbone or adapter.
        WeightsError: if the backbone's weights cannot be had.
    """
    adapter = adapters.parse(recipe.adapter.spec)
    backbones.spec(recipe.backbone.name)
    encoder = frozen(recipe)
    adapters.inject(encoder, adapter, seed=recipe.train.seed)
    task = recipe.task
    torch.manual_seed(recipe.train.seed)
    made = Classifier(
        encoder, labels,
        multi_label=task.multi_label, layers=task.layers, pooling=task.pooling, head_norm=task.head_norm,
        dropout=task.dropout, class_weights=class_weights, label_smoothing=task.label_smoothing,
        augment=task.augment, window_s=task.window_s, shortest_s=task.shortest_s,
        cache_bytes=WAVE_CACHE if for_training else 0,
    )  # fmt: skip
    if for_training and not adapters.trainable(encoder, "default") and task.augment == Augment():
        made.store = FeatureStore(encoder, made.layers, made.pooling, shortest_s=task.shortest_s)
    elif for_training and task.cache_versions:
        made.tokens, made.versions = _token_store(made), task.cache_versions
    return made


def _token_store(task: Classifier) -> TokenStore:
    """A cache of tokens up to the lowest block that trains or is pooled.

    Raises:
        UsageError: if the stem itself trains.
    """
    encoder, changes = task.encoder, task.augment
    injected = encoder.adapters["default"]
    if injected.frozen:
        raise UsageError("task.cache_versions needs a frozen stem but full() trains it; set it to 0")
    blocks = [int(path.split(".")[1]) for path in injected.paths if path.startswith(("blocks.", "inlets."))]
    number = min([*blocks, *task.layers])
    settings = [changes.shift_s, changes.gain_db]
    return TokenStore(
        encoder, number, lambda w, g: changes.waves(w, g, encoder.rate_hz), settings, shortest_s=task.shortest_s
    )


def train(recipe: Recipe, dataset: Dataset, out: Path, *, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train a classifier and save it as a folder.

    Args:
        recipe: checked settings.
        dataset: labelled clips.
        out: the folder to make.
        resume: go on from where an earlier run in `out` stopped.
        quiet: no progress bar.

    Returns:
        The folder's manifest, with validation and test scores.

    Raises:
        OssicleError: of every kind its parts raise; what was saved before stays.
    """
    devices.prepare()
    _check_out(out, resume)
    parts = split(dataset.clips, recipe.data, recipe.train.seed)
    labels = labels_of(parts, recipe)
    go_on = resume and _begun(out, labels)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": dataset.name})})
    task = classifier(recipe, labels, class_weights(recipe.task, parts.train, labels))
    manifest = _manifest(recipe, task, parts)
    if task.store is not None or task.tokens is not None:  # what is cached is whole windows, not random crops
        parts = replace(parts, train=[w for c in bound(parts.train, task.window_s) for w in cut(c, task.window_s)])
    _save_texts(out, recipe, labels, manifest)
    if not go_on:
        start_head(task, parts.train, recipe, out)
    history = fit(
        task, parts.train, parts.val, recipe.train, out,
        window_s=recipe.task.window_s, resume=go_on, quiet=quiet,
    )  # fmt: skip
    manifest["scores"] = _final_scores(task, parts, recipe, out)
    manifest["epochs"] = len(history)
    manifest["data"]["unreadable"] = sorted({Path(path).name for path in task.unreadable})
    store.save_manifest(out, manifest)
    text = card(out.resolve().name, manifest, labels)
    write_atomic(out / CARD, lambda part: part.write_text(text, encoding="utf-8"))
    plots.training_curve(out / METRICS, out / "curve.png")
    return manifest


def start_head(task: Classifier, clips: Sequence[Clip], recipe: Recipe, out: Path) -> None:
    """Standardise the head and train it alone, on features of the encoder as it starts, before the adapter moves.

    A head that already fits keeps the encoder's features whole in the first steps (Kumar et al. 2022, LP-FT).
    """
    epochs = 0 if task.store is not None else recipe.task.head_first
    if not epochs and not isinstance(task.head.norm, Standardize):
        return
    clips = [w for c in bound(clips, task.window_s) for w in cut(c, task.window_s)]
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        store = task.store or _first_features(task, clips, recipe, Path(scratch) / "features")
        if isinstance(task.head.norm, Standardize):
            found = store.get(clips)
            vectors = [v for v in found if isinstance(v, torch.Tensor)]
            if not vectors:
                raise DataError(f"no training clip can be read; first: {found[0]}")
            task.head.norm.fit(torch.stack(vectors))
        if not epochs:
            return
        probe = Classifier(
            store.encoder, task.labels, multi_label=task.multi_label, layers=task.layers, pooling=task.pooling,
            class_weights=task.class_weights, label_smoothing=task.label_smoothing, store=store,
        )  # fmt: skip
        probe.head = task.head
        settings = replace(recipe.train, epochs=epochs, lr=recipe.train.head_lr or recipe.train.lr)
        fit(probe, clips, [], settings, Path(scratch), quiet=True)
    task.head.requires_grad_(True)


def _first_features(task: Classifier, clips: Sequence[Clip], recipe: Recipe, scratch: Path) -> FeatureStore:
    """Features at the start of training: the frozen encoder's, which are cached, unless the adapter starts loud."""
    shortest = task.shortest_s
    usual = FeatureStore(frozen(recipe), task.layers, task.pooling, shortest_s=shortest)
    loud = FeatureStore(task.encoder, task.layers, task.pooling, shortest_s=shortest, root=scratch)
    for clip in clips[:8]:
        first, second = usual.get([clip])[0], loud.get([clip])[0]
        if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
            return usual if torch.allclose(first, second, rtol=1e-3, atol=1e-3) else loud
    return usual


def frozen(recipe: Recipe) -> backbones.Encoder:
    """The backbone of a recipe without an adapter."""
    table = recipe.backbone
    return backbones.load(
        table.name, weights_from=table.weights or None, source=table.source, stride=table.stride or None,
        frames=table.frames or None, statistics=table.statistics or None, zero_positions=table.positions == "zero",
    )  # fmt: skip


def load(where: str) -> Loaded:
    """An adapter folder, or the name of one that ships, as a task that predicts.

    Raises:
        CheckpointError: if it is not an adapter folder or is broken.
        AdapterError: if it was trained on another backbone than the one at hand.
    """
    devices.prepare()
    folder = zoo.find(where)
    manifest = store.read_manifest(folder)
    _check_whole(folder, manifest)
    try:
        recipe = config.read(folder / RECIPE)
        labels = [str(label) for label in json.loads((folder / LABELS).read_text(encoding="utf-8"))]
        known = [float(spread) for spread in manifest["backbone"]["signature"]]
        trained_on = str(manifest["backbone"]["digest"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"{folder} is incomplete: {err}; train or fetch it again") from err
    tensors = store.read_weights(folder)
    task = classifier(recipe, labels, for_training=False)
    here = signature(task.encoder)
    if len(known) != len(here) or not np.allclose(known, here, rtol=1e-3):
        raise AdapterError(
            f"{folder.name} was trained on other weights of {recipe.backbone.name} than those here "
            f"(digest {trained_on[:12]}, here {task.encoder.digest[:12]}); "
            "give the ones it was trained on"
        )
    store.restore(task.parts(), tensors)
    for module in task.parts().values():
        module.eval().requires_grad_(False)
        module.to(devices.device())
    return Loaded(task, recipe, manifest, folder.name)


def signature(encoder: backbones.Encoder) -> list[float]:
    """The spread of every block's frozen query projection: tells checkpoints apart in whatever precision they are."""
    weights = [t for key, t in encoder.state_dict().items() if re.fullmatch(QUERY, key.replace(".base", ""))]
    return [round(float(t.std()), 6) for t in weights]


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


def _begun(out: Path, labels: list[str]) -> bool:
    """Whether there is a state to go on from; a run that was stopped before its first one begins anew.

    Raises:
        CheckpointError: if no run was begun there.
        UsageError: if it was begun with other classes.
    """
    begun = (out / LAST).is_file()
    if not begun and ((out / store.WEIGHTS).exists() or not (out / RECIPE).is_file()):
        raise CheckpointError(f"nothing to resume: {out / LAST} does not exist; train without --resume first")
    try:
        known = json.loads((out / LABELS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return begun
    if known != labels:
        raise UsageError(f"{out} was begun with other classes than the {len(labels)} here; give the data it began with")
    return begun


def _manifest(recipe: Recipe, task: Classifier, parts: Split) -> dict[str, Any]:
    licences = Counter(clip.licence or "not stated" for clip in parts.train)
    own = adapters.trainable(task.encoder, "default")
    return {
        "task": recipe.task.kind,
        "backbone": {
            "name": recipe.backbone.name, "digest": task.encoder.digest, "signature": signature(task.encoder),
        },
        "adapter": recipe.adapter.spec,
        "parameters": {
            "adapter": sum(p.numel() for p in own.values()),
            "head": sum(p.numel() for p in task.head.parameters()),
            "backbone": sum(p.numel() for p in backbones.skeleton(recipe.backbone.name).parameters()),
        },
        "data": {
            "name": recipe.data.source,
            "train": len(parts.train), "val": len(parts.val), "test": len(parts.test),
            "licences": dict(sorted(licences.items())),
        },
    }  # fmt: skip


def _save_texts(out: Path, recipe: Recipe, labels: list[str], manifest: dict[str, Any]) -> None:
    """Recipe, labels and a manifest that knows both, so that a damaged one is noticed."""
    texts = {RECIPE: config.write(recipe), LABELS: json.dumps(labels, indent=1, ensure_ascii=False) + "\n"}
    for name, text in texts.items():
        write_atomic(out / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    manifest["sha256"] = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    store.save_manifest(out, manifest)


def _final_scores(task: Classifier, parts: Split, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Scores of the kept weights, and the confusion matrix of the test or else validation clips."""
    scores: dict[str, Any] = {}
    precision = devices.resolve(recipe.train.precision)
    for name, clips in (("val", parts.val), ("test", parts.test)):
        if not clips:
            continue
        rows, scores[name] = evaluate(
            task, clips, batch=recipe.train.batch, precision=precision, window_s=recipe.task.window_s
        )
        _save_judged(out / JUDGED.format(name), clips, rows)
        if not task.multi_label:
            good = [(c, r) for c, r in zip(clips, rows, strict=True) if r.error is None]
            index = {label: i for i, label in enumerate(task.labels)}
            wanted = np.array([index[c.labels[0]] for c, _ in good])
            got = np.array([index[r.label or ""] for _, r in good])
            matrix = metrics.confusion(wanted, got, len(task.labels))
            plots.confusion_matrix(matrix, task.labels, out / "confusion.png")
    return scores


def _save_judged(path: Path, clips: Sequence[Clip], rows: Sequence[Prediction]) -> None:
    """What was said of every scored clip, by its name in the data set: for comparing two runs clip by clip."""
    lines = [
        {
            "name": c.name or c.path.name, "start": c.start,
            "wanted": ";".join(c.labels), "label": r.label, "score": r.score,
        }
        for c, r in zip(clips, rows, strict=True)
    ]  # fmt: skip
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomic(path, lambda part: part.write_text(text, encoding="utf-8"))
