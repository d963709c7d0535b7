"""Captioned scenes made from labelled clips, so that captioning can be learnt and tested without captioned sound.

A scene is one to three sounds one after another or at once, some over a quiet background, with captions that name all
of them and their order, and a table of what truly sounds when. Scene i depends on the seed, the settings and i alone.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ossicle.contracts import Clip
from ossicle.data import mixing, wordings
from ossicle.data.mixing import Piece, Sources
from ossicle.data.notices import shorten
from ossicle.data.phrases import Phrases, esc50
from ossicle.errors import DataError, UsageError
from ossicle.files import write_atomic

VERSION = "1"
TABLE, SETTINGS = "metadata.jsonl", "scenes.json"
FEWEST_LABELS = 3
SECONDS = (4.0, 60.0)
_EVERY = 100  # scenes from one writing of the table to the next
# relation: how often, and how many sounds there are at once, group after group
SHAPES: tuple[tuple[str, float, tuple[int, ...]], ...] = (
    ("single", 0.20, (1,)), ("sequence", 0.25, (1, 1)), ("sequence", 0.15, (1, 1, 1)), ("overlap", 0.20, (2,)),
    ("then overlap", 0.10, (1, 2)), ("overlap then", 0.10, (2, 1)),
)  # fmt: skip
_UNDER = 0.35  # share of scenes with a background
_GAP_S = (0.1, 0.6)
_GAIN_DB, _UNDER_DB = (-6.0, 0.0), (-15.0, -8.0)


@dataclass(frozen=True)
class Event:
    """One sound of a scene.

    Args:
        label: what it is.
        start: second of the scene at which it starts.
        end: second at which it has ended.
        gain_db: its level against the one that all sources are brought to.
        background: whether it lies under the others.
        source: name of the clip it was cut from.
    """

    label: str
    start: float
    end: float
    gain_db: float
    background: bool
    source: str


@dataclass(frozen=True)
class Scene:
    """A row of metadata.jsonl.

    Args:
        file_name: the sound file, relative to the table.
        captions: all different.
        labels: of the events in order of onset.
        licence: those of the source clips, sorted, joined by "; "; empty if none of them states one.
        relation: "single", "sequence", "overlap", "then overlap" or "overlap then", the background left aside.
        events: in order of onset.
        seed: what was given to `make`.
    """

    file_name: str
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    licence: str
    relation: str
    events: tuple[Event, ...]
    seed: int


def make(
    clips: Sequence[Clip],
    out: Path,
    count: int,
    *,
    seed: int = 0,
    seconds: float = 10.0,
    rate_hz: int = 16_000,
    captions: int = 5,
    phrases: Phrases | None = None,
    progress: Callable[[int], object] | None = None,
    notice: Callable[[str], object] | None = None,
) -> list[Scene]:
    """Write `out/audio/scene_00001.flac` and so on and `out/metadata.jsonl`; a stopped run goes on with the same call.

    Args:
        clips: what to make them of; those with one label count.
        out: folder; scenes made with the same settings stay, also those above `count`.
        count: scenes wanted.
        seed: chooses everything; the scenes of a smaller count are the first of a larger.
        seconds: length of a scene, 4 to 60.
        rate_hz: sampling rate of the scenes.
        captions: per scene, 1 to 5.
        phrases: how labels are spoken of; those that ship if not given.
        progress: called with the number of scenes that are done.
        notice: called with a line about each clip that cannot be used.

    Returns:
        The first `count` scenes.

    Raises:
        UsageError: for settings out of range.
        DataError: if fewer than 3 labels have a clip, no clip can be used, or `out` holds something else.
        CheckpointError: if a file cannot be written.
    """
    _check(count, seed, seconds, rate_hz, captions)
    usable = _usable(clips)
    known = (phrases or esc50()).including(sorted({clip.labels[0] for clip in usable}))
    settings = {
        "version": VERSION, "seed": seed, "seconds": seconds, "rate_hz": rate_hz, "captions": captions,
        "clips": len(usable), "digest": _digest(usable, known),
    }  # fmt: skip
    scenes = _begun(out, settings)
    maker = _Maker(Sources(usable, rate_hz, notice), known, seed, round(seconds * rate_hz), captions)
    _go_on(out, maker, scenes, count, progress)
    return scenes[:count]


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of a scene folder's metadata.jsonl, as `ossicle.metrics.caption.events.score` wants them.

    Raises:
        DataError: if it is not there or not such a table.
    """
    path = folder / TABLE
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; give a folder that `ossicle scenes` made") from error
    if not all(isinstance(row, dict) and row.get("events") and row.get("file_name") for row in rows):
        raise DataError(f"{path} has rows without file_name or events; give a folder that `ossicle scenes` made")
    return rows


