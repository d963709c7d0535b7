"""Building a classifier: its labels, caches, head and pictures."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ossicle import adapters
from ossicle.adapters import store
from ossicle.backbones.layers import Standardize
from ossicle.contracts import Clip, Prediction
from ossicle.errors import DataError, UsageError
from ossicle.metrics import classify as metrics
from ossicle.recipe import backbone
from ossicle.recipe.config import Recipe
from ossicle.recipe.partition import Split, class_weights, labels_of
from ossicle.share.card import card
from ossicle.tasks.classify import Augment, Classifier
from ossicle.tasks.features import FeatureStore, TokenStore
from ossicle.training.evaluate import bound, cut
from ossicle.training.loop import fit

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

    @classmethod
    def learn(cls, recipe: Recipe, parts: Split) -> "ClassifyPlan":
        """The classes of the training clips."""
        labels = labels_of(parts, recipe)
        return cls(recipe, labels, class_weights(recipe.classify, parts.train, labels))

    @classmethod
    def saved(cls, recipe: Recipe, folder: Path) -> "ClassifyPlan":
        """The classes a folder was trained on."""
        labels = json.loads((folder / LABELS).read_text(encoding="utf-8"))
        return cls(recipe, [str(label) for label in labels])

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
            augment=task.augment, window_s=task.window_s, shortest_s=task.shortest_s,
            cache_bytes=WAVE_CACHE if for_training else 0,
        )  # fmt: skip

    def begin(self, task: Classifier, folder: Path | None) -> None:
        """The weights of a folder with the same adapter and classes."""
        if folder is not None:
            store.restore(task.parts(), store.read_weights(folder))

    def check(self, task: Classifier, manifest: dict[str, Any]) -> None:
        """Names and shapes are checked when the weights are filled in."""

    def caches(self, task: Classifier) -> bool:
        """Pooled features of an encoder that does not train, or tokens below the lowest block that does."""
        table = self.recipe.classify
        if not adapters.trainable(task.encoder, "default") and table.augment == Augment():
            task.store = FeatureStore(task.encoder, task.layers, task.pooling, shortest_s=table.shortest_s)
        elif table.cache_versions:
            task.tokens, task.versions = _token_store(task), table.cache_versions
        return task.store is not None or task.tokens is not None

    def start(self, task: Classifier, clips: Sequence[Clip], out: Path) -> None:
        """Standardise the head and train it alone, on features of the encoder as it starts, before the adapter moves.

        A head that already fits keeps the encoder's features whole in the first steps (Kumar et al. 2022, LP-FT).
        """
        recipe = self.recipe
        epochs = 0 if task.store is not None else recipe.classify.head_first
        if not epochs and not isinstance(task.head.norm, Standardize):
            return
        clips = [w for c in bound(clips, task.window_s) for w in cut(c, task.window_s)]
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            features = task.store or _first_features(task, clips, recipe, Path(scratch) / "features")
            if isinstance(task.head.norm, Standardize):
                found = features.get(clips)
                vectors = [v for v in found if isinstance(v, torch.Tensor)]
                if not vectors:
                    raise DataError(f"no training clip can be read; first: {found[0]}")
                task.head.norm.fit(torch.stack(vectors))
            if not epochs:
                return
            probe = Classifier(
                features.encoder, task.labels, multi_label=task.multi_label, binary=task.binary, layers=task.layers,
                pooling=task.pooling,
                class_weights=task.class_weights, label_smoothing=task.label_smoothing, store=features,
            )  # fmt: skip
            probe.head = task.head
            settings = replace(recipe.train, epochs=epochs, lr=recipe.train.head_lr or recipe.train.lr)
            fit(probe, clips, [], settings, Path(scratch), quiet=True)
        task.head.requires_grad_(True)

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


def _token_store(task: Classifier) -> TokenStore:
    """A cache of tokens up to the lowest block that trains or is pooled.

    Raises:
        UsageError: if the stem itself trains, or a random change is asked for that cached tokens cannot have.
    """
    encoder, changes = task.encoder, task.augment
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
    number = min([*blocks, *task.layers])
    settings = [changes.shift_s, changes.gain_db]
    return TokenStore(
        encoder, number, lambda w, g: changes.waves(w, g, encoder.rate_hz), settings, shortest_s=task.shortest_s
    )


def _first_features(task: Classifier, clips: Sequence[Clip], recipe: Recipe, scratch: Path) -> FeatureStore:
    """Features at the start of training: the frozen encoder's, which are cached, unless the adapter starts loud."""
    shortest = task.shortest_s
    usual = FeatureStore(backbone.frozen(recipe), task.layers, task.pooling, shortest_s=shortest)
    loud = FeatureStore(task.encoder, task.layers, task.pooling, shortest_s=shortest, root=scratch)
    for clip in clips[:8]:
        first, second = usual.get([clip])[0], loud.get([clip])[0]
        if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
            return usual if torch.allclose(first, second, rtol=1e-3, atol=1e-3) else loud
    return usual
