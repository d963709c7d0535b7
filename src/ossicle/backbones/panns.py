"""PANNs' Wavegram-Logmel-CNN14 (Kong et al. 2020): a network on log-mel joined by one that learnt its own from samples.

A token is a column of its last map, 0.32 s, as the mean over frequency. The published head adds mean and largest value
over time and makes an embedding of 2048 numbers and then 527 classes of it.

Batch norms are folded into the convolutions in front of them when the weights are read, so their statistics never move;
the one on the log-mel becomes a gain and a shift for each band. Rows of unequal length run in groups of one length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ossicle.backbones import keys
from ossicle.backbones.encoder import Encoder, Spec
from ossicle.backbones.layers import Socket
from ossicle.backbones.maps import by_length
from ossicle.backbones.tags import Tags
from ossicle.contracts import TokenGrid
from ossicle.errors import WeightsError
from ossicle.sound.frontends import FRONTENDS
from ossicle.sound.frontends.panns import BANDS, panns_filters, panns_window

NORM_EPS = 1e-5
ROWS = 32  # of frequency in the wavegram, as many as are left of the log-mel after its first block


@dataclass(frozen=True)
class PannsSizes:
    """Sizes of a Wavegram-Logmel-CNN14.

    Args:
        wave: widths of the first convolution over samples and of the three blocks after it; the last is a multiple of
            32.
        wavegram: width of the block that the wavegram goes through.
        maps: widths of the six blocks; the second takes the first's and the wavegram's.
        hidden: width of the embedding.
        classes: of the head.
    """

    wave: tuple[int, ...] = (64, 64, 128, 128)
    wavegram: int = 64
    maps: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    hidden: int = 2048
    classes: int = 527


class PannsStem(nn.Module):
    """Log-mel and samples to the last map's columns.

    Args:
        sizes: widths.
    """

    def __init__(self, sizes: PannsSizes) -> None:
        super().__init__()
        first, *others = sizes.wave
        self.wave = nn.Sequential(nn.Sequential(nn.Conv1d(1, first, 11, 5, 5), nn.ReLU()))
        for taken, given in zip(sizes.wave, others, strict=False):
            convs = nn.Conv1d(taken, given, 3, padding=1), nn.Conv1d(given, given, 3, padding=2, dilation=2)
            self.wave.append(nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), nn.MaxPool1d(4)))
        self.wavegram = _block(others[-1] // ROWS, sizes.wavegram, (2, 1))
        self.gain, self.shift = nn.Parameter(torch.ones(BANDS)), nn.Parameter(torch.zeros(BANDS))
        widths = [1, sizes.maps[0] + sizes.wavegram, *sizes.maps[1:-1]]
        pools = [(2, 2)] * 5 + [(1, 1)]
        self.maps = nn.ModuleList(_block(*pair) for pair in zip(widths, sizes.maps, pools, strict=True))

    def forward(self, features: Tensor, frames: Tensor | None) -> tuple[Tensor, TokenGrid, Tensor | None]:
        """(batch, frames, bands and samples) to tokens; see `encoder.Stem`."""
        found, mask = by_length(features, frames, self._map)
        return found[:, :, 0], self.grid(found.shape[1], features.shape[2]), mask

    def grid(self, tokens: int, mels: int) -> TokenGrid:
        """The grid of a row of this many tokens."""
        return TokenGrid(freq=1, time=tokens)

    def _map(self, features: Tensor) -> Tensor:
        """(batch, frames, bands and samples) of one length to (batch, time, 1, dim)."""
        heard = self.wave(features[:, :-1, BANDS:].flatten(1)[:, None])  # (batch, width, frames)
        wavegram = self.wavegram(heard.unflatten(1, (-1, ROWS)).transpose(2, 3))  # (batch, width, time, rows)
        x = (features[..., :BANDS] * self.gain + self.shift)[:, None]
        x = torch.cat([self.maps[0](x), wavegram], dim=1)
        for block in self.maps[1:]:
            x = block(x)
        return x.mean(dim=3, keepdim=True).permute(0, 2, 3, 1)


def _block(taken: int, given: int, pool: tuple[int, int]) -> nn.Sequential:
    """Two 3 × 3 convolutions with ReLU, and means over (time, frequency)."""
    first, second = nn.Conv2d(taken, given, 3, padding=1), nn.Conv2d(given, given, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AvgPool2d(pool))


def make(name: str, sizes: PannsSizes) -> Encoder:
    """An empty tagger of the given sizes."""
    dim = sizes.maps[-1]
    head = nn.Sequential(nn.Linear(dim, sizes.hidden), nn.ReLU(), nn.Linear(sizes.hidden, sizes.classes))
    return Encoder(
        name,
        frontend=FRONTENDS["panns"](),
        stem=PannsStem(sizes),
        blocks=[],
        norm=Socket(),
        dim=dim,
        usual_pooling="mean+max",
        tags=Tags("audioset", head, pooled=True, peaks=True),
    )


RULES: keys.Rules = [
    (r"^pre_conv0\.", "stem.wave.0.0."),
    (r"^pre_block4\.", "stem.wavegram."),
    (r"^pre_block(\d)\.", r"stem.wave.\1."),
    *((rf"^conv_block{number}\.", f"stem.maps.{number - 1}.") for number in range(1, 7)),
    (r"\.conv1\.", ".0."),
    (r"\.conv2\.", ".2."),
    (r"^bn0\.", "stem."),
    (r"^fc1\.", "tags.head.0."),
    (r"^fc_audioset\.", "tags.head.2."),
]
# The file keeps its front end too, which does not learn.
CONSTANTS = "spectrogram_extractor.stft.conv_real.weight", "logmel_extractor.melW"
DROPS = (r"^spectrogram_extractor\.stft\.conv_(?:real|imag)\.weight$", r"^logmel_extractor\.melW$")


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of a tagger, from PANNs' file; batch norms are folded in.

    Raises:
        WeightsError: if it was trained through another front end, or a batch norm is not whole.
    """
    _check_constants(state)
    state = keys.fold_norms(state, NORM_EPS, norm=r"^(.+)bn(\d)$", conv=r"\1conv\2")
    state |= _level(state)
    return keys.rename(state, RULES, DROPS)


