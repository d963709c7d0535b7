"""Embeddings of a sound over time, which stand beside its tags: VGGish's, PANNs', or the tokens of any other encoder.

The paper has two (see `tasks.conditioning`): VGGish's 128 numbers for 0.96 s, and PANNs' 2048 for 10 s. Other encoders
give the mean of their tokens over the time of a tag. One linear map brings them to the language model's width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.backbones.encoder import Encoder
from ossicle.backbones.panns import PannsStem
from ossicle.backbones.vggish import VggishStem
from ossicle.contracts import Clip
from ossicle.data.clips import load_waves
from ossicle.errors import AudioError, UsageError
from ossicle.sound.frontends.yamnet import PATCH
from ossicle.tasks import conditioning, features
from ossicle.tasks.tracks import HOP_S, MEMORY_BYTES, PIECE_S, Tag, stretches

Join = Literal["", "add", "cat", "alone"]
EXAMPLE_S = 0.96  # of VGGish
EXAMPLES = 64  # that it looks at together


@dataclass(frozen=True)
class Heard:
    """What an encoder makes of a sound over time.

    Args:
        rows: (rows, width) float32.
        times: (rows, 2) float32, the seconds at which each begins and ends.
    """

    rows: Tensor
    times: Tensor

    def over(self, start: float, end: float) -> Tensor:
        """(width,) mean over a stretch of time; of the nearest row where none lies in it."""
        shared = (self.times[:, 1].clamp(max=end) - self.times[:, 0].clamp(min=start)).clamp(min=0)
        if not shared.any():
            return self.rows[int((self.times.mean(dim=1) - (start + end) / 2).abs().argmin())]
        return shared @ self.rows / shared.sum()

    def shared_out(self, seconds: float, count: int) -> Tensor:
        """(count, width) of stretches that share the sound evenly."""
        step = seconds / count
        return torch.stack([self.over(i * step, (i + 1) * step) for i in range(count)])


class Embedder:
    """Hears clips through a frozen encoder; what it made of them is kept on disk.

    Args:
        encoder: any.
        shortest_s: shorter clips go on in silence up to this length.
        root: folder of the cache; None is the usual one.
    """

    def __init__(self, encoder: Encoder, *, shortest_s: float = 0.0, root: Path | None = None) -> None:
        self.encoder, self.shortest_s = encoder, shortest_s
        self.kind = next((name for name, stem in KINDS.items() if isinstance(encoder.stem, stem)), "tokens")
        self.width = encoder.dim
        if self.kind == "panns":
            assert encoder.tags is not None and isinstance(encoder.tags.head, nn.Sequential)
            self.width = int(encoder.tags.head[-1].in_features)  # type: ignore[arg-type]
        self.computed = 0
        self._disk = features.Disk(encoder, root, ["embeddings", self.kind, PIECE_S, shortest_s])
        self._known: dict[Clip, Heard] = {}
        self._room = MEMORY_BYTES

    @property
    def paced(self) -> bool:
        """Whether its rows are embeddings by themselves, and not tokens that are averaged."""
        return self.kind in KINDS

    def get(self, clips: Sequence[Clip]) -> list[Heard | AudioError]:
        """What is heard of each clip, or why nothing is; order kept."""
        return [self._one(replace(clip, labels=(), captions=())) for clip in clips]

    def _one(self, clip: Clip) -> Heard | AudioError:
        found: Heard | AudioError | None = self._known.get(clip) or self._stored(clip)
        if found is None:
            parts = stretches(clip)
            found = _joined([self._one(part) for part in parts], parts) if len(parts) > 1 else self._hear(clip)
        if isinstance(found, Heard) and clip not in self._known and found.rows.nbytes <= self._room:
            self._known[clip] = found
            self._room -= found.rows.nbytes
        return found

    def _stored(self, clip: Clip) -> Heard | None:
        rows, times = self._disk.read(clip), self._disk.read(clip, 1)
        if rows is None or times is None or len(rows) != len(times):
            return None
        return Heard(rows.float(), times)

    def _hear(self, clip: Clip) -> Heard | AudioError:
        (wave,) = load_waves(
            [clip], self.encoder.rate_hz, shortest_s=self.shortest_s, fewest=self.encoder.fewest
        )  # fmt: skip
        if isinstance(wave, AudioError):
            return wave
        try:
            rows, times = _MAKERS[self.kind](self.encoder, wave)
        except AudioError as err:
            return err
        self.computed += 1
        kept = rows if self.paced else rows.half()
        self._disk.write(clip, kept)
        self._disk.write(clip, times, 1)
        return Heard(kept.float(), times)


def _joined(found: Sequence[Heard | AudioError], parts: Sequence[Clip]) -> Heard | AudioError:
    """What is heard of stretches, one after another."""
    fault = next((one for one in found if isinstance(one, AudioError)), None)
    if fault is not None:
        return fault
    good = [one for one in found if isinstance(one, Heard)]
    moved = [one.times + (part.start - parts[0].start) for one, part in zip(good, parts, strict=True)]
    return Heard(torch.cat([one.rows for one in good]), torch.cat(moved))


def _device(encoder: Encoder) -> torch.device:
    return next(encoder.stem.parameters()).device


def _pieces(encoder: Encoder, wave: Tensor) -> list[Tensor]:
    """Stretches of ten seconds; a last one that is too short to be heard belongs to the one before."""
    parts = list(torch.split(wave, round(PIECE_S * encoder.rate_hz)))
    if len(parts) > 1 and len(parts[-1]) < max(encoder.fewest, encoder.rate_hz // 2):
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _even(count: int, seconds: float, start: float = 0.0) -> Tensor:
    """(count, 2) times of rows that share a stretch."""
    edges = start + torch.arange(count + 1) * (seconds / count)
    return torch.stack([edges[:-1], edges[1:]], dim=1)


@torch.no_grad()
def _panns(encoder: Encoder, wave: Tensor) -> tuple[Tensor, Tensor]:
    """A row for ten seconds, the last ones filled up with silence, as in the paper's code."""
    assert encoder.tags is not None
    size, found = round(PIECE_S * encoder.rate_hz), []
    for part in torch.split(wave, size):
        encoded = encoder(F.pad(part, (0, size - len(part)))[None].to(_device(encoder)))
        found.append(encoder.tags.embedding(encoded.tokens, encoded.mask)[0].cpu())
    return torch.cat(found), _even(len(found), PIECE_S * len(found))


