"""All caption metrics of a system at once; one that cannot run is named with its reason, never counted as zero."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ossicle.errors import DataError, OssicleError, UnknownNameError
from ossicle.metrics.caption import invented as unheard
from ossicle.metrics.caption import sbert as sentence
from ossicle.metrics.caption import spice as spice_jar
from ossicle.metrics.caption.bleu import bleu
from ossicle.metrics.caption.cider import cider
from ossicle.metrics.caption.meteor import meteor
from ossicle.metrics.caption.meteor_jar import meteor_jar
from ossicle.metrics.caption.pairs import Pair, pair
from ossicle.metrics.caption.rouge import rouge_l


@dataclass
class CaptionScores:
    """What a system scores.

    Args:
        corpus: score by name.
        items: name of each item that was scored, as the references have it, to its scores by name.
        absent: metric to why it could not run.
        vocabulary: words, lengths and the like.
        left_out: name of each item that was not scored to the reason.
        notes: what a reader of the scores should know.
    """

    corpus: dict[str, float] = field(default_factory=dict)
    items: dict[str, dict[str, float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    vocabulary: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Job:
    """Captions beside references, and the costly parts that several metrics share.

    Args:
        candidates: id to caption.
        references: id to captions.
        sbert: sentence model of `sbert_sim`.
        spice: folder of the SPICE jar, or None for the usual places.
        tags: id of a candidate to what was heard.
    """

    def __init__(
        self,
        candidates: Mapping[str, str],
        references: Mapping[str, Sequence[str]],
        *,
        sbert: str,
        spice: Path | None,
        tags: Mapping[str, unheard.Tags],
    ) -> None:
        self.pairs: list[Pair] = pair(candidates, references)
        self.texts = list(candidates.values())
        self.others = [[r for r in references[p.name] if r.strip()] for p in self.pairs]
        self.sbert, self.spice_place = sbert, spice
        self.tags = [tags.get(name) for name in candidates]

    @cached_property
    def cider(self) -> Any:
        """CIDEr and CIDEr-D."""
        return cider(self.pairs)

    @cached_property
    def spice(self) -> list[float]:
        """SPICE of each item, on the tokens that every metric sees."""
        said = [" ".join(p.candidate) for p in self.pairs]
        others = [[" ".join(reference) for reference in p.references] for p in self.pairs]
        return spice_jar.spice(said, others, place=self.spice_place)

    @cached_property
    def spider(self) -> list[float]:
        """Mean of CIDEr-D and SPICE of each item (Liu et al. 2017)."""
        return [(c + s) / 2 for c, s in zip(self.cider.cider_d, self.spice, strict=True)]

    @cached_property
    def heard(self) -> list[unheard.Heard | None]:
        """The sound words of each caption and those that no tag supports; None where it has no tags.

        Raises:
            DataError: if none has.
        """
        if not any(self.tags):
            raise DataError(
                "no caption comes with tags; give the .jsonl of a captioner that hears by them, with a field tags of"
                " [[name, score, start, end], …]"
            )
        pairs = zip(self.texts, self.tags, strict=True)
        return [unheard.usual().heard(text, tags) if tags else None for text, tags in pairs]

    @cached_property
    def errors(self) -> list[float]:
        """Probability of a fluency error in each caption."""
        return sentence.Fluency(sentence.checker_file()).errors(self.texts)


Found = tuple[dict[str, float], dict[str, Sequence[float]]]


def _means(**items: Sequence[float]) -> Found:
    return {name: float(np.mean(values)) for name, values in items.items()}, dict(items)


def _bleu(job: Job) -> Found:
    found = bleu(job.pairs)
    names = [f"bleu_{n}" for n in range(1, 5)]
    columns = zip(*found.items, strict=True)
    return dict(zip(names, found.corpus, strict=True)), dict(zip(names, columns, strict=True))


def _meteor(job: Job) -> Found:
    found = meteor([p.candidate for p in job.pairs], [p.references for p in job.pairs])
    return {"meteor": found.corpus}, {"meteor": found.items}


def _meteor_jar(job: Job) -> Found:
    found = meteor_jar([p.candidate for p in job.pairs], [p.references for p in job.pairs])
    return {"meteor_jar": found.corpus}, {"meteor_jar": found.items}


def _spider_fl(job: Job) -> Found:
    return _means(spider_fl=sentence.penalised(job.spider, job.errors))


def _fense(job: Job) -> Found:
    errors = job.errors
    alike = sentence.similarity(sentence.Sentences(sentence.FENSE_SBERT), job.texts, job.others)
    wrong = [float(e > sentence.THRESHOLD) for e in errors]
    return _means(fense=sentence.penalised(alike, errors), fluency_error=wrong)


def _sbert_sim(job: Job) -> Found:
    return _means(sbert_sim=sentence.similarity(sentence.Sentences(job.sbert), job.texts, job.others))


def _invented(job: Job) -> Found:
    own = [math.nan if row is None else unheard.share([row]) for row in job.heard]
    if all(map(math.isnan, own)):
        raise DataError("no caption that comes with tags names a sound of the list, so there is nothing to count")
    return {"invented": unheard.share(filter(None, job.heard))}, {"invented": own}


METRICS: dict[str, Callable[[Job], Found]] = {
    "bleu": _bleu,
    "rouge_l": lambda job: _means(rouge_l=rouge_l(job.pairs)),
    "cider": lambda job: _means(cider_d=job.cider.cider_d, cider=job.cider.cider),
    "meteor": _meteor,
    "spice": lambda job: _means(spice=job.spice),
    "spider": lambda job: _means(spider=job.spider),
    "spider_fl": _spider_fl,
    "fense": _fense,
    "sbert_sim": _sbert_sim,
    "invented": _invented,
    "meteor_jar": _meteor_jar,
}
# `invented` is usual too where captions come with tags.
USUAL = tuple(name for name in METRICS if name not in ("meteor_jar", "invented"))
# Scores that bear another name than the metric that gives them.
PARTS = {**{f"bleu_{n}": "bleu" for n in range(1, 5)}, "cider_d": "cider", "fluency_error": "fense"}
# Scores that compare items with each other, so that one alone has none.
OF_SEVERAL = ("cider_d", "cider", "spider", "spider_fl")


def score(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str] = (),
    *,
    sbert: str = "all-minilm-l6-v2",
    spice: Path | None = None,
    tags: Mapping[str, unheard.Tags] | None = None,
) -> CaptionScores:
    """Score captions.

    Args:
        candidates: id to caption.
        references: id to captions; empty ones count as absent.
        metrics: keys of `METRICS`, which give all their scores, or keys of `PARTS`, one score each; empty takes
            `USUAL`, all but the jar beside its equal, and `invented` where there are tags.
        sbert: sentence model of `sbert_sim`; its score has that name whatever the model is.
        spice: folder of the SPICE jar.
        tags: id of a candidate to what was heard, for `invented`; empty ones count as absent.

    Raises:
        UnknownNameError: for another metric.
        DataError: if candidates and references do not go together.
    """
    for name in metrics:
        if name not in METRICS and name not in PARTS:
            raise UnknownNameError("caption metric", name, [*METRICS, *PARTS])
    job = Job(candidates, references, sbert=sbert, spice=spice, tags=tags or {})
    out = CaptionScores(items={p.name: {} for p in job.pairs}, vocabulary=vocabulary(job.pairs))
    usual = (*USUAL, "invented") if any(job.tags) else USUAL
    whole = [name for name in metrics or usual if name in METRICS]
    for name in dict.fromkeys([*whole, *(PARTS[part] for part in metrics if part in PARTS)]):
        wanted = [part for part in metrics if PARTS.get(part) == name]
        try:
            corpus, items = METRICS[name](job)
        except OssicleError as error:
            out.absent |= dict.fromkeys([name] if name in whole else wanted, str(error))
            continue
        keys = list(corpus) if name in whole else wanted
        out.corpus |= {key: corpus[key] for key in keys}
        for key in keys:
            scored = zip(job.pairs, items[key], strict=True)
            for one, value in ((one, value) for one, value in scored if not math.isnan(value)):
                out.items[one.name][key] = float(value)
    if "invented" in out.corpus:
        rows = [row for row in job.heard if row is not None]
        out.vocabulary |= unheard.counts(rows)
        out.notes.append(unheard.told(rows, len(job.pairs)))
    return out


def vocabulary(pairs: Sequence[Pair]) -> dict[str, float]:
    """Distinct words and lengths of candidates and references, and the share of references' words that are used."""
    own = Counter(word for p in pairs for word in p.candidate)
    others = Counter(word for p in pairs for reference in p.references for word in reference)
    lengths = [len(p.candidate) for p in pairs]
    reference_lengths = [len(r) for p in pairs for r in p.references]
    return {
        "words": float(len(own)), "reference_words": float(len(others)),
        "words_share": len(own.keys() & others.keys()) / max(1, len(others)),
        "distinct_captions": float(len({p.candidate for p in pairs})),
        "length_mean": float(np.mean(lengths)), "length_std": float(np.std(lengths)),
        "length_max": float(max(lengths)),
        "reference_length_mean": float(np.mean(reference_lengths)),
    }  # fmt: skip


