"""The frozen backbone of a recipe, and what tells its weights apart from others."""

import re

from ossicle import adapters, backbones
from ossicle.recipe.config import Recipe

QUERY = r"blocks\.\d+\.attn\.q_proj\.weight"


def frozen(recipe: Recipe) -> backbones.Encoder:
    """The backbone of a recipe without an adapter."""
    table = recipe.backbone
    return backbones.load(
        table.name, weights_from=table.weights or None, source=table.source, stride=table.stride or None,
        frontend=table.frontend or None, frames=table.frames or None, statistics=table.statistics or None,
        zero_positions=table.positions == "zero",
    )  # fmt: skip


def adapted(recipe: Recipe) -> backbones.Encoder:
    """The backbone of a recipe with a fresh adapter.

    Raises:
        UnknownNameError: for an unknown backbone or adapter.
        WeightsError: if the backbone's weights cannot be had.
    """
    adapter = adapters.parse(recipe.adapter.spec)
    backbones.spec(recipe.backbone.name)
    encoder = frozen(recipe)
    adapters.inject(encoder, adapter, seed=recipe.train.seed)
    return encoder


def signature(encoder: backbones.Encoder) -> list[float]:
    """The spread of every block's frozen query projection: tells checkpoints apart in whatever precision they are."""
    weights = [t for key, t in encoder.state_dict().items() if re.fullmatch(QUERY, key.replace(".base", ""))]
    return [round(float(t.std()), 6) for t in weights]
