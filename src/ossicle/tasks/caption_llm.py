"""Captioning: a frozen encoder, a mapper to soft tokens, and a frozen language model with LoRA that writes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ossicle.backbones import prompt as wording
from ossicle.backbones.joined import Encoders
from ossicle.backbones.text import Given, LanguageModel
from ossicle.contracts import Batch, Clip
from ossicle.tasks.captions import METRICS, Captions
from ossicle.tasks.decode import Decoding
from ossicle.tasks.features import SEQUENCE
from ossicle.tasks.listen import Heard, Listener, SoundAugment
from ossicle.tasks.mapper import Mapper

PROMPT = f"Describe the following audio clip {wording.PLACEHOLDER}"


class Captioner(Captions):
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
        self.prompt = wording.prompt(language.tokenizer, prompt, chat=chat)
        super().__init__(language, self.prompt.end, decoding, metrics, best_by)
        self.encoder, self.mapper = encoder, mapper
        self.augment = SoundAugment() if augment is None else augment
        self.listener = Listener(
            encoder, self.augment, layers=layers, kind=SEQUENCE, squeeze=squeeze,
            window_s=window_s, shortest_s=shortest_s, cache_bytes=cache_bytes,
        )  # fmt: skip
        self.unreadable = self.listener.unreadable

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

    def given(self, batch: Batch) -> Given:
        """See `prefix`."""
        return Given(self.prefix(batch))

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
