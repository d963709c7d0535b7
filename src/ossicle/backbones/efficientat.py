"""EfficientAT's taggers (Schmid et al. 2023): MobileNetV3 on log-mel, taught by transformers on AudioSet.

Batch norms are folded into the convolutions in front of them when the weights are read, so their statistics never move.
Squeeze-and-excitation looks at a clip as a whole: rows of unequal length run in groups of one length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.backbones import keys
from ossicle.backbones.encoder import Encoder, Spec
from ossicle.backbones.layers import Socket
from ossicle.backbones.maps import by_length
from ossicle.backbones.tags import Tags
from ossicle.contracts import TokenGrid
from ossicle.sound.frontends import FRONTENDS

# MobileNetV3-Large: input, kernel, expanded, output, squeeze-and-excitation, Hardswish (else ReLU), stride.
ROWS = (
    (16, 3, 16, 16, False, False, 1),
    (16, 3, 64, 24, False, False, 2),
    (24, 3, 72, 24, False, False, 1),
    (24, 5, 72, 40, True, False, 2),
    (40, 5, 120, 40, True, False, 1),
    (40, 5, 120, 40, True, False, 1),
    (40, 3, 240, 80, False, True, 2),
    (80, 3, 200, 80, False, True, 1),
    (80, 3, 184, 80, False, True, 1),
    (80, 3, 184, 80, False, True, 1),
    (80, 3, 480, 112, True, True, 1),
    (112, 3, 672, 112, True, True, 1),
    (112, 5, 672, 160, True, True, 2),
    (160, 5, 960, 160, True, True, 1),
    (160, 5, 960, 160, True, True, 1),
)
LAST = 6  # the embedding is that many times as wide as the last row
NORM_EPS = 1e-3


@dataclass(frozen=True)
class MobileSizes:
    """Sizes of a MobileNetV3 tagger.

    Args:
        width: multiplier of every width; mn04 is 0.4.
        classes: of its head.
    """

    width: float = 1.0
    classes: int = 527

    @property
    def dim(self) -> int:
        """Width of the embedding."""
        return LAST * eighths(ROWS[-1][3] * self.width)


def eighths(width: float) -> int:
    """A width as MobileNet rounds it: to a multiple of 8, never below 90 %."""
    near = max(8, int(width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * width else near


class Excite(nn.Module):
    """Squeeze-and-excitation over channels (Hu et al. 2018): a gain for each from the means of all.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, eighths(width // 4))
        self.fc2 = nn.Linear(eighths(width // 4), width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, mels, frames) to the same shape."""
        gains: Tensor = self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3))))).sigmoid()
        return x * gains[:, :, None, None]


class Inverted(nn.Module):
    """MobileNet's block: widen, convolve each channel, excite, narrow; added to its input where shapes allow.

    Args:
        row: of `ROWS`.
        width: multiplier of its widths.
    """

    def __init__(self, row: tuple[int, int, int, int, bool, bool, int], width: float) -> None:
        super().__init__()
        taken, kernel, expanded, given, excite, hard, stride = row
        taken, expanded, given = (eighths(n * width) for n in (taken, expanded, given))
        act = nn.Hardswish if hard else nn.ReLU
        steps: list[nn.Module] = []
        if expanded != taken:
            steps.append(nn.Sequential(nn.Conv2d(taken, expanded, 1), act()))
        middle = nn.Conv2d(expanded, expanded, kernel, stride, kernel // 2, groups=expanded)
        steps.append(nn.Sequential(middle, act()))
        if excite:
            steps.append(Excite(expanded))
        steps.append(nn.Sequential(nn.Conv2d(expanded, given, 1)))
        self.block = nn.Sequential(*steps)
        self.adds = stride == 1 and taken == given

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, mels, frames) to the next width, and half of both where it strides."""
        y: Tensor = self.block(x)
        return x + y if self.adds else y


class MobileStem(nn.Module):
    """Log-mel frames to the tagger's last map: 4 rows of frequency, a column each 0.32 s.

    Args:
        width: multiplier of every width.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        first, last = eighths(ROWS[0][0] * width), eighths(ROWS[-1][3] * width)
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, first, 3, 2, 1), nn.Hardswish()),
            *[Inverted(row, width) for row in ROWS],
            nn.Sequential(nn.Conv2d(last, LAST * last, 1), nn.Hardswish()),
        )

    def forward(self, features: Tensor, frames: Tensor | None) -> tuple[Tensor, TokenGrid, Tensor | None]:
        """(batch, frames, mels) to tokens; see `encoder.Stem`. Rows of one length run together."""
        found, real = by_length(features, frames, self._map)  # (batch, time, freq, dim)
        grid = TokenGrid(freq=found.shape[2], time=found.shape[1], order="time")
        return found.flatten(1, 2), grid, None if real is None else real.repeat_interleave(grid.freq, dim=1)

    def grid(self, tokens: int, mels: int) -> TokenGrid:
        """The grid of a row of this many tokens."""
        rows = -(-mels // 32)
        return TokenGrid(freq=rows, time=tokens // rows, order="time")

    def _map(self, features: Tensor) -> Tensor:
        """(batch, frames, mels) of one length to (batch, time, freq, dim)."""
        x: Tensor = self.features(features.transpose(1, 2)[:, None])
        return x.permute(0, 3, 2, 1)


def make(name: str, sizes: MobileSizes) -> Encoder:
    """An empty tagger of the given sizes."""
    hidden = eighths(1280 * sizes.width)
    head = nn.Sequential(nn.Linear(sizes.dim, hidden), nn.Hardswish(), nn.Linear(hidden, sizes.classes))
    return Encoder(
        name,
        frontend=FRONTENDS["efficientat"](),
        stem=MobileStem(sizes.width),
        blocks=[],
        norm=Socket(),
        dim=sizes.dim,
        usual_whitening=False,  # each channel already says something of its own (results: quality_default.json)
        tags=Tags("audioset", head, pooled=True),
    )


RULES: keys.Rules = [
    (r"^classifier\.2\.", "tags.head.0."),
    (r"^classifier\.5\.", "tags.head.2."),
    (r"^features\.", "stem.features."),
    (r"\.conc_se_layers\.0\.", "."),
]


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of a tagger, from EfficientAT's file; batch norms are folded in."""
    return keys.rename(keys.fold_norms(state, NORM_EPS), RULES, ())


def infer(state: dict[str, Tensor], sizes: MobileSizes) -> MobileSizes:
    """Sizes as renamed tensors show them."""
    dim, classes = len(state[f"stem.features.{len(ROWS) + 1}.0.weight"]), len(state["tags.head.2.weight"])
    return replace(sizes, width=dim / (LAST * ROWS[-1][3]), classes=classes)


def _specs(widths: Sequence[tuple[str, float, str]]) -> dict[str, Spec]:
    return {
        name: Spec(name, name, MobileSizes(width), make, rename, infer, f"AudioSet tagger, 32 kHz, mAP {score}")
        for name, width, score in widths
    }


MOBILE = _specs(
    [
        ("mn04", 0.4, "43.2"), ("mn05", 0.5, "44.3"), ("mn10", 1.0, "47.1"),
        ("mn20", 2.0, "47.8"), ("mn30", 3.0, "48.2"), ("mn40", 4.0, "48.4"),
    ]
)  # fmt: skip