def human(references: Mapping[str, Sequence[str]], metrics: Sequence[str] = (), **options: Any) -> CaptionScores:
    """How one person's captions score against the others': each reference in turn is the candidate, scores are means.

    Every turn is over all items with two references or more, so that scores which depend on the other items can be
    averaged; where an item has fewer references than another, its first ones have another turn.

    Args:
        references: id to captions; items with one only are left out.
        metrics: as for `score`.
        options: as for `score`.

    Raises:
        DataError: if no item has two references.
    """
    full = {name: [text for text in texts if text.strip()] for name, texts in references.items()}
    some = {name: texts for name, texts in full.items() if len(texts) > 1}
    if not some:
        raise DataError("no item has two references, so none can be scored against the others; give at least two")
    rounds = []
    for turn in range(max(map(len, some.values()))):
        own = {name: turn % len(texts) for name, texts in some.items()}
        candidates = {name: texts[own[name]] for name, texts in some.items()}
        rest = {name: [t for i, t in enumerate(texts) if i != own[name]] for name, texts in some.items()}
        rounds.append(score(candidates, rest, metrics, **options))
    out = CaptionScores(vocabulary=rounds[0].vocabulary)
    for one in rounds:
        out.absent |= one.absent
    keys = [key for key in rounds[0].corpus if all(key in one.corpus for one in rounds)]
    out.corpus = {key: float(np.mean([one.corpus[key] for one in rounds])) for key in keys}
    out.items = {n: {key: float(np.mean([one.items[n][key] for one in rounds])) for key in keys} for n in some}
    out.left_out = {n: "fewer than two references" for n in references if n not in some}
    return out