@torch.no_grad()
def _vggish(encoder: Encoder, wave: Tensor) -> tuple[Tensor, Tensor]:
    """A row for 0.96 s; what is left at the end is not heard, as in the paper's code."""
    frames, _ = encoder.listen(wave[None].to(_device(encoder)))
    whole = frames.shape[1] // PATCH * PATCH
    found = [
        encoder.stem(part, None)[0][0].float().cpu() for part in torch.split(frames[:, :whole], EXAMPLES * PATCH, dim=1)
    ]
    rows = torch.cat(found)
    return rows, _even(len(rows), EXAMPLE_S * len(rows))


@torch.no_grad()
def _tokens(encoder: Encoder, wave: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of each ten seconds; those of one time are averaged over frequency."""
    found, times, start = [], [], 0.0
    for part in _pieces(encoder, wave):
        encoded = encoder(part[None].to(_device(encoder)), layers=(encoder.depth,))
        rows, mask = features.sequence(encoded, (encoder.depth,))
        grid = encoded.grid
        own = rows[0].view(grid.time, grid.freq, -1).mean(dim=1).cpu()
        if mask is not None:
            own = own[mask[0].view(grid.time, grid.freq).any(dim=1).cpu()]
        seconds = len(part) / encoder.rate_hz
        found.append(own)
        times.append(_even(len(own), seconds, start))
        start += seconds
    return torch.cat(found), torch.cat(times)


KINDS: dict[str, type[nn.Module]] = {"panns": PannsStem, "vggish": VggishStem}
_MAKERS = {"panns": _panns, "vggish": _vggish, "tokens": _tokens}


class Embeddings(nn.Module):
    """Embeddings of one or several encoders, brought to the width of a language model.

    Args:
        encoders: what hears.
        width: of the language model.
        join: add puts each beside the tokens of its tag; cat all of the sound behind the text; alone has no text.
        shortest_s: shorter clips go on in silence up to this length.
    """

    def __init__(self, encoders: Sequence[Encoder], width: int, join: Join, *, shortest_s: float = 0.0) -> None:
        super().__init__()
        self.join = join or "add"
        self.embedders = [Embedder(encoder, shortest_s=shortest_s) for encoder in encoders]
        self.width = sum(embedder.width for embedder in self.embedders)
        self.map = nn.Linear(self.width, width)

    def get(self, clips: Sequence[Clip]) -> list[list[Heard] | AudioError]:
        """What each encoder hears of each clip, or why one hears nothing; order kept."""
        found: list[list[Heard] | AudioError] = []
        for heard in zip(*(embedder.get(clips) for embedder in self.embedders), strict=True):
            fault = next((one for one in heard if isinstance(one, AudioError)), None)
            found.append(fault or [one for one in heard if isinstance(one, Heard)])
        return found

    def of_rows(
        self, heard: Sequence[Heard], names: Sequence[str], seconds: float, *, paced: bool
    ) -> tuple[list[str], Tensor]:
        """Tags of a tagger's rows and (tags, width) beside them.

        Args:
            heard: by each encoder.
            names: one a row.
            seconds: that the rows share.
            paced: rows are YAMNet's, so that VGGish's and PANNs' go beside them by number, as in the paper's code, and
                not by time.
        """
        kept, found = list(names), list[Tensor]()
        for embedder, one in zip(self.embedders, heard, strict=True):
            if paced and embedder.paced and conditioning.fit(len(names), len(one.rows)):
                tags, rows = conditioning.fit_rows(names, one.rows)
                kept = kept[: len(tags)]
            else:
                rows = one.shared_out(seconds, len(names))
            found.append(rows)
        return kept, torch.cat([rows[: len(kept)] for rows in found], dim=1)

    def of_tags(self, heard: Sequence[Heard], tags: Sequence[Tag]) -> Tensor:
        """(tags, width) of the time from each tag's beginning to its end."""
        return torch.stack([torch.cat([one.over(tag.start, tag.end) for one in heard]) for tag in tags])

    def of_all(self, heard: Sequence[Heard]) -> Tensor:
        """(rows, width) of the whole sound: an encoder's own rows, or one a second."""
        if len(heard) == 1 and self.embedders[0].paced:
            return heard[0].rows
        seconds = max(float(one.times[-1, 1]) for one in heard)
        count = max(1, round(seconds / HOP_S))
        return torch.cat([one.shared_out(seconds, count) for one in heard], dim=1)

    def forward(self, embedded: Tensor, vectors: Tensor, places: Tensor) -> Tensor:
        """Tokens with what was heard beside or among them.

        Args:
            embedded: (batch, tokens, width) of the text.
            vectors: (batch, tokens, own width), zeros where nothing is beside a token.
            places: (batch, tokens) bool. With add the map's output, its bias too, is added there; else it stands there.
        """
        heard: Tensor = self.map(vectors).to(embedded.dtype)
        if self.join == "add":
            return embedded + heard * places[..., None]
        return torch.where(places[..., None], heard, embedded)


def check(join: Join, backbone: str, encoders: int) -> None:
    """See that there is something to join.

    Raises:
        UsageError: if not.
    """
    if join in ("add", "cat") and encoders == 0:
        raise UsageError(
            f"task.join={join} wants embeddings beside the tags, but the backbone {backbone} is one tagger; join an"
            f" encoder to it, such as {backbone}+vggish, or leave task.join out"
        )
