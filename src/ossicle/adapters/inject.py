"""Put adapters on an encoder, take them off, fold them in, move their weights in and out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ossicle.adapters.base import Adapted, Site, fold_of
from ossicle.adapters.full import Full, Probe
from ossicle.adapters.spec import Adapter
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.joined import Encoders
from ossicle.errors import AdapterError


@dataclass
class Injected:
    """What is known of one adapter on an encoder.

    Args:
        adapter: its parsed spec.
        paths: the parts it wraps.
        frozen: the encoder's own weights while a `full` adapter trains them; a tagger's published head is none of them.
    """

    adapter: Adapter
    paths: list[str]
    frozen: dict[str, Tensor] = field(default_factory=dict)


def inject(encoder: Encoder, adapter: Adapter, *, name: str = "default", seed: int = 0) -> None:
    """Put an adapter on an encoder and make it the active one. Everything is checked before anything changes.

    Args:
        encoder: a frozen encoder; other adapters may be on it.
        adapter: a parsed spec.
        name: its name on this encoder.
        seed: of its random initial weights.

    Raises:
        AdapterError: if the name is taken, the spec does not fit, or two parts want one place.
    """
    if name in encoder.adapters or not name.isidentifier() or hasattr(nn.ModuleDict(), name):
        raise AdapterError(
            f"adapter name '{name}' is taken or not a plain name; on the encoder: {sorted(encoder.adapters)}"
        )
    full = any(isinstance(part, Full) for part in adapter.parts)
    others = [n for n, i in encoder.adapters.items() if full or i.frozen]
    if others or (full and len(adapter.parts) > 1):
        raise AdapterError(f"full fine-tuning owns the whole encoder; use it alone (found {others or adapter.text})")
    _check_blocks(encoder, adapter)
    generator = torch.Generator().manual_seed(seed)
    sites = [site for part in adapter.parts for site in part.plan(encoder, generator)]
    paths = [site.path for site in sites]
    twice = next((p for p in paths if paths.count(p) > 1), None)
    if twice:
        raise AdapterError(f"two parts of '{adapter.text}' sit on {twice}; give them different sites or blocks")
    device = next(encoder.stem.parameters()).device
    for site in sites:
        site.delta.to(device)
        _wrap(encoder, site, name)
    own = dict(encoder.named_parameters()) if full else {}
    published = set() if encoder.tags is None else {id(p) for p in encoder.tags.parameters()}
    own = {key: value for key, value in own.items() if id(value) not in published}
    frozen = {key: value.detach().clone() for key, value in own.items()}
    for value in own.values():
        value.requires_grad_(True)
    encoder.adapters[name] = Injected(adapter, paths, frozen)
    encoder.active = name


def _check_blocks(encoder: Encoder, adapter: Adapter) -> None:
    """Most adapters sit in transformer blocks, which a convolutional tagger does not have."""
    if not encoder.depth and not all(isinstance(part, Full | Probe) for part in adapter.parts):
        raise AdapterError(
            f"'{adapter.text}' sits in transformer blocks, but {encoder.name} is convolutional and has none; "
            "use probe() or full(), or join it with a transformer, as in mn04+whisper-tiny.en"
        )


def remove(encoder: Encoder, name: str) -> None:
    """Take an adapter off; the last one gone leaves the frozen encoder bit for bit.

    Raises:
        AdapterError: if it is not there.
    """
    injected = _known(encoder, name)
    for path in injected.paths:
        _unwrap(encoder, path, name)
    if injected.frozen:
        encoder.load_state_dict(injected.frozen, strict=False)
        encoder.requires_grad_(False)
    del encoder.adapters[name]
    if encoder.active == name:
        encoder.active = next(iter(encoder.adapters), None)


def merge(encoder: Encoder, name: str) -> None:
    """Fold a linear adapter into the encoder's weights for good and take it off.

    Raises:
        AdapterError: naming the parts that are not linear and cannot be folded; nothing is changed then.
    """
    injected = _known(encoder, name)
    deltas = {path: _adapted(encoder, path).deltas[name] for path in injected.paths}
    stuck = sorted({type(d).__name__ for d in deltas.values() if fold_of(d) is None})
    if stuck:
        raise AdapterError(
            f"'{injected.adapter.text}' cannot be merged: {', '.join(stuck)} is not linear; keep it as adapter"
        )
    for path, delta in deltas.items():
        fold_of(delta)(_adapted(encoder, path).base)
    injected.frozen = {}
    remove(encoder, name)
    encoder.requires_grad_(False)


def trainable(encoder: Encoders, name: str) -> dict[str, nn.Parameter]:
    """The adapter's own parameters: what trains is what is saved is what is counted.

    Of a joined backbone, those of all its encoders, each name behind its encoder's and a slash.
    """
    if not isinstance(encoder, Encoder):
        parts = {part.name: trainable(part, name) for part in encoder.encoders}
        return {f"{part}/{key}": value for part, own in parts.items() for key, value in own.items()}
    injected = _known(encoder, name)
    if injected.frozen:
        return {key: value for key, value in encoder.named_parameters() if key in injected.frozen}
    return {
        f"{path}.{key}": value
        for path in injected.paths
        for key, value in _adapted(encoder, path).deltas[name].named_parameters()
    }


def load_state(encoder: Encoders, name: str, state: Mapping[str, Tensor]) -> None:
    """Fill an adapter's parameters.

    Raises:
        AdapterError: if names or shapes differ; nothing is changed then.
    """
    own = trainable(encoder, name)
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    if missing or unknown or wrong:
        listed = f"missing {missing[:2]}, unknown {unknown[:2]}, wrong shape {wrong[:2]}"
        text = "+".join(part.adapters[name].adapter.text for part in encoder.encoders)
        raise AdapterError(f"saved adapter does not fit '{text}' on {encoder.name}: {listed}")
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(state[key])


def _known(encoder: Encoder, name: str) -> Injected:
    if name not in encoder.adapters:
        raise AdapterError(f"no adapter '{name}' on {encoder.name}; there are: {sorted(encoder.adapters)}")
    found: Injected = encoder.adapters[name]
    return found


def _parent(encoder: Encoder, path: str) -> tuple[nn.Module, str]:
    """The module that holds the last part of a path, seen through wrappers."""
    *parts, last = path.split(".")
    module: nn.Module = encoder
    for part in parts:
        module = getattr(module, part)
        module = module.base if isinstance(module, Adapted) else module
    return module, last


def _adapted(encoder: Encoder, path: str) -> Adapted:
    parent, last = _parent(encoder, path)
    found: Adapted = getattr(parent, last)
    return found


def _wrap(encoder: Encoder, site: Site, name: str) -> None:
    parent, last = _parent(encoder, site.path)
    module = getattr(parent, last)
    if not isinstance(module, Adapted):
        module = Adapted(module)
        setattr(parent, last, module)
    module.add(name, site)


def _unwrap(encoder: Encoder, path: str, name: str) -> None:
    parent, last = _parent(encoder, path)
    module: Adapted = getattr(parent, last)
    module.drop(name)
    if not module.places:
        setattr(parent, last, module.base)
