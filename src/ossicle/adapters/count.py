"""How many parameters an adapter trains on a backbone, exactly and without its weights."""

from dataclasses import dataclass

import torch

from ossicle.adapters.inject import inject, trainable
from ossicle.adapters.spec import parse
from ossicle.backbones import skeleton


@dataclass(frozen=True)
class Count:
    """Trainable parameters of one adapter, the task's head apart.

    Args:
        adapter: all but the encoder's final norm, as the papers count.
        final_norm: of the encoder's final norm.
        backbone: parameters of the frozen encoder.
        dim: token width, so that a mean-pooled linear head on C classes adds dim * C + C.
    """

    adapter: int
    final_norm: int
    backbone: int
    dim: int

    @property
    def total(self) -> int:
        """Adapter and final norm."""
        return self.adapter + self.final_norm

    def with_head(self, classes: int) -> int:
        """With a mean-pooled linear head."""
        return self.total + self.dim * classes + classes


def count(backbone: str, text: str) -> Count:
    """Count on the meta device.

    Raises:
        UnknownNameError: for an unknown backbone, adapter or option.
        AdapterError: if the adapter does not fit.
    """
    encoder = skeleton(backbone)
    whole = sum(p.numel() for p in encoder.parameters())
    with torch.device("meta"):
        inject(encoder, parse(text))
    sizes = {key: value.numel() for key, value in trainable(encoder, "default").items()}
    norm = sum(n for key, n in sizes.items() if key.startswith("norm."))
    return Count(adapter=sum(sizes.values()) - norm, final_norm=norm, backbone=whole, dim=encoder.dim)
