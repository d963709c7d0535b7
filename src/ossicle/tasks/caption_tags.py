"""Captioning from tags: a tagger hears, and what it heard is text that a language model reads and puts into words.

The paper's way (Gontier et al. 2021, see `tasks.conditioning`) is one tag a second. `list` is ours: the tags of the
whole sound, the surest first, and with each the numbers of when and how surely it was heard, which reach the language
model where the paper's embeddings do.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ossicle.backbones.encoder import Encoder
from ossicle.backbones.prompt import Prompt
from ossicle.backbones.text import Given, LanguageModel
from ossicle.contracts import Batch, Clip, Prediction
from ossicle.errors import AudioError, DataError
from ossicle.metrics.caption import invented
from ossicle.tasks import conditioning, tracks
from ossicle.tasks.captions import METRICS, Captions
from ossicle.tasks.decode import Decoding, Written
from ossicle.tasks.pseudo import Event, Pretence
from ossicle.tasks.tracks import Tag, Track, Tracker

Reads = Literal["list", "sequence"]
NUMBERS = 6
# What a row says was heard.
SHOWN, FAINTEST = 12, 0.05


class TagCaptioner(Captions):
    """Writes captions of what a tagger heard; see `contracts.Task`.

    Args:
        encoder: the tagger.
        language: what writes: an encoder-decoder, or a causal model with a prompt.
        numbers: (numbers of a tag) to the language model's width; with `sequence` nothing goes through it.
        prompt: around the tags, for a causal model; None where an encoder reads them.
        reads: list, or sequence with a tag a row.
        most: tags of a list at the most.
        least: strength of a list's tags after the first.
        parity: names as the paper's code leaves them.
        pretences: taggers that are pretended for captions without sound, each with the events of every caption.
        strict: of several candidates those are kept that name nothing without a tag.
        decoding: how captions are written.
        metrics: names of caption metrics for `score`.
        best_by: the score that chooses the best epoch.
    """

    kind = "caption-tags"

    def __init__(
        self,
        encoder: Encoder,
        language: LanguageModel,
        numbers: nn.Linear,
        *,
        prompt: Prompt | None = None,
        reads: Reads = "list",
        most: int = 10,
        least: float = 0.03,
        parity: bool = False,
        pretences: Sequence[tuple[Pretence, Mapping[str, Sequence[Event]]]] = (),
        strict: bool = False,
        shortest_s: float = 0.0,
        decoding: Decoding | None = None,
        metrics: Sequence[str] = METRICS,
        best_by: str = "cider_d",
    ) -> None:
        tokenizer = language.tokenizer
        end = tokenizer.eos_token_id if prompt is None else prompt.end
        super().__init__(language, end, decoding, metrics, best_by)
        self.encoder, self.numbers, self.prompt = encoder, numbers, prompt
        self.reads, self.most, self.least, self.parity, self.strict = reads, most, least, parity, strict
        self.tracker = Tracker(encoder, shortest_s=shortest_s)
        self.pretences = list(pretences)
        self.unreadable: dict[str, str] = {}
        self._special, self._separator = conditioning.special_ids(tokenizer), conditioning.separator_id(tokenizer)
        self._read: dict[str, tuple[list[int], list[int]]] = {}

    def parts(self) -> dict[str, nn.Module]:
        """Prefix in the saved files to module."""
        return {"backbone": self.encoder, "mapper": self.numbers, "llm": self.language}

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        """Hear clips, or pretend to where there is a caption alone; of each one caption is drawn.

        Raises:
            DataError: if no clip of the batch can be read.
        """
        said = [self._said(clip, generator) for clip in clips]
        sounds = [clip for clip in clips if not clip.text_only]
        there = dict(zip(map(id, sounds), self.tracker.get(sounds), strict=True))
        found: list[tuple[Track, Sequence[str]] | AudioError] = []
        for clip, caption in zip(clips, said, strict=True):
            track = None if clip.text_only else there[id(clip)]
            if track is None:
                found.append(self._pretended(caption, generator))
            else:
                found.append((track, self.tracker.names) if isinstance(track, Track) else track)
        faults = {str(c.path): str(f) for c, f in zip(clips, found, strict=True) if isinstance(f, AudioError)}
        self.unreadable |= faults
        good = [i for i, one in enumerate(found) if not isinstance(one, AudioError)]
        if not good:
            raise DataError(f"no clip of this batch can be read; first: {next(iter(faults.values()))}")
        heard = [one for one in found if not isinstance(one, AudioError)]
        rows = [self._tokens(track, names, generator) for track, names in heard]
        ids, vectors, mask = _padded(rows, self.language.tokenizer.pad_token_id or 0, first=self.prompt is not None)
        targets = self._captions([said[i] for i in good])
        return Batch([clips[i] for i in good], tokens=vectors, mask=mask, ids=ids, heard=heard, targets=targets)

    def given(self, batch: Batch) -> Given:
        """The tags' tokens, each with the numbers of its tag."""
        assert batch.ids is not None and batch.tokens is not None
        embedded = self.language.embed(batch.ids)
        if self.reads == "list":
            embedded = embedded + self.numbers(batch.tokens).to(embedded.dtype)
        return Given(embedded, batch.mask)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """One row per clip: its caption and what was heard."""
        rows = super().predict(batch)
        pairs = zip(rows, batch.heard, strict=True)
        return [replace(row, tags=_shown(track, names, row.start)) for row, (track, names) in pairs]

    def chosen(self, batch: Batch, number: int, found: Sequence[Written]) -> Sequence[Written]:
        """Where the task is strict, those that name nothing without a tag; all if there is none."""
        if not self.strict or len(found) < 2:
            return found
        track, names = batch.heard[number]
        tags = {name: peak for name, peak, *_ in _shown(track, names, 0.0)}
        return [found[i] for i in invented.usual().kept([w.text for w in found], tags).indices]

    def average(self, rows: Sequence[Prediction]) -> Prediction:
        """The row of a clip's windows: the surest caption, and the tags of all."""
        return replace(super().average(rows), tags=[tag for row in rows for tag in row.tags])

    def _said(self, clip: Clip, generator: torch.Generator | None) -> str:
        if not clip.captions:
            return ""
        count = len(clip.captions)
        return clip.captions[0 if generator is None else int(torch.randint(count, (), generator=generator))].strip()

    def _captions(self, said: Sequence[str]) -> Tensor | None:
        return self.targets(said) if all(said) else None

    def _pretended(self, caption: str, generator: torch.Generator | None) -> tuple[Track, Sequence[str]]:
        """A track for a caption, and the classes it is of; without a generator always the same one."""
        seed = zlib.crc32(caption.encode()) if generator is None else int(torch.randint(2**31, (), generator=generator))
        random = np.random.default_rng(seed)
        pretence, events = self.pretences[int(random.integers(len(self.pretences)))]
        return pretence.draw(events[caption], random), pretence.of.names

    def _tokens(
        self, track: Track, names: Sequence[str], generator: torch.Generator | None
    ) -> tuple[list[int], Tensor]:
        """(tokens,) ids of what is read and (tokens, numbers) what is known of each."""
        if self.reads == "sequence":
            chosen = conditioning.draw(torch.from_numpy(track.rows), generator).tolist()
            tags = [names[n] for n in chosen]
            vectors = torch.zeros(len(tags), NUMBERS)
        else:
            found = tracks.heard(track, names, most=self.most, least=self.least)
            tags, vectors = [tag.name for tag in found], _numbers(found, track.seconds)
        text = conditioning.sentence([conditioning.clean(tag, self.parity) for tag in tags])
        ids, places = self._reading(text, None if self.parity else len(tags))
        if self.language.reads is not None and len(ids) > self.language.reads:
            raise AudioError(
                f"{len(tags)} tags are {len(ids)} tokens, but {self.language.name} reads {self.language.reads} at the"
                " most; give shorter windows, or lower task.most where it reads a list"
            )
        return ids, conditioning.aligned(vectors, places)

    def _reading(self, text: str, rows: int | None) -> tuple[list[int], list[int]]:
        tokenizer, prompt = self.language.tokenizer, self.prompt
        if prompt is None:
            ids = list(tokenizer(text)["input_ids"])
            return ids, conditioning.places(ids, self._special, self._separator, rows)
        inner = list(tokenizer(f" {text}", add_special_tokens=False)["input_ids"])
        places = conditioning.places(inner, self._special, self._separator, rows)
        before, after = list(prompt.before), list(prompt.after)
        return [*before, *inner, *after], [-1] * len(before) + places + [-1] * len(after)


