"""Whether weights that nobody knows by their digest hear what they should: a stored clip of a crow (see `check/`)."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ossicle.backbones.encoder import Encoder
from ossicle.errors import WeightsError
from ossicle.sound import audio

FOLDER = Path(__file__).parent / "check"
CLIP = FOLDER / "crow.flac"
HEARD = ("Crow", "Caw")
BEST = 5
# Half precision moves mn04's scores by 0.003, another epsilon in its batch norms by 0.02, noise of a hundredth by 0.2.
TOLERANCE = 0.01


def same_scores(folder: Path, *, name: str) -> None:
    """A tagger's scores on the stored clip are those of the release.

    Raises:
        WeightsError: if one is off by more than `TOLERANCE`.
    """
    labels, scores = _heard(folder, name)
    wanted = torch.tensor(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["scores"])
    if scores.shape != wanted.shape:
        raise WeightsError(f"it has {len(scores)} classes, {name} has {len(wanted)}; give the file of {name}")
    off = (scores - wanted).abs().nan_to_num(torch.inf)
    worst = int(off.argmax())
    if off[worst] > TOLERANCE:
        raise WeightsError(
            f"on the stored clip '{labels[worst]}' scores {float(scores[worst]):.3f}, with the weights of {name} "
            f"{float(wanted[worst]):.3f}; give the file of {name}, or use this one by backbone.weights=FILE"
        )


def hears_the_crow(folder: Path, *, name: str) -> None:
    """A tagger has the stored clip's class among its best.

    Raises:
        WeightsError: if it has not.
    """
    labels, scores = _heard(folder, name)
    best = [labels[i] for i in scores.nan_to_num(-1.0).topk(BEST).indices.tolist()]
    if not set(HEARD) & set(best) or not scores.isfinite().all():
        raise WeightsError(
            f"it hears {', '.join(best)} in the stored clip of a crow, so these are no trained weights of {name}; "
            f"give the file of {name}, or use this one by backbone.weights=FILE"
        )


def _heard(folder: Path, name: str) -> tuple[tuple[str, ...], Tensor]:
    """The classes, and their scores in the stored clip."""
    from ossicle import backbones  # builds encoders from what is checked here

    encoder = backbones.from_checkpoint(name, folder)
    wave = audio.load(CLIP, encoder.rate_hz)
    with torch.no_grad():
        scores = encoder.scores(encoder(wave[None]))[0].mean(dim=0)
    assert encoder.tags is not None
    return encoder.tags.labels, scores


# What weights of no known digest must pass beside strict loading, by name: called with the folder of the new weights
# before they enter the cache; raises WeightsError where their scores on a sound are not those of the release. A tagger
# that is not here must hear the crow.
CHECKS: dict[str, Callable[[Path], None]] = {"mn04": partial(same_scores, name="mn04")}


def of(name: str, encoder: Encoder | None) -> Callable[[Path], None] | None:
    """The check of weights by their name, and the encoder they are of if it is known; None if there is none."""
    if name in CHECKS:
        return CHECKS[name]
    hears = encoder is not None and encoder.tags is not None and set(HEARD) & set(encoder.tags.labels)
    return partial(hears_the_crow, name=encoder.name) if hears and encoder is not None else None
