"""Building a classifier: its labels, caches, head and pictures."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossicle import adapters, backbones
from ossicle.adapters import store
from ossicle.adapters.full import Probe
from ossicle.backbones.encoder import no_drop
from ossicle.backbones.layers import Standardize
from ossicle.contracts import Clip, Prediction
from ossicle.data.table import normal
from ossicle.errors import AudioError, DataError, UsageError
from ossicle.metrics import classify as metrics
from ossicle.recipe import backbone
from ossicle.recipe.backbone import shared_out
from ossicle.recipe.config import Recipe
from ossicle.recipe.partition import Split, class_weights, labels_of
from ossicle.share.card import card
from ossicle.tasks import fitted
from ossicle.tasks.classify import Augment, Classifier
from ossicle.tasks.features import TokenStore, without_adapter
from ossicle.tasks.listen import Ear
from ossicle.training.evaluate import average, bound, cut

Array = np.ndarray[Any, Any]

LABELS = "labels.json"
WAVE_CACHE = 2 * 1024**3


class ClassifyPlan:
    """How a recipe becomes a classifier; see `plan.Plan`.

    Args:
        recipe: checked settings.
        labels: class names.
        weights: (classes,) weights in the loss, or None.
    """

    def __init__(self, recipe: Recipe, labels: Sequence[str], weights: torch.Tensor | None = None) -> None:
        self.recipe, self.labels, self.weights = recipe, list(labels), weights
        self.head: dict[str, Any] = {}
        self.crossed: dict[str, float] = {}

    @classmethod
    def learn(cls, recipe: Recipe, parts: Split, begun: Path | None = None) -> "ClassifyPlan":
        """The classes of the training clips.

        Raises:
            UsageError: for settings that a fitted head or the backbone cannot have.
        """
        _check_head(recipe)
        _check_drop(recipe)
        labels = labels_of(parts, recipe)
        return cls(recipe, labels, class_weights(recipe.classify, parts.train, labels))

    @classmethod
    def saved(cls, recipe: Recipe, folder: Path) -> "ClassifyPlan":
        """The classes a folder was trained on."""
        labels = json.loads((folder / LABELS).read_text(encoding="utf-8"))
        return cls(recipe, [normal(str(label)) for label in labels])

    @classmethod
    def validates(cls, recipe: Recipe) -> bool:
        """Only epochs are chosen among; a fitted head is cross-validated."""
        return iterates(recipe)

    def texts(self) -> dict[str, str]:
        """The classes."""
        return {LABELS: json.dumps(self.labels, indent=1, ensure_ascii=False) + "\n"}

    def task(self, *, for_training: bool) -> Classifier:
        """The task on its backbone, with a fresh adapter and head.

        Raises:
            UnknownNameError: for an unknown backbone or adapter.
            WeightsError: if the backbone's weights cannot be had.
        """
        recipe, task = self.recipe, self.recipe.classify
        encoder = backbone.adapted(recipe)
        torch.manual_seed(recipe.train.seed)
        return Classifier(
            encoder, self.labels,
            multi_label=task.multi_label, binary=task.loss == "binary", layers=task.layers, pooling=task.pooling,
            head_norm=task.head_norm,
            dropout=task.dropout, class_weights=self.weights, label_smoothing=task.label_smoothing,
            best_by=task.best_by,
            augment=task.augment, window_s=task.window_s, shortest_s=task.shortest_s,
            cache_bytes=WAVE_CACHE if for_training else 0,
        )  # fmt: skip

    def begin(self, task: Classifier, folder: Path | None) -> None:
        """The weights of a folder with the same adapter and classes.

        Raises:
            UsageError: if nothing of them would be left.
            AdapterError: if they do not fit.
        """
        if folder is None:
            return
        if not iterates(self.recipe):
            raise UsageError(
                "--init-from gives a head to begin with, but here it is fitted anew; set task.head=trained"
            )
        store.restore(task.parts(), store.read_weights(folder))

    def check(self, task: Classifier, manifest: dict[str, Any]) -> None:
        """Names and shapes are checked when the weights are filled in."""

    def caches(self, task: Classifier) -> bool:
        """Pooled features of an encoder that does not train, or tokens below the lowest block that does."""
        table = self.recipe.classify
        for ear in task.listener.ears:
            if not adapters.trainable(ear.encoder, "default") and table.augment == Augment():
                ear.store = ear.feature_store()
            elif table.cache_versions and ear.encoder.depth:
                ear.tokens, ear.versions = _token_store(task, ear), table.cache_versions
        return any(ear.store is not None or ear.tokens is not None for ear in task.listener.ears)

    def start(self, task: Classifier, clips: Sequence[Clip], out: Path) -> None:
        """Fit the head on features of the encoder as it starts, or only standardise one that is to be trained.

        A head that already fits keeps the encoder's features whole in the first steps (Kumar et al. 2022, LP-FT).
        """
        fits = self.recipe.classify.head == "fitted"
        if not fits and not isinstance(task.head.norm, Standardize):
            return
        parents = [(c, w) for c in bound(clips, task.window_s) for w in cut(c, task.window_s)]
        windows = [window for _, window in parents]
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            loaded = [
                ear.store.get(windows) if ear.store else _first_features(ear, windows, Path(scratch))
                for ear in task.listener.ears
            ]
        faults = {i: v for values in loaded for i, v in enumerate(values) if isinstance(v, AudioError)}
        task.unreadable.update({str(windows[i].path): str(fault) for i, fault in faults.items()})
        kept = [i for i in range(len(windows)) if i not in faults]
        if not kept:
            raise DataError(f"no training clip can be read; first: {faults[0]}")
        blocks = [np.stack([np.asarray(values[i]) for i in kept]) for values in loaded]
        if fits:
            self._fit(task, blocks, [parents[i] for i in kept])
        else:
            task.head.norm.fit(torch.from_numpy(np.concatenate(blocks, axis=1)))  # type: ignore[operator]

    def _fit(self, task: Classifier, blocks: Sequence[Array], pairs: Sequence[tuple[Clip, Clip]]) -> None:
        """Fit the head on features of windows, each with the clip it is of; keep what cross-validation said of it."""
        clips = [clip for clip, _ in pairs]
        found = fitted.fit(
            blocks, task.targets(clips).numpy(), [c.group or str(c.path) for c in clips], several=task.binary,
            class_weights=None if self.weights is None else self.weights.numpy(), seed=self.recipe.train.seed,
            whiten=[encoder.usual_whitening for encoder in task.encoder.encoders],
        )  # fmt: skip
        task.head.fill(found.mean, found.std, found.weight, found.bias)
        names = [encoder.name for encoder in task.encoder.encoders]
        shares = {name: share for name, share in zip(names, found.shares, strict=True)}
        windows: dict[Clip, list[Prediction]] = {}
        for i, p in zip(found.rows, found.held_out, strict=False):
            windows.setdefault(clips[i], []).append(task.row(pairs[i][1], p))
        chose = len(windows) if found.folds else len(set(clips))
        self.head = {"strength": found.strength, "shares": shares, "folds": found.folds, "clips": chose}
        if found.folds:
            self.crossed = task.score(list(windows), [average(task, rows) for rows in windows.values()])

    def trains(self, task: Classifier) -> bool:
        """Whether there is anything to iterate: an adapter, or a head that is not fitted."""
        return iterates(self.recipe)

    def kept(self) -> dict[str, Any]:
        """How the head was fitted, and what cross-validation said of it."""
        if not self.head:
            return {}
        shares = ", ".join(f"{name} {share:g}" for name, share in self.head["shares"].items())
        how = f"of {self.head['clips']:,} clips" if self.head["folds"] else "; too few clips to cross-validate"
        told = f"fitted with strength {self.head['strength']:g}" + (
            f", {shares}" if len(self.head["shares"]) > 1 else ""
        )
        told += f"; chosen by {self.head['folds']}-fold cross-validation {how}" if self.head["folds"] else how
        if iterates(self.recipe):  # it only begins so, and cross-validation says nothing of what it becomes
            return {"head": self.head | {"told": f"{told}; then trained with the adapter"}}
        return {"head": self.head | {"told": told}} | (
            {"scores": {"cross-validated": self.crossed}} if self.crossed else {}
        )

    def facts(self, task: Classifier) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def sizes(self, task: Classifier) -> dict[str, int]:
        """Of the head."""
        return {"head": sum(p.numel() for p in task.head.parameters())}

    def judged(
        self, task: Classifier, clips: Sequence[Clip], rows: Sequence[Prediction], out: Path
    ) -> list[dict[str, Any]]:
        """Wanted and given label of each clip, and the confusion matrix as a picture."""
        if not task.multi_label:
            from ossicle.pictures import plots  # matplotlib takes longer to import than a prediction to make

            good = [(c, r) for c, r in zip(clips, rows, strict=True) if r.error is None]
            index = {label: i for i, label in enumerate(task.labels)}
            wanted = np.array([index[c.labels[0]] for c, _ in good])
            got = np.array([index[r.label or ""] for _, r in good])
            matrix = metrics.confusion(wanted, got, len(task.labels))
            plots.confusion_matrix(matrix, task.labels, out / "confusion.png")
        return [
            {"wanted": ";".join(c.labels), "label": r.label, "score": r.score} for c, r in zip(clips, rows, strict=True)
        ]

    def card(self, name: str, manifest: dict[str, Any]) -> str:
        """The model card with the classes."""
        kind = f"classifies sound into {len(self.labels)} classes"
        return card(
            name, manifest, kind, f"predict {name} sounds/ --out labels.csv", {"Classes": ", ".join(self.labels)}
        )


def iterates(recipe: Recipe) -> bool:
    """Whether there is anything to iterate: an adapter, or a head that is not fitted."""
    parts = [part for adapter in shared_out(recipe).values() for part in adapter.parts]
    return recipe.classify.head == "trained" or not all(isinstance(part, Probe) for part in parts)


def _check_head(recipe: Recipe) -> None:
    """A fitted head standardises; where nothing is iterated, settings of iterations would do nothing."""
    task = recipe.classify
    if task.augment.token_mixup and not task.cache_versions:
        raise UsageError(
            "task.augment.token_mixup mixes cached tokens; set task.cache_versions with it, or mixup instead"
        )
    if task.head == "trained":
        return
    if task.head_norm != "standard":
        raise UsageError(f"task.head_norm={task.head_norm} is of a trained head; set task.head=trained with it")
    if not iterates(recipe):
        given = [k for k in ("augment", "dropout", "label_smoothing") if getattr(task, k) not in (0.0, Augment())]
        if given:
            raise UsageError(f"task.{given[0]} does nothing where the head is fitted; set task.head=trained with it")


def _check_drop(recipe: Recipe) -> None:
    """Tokens can only be dropped in front of blocks."""
    names = backbones.names_of(recipe.backbone.name) if recipe.classify.augment.drop_tokens else []
    bare = [name for name in names if not backbones.skeleton(name).depth]
    if bare:
        raise UsageError(no_drop(bare[0]))


def _token_store(task: Classifier, ear: Ear) -> TokenStore:
    """A cache of tokens up to the lowest block that trains or is pooled.

    Raises:
        UsageError: if the stem itself trains, or a random change is asked for that cached tokens cannot have.
    """
    encoder, changes = ear.encoder, task.augment
    usual = replace(Augment(), shift_s=changes.shift_s, gain_db=changes.gain_db, token_mixup=changes.token_mixup)
    lost = [name for name, value in vars(changes).items() if value != getattr(usual, name)]
    if lost:
        raise UsageError(
            f"task.cache_versions keeps tokens, which cannot have task.augment.{lost[0]}; set one of the two to 0"
            " (shift_s, gain_db and token_mixup go with it)"
        )
    injected = encoder.adapters["default"]
    if injected.frozen:
        raise UsageError("task.cache_versions needs a frozen stem but full() trains it; set it to 0")
    blocks = [int(path.split(".")[1]) for path in injected.paths if path.startswith(("blocks.", "inlets."))]
    number = min([*blocks, *ear.layers])
    settings = [changes.shift_s, changes.gain_db]
    return TokenStore(
        encoder, number, lambda w, g: changes.waves(w, g, encoder.rate_hz), settings, shortest_s=ear.shortest_s
    )


def _first_features(ear: Ear, clips: Sequence[Clip], scratch: Path) -> list[Tensor | AudioError]:
    """Features at the start of training: the frozen encoder's, which are cached, unless the adapter starts loud."""
    with without_adapter(ear.encoder):
        usual = ear.feature_store()
        found = usual.get(clips)
    readable = next((i for i, value in enumerate(found) if isinstance(value, Tensor)), 0)
    loud = ear.feature_store(root=scratch)
    one, two = found[readable], loud.get([clips[readable]])[0]
    silent = isinstance(one, Tensor) and isinstance(two, Tensor) and torch.allclose(one, two, rtol=1e-3, atol=1e-3)
    return found if silent else loud.get(clips)
