"""The frozen backbone of a recipe, and what tells its weights apart from others."""

import re

import numpy as np

from ossicle import adapters, backbones
from ossicle.adapters.spec import share_out
from ossicle.backbones import Encoder, Encoders, Joined, weights
from ossicle.errors import AdapterError, UsageError, WeightsError
from ossicle.recipe.config import Recipe

QUERY = r"blocks\.\d+\.attn\.q_proj\.weight"
# Settings of one encoder, which a joined backbone cannot have.
ALONE = ("weights", "stride", "frontend", "frames", "statistics")
# The same weights may come in other precisions. YAMNet's also come on a grid of 8 bits.
ROUNDING = {"yamnet": 0.05}
USUAL_ROUNDING = 1e-3


# What a classifier hears through where its recipe says nothing: the first whose weights can be had
# (benchmarks/results/quality_default.json).
USUAL = ("mn04+whisper-tiny.en", "yamnet+whisper-tiny.en")
USUAL_ADAPTER = "probe()"


def settled(recipe: Recipe) -> tuple[Recipe, str]:
    """A recipe that names its backbone and adapter; and a notice, "" if there is none.

    Raises:
        WeightsError: if no usual backbone can be had.
    """
    name, notice = recipe.backbone.name, ""
    if not name:
        name, notice = _usual(recipe.backbone.source)
    table = recipe.backbone.model_copy(update={"name": name})
    adapter = recipe.adapter.model_copy(update={"spec": recipe.adapter.spec or USUAL_ADAPTER})
    return recipe.model_copy(update={"backbone": table, "adapter": adapter}), notice


def _usual(source: weights.Origin) -> tuple[str, str]:
    """The first usual backbone whose weights can be had, and why it is not the first of all."""
    faults = []
    for name in USUAL:
        try:
            for part in backbones.names_of(name):
                weights.fetch(backbones.spec(part).weights, source)
        except WeightsError as err:
            faults.append(f"{name} cannot be had: {err}")
            continue
        return name, f"{faults[0]}; {name} is taken instead" if faults else ""
    raise WeightsError("; ".join(faults))


def frozen(recipe: Recipe) -> Encoders:
    """The backbone of a recipe without an adapter.

    Raises:
        UnknownNameError: for an unknown encoder.
        UsageError: for a setting that a joined backbone cannot have.
        WeightsError: if weights cannot be had.
    """
    table = recipe.backbone
    names = backbones.names_of(table.name)
    if len(names) == 1:
        return backbones.load(
            names[0], weights_from=table.weights or None, source=table.source, stride=table.stride or None,
            frontend=table.frontend or None, frames=table.frames or None, statistics=table.statistics or None,
            zero_positions=table.positions == "zero",
        )  # fmt: skip
    given = [key for key in ALONE if getattr(table, key)] + ["positions"] * (table.positions == "zero")
    if given:
        raise UsageError(f"backbone.{given[0]} is of one encoder, but {table.name} joins {len(names)}; leave it out")
    return Joined([backbones.load(name, source=table.source) for name in names])


def single(encoder: Encoders, what: str) -> Encoder:
    """The one encoder of a backbone.

    Raises:
        UsageError: if it joins several, for which `what` is not made.
    """
    if not isinstance(encoder, Encoder):
        raise UsageError(f"{what} is of one encoder, but {encoder.name} joins {len(encoder.encoders)}")
    return encoder


def adapted(recipe: Recipe) -> Encoders:
    """The backbone of a recipe with a fresh adapter.

    Raises:
        UnknownNameError: for an unknown backbone or adapter.
        AdapterError: if the adapter does not fit.
        WeightsError: if the backbone's weights cannot be had.
    """
    names = backbones.names_of(recipe.backbone.name)
    shares = shared_out(recipe)
    encoder = frozen(recipe)
    for name, part in zip(names, encoder.encoders, strict=True):
        adapters.inject(part, shares[name], seed=recipe.train.seed)
    return encoder


def shared_out(recipe: Recipe) -> dict[str, adapters.Adapter]:
    """The adapter of every encoder of a recipe's backbone, by name."""
    names = backbones.names_of(recipe.backbone.name)
    return share_out(recipe.adapter.spec, names, {name: backbones.skeleton(name).depth for name in names})


def signature(encoder: Encoders) -> list[float]:
    """What tells weights apart in whatever precision they are: spreads of frozen weights, encoder by encoder.

    Of a transformer those of every block's query projection, of a tagger those of every convolution and linear map.

    Raises:
        WeightsError: if there is nothing to tell by.
    """
    found = [spread for part in encoder.encoders for spread in _spreads(part)]
    if not found:
        raise WeightsError(f"{encoder.name} has no weights to know it by")
    return found


def _spreads(encoder: Encoder) -> list[float]:
    state = {key.replace(".base", ""): value for key, value in encoder.state_dict().items()}
    weights = [t for key, t in state.items() if re.fullmatch(QUERY, key) or (not encoder.depth and t.ndim > 1)]
    return [round(float(t.std()), 6) for t in weights]


def check_same(known: list[float], encoder: Encoders, told: str) -> None:
    """See that a backbone, before its adapter's weights are filled in, is the one that a signature is of.

    Raises:
        AdapterError: beginning with `told`, if it has other weights.
    """
    here = signature(encoder)
    room = [ROUNDING.get(part.name, USUAL_ROUNDING) for part in encoder.encoders for _ in _spreads(part)]
    if len(known) != len(here) or (np.abs(np.array(known) - here) > np.array(room) * np.abs(here)).any():
        raise AdapterError(f"{told}; give the ones it was trained on")
