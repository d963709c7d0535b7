"""Optimiser and learning-rate schedule."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ossicle.devices import Precision


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

    epochs: int = 20
    batch: int = 32
    lr: float = 1e-3
    head_lr: float = 0.0
    weight_decay: float = 0.01
    decay_all: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    warmup: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    precision: Precision = "auto"
    seed: int = 0
    keep: str = "best"


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
