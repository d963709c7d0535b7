"""Patch stem of AST, ViT, DeiT and DINOv2: spectrogram patches, extra tokens, positions for any clip length."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.backbones.encoder import Encoder
from ossicle.backbones.keys import count_blocks
from ossicle.backbones.layers import Block, Norm
from ossicle.contracts import TokenGrid
from ossicle.errors import AudioError, WeightsError
from ossicle.sound.frontends import FRONTENDS

Pair = tuple[int, int]


@dataclass(frozen=True)
class PatchSizes:
    """Sizes of a patch transformer; pairs are (frequency, time).

    Args:
        dim: token width.
        depth: blocks.
        heads: attention heads.
        hidden: MLP width.
        patch: patch size in mel bands and frames.
        stride: step between patches.
        table: grid of the learnt position table.
        extra: class and distillation tokens.
        channels: input channels of the patch convolution.
        eps: of all norms.
        layer_scale: whether blocks have LayerScale.
        resize: how positions reach another grid.
        frontend: name in `frontends.FRONTENDS`.
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    patch: Pair = (16, 16)
    stride: Pair = (10, 10)
    table: Pair = (12, 101)
    extra: int = 2
    channels: int = 1
    eps: float = 1e-6
    layer_scale: bool = False
    resize: Literal["cut", "bicubic"] = "cut"
    frontend: str = "ast"


def cut_or_stretch(table: Tensor, grid: Pair) -> Tensor:
    """Positions as the original AST makes them: time first, then frequency; cut at the centre or bilinear.

    Args:
        table: (1, dim, freq, time).
        grid: wanted (freq, time).

    Returns:
        (1, dim, *grid). Source: AST, section 2.2 and its code.
    """
    freq, time = grid
    have_freq, have_time = table.shape[2:]
    if time <= have_time:
        start = have_time // 2 - time // 2
        table = table[..., start : start + time]
    else:
        table = F.interpolate(table, size=(have_freq, time), mode="bilinear")
    if freq <= have_freq:
        start = have_freq // 2 - freq // 2
        return table[:, :, start : start + freq]
    return F.interpolate(table, size=(freq, time), mode="bilinear")


def bicubic(table: Tensor, grid: Pair) -> Tensor:
    """Positions as ViT and DINOv2 make them: one bicubic resize of (1, dim, freq, time) to the grid."""
    if tuple(table.shape[2:]) == grid:
        return table
    return F.interpolate(table, size=grid, mode="bicubic", align_corners=False)


RESIZE: dict[str, Callable[[Tensor, Pair], Tensor]] = {"cut": cut_or_stretch, "bicubic": bicubic}


