"""What all captioners share, whatever they hear by and whatever writes: the loss, the rows, the scores."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ossicle.backbones import prompt
from ossicle.backbones.text import Given, LanguageModel
from ossicle.contracts import Batch, Clip, Prediction
from ossicle.errors import DataError, UnknownNameError, UsageError
from ossicle.metrics.caption import score as metrics
from ossicle.tasks import decode
from ossicle.tasks.decode import Decoding, Written

METRICS = ("bleu", "rouge_l", "cider")


class Captions(ABC):
    """A task that writes captions; see `contracts.Task`.

    Args:
        language: what writes.
        end: the token that ends a caption.
        decoding: how captions are written.
        metrics: names of caption metrics for `score`; the first numbers choose the best epoch.
        best_by: the score that chooses the best epoch.
    """

    def __init__(
        self, language: LanguageModel, end: int, decoding: Decoding | None, metrics: Sequence[str], best_by: str
    ) -> None:  # fmt: skip
        self.language, self.end = language, end
        self.decoding = Decoding() if decoding is None else decoding
        self.metrics, self.best_by = tuple(metrics), best_by
        self.absent: dict[str, str] = {}

    @abstractmethod
    def given(self, batch: Batch) -> Given:
        """What the language model reads of each clip."""

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the captions and their end tokens, mean over all of them; a scalar.

        Raises:
            DataError: if a clip has no caption.
        """
        if batch.targets is None:
            names = ", ".join(c.name or c.path.name for c in batch.clips if not c.captions)
            raise DataError(f"no caption to learn from: {names}; give each clip at least one")
        real = batch.targets != -100
        found = self.language.score(self.given(batch), batch.targets)
        return -(found * real).sum() / real.sum()

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """One row per clip: its caption, the probability per token, and the log-probability of each candidate."""
        written = decode.write(self.language, self.given(batch), self.end, self.decoding)
        return [self._row(clip, self.chosen(batch, i, written[i])) for i, clip in enumerate(batch.clips)]

    def chosen(self, batch: Batch, number: int, found: Sequence[Written]) -> Sequence[Written]:
        """Of a clip's candidates those that may be its caption, the best first: all of them."""
        return found

    def _row(self, clip: Clip, found: Sequence[Written]) -> Prediction:
        best = found[0]
        return Prediction(
            path=str(clip.path), start=clip.start, end=clip.end, caption=best.text,
            score=round(math.exp(best.log_prob / best.tokens), 6),
            scores={w.text: round(w.log_prob, 4) for w in found},
        )  # fmt: skip

    def average(self, rows: Sequence[Prediction]) -> Prediction:
        """The row of a clip's windows: that with the surest caption, over the whole clip."""
        surest = max(rows, key=lambda row: row.score or 0.0)
        return replace(surest, start=rows[0].start, end=rows[-1].end)

    def check(self, clips: Sequence[Clip]) -> None:
        """See that clips can be scored.

        Raises:
            DataError: if none has captions.
            UnknownNameError: for an unknown metric.
            UsageError: if a metric cannot run here.
        """
        if not any(clip.captions for clip in clips):
            raise DataError("no clip has captions to score against; give captioned data")
        check_metrics(self.metrics, "")

    def score(self, clips: Sequence[Clip], rows: Sequence[Prediction]) -> dict[str, Any]:
        """Caption metrics of rows that have no error and references; a metric that cannot run is noted in `absent`.

        Raises:
            DataError: if no clip has a row and references.
        """
        pairs = [(c, r) for c, r in zip(clips, rows, strict=True) if r.error is None and c.captions]
        if not pairs:
            raise DataError("no clip could be scored: none was readable and had captions")
        candidates = {str(i): row.caption or "" for i, (_, row) in enumerate(pairs)}
        references = {str(i): list(clip.captions) for i, (clip, _) in enumerate(pairs)}
        found = metrics.score(candidates, references, list(self.metrics))
        self.absent = found.absent
        return dict(found.corpus)

    def _targets(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Tensor | None:
        if not all(clip.captions for clip in clips):
            return None
        chosen = []
        for clip in clips:
            count = len(clip.captions)
            chosen.append(0 if generator is None else int(torch.randint(count, (), generator=generator)))
        return self.targets([clip.captions[i].strip() for clip, i in zip(clips, chosen, strict=True)])

    def targets(self, said: Sequence[str]) -> Tensor:
        """(batch, longest) ids of captions and end tokens, -100 after them."""
        return prompt.targets(self.language.tokenizer, self.end, said)


def check_metrics(names: Sequence[str], best_by: str, clips: int = 2) -> None:
    """See before any training that the metrics are there and give the score that chooses the best epoch.

    Args:
        names: of the metrics.
        best_by: the score that chooses; "" asks for none.
        clips: validation clips that it chooses by.

    Raises:
        UnknownNameError: for another metric, or a score that none of them gives.
        UsageError: if a metric cannot run here, or the score cannot be had of so few clips.
    """
    said = {"0": "a dog barks", "1": "rain falls"}
    found = metrics.score(said, {name: [text, "a sound"] for name, text in said.items()}, list(names))
    if found.absent:
        raise UsageError("; ".join(f"task.metrics has {name}, but {why}" for name, why in found.absent.items()))
    if best_by and best_by not in found.corpus:
        raise UnknownNameError(f"task.best_by for metrics {', '.join(names)}", best_by, found.corpus)
    if clips == 1 and best_by in metrics.OF_SEVERAL:
        raise UsageError(
            f"task.best_by={best_by} compares captions of several clips, but there is one validation clip; hold out"
            " more, or set task.best_by to another score such as rouge_l, or train.keep=last"
        )


def check_captions(clips: Sequence[Clip], language: str) -> None:
    """See that there is something to learn from.

    Args:
        clips: training clips.
        language: "en" also looks whether the captions are English; "any" does not.

    Raises:
        DataError: if a clip has no caption, or the captions are not English.
    """
    bare = [clip.name or clip.path.name for clip in clips if not any(c.strip() for c in clip.captions)]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(clips)} clips have no caption: {', '.join(bare[:5])}; "
            "add a caption column or leave them out of the table"
        )
    if language == "en":
        _check_english([caption for clip in clips for caption in clip.captions])


# Of the words every English description has a few of; enough to tell a data set in another language.
ENGLISH = frozenset(
    ["a", "an", "the", "and", "is", "are", "of", "in", "on", "with", "while", "as", "by", "to", "then", "followed"]
    + ["at", "from", "someone", "person", "sound", "sounds"]
)
FEWEST_WORDS = 4


def _check_english(captions: Sequence[str]) -> None:
    """Other letters, or no common English word in a caption that is long enough to have one, in most captions."""
    judged = [c for c in captions if len(c.split()) >= FEWEST_WORDS or not c.isascii()]
    strange = [c for c in judged if not ENGLISH & {word.strip(".,;:!?") for word in c.lower().split()}]
    if len(strange) > 0.5 * len(judged) and len(strange) > 0.25 * len(captions):
        raise DataError(
            f"{len(strange)} of {len(captions)} captions do not look English, such as {strange[0]!r}; "
            "set task.language='any' if that is meant"
        )
