"""The two controls: nothing of the encoder trains (probe), or all of it (full fine-tuning)."""

from dataclasses import dataclass

import torch

from ossicle.adapters.base import Site
from ossicle.backbones.encoder import Encoder


@dataclass(frozen=True)
class Probe:
    """Spec: the encoder stays frozen, only what the task puts on top trains. Features can be cached."""

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """None."""
        return []


@dataclass(frozen=True)
class Full:
    """Spec: every weight of the encoder trains. It cannot be joined or shared with other adapters.

    Removing it puts the frozen weights back bit for bit, from a copy kept while it is there.
    """

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """None; `inject` frees the encoder's own weights."""
        return []
