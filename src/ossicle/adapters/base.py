"""`Adapted`: a frozen part plus named trainable corrections, and where a correction sits.

    parallel         frozen(x) + delta(x)
    after            y + delta(y)        with y = frozen(x)
    before           frozen(u) + u       with u = delta(x)
    instead          delta(x)            an overlay that holds its own copy of what it trains
    parallel_skip    frozen(x) + delta(x) + x
    after_only       delta(frozen(x))
    around           delta(frozen, x)         the correction calls the frozen part itself

x is the LayerNormed input of the sub-layer (PETL of AST, Table III and its code).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Context
from ossicle.errors import AdapterError

Frozen = Callable[[Tensor, Context], Tensor]


def _parallel(frozen: Frozen, delta: Frozen, x: Tensor, context: Context) -> Tensor:
    return frozen(x, context) + delta(x, context)


def _after(frozen: Frozen, delta: Frozen, x: Tensor, context: Context) -> Tensor:
    y = frozen(x, context)
    return y + delta(y, context)


def _before(frozen: Frozen, delta: Frozen, x: Tensor, context: Context) -> Tensor:
    u = delta(x, context)
    return frozen(u, context) + u


def _instead(frozen: Frozen, delta: Frozen, x: Tensor, context: Context) -> Tensor:
    return delta(x, context)


def _parallel_skip(frozen: Frozen, delta: Frozen, x: Tensor, context: Context) -> Tensor:
    return _parallel(frozen, delta, x, context) + x


def _after_only(frozen: Frozen, delta: Frozen, x: Tensor, context: Context) -> Tensor:
    return delta(frozen(x, context), context)


def _around(frozen: Frozen, delta: Any, x: Tensor, context: Context) -> Tensor:
    y: Tensor = delta(frozen, x, context)
    return y


PLACES: dict[str, Callable[[Frozen, Frozen, Tensor, Context], Tensor]] = {
    "parallel": _parallel,
    "after": _after,
    "before": _before,
    "instead": _instead,
    "parallel_skip": _parallel_skip,
    "after_only": _after_only,
    "around": _around,
}


@dataclass(frozen=True)
class Site:
    """One correction and where it goes.

    Args:
        path: the part of the encoder it wraps, such as "blocks.3.attn.q_proj".
        place: a key of `PLACES`.
        delta: the trainable module, called as delta(x, context).
    """

    path: str
    place: str
    delta: nn.Module


class PartSpec(Protocol):
    """What every adapter's frozen spec dataclass offers."""

    def plan(self, encoder: Encoder, generator: torch.Generator) -> list[Site]:
        """New deltas for this encoder; checks everything, changes nothing.

        Raises:
            AdapterError: if the spec does not fit the encoder.
        """
        ...


class Adapted(nn.Module):
    """A frozen module with deltas by adapter name; a forward runs the delta its context names.

    Args:
        base: the frozen module, called as base(x, context).
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.deltas = nn.ModuleDict()
        self.places: dict[str, str] = {}

    def add(self, name: str, site: Site) -> None:
        """Hold one more named delta."""
        self.deltas[name] = site.delta
        self.places[name] = site.place

    def drop(self, name: str) -> None:
        """Forget a named delta."""
        del self.deltas[name], self.places[name]

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(batch, tokens, dim) through base and the delta `context.adapter` names."""
        name = context.adapter
        if name not in self.places:
            y: Tensor = self.base(x, context)
            return y
        return PLACES[self.places[name]](self.base, self.deltas[name], x, context)


def pick_blocks(text: str, depth: int) -> list[int]:
    """Block numbers, counted from 0: "all", "top:3", "0-3" or "2".

    Raises:
        AdapterError: for other text or a block that does not exist.
    """
    first, dash, last = text.partition("-")
    if text == "all":
        return list(range(depth))
    if text.startswith("top:") and text[4:].isdigit() and 0 < int(text[4:]) <= depth:
        return list(range(depth - int(text[4:]), depth))
    if first.isdigit() and (not dash or last.isdigit()) and int(first) <= int(last or first) < depth:
        return list(range(int(first), int(last or first) + 1))
    raise AdapterError(f"blocks={text} but there are blocks 0 to {depth - 1}; write all, top:3, 0-3 or 2")


def pick(kind: str, text: str, options: Sequence[str]) -> str:
    """`text` if it is one of the options, else an AdapterError that lists them."""
    if text not in options:
        raise AdapterError(f"{kind}={text} is not known; choose from: {', '.join(options)}")
    return text


def positive(**values: float) -> None:
    """Raise an AdapterError for the first value that is not above zero."""
    for name, value in values.items():
        if not value > 0:
            raise AdapterError(f"{name}={value} must be above 0")


def share(**values: float) -> None:
    """Raise an AdapterError for the first value outside 0 to below 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise AdapterError(f"{name}={value} must be at least 0 and below 1")


def fill(weight: Tensor, init: str, generator: torch.Generator, *, up: bool) -> None:
    """Initialise a projection in place.

    Args:
        weight: the (out, in) matrix or (out, in, ...) kernel.
        init: "silent" (down normal, up zero: starts as the frozen model), "hf" (both truncated normal of std 0.02,
            what the code of PETL of AST really started from) or "zero" (both zero: never learns; for the record).
        generator: draws the numbers.
        up: whether this is the projection back to the token width.
    """
    if weight.is_meta:
        return
    with torch.no_grad():
        if init == "zero" or (init == "silent" and up):
            weight.zero_()
        elif init == "hf":
            nn.init.trunc_normal_(weight, std=0.02, generator=generator)
        else:
            weight.normal_(std=weight[0].numel() ** -0.5, generator=generator)


def fill_linears(down: nn.Linear, up: nn.Linear, init: str, generator: torch.Generator) -> None:
    """Initialise both projections of a bottleneck, biases zero."""
    fill(down.weight, init, generator, up=False)
    fill(up.weight, init, generator, up=True)
    for bias in (down.bias, up.bias):
        if not bias.is_meta:
            nn.init.zeros_(bias)


INITS = ("silent", "hf", "zero")


def fold_of(delta: nn.Module) -> Any:
    """The delta's `fold(base)`, which writes it into the frozen weights, or None if it is not linear."""
    return getattr(delta, "fold", None)
