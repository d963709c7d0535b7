"""Tagging: what a published tagger hears in a clip, by the classes it was published with. Nothing is trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ossicle import backbones, devices
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Batch, Clip, Encoded, Prediction
from ossicle.errors import UsageError
from ossicle.tasks.classify import short
from ossicle.tasks.listen import Listener, SoundAugment

Array = np.ndarray[Any, Any]

# Where nothing else is asked for (benchmarks/results/quality_tags.json).
WINDOW_S = 2.0
LEAST = 0.01
TAGGERS = "a tagger such as mn04 or yamnet"


class Tagger:
    """Names clips by a tagger's own classes; see `contracts.Answerer`.

    Each class has a probability of its own; several may be near 1, or none.

    Args:
        encoder: with `tags`.
        least: probabilities below this are left out of `scores`.

    Raises:
        UsageError: if it is no tagger.
    """

    kind = "tag"

    def __init__(self, encoder: Encoder, *, least: float = LEAST) -> None:
        _check(encoder)
        assert encoder.tags is not None
        self.encoder = encoder
        self.labels = list(encoder.tags.labels)
        self.least = least
        self.listener = Listener(encoder, SoundAugment())
        self.unreadable = self.listener.unreadable

    def parts(self) -> dict[str, nn.Module]:
        """Name to module."""
        return {"backbone": self.encoder}

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        """Load clips; a clip that cannot be read is left out and noted in `unreadable`.

        Raises:
            DataError: if no clip of the batch can be read.
        """
        return self.listener.collate(clips, generator)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """One row per clip."""
        encoded = self.listener.ears[0].encode(batch, self.listener.changes)
        probabilities = over_time(self.encoder.scores(encoded), encoded).cpu().numpy()
        return [self.row(clip, p) for clip, p in zip(batch.clips, probabilities, strict=True)]

    def row(self, clip: Clip, probabilities: Array) -> Prediction:
        """The result row of (classes,) probabilities: the best class, and from the best on all of `least` or more."""
        best = int(probabilities.argmax())  # of what is no number too, so that the predictor sees it
        scores = {self.labels[i]: short(probabilities[i]) for i in np.argsort(-probabilities, kind="stable")}
        return Prediction(
            path=str(clip.path), start=clip.start, end=clip.end,
            label=self.labels[best], score=scores[self.labels[best]],
            scores={label: p for label, p in scores.items() if p >= self.least},
        )  # fmt: skip


def over_time(scores: Tensor, encoded: Encoded) -> Tensor:
    """(batch, rows, classes) probabilities to (batch, classes): the mean over what is real of a clip.

    A tagger with one row for each token was taught short stretches under the labels of the whole clip, so what it says
    of the clip is the mean. YAMNet's authors take it too (tensorflow/models, `research/audioset/yamnet/inference.py`).
    It keeps the scores those of a sound that lasts; a knock of a tenth of a second wants short windows.
    """
    if scores.shape[1] == 1 or encoded.mask is None:
        return scores.mean(dim=1)
    real = encoded.mask.to(scores.dtype)[..., None]
    return torch.where(real > 0, scores, 0.0).sum(dim=1) / real.sum(dim=1)


def load(name: str) -> Tagger:
    """A tagger with its published weights, on the device that computes.

    Args:
        name: of a backbone. What it can do is seen before any weights are fetched.

    Raises:
        UsageError: if it is no tagger, or joins several encoders.
        UnknownNameError: if there is no such backbone.
        WeightsError: if its weights cannot be had.
    """
    names = backbones.names_of(name)
    if len(names) > 1:
        raise UsageError(
            f"'{name}' joins {len(names)} encoders, which have no classes in common until a head is trained on them;"
            f" give {TAGGERS} alone, or the --out of `ossicle train classify DATA --backbone {name} --out DIR`"
        )
    _check(backbones.skeleton(names[0]))
    devices.prepare()
    encoder = backbones.load(names[0])
    encoder.to(devices.device())
    return Tagger(encoder)


def _check(encoder: Encoder) -> None:
    if encoder.tags is None:
        raise UsageError(
            f"'{encoder.name}' is a backbone without classes of its own; give {TAGGERS}, or the --out of"
            f" `ossicle train classify DATA --backbone {encoder.name} --out DIR`"
        )
