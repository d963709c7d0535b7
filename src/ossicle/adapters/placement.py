"""Where a correction of a sub-layer sits: the placements of PETL of AST, Tables III and VII."""

from collections.abc import Callable

from torch import nn

from ossicle.adapters.base import Site, pick, pick_blocks
from ossicle.adapters.norms import overlay
from ossicle.backbones.encoder import Encoder
from ossicle.errors import AdapterError

NORM_OF = {"attn": "norm1", "mlp": "norm2"}
# (place, residual) to a key of `base.PLACES`; "off" and "on" are the ablation of Table VII.
PLACEMENTS = {
    ("parallel", "off"): "parallel",
    ("parallel", "on"): "parallel_skip",
    ("after", "on"): "after",
    ("after", "off"): "after_only",
    ("before", "on"): "before",
}
USUAL_RESIDUAL = {"parallel": "off", "after": "on", "before": "on"}


def placement(place: str, residual: str) -> str:
    """The key of `base.PLACES` for a place and whether its residual is on, off or usual.

    Raises:
        AdapterError: for a place or a pair that does not exist.
    """
    pick("place", place, tuple(USUAL_RESIDUAL))
    chosen = USUAL_RESIDUAL[place] if residual == "usual" else residual
    if (place, chosen) not in PLACEMENTS:
        raise AdapterError(f"there is no place={place} with residual={residual}; use on, off or usual")
    return PLACEMENTS[place, chosen]


def at_sub_layers(
    encoder: Encoder, sites: str, place: str, blocks: str, make: Callable[[], nn.Module], *, norms: bool
) -> list[Site]:
    """One new delta per chosen sub-layer of every chosen block.

    Args:
        encoder: to be adapted.
        sites: attn, mlp or both.
        place: a key of `base.PLACES`.
        blocks: see `base.pick_blocks`.
        make: gives a new delta.
        norms: also train the LayerNorm of every touched sub-layer, as the code of PETL of AST does.
    """
    parts = ("attn", "mlp") if pick("sites", sites, ("attn", "mlp", "both")) == "both" else (sites,)
    found = []
    for n in pick_blocks(blocks, encoder.depth):
        for part in parts:
            found.append(Site(f"blocks.{n}.{part}", place, make()))
            if norms:
                found.append(overlay(encoder, f"blocks.{n}.{NORM_OF[part]}"))
    return found


def width(encoder: Encoder, rank: int, reduction: int) -> int:
    """`rank`, or round(dim / reduction) where rank is 0."""
    return rank or max(1, round(encoder.dim / reduction))
