"""Convolutions over tokens: on the time-frequency grid, or along the sequence.

Dropped tokens (masking) and padded ones count as zeros, so what a token gets depends on its own clip only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.contracts import Context


def spread(x: Tensor, context: Context) -> Tensor:
    """Tokens at their places in the whole grid, zeros where one was dropped or is not real.

    Args:
        x: (batch, extra + kept, channels).
        context: of these tokens.

    Returns:
        (batch, extra + freq * time, channels).
    """
    if context.mask is not None:
        x = x * context.mask[:, 0, 0, :, None].to(x.dtype)
    if context.kept is None:
        return x
    grid = context.grid
    whole = x.new_zeros(x.shape[0], grid.tokens - grid.extra, x.shape[-1])
    index = context.kept[..., None].expand(-1, -1, x.shape[-1])
    return torch.cat([x[:, : grid.extra], whole.scatter(1, index, x[:, grid.extra :])], dim=1)


def collect(x: Tensor, context: Context) -> Tensor:
    """The inverse of `spread`: only the tokens that were not dropped."""
    if context.kept is None:
        return x
    extra = context.grid.extra
    index = context.kept[..., None].expand(-1, -1, x.shape[-1])
    return torch.cat([x[:, :extra], x[:, extra:].gather(1, index)], dim=1)


class GridConv(nn.Conv2d):
    """Convolution over the token grid, rows frequency and columns time, zeros beyond its edge.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: (frequency, time), odd.
        bias: whether it has one.
        extra: "centre" sends extra tokens through the kernel's centre tap, as images of one pixel (Convpass);
            "skip" gives them zeros.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], *, bias: bool = True, extra: str = "centre"
    ) -> None:
        super().__init__(inputs, outputs, kernel, padding=(kernel[0] // 2, kernel[1] // 2), bias=bias)
        self.extra = extra

    def forward(self, x: Tensor, context: Context) -> Tensor:  # type: ignore[override]
        """(batch, tokens, inputs) to (batch, tokens, outputs)."""
        grid = context.grid
        if self.kernel_size == (1, 1) and self.extra == "centre":
            return F.linear(x, self.weight[:, :, 0, 0], self.bias)
        whole = spread(x, context)
        front, rest = whole[:, : grid.extra], whole[:, grid.extra :]
        by_freq = grid.order == "freq"
        sides = (grid.freq, grid.time) if by_freq else (grid.time, grid.freq)
        image = rest.reshape(x.shape[0], *sides, -1).permute(0, 3, 1, 2)  # (batch, channels, *sides)
        image = super().forward(image if by_freq else image.transpose(2, 3))
        rest = (image if by_freq else image.transpose(2, 3)).flatten(2).transpose(1, 2)
        centre = self.weight[:, :, self.kernel_size[0] // 2, self.kernel_size[1] // 2]
        front = F.linear(front, centre, self.bias)
        return collect(torch.cat([front if self.extra == "centre" else front * 0, rest], dim=1), context)


class SequenceConv(nn.Conv1d):
    """Convolution along the tokens in the order they come, extra ones included, zeros beyond both ends.

    Args:
        channels: in and out.
        size: of the kernel, odd.
    """

    def __init__(self, channels: int, size: int = 3) -> None:
        super().__init__(channels, channels, size, padding=size // 2)

    def forward(self, x: Tensor, context: Context) -> Tensor:  # type: ignore[override]
        """(batch, tokens, channels) to the same shape; padded tokens are passed over, as if they were not there."""
        whole = spread(x, context)
        if context.mask is None or context.kept is not None:
            return collect(self._along(whole), context)
        real_first = (~context.mask[:, 0, 0]).long().argsort(dim=1, stable=True)[..., None].expand_as(whole)
        return torch.zeros_like(whole).scatter(1, real_first, self._along(whole.gather(1, real_first)))

    def _along(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def kaiming(conv: nn.Conv1d | nn.Conv2d, generator: torch.Generator) -> None:
    """Torch's usual start of a convolution, drawn from a generator: uniform within 1 / sqrt(fan in)."""
    if conv.weight.is_meta:
        return
    edge = conv.weight[0].numel() ** -0.5
    with torch.no_grad():
        for tensor in (conv.weight, conv.bias):
            if tensor is not None:
                tensor.uniform_(-edge, edge, generator=generator)
