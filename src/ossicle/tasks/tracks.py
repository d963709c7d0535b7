"""What a tagger hears over the course of a sound: a row of scores a second, and those of the whole.

A tagger with one score row for each token was taught short stretches, and its rows are taken as they come. One that
scores a window as a whole hears windows of two seconds, one a second, and says more of a longer stretch: so the scores
of the whole are its own of pieces of ten seconds, the length it was taught.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Clip
from ossicle.data.clips import load_waves
from ossicle.errors import AudioError
from ossicle.sound import audio
from ossicle.tasks import features

Array = np.ndarray[Any, Any]

WINDOW_S, HOP_S, PIECE_S = 2.0, 1.0, 10.0
LONG_S = 120.0  # longer sounds are heard in stretches of this length, so that a whole day never lies in memory
BATCH = 16
MEMORY_BYTES = 1024**3  # of what is kept at hand; more lies on the disk
# Of a score's peak over time: where a tag is above it, it sounds.
SOUNDS = 0.5
# A tag that sounds shortly counts for this much of its peak beside its mean.
PEAK = 0.3
SILENT = ("Silence",)


@dataclass(frozen=True)
class Track:
    """Scores of a sound over time.

    Args:
        whole: (classes,) of the whole sound.
        rows: (rows, classes), in the order of time.
        seconds: how long the sound is; rows share it evenly.
    """

    whole: Array
    rows: Array
    seconds: float


@dataclass(frozen=True)
class Tag:
    """A class that is heard.

    Args:
        name: of the class.
        score: of the whole sound.
        peak: the highest over time.
        start: seconds from the beginning at which it first sounds.
        end: and after which it sounds no more.
        share: of the time between that it sounds.
    """

    name: str
    score: float
    peak: float
    start: float
    end: float
    share: float

    @property
    def strength(self) -> float:
        """How surely it is heard, whether it lasts or is short."""
        return (self.score + PEAK * self.peak) / (1 + PEAK)


def heard(track: Track, names: Sequence[str], *, most: int, least: float) -> list[Tag]:
    """The tags of a sound, the surest first.

    Args:
        track: of the sound.
        names: of its classes.
        most: so many at the most, and one at the least.
        least: strength of those after the first.
    """
    peaks = track.rows.max(axis=0)
    strength = (track.whole + PEAK * peaks) / (1 + PEAK)
    order = [n for n in np.argsort(-strength, kind="stable")[: most + len(SILENT)] if names[n] not in SILENT][:most]
    return [_tag(track, names, n, peaks[n]) for i, n in enumerate(order) if i == 0 or strength[n] >= least]


def _tag(track: Track, names: Sequence[str], number: int, peak: float) -> Tag:
    row_s = track.seconds / len(track.rows)
    on = np.flatnonzero(track.rows[:, number] >= SOUNDS * peak)
    start, end = on[0] * row_s, (on[-1] + 1) * row_s
    share = len(on) / (on[-1] - on[0] + 1)
    return Tag(names[number], float(track.whole[number]), float(peak), float(start), float(end), share)


class Tracker:
    """Hears clips through a tagger; what it heard is kept on disk.

    Args:
        tagger: an encoder with `tags`.
        shortest_s: shorter clips go on in silence up to this length.
        root: folder of the cache; None is the usual one.
    """

    def __init__(self, tagger: Encoder, *, shortest_s: float = 0.0, root: Path | None = None) -> None:
        assert tagger.tags is not None
        self.tagger, self.names, self.shortest_s = tagger, tagger.tags.labels, shortest_s
        self._disk = features.Disk(tagger, root, ["track", WINDOW_S, HOP_S, PIECE_S, shortest_s])
        self._known: dict[Clip, Track] = {}
        self._room = MEMORY_BYTES

    def get(self, clips: Sequence[Clip]) -> list[Track | AudioError]:
        """The track of each clip, or why there is none; order kept."""
        bare = [replace(clip, labels=(), captions=()) for clip in clips]
        found: list[Track | AudioError | None] = [self._known.get(clip) or self._stored(clip) for clip in bare]
        rest = [i for i, track in enumerate(found) if track is None]
        short = []
        for i in rest:
            parts = stretches(bare[i])
            if len(parts) > 1:
                found[i] = _joined(self.get(parts))
            else:
                short.append(i)
        waves = load_waves(
            [bare[i] for i in short], self.tagger.rate_hz, shortest_s=self.shortest_s, fewest=self.tagger.fewest
        )  # fmt: skip
        for i, wave in zip(short, waves, strict=True):
            found[i] = wave if isinstance(wave, AudioError) else self._hear(bare[i], wave)
        told = [track for track in found if track is not None]
        for clip, track in zip(bare, told, strict=True):
            if isinstance(track, Track) and clip not in self._known and track.rows.nbytes <= self._room:
                self._known[clip] = track
                self._room -= track.rows.nbytes
        return told

    def _stored(self, clip: Clip) -> Track | None:
        value = self._disk.read(clip)
        if value is None:
            return None
        table = value.float().numpy()
        return Track(table[0], table[1:-1], float(table[-1, 0]))

    def _hear(self, clip: Clip, wave: Tensor) -> Track | AudioError:
        try:
            whole, rows = track_of(self.tagger, wave)
        except AudioError as err:
            return err
        if not (whole.isfinite().all() and rows.isfinite().all()):
            return AudioError(
                f"{clip.path}: a score of {self.tagger.name} is not a number; look at the sound and at the weights"
            )
        seconds = len(wave) / self.tagger.rate_hz
        table = torch.cat([whole[None], rows, torch.full_like(whole, seconds)[None]])
        self._disk.write(clip, table)
        return Track(whole.numpy(), rows.numpy(), seconds)


def stretches(clip: Clip) -> list[Clip]:
    """A clip in pieces short enough to hear at once."""
    try:
        end = audio.probe(clip.path).duration_s if clip.end is None else clip.end
    except AudioError:
        return [clip]
    if end - clip.start <= LONG_S:
        return [clip]
    spans = audio.rested(audio.windows(end - clip.start, LONG_S, LONG_S), LONG_S)
    ends = [clip.start + b for _, b in spans[:-1]]
    return [
        replace(clip, start=a, end=b) for a, b in zip([clip.start, *ends], [*ends, clip.end], strict=True)
    ]  # fmt: skip


def _joined(tracks: Sequence[Track | AudioError]) -> Track | AudioError:
    """One track of those of stretches, one after another."""
    fault = next((t for t in tracks if isinstance(t, AudioError)), None)
    if fault is not None:
        return fault
    good = [t for t in tracks if isinstance(t, Track)]
    seconds = [t.seconds for t in good]
    whole = np.average([t.whole for t in good], axis=0, weights=seconds)
    return Track(whole, np.concatenate([t.rows for t in good]), sum(seconds))


@torch.no_grad()
def track_of(tagger: Encoder, wave: Tensor) -> tuple[Tensor, Tensor]:
    """(classes,) scores of the whole wave and (rows, classes) over time.

    Args:
        tagger: an encoder with `tags`.
        wave: (samples,) at its rate.
    """
    assert tagger.tags is not None
    device, rate = next(tagger.stem.parameters()).device, tagger.rate_hz
    if not tagger.tags.pooled:  # every second row, as its windows overlap by half (SPEC: YAMNet)
        every = tagger.scores(tagger(wave[None].to(device)))[0].cpu()
        return every.mean(dim=0), every[::2]
    rows = _scores(tagger, _pieces(wave, rate, WINDOW_S, HOP_S))
    return _scores(tagger, _pieces(wave, rate, PIECE_S, PIECE_S)).mean(dim=0), rows


def _pieces(wave: Tensor, rate: int, window_s: float, hop_s: float) -> list[Tensor]:
    """Windows around the middle of every hop, moved inwards at both ends, so that all of the wave is in one."""
    size, hop = round(window_s * rate), round(hop_s * rate)
    count = max(1, math.ceil(len(wave) / hop - 0.01))
    firsts = [max(0, min(round((i + 0.5) * hop - size / 2), len(wave) - size)) for i in range(count)]
    return [wave[first : first + size] for first in firsts]


def _scores(tagger: Encoder, pieces: Sequence[Tensor]) -> Tensor:
    """(pieces, classes); all are of one length."""
    device = next(tagger.stem.parameters()).device
    found = [
        tagger.scores(tagger(torch.stack(list(pieces[first : first + BATCH])).to(device)))[:, 0].cpu()
        for first in range(0, len(pieces), BATCH)
    ]
    return torch.cat(found)
