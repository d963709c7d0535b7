"""Classification: a linear head on pooled tokens of chosen layers; one label per clip or several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ossicle.backbones.encoder import no_drop
from ossicle.backbones.joined import Encoders
from ossicle.backbones.layers import Standardize
from ossicle.contracts import Batch, Clip, Prediction
from ossicle.data.splits import not_one_label
from ossicle.errors import DataError, UnknownNameError, UsageError
from ossicle.metrics import classify as metrics
from ossicle.sound import augment
from ossicle.tasks.fitted import log_loss
from ossicle.tasks.listen import Amount, Listener, SoundAugment, draw

Array = np.ndarray[Any, Any]
HEAD_NORMS: dict[str, type[nn.Module]] = {"none": nn.Identity, "layer": nn.LayerNorm, "standard": Standardize}


class Head(nn.Module):
    """Optional norm, dropout and one linear map.

    Args:
        width: of the pooled vector.
        classes: outputs.
        norm: none (PETL of AST), layer (AST's own head) or standard (by the frozen encoder's training features).
        dropout: before the linear map.
    """

    def __init__(self, width: int, classes: int, *, norm: str = "none", dropout: float = 0.0) -> None:
        super().__init__()
        if norm not in HEAD_NORMS:
            raise UnknownNameError("head norm", norm, HEAD_NORMS)
        self.norm = HEAD_NORMS[norm](width)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, classes)

    @torch.no_grad()
    def fill(self, mean: Array, std: Array, weight: Array, bias: Array) -> None:
        """Take what was fitted: (width,) mean and spread, (classes, width) weight, (classes,) bias."""
        values = {"norm.mean": mean, "norm.std": std, "linear.weight": weight, "linear.bias": bias}
        self.load_state_dict({name: torch.from_numpy(value).float() for name, value in values.items()})

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) to (batch, classes) logits."""
        y: Tensor = self.linear(self.dropout(self.norm(x)))
        return y


@dataclass(frozen=True)
class Augment(SoundAugment):
    """Random changes in training, those of `SoundAugment` and of a classifier's own.

    Args:
        mixup: alpha of the Beta distribution clips are mixed with; 0 is off.
        mixup_share: share of the clips that are mixed.
        drop_tokens: share of tokens dropped before the blocks; training gets faster by it.
        token_mixup: alpha of the Beta distribution that cached tokens are mixed with; 0 is off.
    """

    mixup: Amount = 0.0
    mixup_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    drop_tokens: Annotated[float, Field(ge=0, lt=1)] = 0.0
    token_mixup: Amount = 0.0

    @property
    def whole(self) -> bool:
        """Whether a shorter clip must go on in silence, as it also must where clips are mixed."""
        return super().whole or bool(self.mixup or self.token_mixup)


