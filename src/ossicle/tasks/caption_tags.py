"""Captioning from tags: a tagger hears, and what it heard is text that a language model reads and puts into words.

The paper's way (Gontier et al. 2021, see `tasks.conditioning`) is one tag a second. `list` is ours: the tags of the
whole sound, the surest first, and with each the numbers of when and how surely it was heard, which reach the language
model where the paper's embeddings do. Further encoders give embeddings beside either (`tasks.embeddings`).
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ossicle.backbones.encoder import Encoder
from ossicle.backbones.joined import Encoders
from ossicle.backbones.prompt import Prompt
from ossicle.backbones.seq2seq import EncoderDecoder
from ossicle.backbones.text import Given, LanguageModel
from ossicle.contracts import Batch, Clip, Prediction
from ossicle.errors import AudioError, DataError, UsageError
from ossicle.metrics.caption import invented
from ossicle.tasks import conditioning, tracks
from ossicle.tasks.captions import METRICS, Captions
from ossicle.tasks.decode import Decoding, Written
from ossicle.tasks.embeddings import Embeddings, Heard
from ossicle.tasks.pseudo import Event, Pretence
from ossicle.tasks.tracks import Tag, Track, Tracker

Reads = Literal["list", "sequence"]
NUMBERS = 6
# What a row says was heard.
SHOWN, FAINTEST = 12, 0.05


@dataclass(frozen=True)
class _Sound:
    """What was heard of one clip: a track of some classes, or embeddings, or both."""

    track: Track | None
    names: Sequence[str] = ()
    heard: Sequence[Heard] = ()


class TagCaptioner(Captions):
    """Writes captions of what a tagger heard; see `contracts.Task`.

    Args:
        encoder: the tagger, or it and encoders that give embeddings.
        language: what writes: an encoder-decoder, or a causal model with a prompt.
        numbers: (numbers of a tag) to the language model's width; with `sequence` nothing goes through it.
        prompt: around the tags, for a causal model; None where an encoder reads them.
        reads: list, or sequence with a tag a row.
        most: tags of a list at the most.
        least: strength of a list's tags after the first.
        parity: names as the paper's code leaves them.
        pretences: taggers that are pretended for captions without sound, each with the events of every caption.
        embeddings: of the encoders that give some; None where the text is all.
        loss_on_padding: the loss is the mean over all places up to 64, as in the paper's code.
        strict: of several candidates those are kept that name nothing without a tag.
        decoding: how captions are written.
        metrics: names of caption metrics for `score`.
        best_by: the score that chooses the best epoch.
    """

    kind = "caption-tags"

    def __init__(
        self,
        encoder: Encoders,
        language: LanguageModel,
        numbers: nn.Linear,
        *,
        prompt: Prompt | None = None,
        reads: Reads = "list",
        most: int = 10,
        least: float = 0.03,
        parity: bool = False,
        pretences: Sequence[tuple[Pretence, Mapping[str, Sequence[Event]]]] = (),
        embeddings: Embeddings | None = None,
        loss_on_padding: bool = False,
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
        self.embeddings, self.loss_on_padding = embeddings, loss_on_padding
        if loss_on_padding:  # labels are whole texts, so "<s>" is learnt before the first word
            assert isinstance(language, EncoderDecoder)
            first = tokenizer("a")["input_ids"][0]
            language.begin = first if first == tokenizer.bos_token_id else None
        tagger = tagger_of(encoder)
        self.tracker = None if tagger is None else Tracker(tagger, shortest_s=shortest_s)
        self.alone = embeddings is not None and embeddings.join == "alone"
        self.pretences = list(pretences)
        self.unreadable: dict[str, str] = {}
        self._special, self._separator = conditioning.special_ids(tokenizer), conditioning.separator_id(tokenizer)
        self._read: dict[str, tuple[list[int], list[int]]] = {}

    def parts(self) -> dict[str, nn.Module]:
        """Prefix in the saved files to module."""
        more: dict[str, nn.Module] = {} if self.embeddings is None else {"embeddings": self.embeddings}
        return {"backbone": self.encoder, "mapper": self.numbers, **more, "llm": self.language}

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        """Hear clips, or pretend to where there is a caption alone; of each one caption is drawn.

        Raises:
            DataError: if no clip of the batch can be read.
        """
        said = [self._said(clip, generator) for clip in clips]
        sounds = [clip for clip in clips if not clip.text_only]
        there = dict(zip(map(id, sounds), self._sounds(sounds), strict=True))
        found = [
            self._pretended(caption, generator) if clip.text_only else there[id(clip)]
            for clip, caption in zip(clips, said, strict=True)
        ]
        faults = {str(c.path): str(f) for c, f in zip(clips, found, strict=True) if isinstance(f, AudioError)}
        self.unreadable |= faults
        good = [i for i, one in enumerate(found) if not isinstance(one, AudioError)]
        if not good:
            raise DataError(f"no clip of this batch can be read; first: {next(iter(faults.values()))}")
        heard = [one for one in found if not isinstance(one, AudioError)]
        rows = [self._tokens(one, generator) for one in heard]
        ids, vectors, mask = _padded(rows, self.language.tokenizer.pad_token_id or 0, first=self.prompt is not None)
        targets = self._captions([said[i] for i in good])
        kept = [clips[i] for i in good]
        others = () if self.embeddings is None else (_beside(kept, vectors[..., NUMBERS:]),)
        told = [(one.track, one.names) for one in heard if one.track is not None]
        return Batch(
            kept, tokens=vectors[..., :NUMBERS], mask=mask, ids=ids, heard=told, targets=targets, others=others
        )  # fmt: skip

    def given(self, batch: Batch) -> Given:
        """The tags' tokens, each with the numbers of its tag, and the embeddings beside or among them."""
        assert batch.ids is not None and batch.tokens is not None
        embedded = self.language.embed(batch.ids)
        if self.reads == "list" and not self.alone:
            embedded = embedded + self.numbers(batch.tokens).to(embedded.dtype)
        if self.embeddings is not None:
            (beside,) = batch.others
            assert beside.tokens is not None and beside.mask is not None
            embedded = self.embeddings(embedded, beside.tokens, beside.mask)
        return Given(embedded, batch.mask)

    def loss(self, batch: Batch) -> Tensor:
        """See `Captions.loss`; over padding too where the task says so."""
        if not self.loss_on_padding or batch.targets is None:
            return super().loss(batch)
        assert isinstance(self.language, EncoderDecoder)
        return -self.language.score_padded(self.given(batch), batch.targets).mean()

    def targets(self, said: Sequence[str]) -> Tensor:
        """See `Captions.targets`; filled up with padding to 64 where the loss is taken of it."""
        if not self.loss_on_padding:
            return super().targets(said)
        return conditioning.labels(self.language.tokenizer, said, loss_on_padding=True)[0]

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """One row per clip: its caption and what was heard."""
        rows = super().predict(batch)
        if self.tracker is None:
            return rows
        pairs = zip(rows, batch.heard, strict=True)
        return [replace(row, tags=_shown(track, names, row.start)) for row, (track, names) in pairs]

    def chosen(self, batch: Batch, number: int, found: Sequence[Written]) -> Sequence[Written]:
        """Where the task is strict, those that name nothing without a tag; all if there is none."""
        if not self.strict or len(found) < 2:
            return found
        if self.tracker is None:
            raise UsageError(f"--strict looks for tags, but {self.encoder.name} names nothing; leave it out")
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

    def _sounds(self, clips: Sequence[Clip]) -> list[_Sound | AudioError]:
        """What is heard of each clip, or why nothing is."""
        tracks = [None] * len(clips) if self.tracker is None else self.tracker.get(clips)
        names = () if self.tracker is None else self.tracker.names
        heard = [[]] * len(clips) if self.embeddings is None else self.embeddings.get(clips)
        found: list[_Sound | AudioError] = []
        for track, rows in zip(tracks, heard, strict=True):
            fault = next((one for one in (track, rows) if isinstance(one, AudioError)), None)
            found.append(fault or _Sound(track, names, rows))  # type: ignore[arg-type]
        return found

    def _pretended(self, caption: str, generator: torch.Generator | None) -> _Sound:
        """A track for a caption, and the classes it is of; without a generator always the same one."""
        if self.embeddings is not None:
            raise UsageError(
                f"captions without sound have no embeddings, which {self.encoder.name} gives; leave them out"
            )
        seed = zlib.crc32(caption.encode()) if generator is None else int(torch.randint(2**31, (), generator=generator))
        random = np.random.default_rng(seed)
        pretence, events = self.pretences[int(random.integers(len(self.pretences)))]
        return _Sound(pretence.draw(events[caption], random), pretence.of.names)

    def _tokens(self, sound: _Sound, generator: torch.Generator | None) -> tuple[list[int], Tensor]:
        """(tokens,) ids of what is read and (tokens, numbers and embedding) what is known of each.

        Behind an embedding stands 1 where it counts.
        """
        if self.embeddings is not None and self.alone:
            return self._placed([], torch.zeros(0, NUMBERS), self.embeddings.of_all(sound.heard))
        assert sound.track is not None
        tags, vectors, beside = self._named(sound, sound.track, generator)
        text = conditioning.sentence([conditioning.clean(tag, self.parity) for tag in tags])
        ids, places = self._reading(text, None if self.parity else len(tags))
        if self.language.reads is not None and len(ids) > self.language.reads:
            raise AudioError(
                f"{len(tags)} tags are {len(ids)} tokens, but {self.language.name} reads {self.language.reads} at the"
                " most; give shorter windows, or lower task.most where it reads a list"
            )
        numbers = conditioning.aligned(vectors, places)
        if self.embeddings is None:
            return ids, numbers
        if beside is None:
            return self._placed(ids, numbers, self.embeddings.of_all(sound.heard))
        return ids, torch.cat([numbers, conditioning.aligned(beside, places), torch.ones(len(ids), 1)], dim=1)

    def _named(
        self, sound: _Sound, track: Track, generator: torch.Generator | None
    ) -> tuple[list[str], Tensor, Tensor | None]:
        """The tags that are read, the numbers of each, and its embedding where that stands beside it."""
        more = self.embeddings if self.embeddings is not None and self.embeddings.join == "add" else None
        if self.reads == "list":
            found = tracks.heard(track, sound.names, most=self.most, least=self.least)
            beside = None if more is None else more.of_tags(sound.heard, found)
            return [tag.name for tag in found], _numbers(found, track.seconds), beside
        chosen = conditioning.draw(torch.from_numpy(track.rows), generator).tolist()
        tags, beside = [sound.names[n] for n in chosen], None
        if more is not None:
            assert self.tracker is not None and self.tracker.tagger.tags is not None
            paced = not self.tracker.tagger.tags.pooled
            tags, beside = more.of_rows(sound.heard, tags, track.seconds, paced=paced)
        return tags, torch.zeros(len(tags), NUMBERS), beside

    def _placed(self, ids: list[int], numbers: Tensor, rows: Tensor) -> tuple[list[int], Tensor]:
        """Embeddings as places of their own: behind the text that an encoder reads, in front of a prompt's end."""
        pad = self.language.tokenizer.pad_token_id or 0
        before, after = ids, list[int]()
        if self.prompt is not None:
            end = len(self.prompt.after)
            before, after = (ids[: len(ids) - end], ids[len(ids) - end :]) if ids else (
                list(self.prompt.before), list(self.prompt.after)
            )  # fmt: skip
        first, count = len(before), len(rows)
        made = torch.zeros(first + count + len(after), NUMBERS + rows.shape[1] + 1)
        if len(numbers):
            made[:first, :NUMBERS], made[first + count :, :NUMBERS] = numbers[:first], numbers[first:]
        made[first : first + count, NUMBERS:-1], made[first : first + count, -1] = rows, 1
        return [*before, *[pad] * count, *after], made

    def _reading(self, text: str, rows: int | None) -> tuple[list[int], list[int]]:
        tokenizer, prompt = self.language.tokenizer, self.prompt
        if prompt is None:
            ids = list(tokenizer(text)["input_ids"])
            return ids, conditioning.places(ids, self._special, self._separator, rows)
        inner = list(tokenizer(f" {text}", add_special_tokens=False)["input_ids"])
        places = conditioning.places(inner, self._special, self._separator, rows)
        before, after = list(prompt.before), list(prompt.after)
        return [*before, *inner, *after], [-1] * len(before) + places + [-1] * len(after)


def tagger_of(encoder: Encoders) -> Encoder | None:
    """The first of a backbone's encoders that names sounds."""
    return next((part for part in encoder.encoders if part.tags is not None), None)


def _beside(clips: Sequence[Clip], vectors: Tensor) -> Batch:
    """Embeddings and where they count."""
    return Batch(clips, tokens=vectors[..., :-1], mask=vectors[..., -1] > 0)


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
