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
        head_lr: peak for heads, mappers and projections; 0 takes lr.
        optimizer: adamw, or adam, whose weight decay goes through the gradient.
        weight_decay: on matrices only unless decay_all.
        decay_all: also decay norms and biases, as PETL of AST does.
        beta1: of the optimizer.
        beta2: of the optimizer.
        eps: of the optimizer.
        warmup: share of all steps in which the rate rises linearly.
        milestones: (epoch, factor) pairs in order: from that epoch on the rate is the peak times the factor; empty is a
            fall to 0.
        fall: how the rate falls to 0: along a cosine, or a line.
        clip: largest gradient norm; 0 is off.
        accumulate: steps whose gradients are added up before the weights move.
        precision: auto, float32 or bfloat16.
        seed: of order, initial weights and augmentation.
        keep: best (by validation) or last epoch's weights.
        patience: with keep=best, epochs without a better one after which training ends; 0 goes on to the end.
    """

    epochs: Whole = 20
    batch: Whole = 32
    lr: Amount = 1e-3
    head_lr: Amount = 0.0
    optimizer: Literal["adamw", "adam"] = "adamw"
    weight_decay: Amount = 0.01
    decay_all: bool = False
    beta1: Share = 0.9
    beta2: Share = 0.999
    eps: Amount = 1e-8
    warmup: Share = 0.1
    milestones: tuple[tuple[int, float], ...] = ()
    fall: Literal["cosine", "linear"] = "cosine"
    clip: Amount = 1.0
    accumulate: Whole = 1
    precision: Precision = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**20)] = 0
    keep: Literal["best", "last"] = "best"
    patience: Annotated[int, Field(ge=0)] = 6


# Parts that are frozen models with an adapter; the others are trained from nothing.
ADAPTED = ("backbone", "llm")
OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def optimizer(parts: dict[str, nn.Module], settings: Settings) -> torch.optim.Adam:
    """The optimizer over every trainable parameter of the parts, in groups by learning rate and decay."""
    groups = []
    for name, module in parts.items():
        lr = settings.lr if name in ADAPTED else settings.head_lr or settings.lr
        parameters = [p for p in module.parameters() if p.requires_grad]
        matrices = [p for p in parameters if p.dim() > 1 or settings.decay_all]
        vectors = [p for p in parameters if p.dim() <= 1 and not settings.decay_all]
        groups += [
            {"params": group, "lr": lr, "weight_decay": decay}
            for group, decay in ((matrices, settings.weight_decay), (vectors, 0.0))
            if group
        ]
    return OPTIMIZERS[settings.optimizer](groups, betas=(settings.beta1, settings.beta2), eps=settings.eps)


def schedule(optimizer: torch.optim.Optimizer, settings: Settings, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a cosine or a line to 0 per step, or the milestones per epoch."""
    warm = int(steps * settings.warmup)
    per_epoch = max(1, steps // settings.epochs)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        if settings.milestones:
            return next((f for epoch, f in reversed(settings.milestones) if step // per_epoch >= epoch), 1.0)
        done = min(1.0, (step - warm) / max(1, steps - warm))
        return 1 - done if settings.fall == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
