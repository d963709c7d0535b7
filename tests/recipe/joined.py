"""Joined recipes on tiny encoders under the names of real ones."""

from pathlib import Path

import pytest
from tests import tiny

from ossicle import terminal
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Clip
from ossicle.data import Dataset
from ossicle.recipe import backbone, build, config

TONES = {"low": 300.0, "mid": 1200.0, "high": 3000.0}
QUICK = ["train.epochs=2", "train.batch=4", "train.precision=float32", "train.lr=0.01"]


def stand_ins(patch: pytest.MonkeyPatch, home: Path, **seeds: int) -> None:
    """Tiny encoders for the real ones; `seeds` of their weights, by name without dots and dashes."""

    def load(name: str, **options) -> Encoder:
        seed = seeds.get(name.replace(".", "").replace("-", ""), 0)
        whisper = name.startswith("whisper")
        made = tiny.encoder("whisper", seed) if whisper else tiny.tagger(seed)
        made.name = name
        source = "wheel" if whisper else "hub"
        made.origin = {"source": source, "origin": f"made/{name}", "verified": whisper}
        return made

    patch.setenv("OSSICLE_HOME", str(home))
    patch.setattr(backbone.backbones, "load", load)


def tones(folder: Path, each: int, seconds: float = 0.4, labels: tuple[str, ...] = tuple(TONES)) -> list[Clip]:
    """So many clips of each class, their pitches a little apart; each a split of its own."""
    return [
        Clip(
            tiny.write_tone(folder / f"{label}{i}.wav", TONES[label] * (1 + 0.03 * i), seconds, seed=i), split=str(i),
            labels=(label,), name=f"{label}{i}.wav", licence="CC0",
        )
        for i in range(each)
        for label in labels
    ]  # fmt: skip


def recipe(*changes: str) -> config.Recipe:
    return config.read(None, [*QUICK, *changes])


def trained(out: Path, clips: list[Clip], *changes: str, quiet: bool = True, **options) -> dict:
    return build.train(recipe(*changes), Dataset("tones", tuple(clips)), out, quiet=quiet, **options)


def notes(patch: pytest.MonkeyPatch) -> list[str]:
    """What is told from now on."""
    told: list[str] = []
    patch.setattr(terminal, "note", told.append)
    return told
