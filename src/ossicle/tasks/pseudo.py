"""From a caption to what a tagger would have heard: tracks for learning to write from captions alone.

What lies between ear and language model is text, so captions can be learnt from without their sound (Deshmukh et al.
2023, "Training audio captioning models without audio", there by noise on CLAP embeddings; here by tags). It works as
well as the made tracks are like real ones. So they are drawn from how the tagger's scores go together on real sounds:

1. A caption's clauses name events; each event is one of the classes whose names are most like it.
2. Logits of all classes over time are drawn from a heavy-tailed distribution with the mean and covariance of real
   sounds. Those of the events are set to what they are where such a class sounds. What real sounds had beside that
   class comes with it, as far apart as there: a dog brings "Animal" and "Bow-wow", a church bell "Bell". Where real
   sounds hardly had the class, its kin follow by the covariance. Some classes come that nobody named.
3. Events that the caption puts one after another sound one after another; some are missed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ossicle.metrics.caption.sbert import Sentences
from ossicle.tasks.tracks import SILENT, Track

Array = np.ndarray[Any, Any]

MEASURED = Path(__file__).parent / "confusions"
FACTORS = 64
LOUD = 0.1  # rows with more silence than this say nothing of sounds
ROW_S = 1.0
SECONDS = (6.0, 30.0)
USUAL_S = 10.0
# Cosine of a clause and a class name: an event is at least so like a class, and how sharply the likest is preferred.
ALIKE, SHARPNESS, CHOICES = 0.35, 0.05, 6
SHARED_WORD = 0.15
MISSED = 0.12
# What nobody named varies less than real sounds do, whose variance is that of sounding and not sounding; and it has
# heavy tails, of so many degrees of freedom.
QUIET, TAILS = 0.4, 8.0
# Where a class sounds, its logit: of all classes alike, and its own, from its mean and deviation; half of each.
SURE, DOUBT = 1.2, 1.6
FEWER_S = 0.3  # the second event is fainter than the first by this, the third by twice it
# So often a class is heard that nobody named, the more easily the higher its logit is on average.
STRANGE, STRANGERS, EASE, FAINT = 0.5, 3, 0.5, -3.5
WANDER = 0.8
# What is heard beside a class: of so many others those with at least this mean score, where the class has this score in
# so many rows of real sounds; and how often each comes along.
BESIDE, PLAIN, HEARD, FEWEST, OFTEN = 8, 0.05, 0.2, 12, 0.85
# For classes that real sounds hardly had: those whose correlation is less do not rise with each other; others do by
# about as much as regression says.
KIN, FOLLOWS = 0.7, (0.6, 1.1)
_THEN = re.compile(r"\b(?:then|followed by|follows|before|after which|and later|eventually)\b", re.IGNORECASE)
_CLAUSE = re.compile(
    r"\s*(?:[,;.]|\b(?:and|while|as|with|along with|over|amid|accompanied by|in the background|nearby)\b)\s*",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z]+")
_ENDINGS = re.compile(r"(?:ing|es|s|ed)$")


@dataclass(frozen=True)
class Event:
    """Something that a caption names.

    Args:
        classes: numbers of the classes most like it.
        chances: how likely each is meant; they add up to 1.
        part: which part of the caption names it, from 0; parts sound one after another.
    """

    classes: Array
    chances: Array
    part: int


class Clauses:
    """What captions name, clause by clause.

    Args:
        captions: texts.
        sentences: the model that says how like two texts are.
    """

    def __init__(self, captions: Sequence[str], sentences: Sentences) -> None:
        self.sentences, self.captions = sentences, list(dict.fromkeys(captions))
        self.pieces = [
            [(part, c) for part, s in enumerate(_THEN.split(one)) for c in _clauses(s)] for one in self.captions
        ]
        self.known = sorted({clause for row in self.pieces for _, clause in row}, key=lambda text: (len(text), text))
        self.vectors = sentences.embed(self.known)

    def events(self, names: Sequence[str]) -> dict[str, list[Event]]:
        """By caption the events that it names.

        Args:
            names: of a tagger's classes.
        """
        vectors = self.sentences.embed([name.lower() for name in names]).T
        by_word: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            for word in _stems(name):
                by_word.setdefault(word, []).append(number)
        found: dict[str, tuple[Array, Array] | None] = {}
        for clause, vector in zip(self.known, self.vectors, strict=True):
            alike = (vector @ vectors).numpy()
            for number in {n for word in _stems(clause) for n in by_word.get(word, ())}:
                alike[number] += SHARED_WORD
            found[clause] = _choices(alike)
        return {
            caption: [Event(*two, part) for part, clause in row if (two := found[clause]) is not None]
            for caption, row in zip(self.captions, self.pieces, strict=True)
        }


def _clauses(text: str) -> list[str]:
    return [piece for piece in _CLAUSE.split(text.strip().lower()) if len(piece) > 2]


def _stems(text: str) -> set[str]:
    return {_ENDINGS.sub("", word) for word in _WORD.findall(text.lower()) if len(word) > 3}


def _choices(alike: Array) -> tuple[Array, Array] | None:
    """The likest classes of a clause and their chances; None where it names no sound."""
    order = np.argsort(-alike)[:CHOICES]
    if alike[order[0]] < ALIKE:
        return None
    weights = np.exp((alike[order] - alike[order[0]]) / SHARPNESS)
    return order, weights / weights.sum()


@dataclass(frozen=True)
class Confusions:
    """How a tagger's logits go together on real sounds.

    Args:
        names: of its classes.
        mean: (classes,) of rows.
        factor: (classes, factors): its products are the covariance of rows.
        noise: standard deviation of what the factors leave out.
        shared: share of the variance between sounds; the rest is within one.
        beside: (classes, 8) numbers of the classes that are heard where a class is; itself where there are no more.
        apart: (classes, 8, 2) mean and deviation of their logits minus that of the class.
        level: by how many standard deviations above its mean a class lies where it sounds: mean and deviation.
        whole: slope and offset from the logit of the mean score over time to that of the whole, and the deviation.
    """

    names: tuple[str, ...]
    mean: Array
    factor: Array
    noise: float
    shared: float
    beside: Array
    apart: Array
    level: tuple[float, float]
    whole: tuple[float, float, float]

    def save(self, path: Path) -> None:
        """Write it as safetensors in float16."""
        numbers = np.array([self.noise, self.shared, *self.level, *self.whole])
        tensors = {"mean": self.mean, "factor": self.factor, "apart": self.apart, "numbers": numbers}
        half = {
            key: np.ascontiguousarray(value, np.float16) for key, value in tensors.items()
        }  # it writes bytes as they lie
        whole = {"beside": np.ascontiguousarray(self.beside, np.int16)}
        safetensors.numpy.save_file(half | whole, path, {"names": "\n".join(self.names)})


def load(tagger: str) -> Confusions | None:
    """What was measured of a tagger by name; None of others."""
    path = MEASURED / f"{tagger}.safetensors"
    if not path.is_file():
        return None
    with safetensors.safe_open(path, "numpy") as file:
        names = tuple(file.metadata()["names"].split("\n"))
        mean, factor, apart, numbers = (
            file.get_tensor(key).astype(np.float32) for key in ("mean", "factor", "apart", "numbers")
        )
        beside = file.get_tensor("beside").astype(np.int64)
    noise, shared, *rest = map(float, numbers)
    level, whole = (rest[0], rest[1]), (rest[2], rest[3], rest[4])
    return Confusions(names, mean, factor, noise, shared, beside, apart, level, whole)


def measured(tracks: Sequence[Track], names: Sequence[str], sounding: Sequence[tuple[int, ...]]) -> Confusions:
    """How logits go together on real sounds.

    Args:
        tracks: of many sounds of many kinds.
        names: of the classes.
        sounding: for each track numbers of classes that are known to sound; none where nothing is known.
    """
    table = np.concatenate([track.rows for track in tracks])
    rows = logit(table[table[:, list(names).index(SILENT[0])] < LOUD] if SILENT[0] in names else table)
    mean = rows.mean(axis=0)
    _, values, axes = np.linalg.svd(rows - mean, full_matrices=False)
    factor = (axes[:FACTORS].T * values[:FACTORS]) / np.sqrt(len(rows))
    noise = float(np.sqrt((values[FACTORS:] ** 2).sum() / rows.size))
    centres = np.stack([logit(track.rows).mean(axis=0) for track in tracks])
    shared = float((centres.var(axis=0) / rows.var(axis=0)).mean())
    spread = _spread(factor, noise)
    peaks = [
        (logit(track.rows[:, n]).max() - mean[n]) / spread[n]
        for track, known in zip(tracks, sounding, strict=True) for n in known
    ]  # fmt: skip
    loud = np.stack([track.rows.mean(axis=0) for track in tracks]) > 0.05
    means = logit(np.stack([track.rows.mean(axis=0) for track in tracks]))[loud]
    wholes = logit(np.stack([track.whole for track in tracks]))[loud]
    slope, offset = np.polyfit(means, wholes, 1)
    rest = float((wholes - slope * means - offset).std())
    level = (float(np.mean(peaks)), float(np.std(peaks)))
    whole = (float(slope), float(offset), rest)
    return Confusions(tuple(names), mean, factor, noise, shared, *_beside(rows), level, whole)


def _beside(rows: Array) -> tuple[Array, Array]:
    """What is heard where a class is, and how far apart their logits lie; see `Confusions`."""
    classes = rows.shape[1]
    beside, apart = np.tile(np.arange(classes)[:, None], BESIDE), np.zeros((classes, BESIDE, 2), np.float32)
    for number in range(classes):
        found = rows[rows[:, number] >= logit(np.array(HEARD))]
        if len(found) < FEWEST:
            continue
        loud = (1 / (1 + np.exp(-found))).mean(axis=0)
        order = [n for n in np.argsort(-loud)[: BESIDE + 1] if n != number and loud[n] >= PLAIN][:BESIDE]
        gaps = found[:, order] - found[:, [number]]
        beside[number, : len(order)] = order
        apart[number, : len(order)] = np.stack([gaps.mean(axis=0), gaps.std(axis=0)], axis=1)
    return beside, apart


def logit(scores: Array) -> Array:
    """Of probabilities, kept finite."""
    kept = np.clip(scores, 1e-6, 1 - 1e-6)
    found: Array = np.log(kept / (1 - kept))
    return found


def _spread(factor: Array, noise: float) -> Array:
    """(classes,) standard deviations; a class that real sounds hardly ever had counts as one that they had."""
    own = np.sqrt((factor**2).sum(axis=1) + noise**2)
    found: Array = np.maximum(own, np.median(own))
    return found


class Pretence:
    """Draws tracks for captions.

    Args:
        confusions: of the tagger that is pretended.
    """

    def __init__(self, confusions: Confusions) -> None:
        self.of = confusions
        self.spread = _spread(confusions.factor, confusions.noise)
        products = confusions.factor @ confusions.factor.T
        own = np.sqrt(np.diag(products) + confusions.noise**2)
        self.follow = np.where(products / np.outer(own, own) >= KIN, products / own**2, 0.0).clip(max=1.0)
        ease = np.exp(EASE * confusions.mean.astype(np.float64))
        self.ease = ease / ease.sum()

    def draw(self, named: Sequence[Event], random: np.random.Generator) -> Track:
        """A track of a sound that has these events."""
        of = self.of
        seconds = USUAL_S if random.random() < 0.6 else random.uniform(*SECONDS)
        count = max(1, round(seconds / ROW_S))
        tails = QUIET * np.sqrt(TAILS / random.chisquare(TAILS, (1, of.factor.shape[1])))
        common, own = (
            random.standard_normal((1, of.factor.shape[1])),
            random.standard_normal((count, of.factor.shape[1])),
        )
        z = tails * (np.sqrt(of.shared) * common + np.sqrt(1 - of.shared) * own)
        logits = of.mean + z @ of.factor.T + of.noise * random.standard_normal((count, len(of.mean)))
        for number, level in self._levels(named, count, random).items():
            logits = np.fmax(logits, self._risen(number, level, random))
        rows = 1 / (1 + np.exp(-logits))
        slope, offset, rest = of.whole
        whole = slope * logit(rows.mean(axis=0)) + offset + rest * random.standard_normal(len(of.mean)) / 2
        return Track(1 / (1 + np.exp(-whole)), rows, seconds)

    def _risen(self, number: int, level: Array, random: np.random.Generator) -> Array:
        """(rows, classes) logits of a class that sounds at a level, and of those that come with it."""
        of, shape = self.of, (len(level), len(self.of.mean))
        others, apart = of.beside[number], of.apart[number]
        if (others == number).all():
            follow = self.follow[:, number] * random.uniform(*FOLLOWS, shape[1])
            follow[number] = 1.0
            risen = of.mean + np.clip(level - of.mean[number], 0, None)[:, None] * follow
            found: Array = risen + of.noise * random.standard_normal(shape)
            return found
        found = np.full(shape, np.nan)
        gaps = apart[:, 0] + apart[:, 1] * random.standard_normal(len(others))
        gaps[random.random(len(others)) > OFTEN] = np.nan
        found[:, others] = level[:, None] + gaps + of.noise * random.standard_normal((len(level), len(others)))
        found[:, number] = level
        return found

    def _levels(self, named: Sequence[Event], count: int, random: np.random.Generator) -> dict[int, Array]:
        """Logits of the classes that sound, row by row; nan where one is silent."""
        parts = 1 + max((event.part for event in named), default=0)
        cuts = np.sort(random.uniform(0.15, 0.85, parts - 1)) if parts > 1 else np.zeros(0)
        edges = np.concatenate([[0.0], cuts, [1.0]]) * count
        levels: dict[int, Array] = {}
        for place, event in enumerate(named):
            if place and random.random() < MISSED:
                continue
            number = int(random.choice(event.classes, p=event.chances))
            level = random.normal(SURE, DOUBT) - FEWER_S * min(place, 2)
            self._add(levels, number, level, _sounding(edges[event.part], edges[event.part + 1], count, random), random)
        for _ in range(random.binomial(STRANGERS, STRANGE)):
            number = int(random.choice(len(self.ease), p=self.ease))
            on = _sounding(0, count, count, random)
            row = np.where(on, random.normal(FAINT, DOUBT) + WANDER * random.standard_normal(count), np.nan)
            levels[number] = np.fmax(levels[number], row) if number in levels else row
        return levels

    def _add(self, levels: dict[int, Array], number: int, level: float, on: Array, random: np.random.Generator) -> None:
        """Let a class sound in some rows, at a level between one of all classes and its own where that is known."""
        if (self.of.beside[number] != number).any():
            own = self.of.mean[number] + self.spread[number] * random.normal(*self.of.level)
            level = (level + own) / 2
        row = np.where(on, level + WANDER * random.standard_normal(len(on)), np.nan)
        levels[number] = np.fmax(levels[number], row) if number in levels else row


def _sounding(first: float, last: float, count: int, random: np.random.Generator) -> Array:
    """(rows,) bool where an event of a part sounds: all through it, in one stretch, or now and then."""
    rows = np.arange(count)
    inside = (rows + 1 > first) & (rows < max(last, first + 1))
    kind = random.random()
    if kind < 0.45:
        return inside
    if kind < 0.75:
        length = max(1.0, random.uniform(0.1, 0.7) * (last - first))
        start = random.uniform(first, max(first, last - length))
        stretch: Array = (rows + 1 > start) & (rows < start + length) & inside
        stretch |= rows == int(min(start, count - 1))
        return stretch
    on = inside & (random.random(count) < random.uniform(0.2, 0.7))
    chosen: Array = on if on.any() else inside
    return chosen


def known() -> list[str]:
    """Taggers that are measured."""
    return sorted(path.stem for path in MEASURED.glob("*.safetensors"))
