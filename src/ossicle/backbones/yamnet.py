"""YAMNet (Google, tensorflow/models research/audioset/yamnet): MobileNet v1 on patches of log-mel, 521 classes.

One token is a patch of 0.96 s, a new one every 0.48 s. Patches are looked at one by one, so neighbours never matter.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.backbones import keys
from ossicle.backbones.encoder import Encoder, Spec
from ossicle.backbones.layers import Socket
from ossicle.backbones.tags import Tags
from ossicle.contracts import TokenGrid
from ossicle.sound.frontends import FRONTENDS
from ossicle.sound.frontends.yamnet import PATCH, STEP

# Width and stride of the first convolution and of the thirteen separable ones after it.
ROWS = (
    (32, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


@dataclass(frozen=True)
class YamnetSizes:
    """Sizes of YAMNet.

    Args:
        widths: of `ROWS`, in order.
        classes: of its head.
    """

    widths: tuple[int, ...] = tuple(width for width, _ in ROWS)
    classes: int = 521


class YamnetStem(nn.Module):
    """Log-mel frames to one embedding a patch.

    Args:
        widths: of the fourteen layers.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        strides = [stride for _, stride in ROWS]
        convs = [nn.Conv2d(1, widths[0], 3, strides[0])]
        for taken, given, stride in zip(widths, widths[1:], strides[1:], strict=False):
            convs += [nn.Conv2d(taken, taken, 3, stride, groups=taken), nn.Conv2d(taken, given, 1)]
        self.convs = nn.ModuleList(convs)

    def forward(self, features: Tensor, frames: Tensor | None) -> tuple[Tensor, TokenGrid, Tensor | None]:
        """(batch, frames, mels) to tokens; see `encoder.Stem`."""
        patches = features.unfold(1, PATCH, STEP).transpose(2, 3)  # (batch, tokens, frames, mels)
        x = patches.flatten(0, 1)[:, None]
        for conv in self.convs:
            x = F.relu(conv(_padded(x, conv)))
        tokens = x.mean(dim=(2, 3)).view(*patches.shape[:2], -1)
        grid = self.grid(tokens.shape[1], features.shape[2])
        if frames is None:
            return tokens, grid, None
        own = (frames - PATCH) // STEP + 1
        return tokens, grid, torch.arange(tokens.shape[1], device=tokens.device) < own[:, None]

    def grid(self, tokens: int, mels: int) -> TokenGrid:
        """The grid of a row of this many tokens."""
        return TokenGrid(freq=1, time=tokens)


def _padded(x: Tensor, conv: nn.Module) -> Tensor:
    """TensorFlow's `same`: even sizes that are halved get a row and a column at the end only."""
    assert isinstance(conv, nn.Conv2d)
    if conv.kernel_size == (1, 1):
        return x
    return F.pad(x, (0, 1, 0, 1) if conv.stride == (2, 2) else (1, 1, 1, 1))


def make(name: str, sizes: YamnetSizes) -> Encoder:
    """An empty YAMNet of the given sizes."""
    dim = sizes.widths[-1]
    return Encoder(
        name,
        frontend=FRONTENDS["yamnet"](),
        stem=YamnetStem(sizes.widths),
        blocks=[],
        norm=Socket(),
        dim=dim,
        usual_pooling="mean+max",
        tags=Tags("yamnet", nn.Linear(dim, sizes.classes), pooled=False),
    )


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of YAMNet, from the converted file: `convs.N`, batch norms folded in, and `classifier`."""
    return keys.rename(state, [(r"^convs\.", "stem.convs."), (r"^classifier\.", "tags.head.")], ())


def infer(state: dict[str, Tensor], sizes: YamnetSizes) -> YamnetSizes:
    """Sizes as renamed tensors show them."""
    widths = [len(state[f"stem.convs.{n}.weight"]) for n in range(0, 2 * len(ROWS) - 1, 2)]
    return YamnetSizes(tuple(widths), len(state["tags.head.weight"]))


YAMNET = Spec(
    "yamnet", "yamnet", YamnetSizes(), make, rename, infer, "AudioSet tagger, 3.8 M, 16 kHz, tokens of 0.48 s"
)