def _numbers(tags: Sequence[Tag], seconds: float) -> Tensor:
    """(tags, 6) each about between 0 and 1: strength, score, peak, first and last moment, share of the time between."""
    return torch.tensor(
        [[t.strength, t.score, t.peak, t.start / seconds, t.end / seconds, t.share] for t in tags], dtype=torch.float32
    )  # fmt: skip


def _shown(track: Track, names: Sequence[str], start: float) -> list[tuple[str, float, float, float]]:
    """What a row says was heard: name, highest score, from and to which second of the file."""
    found = tracks.heard(track, names, most=SHOWN, least=FAINTEST)
    return [
        (t.name, round(max(t.score, t.peak), 4), round(start + t.start, 3), round(start + t.end, 3)) for t in found
    ]  # fmt: skip


def _padded(rows: Sequence[tuple[list[int], Tensor]], pad: int, *, first: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, longest) ids, (batch, longest, numbers) and where they are real; padding at the front or the end."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), pad)
    vectors = torch.zeros(len(rows), longest, rows[0][1].shape[1])
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (own, numbers) in enumerate(rows):
        place = slice(longest - len(own), longest) if first else slice(0, len(own))
        ids[i, place], vectors[i, place], mask[i, place] = torch.tensor(own), numbers, True
    return ids, vectors, mask
