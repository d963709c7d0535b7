"""Optimiser and learning-rate schedule."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from ossicle.devices import Precision

Whole = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        epochs: passes over the training clips.
        batch: clips per step.
        lr: peak learning rate.
        head_lr: peak for everything but the backbone; 0 takes lr.
        weight_decay: of AdamW, on matrices only unless decay_all.
        decay_all: also decay norms and biases, as PETL of AST does.
        beta1: of AdamW.
        beta2: of AdamW.
        eps: of AdamW.
        warmup: share of all steps in which the rate rises linearly.
        clip: largest gradient norm; 0 is off.
        accumulate: steps whose gradients are added up before the weights move.
        precision: auto, float32 or bfloat16.
        seed: of order, initial weights and augmentation.
        keep: best (by validation) or last epoch's weights.
    """

    epochs: Whole = 20
    batch: Whole = 32
    lr: Amount = 1e-3
    head_lr: Amount = 0.0
    weight_decay: Amount = 0.01
    decay_all: bool = False
    beta1: Share = 0.9
    beta2: Share = 0.999
    eps: Amount = 1e-8
    warmup: Share = 0.1
    clip: Amount = 1.0
    accumulate: Whole = 1
    precision: Precision = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**20)] = 0
    keep: Literal["best", "last"] = "best"


def optimizer(parts: dict[str, nn.Module], settings: Settings) -> torch.optim.AdamW:
    """AdamW over every trainable parameter of the parts, in groups by learning rate and decay."""
    groups = []
    for name, module in parts.items():
        lr = settings.lr if name == "backbone" else settings.head_lr or settings.lr
        parameters = [p for p in module.parameters() if p.requires_grad]
        matrices = [p for p in parameters if p.dim() > 1 or settings.decay_all]
        vectors = [p for p in parameters if p.dim() <= 1 and not settings.decay_all]
        groups += [
            {"params": group, "lr": lr, "weight_decay": decay}
            for group, decay in ((matrices, settings.weight_decay), (vectors, 0.0))
            if group
        ]
    return torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), eps=settings.eps)


def schedule(optimizer: torch.optim.Optimizer, settings: Settings, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a cosine to 0, per step."""
    warm = int(steps * settings.warmup)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
