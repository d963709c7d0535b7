"""Tiny backbones with random weights and made sounds, for tests that need no real weights."""

import math
from pathlib import Path

import numpy as np
import soundfile
import torch

from ossicle.backbones import freeze, patches, whisper
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.patches import PatchSizes
from ossicle.backbones.whisper import WhisperSizes

RATE_HZ = 16_000

AST = PatchSizes(dim=24, depth=3, heads=3, hidden=48, stride=(16, 16), table=(8, 12), extra=2)
DINOV2 = PatchSizes(
    dim=24, depth=3, heads=3, hidden=48, patch=(14, 14), stride=(14, 14), table=(5, 5), extra=1,
    layer_scale=True, resize="bicubic",
)  # fmt: skip
WHISPER = WhisperSizes(dim=24, depth=3, heads=3, mels=80, positions=60)

MAKERS = {
    "ast": lambda: patches.make("tiny-ast", AST),
    "dinov2": lambda: patches.make("tiny-dinov2", DINOV2),
    "whisper": lambda: whisper.make("tiny-whisper", WHISPER),
}


def encoder(kind: str, seed: int = 0) -> Encoder:
    """A frozen tiny encoder whose every weight is random, norms and biases too."""
    made = MAKERS[kind]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(generator=generator).mul_(0.2)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    made.digest = f"tiny-{kind}-{seed}"
    return freeze(made)


def waves(batch: int = 2, seconds: float = 0.8, seed: int = 0) -> torch.Tensor:
    """(batch, samples) float32: a tone of its own for every row, in noise."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(int(seconds * RATE_HZ)) / RATE_HZ
    tones = torch.stack([torch.sin(2 * math.pi * 220 * (row + 1) * time) for row in range(batch)])
    return 0.4 * tones + 0.05 * torch.randn(tones.shape, generator=generator)


def write_tone(path: Path, hz: float, seconds: float = 1.0, seed: int = 0, rate_hz: int = RATE_HZ) -> Path:
    """A wav file with a tone in noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).standard_normal(len(time))
    soundfile.write(path, (0.4 * np.sin(2 * np.pi * hz * time) + 0.02 * noise).astype(np.float32), rate_hz)
    return path
