"""Captioning: a frozen encoder, a mapper to soft tokens, and a frozen language model with LoRA that writes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ossicle.backbones import prompt as wording
from ossicle.backbones.joined import Encoders
from ossicle.backbones.text import Given, LanguageModel
from ossicle.contracts import Batch, Clip, Prediction
from ossicle.errors import DataError, UnknownNameError, UsageError
from ossicle.metrics.caption import score as metrics
from ossicle.tasks import decode
from ossicle.tasks.decode import Decoding, Written
from ossicle.tasks.features import SEQUENCE
from ossicle.tasks.listen import Heard, Listener, SoundAugment
from ossicle.tasks.mapper import Mapper

PROMPT = f"Describe the following audio clip {wording.PLACEHOLDER}"
METRICS = ("bleu", "rouge_l", "cider")


class Captioner:
    """The captioning task of BEATs, Llama and LoRA; see `contracts.Task`.

    Args:
        encoder: with its adapter injected, or frozen; several if it is a joined one.
        language: with its LoRA, or frozen.
        mapper: from the encoder's tokens to the language model's; see `mapper_for`.
        layers: whose outputs are joined for the mapper; empty is the last.
        squeeze: that many of the encoder's tokens neighbouring in time become their mean before the mapper.
        prompt: has "[audio]" where the sound is read.
        chat: the prompt as a turn of the language model's chat template, or as plain text.
        decoding: how captions are written.
        metrics: names of caption metrics for `score`; the first numbers choose the best epoch.
        best_by: the score that chooses the best epoch.
        augment: random changes of the sound in training.
        window_s: longest stretch of a clip trained on at once; None takes whole clips.
        shortest_s: shorter clips go on in silence up to this length.
        cache_bytes: memory for decoded waveforms.
    """

    kind = "caption-llm"

    def __init__(
        self,
        encoder: Encoders,
        language: LanguageModel,
        mapper: Mapper,
        *,
        layers: Sequence[int] = (),
        squeeze: int = 1,
        prompt: str = PROMPT,
        chat: bool = True,
        decoding: Decoding | None = None,
        metrics: Sequence[str] = METRICS,
        best_by: str = "cider_d",
        augment: SoundAugment | None = None,
        window_s: float | None = None,
        shortest_s: float = 0.0,
        cache_bytes: int = 2 * 1024**3,
    ) -> None:
        self.encoder, self.language, self.mapper = encoder, language, mapper
        self.prompt = wording.prompt(language.tokenizer, prompt, chat=chat)
        self.decoding = Decoding() if decoding is None else decoding
        self.metrics, self.best_by = tuple(metrics), best_by
        self.augment = SoundAugment() if augment is None else augment
        self.listener = Listener(
            encoder, self.augment, layers=layers, kind=SEQUENCE, squeeze=squeeze,
            window_s=window_s, shortest_s=shortest_s, cache_bytes=cache_bytes,
        )  # fmt: skip
        self.unreadable = self.listener.unreadable
        self.absent: dict[str, str] = {}

    def parts(self) -> dict[str, nn.Module]:
        """Prefix in the saved files to module."""
        return {"backbone": self.encoder, "mapper": self.mapper, "llm": self.language}

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        """Load clips; of each that has captions one is drawn, the first without a generator.

        Raises:
            DataError: if no clip of the batch can be read.
        """
        batch = self.listener.collate(clips, generator)
        return replace(batch, targets=self._targets(batch.clips, generator))

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the captions and their end tokens, mean over all of them; a scalar.

        Raises:
            DataError: if a clip has no caption.
        """
        if batch.targets is None:
            names = ", ".join(c.name or c.path.name for c in batch.clips if not c.captions)
            raise DataError(f"no caption to learn from: {names}; give each clip at least one")
        real = batch.targets != -100
        found = self.language.score(Given(self.prefix(batch)), batch.targets)
        return -(found * real).sum() / real.sum()

    def prefix(self, batch: Batch) -> Tensor:
        """(batch, places, width) embedded prompts with the soft tokens of each clip in them."""
        soft = self.mapper(*self.heard(batch))
        before, after = (
            self.language.embed(torch.tensor(ids, device=soft.device, dtype=torch.long)).expand(len(soft), -1, -1)
            for ids in (self.prompt.before, self.prompt.after)
        )
        return torch.cat([before, soft.to(before.dtype), after], dim=1)

    def heard(self, batch: Batch) -> tuple[Tensor, Tensor | None, list[Heard]]:
        """(batch, n, width) tokens in order of time and where they are real; the same of each further encoder."""
        (tokens, mask), *others = self.listener.sequences(batch)
        return tokens, mask, others

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """One row per clip: its caption, the probability per token, and the log-probability of each candidate."""
        written = decode.write(self.language, Given(self.prefix(batch)), self.prompt.end, self.decoding)
        return [self._row(clip, found) for clip, found in zip(batch.clips, written, strict=True)]

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
        said = [clip.captions[i].strip() for clip, i in zip(clips, chosen, strict=True)]
        return wording.targets(self.language.tokenizer, self.prompt.end, said)


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