class PatchStem(nn.Module):
    """Spectrogram to patch tokens in frequency-major order, after the extra tokens.

    Args:
        sizes: flat sizes; only read here, never kept.
    """

    def __init__(self, sizes: PatchSizes) -> None:
        super().__init__()
        self.patch, self.stride, self.table = sizes.patch, sizes.stride, sizes.table
        self.channels = sizes.channels
        self.resize = RESIZE[sizes.resize]
        self.proj = nn.Conv2d(sizes.channels, sizes.dim, sizes.patch, stride=sizes.stride)
        self.extra = nn.Parameter(torch.zeros(1, sizes.extra, sizes.dim))
        self.positions = nn.Parameter(torch.zeros(1, sizes.extra + sizes.table[0] * sizes.table[1], sizes.dim))

    def forward(self, features: Tensor, frames: Tensor | None) -> tuple[Tensor, TokenGrid, Tensor | None]:
        """(batch, frames, mels) to tokens; see `encoder.Stem`.

        Raises:
            AudioError: if a clip has fewer frames than a patch is wide.
        """
        return self.embed(features.transpose(1, 2)[:, None].expand(-1, self.channels, -1, -1), frames)

    def embed(self, image: Tensor, frames: Tensor | None = None) -> tuple[Tensor, TokenGrid, Tensor | None]:
        """(batch, channels, freq, time) to tokens; images of vision models come in here."""
        shortest = image.shape[-1] if frames is None else int(frames.min())
        if shortest < self.patch[1]:
            raise AudioError(
                f"clip has {shortest} frames but a patch needs {self.patch[1]}; use longer clips or windows"
            )
        x = self.proj(image)  # (batch, dim, freq, time)
        batch, _, freq, time = x.shape
        extra = self.extra.shape[1]
        grid = TokenGrid(freq=freq, time=time, order="freq", extra=extra)
        columns = None if frames is None else (frames - self.patch[1]) // self.stride[1] + 1
        x = x + self._grid_positions(freq, time, columns).to(x.dtype)
        front = (self.extra + self.positions[:, :extra]).expand(batch, -1, -1).to(x.dtype)
        tokens = torch.cat([front, x.flatten(2).transpose(1, 2)], dim=1)
        if columns is None:
            return tokens, grid, None
        real = torch.arange(time, device=x.device) < columns[:, None]  # (batch, time)
        real = real[:, None, :].expand(-1, freq, -1).flatten(1)
        return tokens, grid, F.pad(real, (extra, 0), value=True)

    def grid(self, tokens: int, mels: int) -> TokenGrid:
        """The grid of a row of this many tokens over this many mel bands."""
        rows, extra = (mels - self.patch[0]) // self.stride[0] + 1, self.extra.shape[1]
        return TokenGrid(freq=rows, time=(tokens - extra) // rows, order="freq", extra=extra)

    def _grid_positions(self, freq: int, time: int, columns: Tensor | None) -> Tensor:
        """(1 or batch, dim, freq, time); each row gets the positions its own length would get alone."""
        dim = self.positions.shape[-1]
        table = self.positions[:, self.extra.shape[1] :].transpose(1, 2).reshape(1, dim, *self.table)
        if columns is None:
            return self.resize(table, (freq, time))
        made = {n: F.pad(self.resize(table, (freq, n)), (0, time - n)) for n in set(columns.tolist())}
        return torch.cat([made[n] for n in columns.tolist()])


def make(name: str, sizes: PatchSizes) -> Encoder:
    """An empty patch transformer of the given sizes."""
    blocks = [
        Block(sizes.dim, sizes.heads, sizes.hidden, eps=sizes.eps, layer_scale=sizes.layer_scale)
        for _ in range(sizes.depth)
    ]
    return Encoder(
        name,
        frontend=FRONTENDS[sizes.frontend](),
        stem=PatchStem(sizes),
        blocks=blocks,
        norm=Norm(sizes.dim, eps=sizes.eps),
        dim=sizes.dim,
    )


def infer(state: dict[str, Tensor], sizes: PatchSizes) -> PatchSizes:
    """Sizes as renamed tensors show them; the stride follows from the length of the position table.

    A head is 64 wide in every published size of these families. Convolutions over three colours are summed when
    `sizes` asks for one channel (AST, section 2.2), which changes `state`.
    """
    proj = state["stem.proj.weight"]
    if sizes.channels == 1 and proj.shape[1] == 3:
        proj = state["stem.proj.weight"] = proj.sum(dim=1, keepdim=True)
    dim, _, *patch = proj.shape
    extra = state["stem.extra"].shape[1]
    cells = state["stem.positions"].shape[1] - extra
    pair = (int(patch[0]), int(patch[1]))
    found = replace(
        sizes,
        dim=dim,
        depth=count_blocks(state),
        heads=sizes.heads if dim == sizes.dim else max(1, dim // 64),
        hidden=state["blocks.0.mlp.fc1.weight"].shape[0],
        patch=pair,
        extra=extra,
        layer_scale="blocks.0.scale1.gain" in state,
    )
    if sizes.resize == "bicubic" or cells == sizes.table[0] * sizes.table[1]:
        return replace(found, table=sizes.table if cells == sizes.table[0] * sizes.table[1] else _square(cells))
    table, stride = _spectrogram_table(cells, pair, sizes.stride)
    return replace(found, table=table, stride=stride)


def _square(cells: int) -> Pair:
    side = round(cells**0.5)
    if side * side != cells:
        raise WeightsError(f"{cells} positions do not form a square; these are not weights of an image model")
    return side, side


def _spectrogram_table(cells: int, patch: Pair, stride: Pair, mels: int = 128) -> tuple[Pair, Pair]:
    """Table and stride of an AST or SSAST checkpoint over 128 mel bands; frame patches do not overlap."""
    for step in (patch,) if patch[0] == mels else (stride, (10, 10), patch):
        rows = (mels - patch[0]) // step[0] + 1
        if cells % rows == 0:
            return (rows, cells // rows), step
    raise WeightsError(f"{cells} positions fit no grid of {patch} patches over {mels} mel bands")
