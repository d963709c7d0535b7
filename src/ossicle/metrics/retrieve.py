"""Retrieval scores, both directions, any number of captions per clip (the protocol of LAION-CLAP and FLAP, section 4).

Text to audio: every caption is a query over all clips. Audio to text: every clip is a query over all captions; its rank
is that of the best of its own captions. A tie counts against the system: what is no better than something else ranks
behind it, so that a model that scores all alike finds nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ossicle.errors import UsageError

CUTS = (1, 5, 10)
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Ranks:
    """Ranks from 0.

    Args:
        text_to_audio: (texts,) rank of each caption's clip.
        audio_to_text: for each clip the sorted ranks of its own captions.
    """

    text_to_audio: Ints
    audio_to_text: tuple[Ints, ...]


def ranks(similarity: Floats, owners: Sequence[int] | Ints) -> Ranks:
    """Where the right answers come.

    Args:
        similarity: (texts, clips), higher is more alike.
        owners: (texts,) the clip each caption belongs to; every clip has at least one.

    Raises:
        UsageError: if shapes do not fit, a clip has no caption, or a similarity is not a number.
    """
    scores, own = np.asarray(similarity), np.asarray(owners)
    if scores.ndim != 2 or own.shape != scores.shape[:1] or not scores.size:
        raise UsageError(f"similarities {scores.shape} and owners {own.shape}: (texts, clips) and (texts,) are wanted")
    clips = scores.shape[1]
    absent = np.setdiff1d(np.arange(clips), own)
    if len(absent) or own.max() >= clips or own.min() < 0:
        raise UsageError(f"owners are {own.min()} to {own.max()}; each of 0 to {clips - 1} is wanted at least once")
    if not np.isfinite(scores).all():
        raise UsageError(f"{int((~np.isfinite(scores)).sum())} similarities are not finite numbers")
    right = scores[np.arange(len(own)), own]
    to_audio = (scores >= right[:, None]).sum(axis=1) - 1
    to_text = [_among(scores[:, clip], np.flatnonzero(own == clip)) for clip in range(clips)]
    return Ranks(to_audio, tuple(to_text))


def _among(column: Floats, mine: Ints) -> Ints:
    """Sorted ranks of a clip's own captions among all; of equal ones, its own come last."""
    others = np.delete(column, mine)
    best_first = np.sort(column[mine])[::-1]
    ahead = (others[None, :] >= best_first[:, None]).sum(axis=1)
    found: Ints = ahead + np.arange(len(mine))
    return found


def summary(found: Ranks) -> dict[str, float]:
    """R@1, R@5, R@10, mAP@10, median rank (from 1), for both directions, with what they were computed over."""
    first = np.array([r[0] for r in found.audio_to_text])
    scores: dict[str, float] = {}
    for name, best in (("text_to_audio", found.text_to_audio), ("audio_to_text", first)):
        scores |= {f"{name}_r_at_{k}": float((best < k).mean()) for k in CUTS}
        scores[f"{name}_median_rank"] = float(np.median(best + 1))
    scores["text_to_audio_map_at_10"] = float(_precision(found.text_to_audio[:, None]).mean())
    scores["audio_to_text_map_at_10"] = float(np.mean([_precision(r[None])[0] for r in found.audio_to_text]))
    captions = [len(r) for r in found.audio_to_text]
    scores |= {"clips": len(captions), "captions": sum(captions)}
    return scores | {"captions_least": min(captions), "captions_most": max(captions)}


def _precision(sorted_ranks: Ints) -> Floats:
    """Average precision at 10 of rows of sorted ranks: precision at each right answer within 10, over all of them."""
    numbers = np.arange(1, sorted_ranks.shape[1] + 1)
    hits: Floats = np.where(sorted_ranks < 10, numbers / (sorted_ranks + 1), 0.0)
    return np.asarray(hits.sum(axis=1) / sorted_ranks.shape[1])


def laion_map_at_10(similarity: Floats, captions: int = 5) -> float:
    """Audio-to-text mAP@10 as LAION-CLAP's code computes it, on ranks in caption order, never sorted (parity).

    Args:
        similarity: (clips * captions, clips), captions of a clip one after another.
        captions: per clip.
    """
    clips = similarity.shape[1]
    order = np.argsort(-similarity.T, axis=1, kind="stable")  # (clips, texts)
    places = np.argsort(order, axis=1, kind="stable")
    total = 0.0
    for clip in range(clips):
        own = places[clip, clip * captions : (clip + 1) * captions]
        near = own[own < 10]
        total += float((np.arange(1, len(near) + 1) / (near + 1)).sum()) / captions
    return float(total / clips)