class _Maker:
    """Makes one scene after another.

    Args:
        sources: the clips by label.
        phrases: with an entry for each label.
        seed: of all scenes.
        samples: length of a scene.
        captions: per scene.
    """

    def __init__(self, sources: Sources, phrases: Phrases, seed: int, samples: int, captions: int) -> None:
        self.sources, self.phrases, self.seed = sources, phrases, seed
        self.samples, self.captions = samples, captions
        self.textures = {label for label in sources.labels if phrases.of(label).background}

    def make(self, number: int) -> tuple[Scene, NDArray[np.float32]]:
        """Scene `number`, counted from 1, and its sound (samples,) in [-1, 1]."""
        rng = np.random.default_rng([self.seed, number])
        relation, _, shape = SHAPES[int(rng.choice(len(SHAPES), p=[share for _, share, _ in SHAPES]))]
        wanted_under = bool(rng.random() < _UNDER)
        order = [self.sources.labels[k] for k in rng.permutation(len(self.sources.labels))]
        pieces = self._pieces(order, shape, rng)
        if len(pieces) < sum(shape):  # too few clips can be used
            relation, shape = {1: ("single", (1,)), 2: ("sequence", (1, 1))}[len(pieces)]
        groups = _grouped(pieces, shape)
        pieces = [piece for group in groups for piece in group]
        starts = self._starts(groups, rng)
        gains = [float(rng.uniform(*_GAIN_DB)) for _ in pieces]
        under = self._under([name for name in order if name not in {p.label for p in pieces}], rng, wanted_under)
        slots = tuple(tuple(piece.label for piece in group) for group in groups)
        if under is not None:
            pieces, starts = [under, *pieces], [0, *starts]
            gains = [float(np.mean(gains) + rng.uniform(*_UNDER_DB)), *gains]
        gains = [round(gain, 2) for gain in gains]
        words = wordings.compose(
            slots, self.phrases, np.random.default_rng([self.seed, number, 1]),
            background=under.label if under else None, count=self.captions,
        )  # fmt: skip
        wave = mixing.mix([piece.wave for piece in pieces], starts, gains, self.samples)
        events = [self._event(*one, background=one[0] is under) for one in zip(pieces, starts, gains, strict=True)]
        return self._scene(number, words, relation, events, pieces), wave

    def _pieces(self, order: Sequence[str], shape: Sequence[int], rng: np.random.Generator) -> list[Piece]:
        """A piece of sound for each event, of the first labels that have one."""
        limit = mixing.longest(self.samples / self.sources.rate_hz, len(shape), _GAP_S[1])
        pieces: list[Piece] = []
        for label in order:
            piece = self.sources.event(label, rng, limit, anywhere=label in self.textures)
            pieces += [] if piece is None else [piece]
            if len(pieces) == sum(shape):
                break
        if not pieces:
            raise DataError("none of the clips can be decoded or all are silent; give sounds that can be heard")
        return pieces

    def _starts(self, groups: Sequence[Sequence[Piece]], rng: np.random.Generator) -> list[int]:
        """The sample at which each piece starts: groups after one another with gaps, those of a group overlapping."""
        rate = self.sources.rate_hz
        longest = int(mixing.longest(self.samples / rate, len(groups), _GAP_S[1]) * rate)
        inside = [mixing.overlap([len(piece.wave) for piece in group], longest, rng) for group in groups]
        lengths = [max(s + len(p.wave) for s, p in zip(i, g, strict=True)) for i, g in zip(inside, groups, strict=True)]
        gaps = [round(rng.uniform(*_GAP_S) * rate) for _ in groups[1:]]
        free = self.samples - sum(lengths) - sum(gaps)
        first = int(rng.integers(max(0, free) + 1))
        at = accumulate((n + gap for n, gap in zip(lengths, gaps, strict=False)), initial=first)
        return [begin + offset for begin, offsets in zip(at, inside, strict=True) for offset in offsets]

    def _under(self, labels: Sequence[str], rng: np.random.Generator, wanted: bool) -> Piece | None:
        """The background, from the first label that has one, or None."""
        for label in labels if wanted else ():
            piece = self.sources.texture(label, rng, self.samples) if label in self.textures else None
            if piece is not None:
                return piece
        return None

    def _event(self, piece: Piece, start: int, gain: float, *, background: bool) -> Event:
        rate = self.sources.rate_hz
        begin, end = round(start / rate, 6), round((start + len(piece.wave)) / rate, 6)
        return Event(piece.label, begin, end, gain, background, piece.clip.name or piece.clip.path.name)

    def _scene(
        self, number: int, words: tuple[str, ...], relation: str, events: Sequence[Event], pieces: Sequence[Piece]
    ) -> Scene:
        events = sorted(events, key=lambda e: (e.start, e.end))
        licences = {piece.clip.licence for piece in pieces}
        return Scene(
            file_name=f"audio/scene_{number:05d}.flac",
            captions=words,
            labels=tuple(event.label for event in events),
            licence="; ".join(sorted(name or "unknown" for name in licences)) if any(licences) else "",
            relation=relation,
            events=tuple(events),
            seed=self.seed,
        )


