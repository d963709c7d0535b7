"""The Whisper encoder (Radford et al. 2022) on clips of any length: no padding to 30 s, positions cut to the clip."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.backbones import keys
from ossicle.backbones.encoder import Encoder, Spec
from ossicle.backbones.layers import Block, Norm
from ossicle.contracts import TokenGrid
from ossicle.errors import WeightsError
from ossicle.sound.frontends import FRONTENDS


@dataclass(frozen=True)
class WhisperSizes:
    """Sizes of a Whisper encoder.

    Args:
        dim: token width.
        depth: blocks.
        heads: attention heads.
        mels: mel bands.
        positions: tokens the position table covers; 1500 are 30 s.
    """

    dim: int = 384
    depth: int = 4
    heads: int = 6
    mels: int = 80
    positions: int = 1500


class WhisperStem(nn.Module):
    """Two convolutions over time, the second halving the rate to 50 tokens a second.

    Args:
        mels: input bands.
        dim: token width.
        positions: length of the position table.
    """

    def __init__(self, mels: int, dim: int, positions: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(mels, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.zeros(positions, dim))

    def forward(self, features: Tensor, frames: Tensor | None) -> tuple[Tensor, TokenGrid, Tensor | None]:
        """(batch, frames, mels) to tokens; see `encoder.Stem`. Past its table, positions are stretched linearly."""
        x = F.gelu(self.conv1(features.transpose(1, 2)))  # (batch, dim, frames)
        if frames is not None:  # what follows a short row must be the zeros its own padding would be
            x = x * (torch.arange(x.shape[-1], device=x.device) < frames[:, None])[:, None].to(x.dtype)
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        tokens = x.shape[1]
        if frames is None:
            return x + self._positions(tokens).to(x.dtype), TokenGrid(freq=1, time=tokens), None
        own = (frames + 1) // 2
        made = {n: F.pad(self._positions(n), (0, 0, 0, tokens - n)) for n in set(own.tolist())}
        x = x + torch.stack([made[n] for n in own.tolist()]).to(x.dtype)
        return x, TokenGrid(freq=1, time=tokens), torch.arange(tokens, device=x.device) < own[:, None]

    def grid(self, tokens: int, mels: int) -> TokenGrid:
        """The grid of a row of this many tokens."""
        return TokenGrid(freq=1, time=tokens)

    def _positions(self, tokens: int) -> Tensor:
        if tokens <= len(self.positions):
            return self.positions[:tokens]
        return F.interpolate(self.positions.T[None], size=tokens, mode="linear")[0].T


def make(name: str, sizes: WhisperSizes) -> Encoder:
    """An empty Whisper encoder of the given sizes."""
    blocks = [Block(sizes.dim, sizes.heads, 4 * sizes.dim, eps=1e-5, k_bias=False) for _ in range(sizes.depth)]
    return Encoder(
        name,
        frontend=FRONTENDS["whisper"](mels=sizes.mels),
        stem=WhisperStem(sizes.mels, sizes.dim, sizes.positions),
        blocks=blocks,
        norm=Norm(sizes.dim, eps=1e-5),
        dim=sizes.dim,
        usual_layers=range(sizes.depth // 2, sizes.depth + 1),  # the last alone hears words more than sounds
    )


RULES: keys.Rules = [
    (r"^(?:model\.)?encoder\.(?=conv|embed|layers|layer_norm)", ""),
    (r"^conv(\d)\.", r"stem.conv\1."),
    (r"^embed_positions\.weight$", "stem.positions"),
    (r"^layers\.", "blocks."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.self_attn\.", ".attn."),
    (r"\.final_layer_norm\.", ".norm2."),
    (r"^(blocks\.\d+)\.fc(\d)\.", r"\1.mlp.fc\2."),
    (r"^layer_norm\.", "norm."),
]
# Original OpenAI files: {'dims', 'model_state_dict'} with these names.
OPENAI: keys.Rules = [
    (r"^encoder\.positional_embedding$", "embed_positions.weight"),
    (r"^encoder\.ln_post\.", "layer_norm."),
    (r"^encoder\.blocks\.", "layers."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.attn\.query\.", ".self_attn.q_proj."),
    (r"\.attn\.key\.", ".self_attn.k_proj."),
    (r"\.attn\.value\.", ".self_attn.v_proj."),
    (r"\.attn\.out\.", ".self_attn.out_proj."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
]


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of a Whisper encoder, from transformers' whole model or encoder, or OpenAI's file."""
    named = keys.rename(state, OPENAI + RULES, (r"^(?:model\.)?decoder\.", r"^proj_out\b"))
    if "stem.conv1.weight" not in named:
        raise WeightsError(f"not a Whisper encoder: no conv1 among {', '.join(list(state)[:3])} ...")
    return named


def infer(state: dict[str, Tensor], sizes: WhisperSizes) -> WhisperSizes:
    """Sizes as renamed tensors show them; a head is 64 wide in every Whisper."""
    dim, mels, _ = state["stem.conv1.weight"].shape
    heads = sizes.heads if dim == sizes.dim else max(1, dim // 64)
    return replace(
        sizes, dim=dim, mels=mels, heads=heads, depth=keys.count_blocks(state), positions=len(state["stem.positions"])
    )


def _spec(name: str, summary: str, sizes: WhisperSizes) -> Spec:
    return Spec(name, name, sizes, make, rename, infer, summary)


TINY_EN = _spec("whisper-tiny.en", "Whisper encoder, 8 M, English speech; small and strong", WhisperSizes())
TINY = _spec("whisper-tiny", "Whisper encoder, 8 M, 99 languages", WhisperSizes())
BASE_EN = _spec("whisper-base.en", "Whisper encoder, 21 M, English speech", WhisperSizes(dim=512, depth=6, heads=8))
BASE = _spec("whisper-base", "Whisper encoder, 21 M, 99 languages", WhisperSizes(dim=512, depth=6, heads=8))