def _level(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch norm on the log-mel, taken out of a state, as gain and shift."""
    names = [f"bn0.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    wrong = [name for name in names if name not in state or state[name].shape != (BANDS,)]
    if wrong:
        raise WeightsError(
            f"not weights of panns-wavegram-cnn14: {', '.join(wrong)} missing or not of {BANDS} numbers; "
            "give Wavegram_Logmel_Cnn14_mAP=0.439.pth"
        )
    gain, shift, mean, var = (state.pop(name).double() for name in names)
    gain = gain / (var + NORM_EPS).sqrt()
    return {"bn0.gain": gain.float(), "bn0.shift": (shift - mean * gain).float()}


def _check_constants(state: dict[str, Tensor]) -> None:
    """The window and the mel bands in a file, if it has them, are those of the front end here."""
    for name, own in zip(CONSTANTS, (panns_window(), panns_filters()), strict=True):
        there = state.get(name)
        if there is None:
            continue
        there = (there if there.ndim < 3 else there[0, 0]).double()  # a transform's first row is its window
        if there.shape != own.shape or not torch.allclose(there, own, rtol=1e-3, atol=1e-3 * float(own.max())):
            raise WeightsError(
                f"{name} is of another front end than 32 kHz, windows of 1024 and 64 mel bands from 50 to 14,000 Hz; "
                "give Wavegram_Logmel_Cnn14_mAP=0.439.pth"
            )


def infer(state: dict[str, Tensor], sizes: PannsSizes) -> PannsSizes:
    """Sizes as renamed tensors show them."""

    def width(name: str) -> int:
        return state[f"{name}.weight"].shape[0]

    wave: Sequence[int] = [width(f"stem.wave.{n}.0") for n in range(4)]
    if wave[-1] % ROWS or not wave[-1]:
        raise ValueError(f"a wavegram of {ROWS} rows: the width is {wave[-1]}")
    return PannsSizes(
        tuple(wave), width("stem.wavegram.0"), tuple(width(f"stem.maps.{n}.0") for n in range(6)),
        width("tags.head.0"), width("tags.head.2"),
    )  # fmt: skip


WAVEGRAM_CNN14 = Spec(
    "panns-wavegram-cnn14", "panns-wavegram-cnn14", PannsSizes(), make, rename, infer,
    "AudioSet tagger, 32 kHz, mAP 43.9",
)  # fmt: skip