def _grouped(pieces: Sequence[Piece], shape: Sequence[int]) -> list[list[Piece]]:
    """Pieces in groups of the shape's sizes; in a group the longest first, so that the others fit into it."""
    edges = list(accumulate(shape, initial=0))
    groups = [pieces[low:high] for low, high in zip(edges, edges[1:], strict=False)]
    return [sorted(group, key=lambda piece: -len(piece.wave)) for group in groups]


def _check(count: int, seed: int, seconds: float, rate_hz: int, captions: int) -> None:
    low, high = SECONDS
    for name, value, fits, wanted in (
        ("count", count, count >= 1, "1 or more"),
        ("seed", seed, seed >= 0, "0 or more"),
        ("seconds", seconds, low <= seconds <= high, f"{low:g} to {high:g}"),
        ("rate_hz", rate_hz, 4000 <= rate_hz <= 192_000, "4000 to 192000"),
        ("captions", captions, 1 <= captions <= wordings.MOST, f"1 to {wordings.MOST}"),
    ):
        if not fits:
            raise UsageError(f"{name} of the scenes came as {value}; give {wanted}")


def _usable(clips: Sequence[Clip]) -> list[Clip]:
    """Clips with one label, in an order of their own."""
    usable = [clip for clip in clips if len(clip.labels) == 1]
    labels = sorted({clip.labels[0] for clip in usable})
    if not labels:
        raise DataError(
            f"none of {len(clips)} clips has exactly one label; scenes are made of clips with one label each"
        )
    if len(labels) < FEWEST_LABELS:
        raise DataError(
            f"clips of {shorten(labels)} came; scenes want {FEWEST_LABELS} labels or more, give more classes"
        )
    return sorted(usable, key=lambda clip: (clip.labels, clip.name, clip.path.name, clip.start))


def _digest(clips: Sequence[Clip], phrases: Phrases) -> str:
    """Of what scenes depend on beside the settings: which clips, and how their labels are spoken of."""
    digest = blake2b(digest_size=16)
    for clip in clips:
        digest.update(repr((clip.labels, clip.name or clip.path.name, clip.start, clip.end, clip.licence)).encode())
    for label in sorted({clip.labels[0] for clip in clips}):
        digest.update(repr(phrases.of(label)).encode())
    return digest.hexdigest()


def _begun(out: Path, settings: dict[str, Any]) -> list[Scene]:
    """The scenes that an earlier run with these settings left whole; the settings are written where there are none."""
    file = out / SETTINGS
    if not file.exists():
        if (out / TABLE).exists():
            raise DataError(f"{out} holds a {TABLE} that is not of scenes; choose another folder")
        write_atomic(file, lambda part: part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8"))
        return []
    try:
        earlier = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} cannot be read: {error}; remove {out} or choose another folder") from error
    names = {"digest": "clips or wordings"}
    if other := [names.get(key, key) for key, value in settings.items() if earlier.get(key) != value]:
        raise DataError(f"{out} holds scenes made with another {', '.join(other)}; remove it or choose another folder")
    found = []
    for row in read(out) if (out / TABLE).exists() else []:
        if not (out / row["file_name"]).is_file():
            break
        lists = {"captions": tuple(row["captions"]), "labels": tuple(row["labels"])}
        found.append(Scene(**row | lists | {"events": tuple(Event(**event) for event in row["events"])}))
    return found


def _go_on(out: Path, maker: _Maker, scenes: list[Scene], count: int, progress: Callable[[int], object] | None) -> None:
    """Make and write what is left to do; the table tells of every scene that is whole, also after Ctrl-C."""
    try:
        for number in range(len(scenes) + 1, count + 1):
            scene, wave = maker.make(number)
            rate = maker.sources.rate_hz
            write = partial(soundfile.write, data=wave, samplerate=rate, format="FLAC", subtype="PCM_16")
            write_atomic(out / scene.file_name, write)
            scenes.append(scene)
            if number % _EVERY == 0:
                _write_table(out, scenes)
            if progress is not None:
                progress(number)
    finally:
        if scenes:
            _write_table(out, scenes)


def _write_table(out: Path, scenes: Sequence[Scene]) -> None:
    lines = [json.dumps(asdict(scene), ensure_ascii=False) + "\n" for scene in scenes]
    write_atomic(out / TABLE, lambda part: part.write_text("".join(lines), encoding="utf-8"))