class Classifier:
    """The classification task; see `contracts.Task`.

    Args:
        encoder: with its adapter injected, or frozen; several if it is a joined one.
        labels: class names; their order is the order of the outputs.
        multi_label: several labels per clip, each with its own sigmoid.
        binary: each class with its own sigmoid although a clip has one label, as AST learns Speech Commands.
        layers: whose outputs are pooled and joined; empty is what suits each encoder.
        pooling: see `features.pool`; "" is what suits each encoder.
        head_norm: see `Head`.
        dropout: see `Head`.
        class_weights: weight of each class in the loss, (classes,); None is 1.
        label_smoothing: single-label only.
        best_by: the score of validation clips that chooses the best epoch.
        augment: random changes in training.
        window_s: longest stretch of a clip trained on at once; None takes whole clips.
        shortest_s: shorter clips go on in silence up to this length, in training and prediction alike.
        cache_bytes: memory for decoded waveforms.
    """

    kind = "classify"

    def __init__(
        self,
        encoder: Encoders,
        labels: Sequence[str],
        *,
        multi_label: bool = False,
        binary: bool = False,
        layers: Sequence[int] = (),
        pooling: str = "",
        head_norm: str = "none",
        dropout: float = 0.0,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        best_by: str = "log_loss",
        augment: Augment | None = None,
        window_s: float | None = None,
        shortest_s: float = 0.0,
        cache_bytes: int = 2 * 1024**3,
    ) -> None:
        if len(labels) < 2:
            raise UsageError(f"classification needs at least 2 labels but got {len(labels)}: {list(labels)}")
        self.encoder = encoder
        self.labels = list(labels)
        self.multi_label = multi_label
        self.binary = binary or multi_label
        if label_smoothing and (binary or multi_label):
            raise UsageError("task.label_smoothing is of cross-entropy over all classes; set it to 0 with sigmoids")
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing
        self.augment = Augment() if augment is None else augment
        whole = [part.name for part in encoder.encoders if not part.depth]
        if self.augment.drop_tokens and whole:
            raise UsageError(no_drop(whole[0]))
        self.listener = Listener(
            encoder, self.augment, layers=layers, kind=pooling,
            window_s=window_s, shortest_s=shortest_s, cache_bytes=cache_bytes,
        )  # fmt: skip
        self.unreadable = self.listener.unreadable
        self.window_s = window_s
        self.head = Head(sum(self.listener.widths), len(labels), norm=head_norm, dropout=dropout)
        self.best_by = best_by
        self._index = {label: i for i, label in enumerate(self.labels)}

    def parts(self) -> dict[str, nn.Module]:
        """Prefix in the saved file to module."""
        return {"backbone": self.encoder, "head": self.head}

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        """Load clips; a clip that cannot be read is left out and noted in `unreadable`.

        Args:
            clips: rows.
            generator: draws crops and augmentation; None gives the same batch every time.

        Raises:
            DataError: if no clip of the batch can be read.
        """
        batch = self.listener.collate(clips, generator)
        batch = replace(batch, targets=self.targets(batch.clips))
        return batch if generator is None else self._mixed(batch, draw(generator))

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy, or the mean binary cross-entropy of all classes; a scalar."""
        logits = self.logits(batch).float()
        assert batch.targets is not None
        weight = None if self.class_weights is None else self.class_weights.to(logits.device)
        if self.binary:
            return F.binary_cross_entropy_with_logits(logits, batch.targets, weight=weight)
        return F.cross_entropy(logits, batch.targets, weight=weight, label_smoothing=self.label_smoothing)

    def logits(self, batch: Batch) -> Tensor:
        """(batch, classes) from waveforms or cached features."""
        logits: Tensor = self.head(self.listener.vectors(batch, self.augment.drop_tokens))
        return logits

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """One row per clip with the probability of every class."""
        logits = self.logits(batch).float()
        probabilities = self.probabilities(logits).cpu().numpy()
        return [self.row(clip, p) for clip, p in zip(batch.clips, probabilities, strict=True)]

    def probabilities(self, logits: Tensor) -> Tensor:
        """(batch, classes) of logits; they add up to 1 unless each class has its own sigmoid."""
        return logits.sigmoid() if self.binary else logits.softmax(dim=1)

    def row(self, clip: Clip, probabilities: Array) -> Prediction:
        """The result row of (classes,) probabilities."""
        best = int(probabilities.argmax())
        chosen = [self.labels[best]]
        if self.multi_label:
            chosen = [label for label, p in zip(self.labels, probabilities, strict=True) if p >= 0.5]
        return Prediction(
            path=str(clip.path), start=clip.start, end=clip.end,
            label=";".join(chosen), score=short(probabilities[best]),
            scores={label: short(p) for label, p in zip(self.labels, probabilities, strict=True)},
        )  # fmt: skip

    def average(self, rows: Sequence[Prediction]) -> Prediction:
        """The row of the mean probabilities of a clip's windows."""
        means = np.mean([list(row.scores.values()) for row in rows], axis=0)
        clip = Clip(Path(rows[0].path), start=rows[0].start, end=rows[-1].end)
        return replace(self.row(clip, means), path=rows[0].path)

    def check(self, clips: Sequence[Clip]) -> None:
        """See that clips can be scored.

        Raises:
            DataError: if clips do not have one label each where that is wanted.
            UnknownNameError: for a label that was not learnt.
        """
        faults = [] if self.multi_label else not_one_label(clips)
        if faults:
            raise DataError("; ".join(faults))
        self.targets(clips)

    def score(self, clips: Sequence[Clip], rows: Sequence[Prediction]) -> dict[str, Any]:
        """Accuracy, top-5, macro mAP and F1, log loss of rows that have no error; raises as `check` does."""
        self.check(clips)
        pairs = [(c, r) for c, r in zip(clips, rows, strict=True) if r.error is None]
        if not pairs:
            raise DataError("no clip could be scored: none was readable; see the error column of the results")
        probabilities = np.array([[r.scores[label] for label in self.labels] for _, r in pairs])
        targets = self.targets([c for c, _ in pairs]).numpy()
        wanted = targets.astype(int) if self.multi_label else targets.argmax(axis=1)
        scores = metrics.summary(probabilities, wanted, self.labels, self.multi_label)
        return scores | {"log_loss": log_loss(probabilities, targets, self.multi_label)}

    def targets(self, clips: Sequence[Clip]) -> Tensor:
        """(batch, classes) float32, 1 where the clip has the label."""
        targets = torch.zeros(len(clips), len(self.labels))
        for row, clip in enumerate(clips):
            for label in clip.labels:
                if label not in self._index:
                    raise UnknownNameError(f"label of {clip.name or clip.path.name}", label, self.labels)
                targets[row, self._index[label]] = 1
        return targets

    def _mixed(self, batch: Batch, seed: int) -> Batch:
        """Each clip mixed with another of the batch, the same one in every encoder's part, and their targets alike."""
        assert batch.targets is not None
        cached = any(part.tokens is not None for part in batch.parts)
        alpha = self.augment.token_mixup if cached else self.augment.mixup
        if not alpha:
            return batch
        share, parts, targets = 1.0 if cached else self.augment.mixup_share, [], batch.targets
        for part in batch.parts:
            name = "waves" if part.waves is not None else "tokens"
            rows, generator = getattr(part, name), torch.Generator().manual_seed(seed)
            mixed, targets = augment.mixup(rows.flatten(1), batch.targets, generator, alpha=alpha, rows=share)
            mixed = mixed.view_as(rows)
            parts.append(replace(part, waves=mixed) if name == "waves" else replace(part, tokens=mixed))
        return replace(parts[0], targets=targets, others=tuple(parts[1:]))


def short(probability: float) -> float:
    """Six significant digits: small ones stay apart, so that ranks do too."""
    return float(f"{probability:.6g}")
