"""VGGish (Hershey et al. 2017, as in harritaylor/torchvggish): one embedding of 128 numbers for 0.96 s, no classes.

Tokens are the last linear map's output, before the ReLU that some releases put behind it and the principal components
that the YouTube-8M features went through. Examples are looked at one by one, so neighbours never matter.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ossicle.backbones import keys
from ossicle.backbones.encoder import Encoder, Spec
from ossicle.backbones.layers import Socket
from ossicle.contracts import TokenGrid
from ossicle.sound.frontends import FRONTENDS
from ossicle.sound.frontends.yamnet import MELS, PATCH

# Where the six convolutions are among `features`, and whether the map is halved behind each.
CONVS = {0: True, 3: True, 6: False, 8: True, 11: False, 13: True}
LEFT = PATCH // 16 * (MELS // 16)  # places of the last map


@dataclass(frozen=True)
class VggishSizes:
    """Sizes of VGGish.

    Args:
        maps: widths of the six convolutions.
        hidden: widths of the two hidden linear maps.
        dim: of the embedding.
    """

    maps: tuple[int, ...] = (64, 128, 256, 256, 512, 512)
    hidden: tuple[int, int] = (4096, 4096)
    dim: int = 128


class VggishStem(nn.Module):
    """Log-mel frames to one embedding an example.

    Args:
        sizes: widths.
    """

    def __init__(self, sizes: VggishSizes) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for taken, given, halves in zip((1, *sizes.maps), sizes.maps, CONVS.values(), strict=False):
            steps += [nn.Conv2d(taken, given, 3, padding=1), nn.ReLU(), *[nn.MaxPool2d(2)] * halves]
        self.features = nn.Sequential(*steps)
        one, two = sizes.hidden
        self.embeddings = nn.Sequential(
            nn.Linear(LEFT * sizes.maps[-1], one), nn.ReLU(), nn.Linear(one, two), nn.ReLU(), nn.Linear(two, sizes.dim)
        )

    def forward(self, features: Tensor, frames: Tensor | None) -> tuple[Tensor, TokenGrid, Tensor | None]:
        """(batch, frames, mels) to tokens; see `encoder.Stem`."""
        examples = features.unfold(1, PATCH, PATCH).transpose(2, 3)  # (batch, tokens, frames, mels)
        maps = self.features(examples.flatten(0, 1)[:, None])
        flat = maps.permute(0, 2, 3, 1).flatten(1)  # places before channels, as TensorFlow has them
        tokens = self.embeddings(flat).view(*examples.shape[:2], -1)
        grid = self.grid(tokens.shape[1], features.shape[2])
        if frames is None:
            return tokens, grid, None
        return tokens, grid, torch.arange(tokens.shape[1], device=tokens.device) < (frames // PATCH)[:, None]

    def grid(self, tokens: int, mels: int) -> TokenGrid:
        """The grid of a row of this many tokens."""
        return TokenGrid(freq=1, time=tokens)


def make(name: str, sizes: VggishSizes) -> Encoder:
    """An empty VGGish of the given sizes."""
    return Encoder(
        name,
        frontend=FRONTENDS["vggish"](),
        stem=VggishStem(sizes),
        blocks=[],
        norm=Socket(),
        dim=sizes.dim,
        usual_pooling="mean+max",
    )


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of VGGish, from torchvggish's file; the principal components are left out."""
    return keys.rename(state, [(r"^(features|embeddings)\.", r"stem.\1.")], (r"^(?:pproc\.)?pca_",))


def infer(state: dict[str, Tensor], sizes: VggishSizes) -> VggishSizes:
    """Sizes as renamed tensors show them."""
    maps = tuple(state[f"stem.features.{i}.weight"].shape[0] for i in CONVS)
    one, two, dim = (state[f"stem.embeddings.{i}.weight"].shape[0] for i in (0, 2, 4))
    return VggishSizes(maps, (one, two), dim)


VGGISH = Spec("vggish", "vggish", VggishSizes(), make, rename, infer, "128 numbers each 0.96 s, 16 kHz, no classes")
