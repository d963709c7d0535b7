"""Adapters as text: `bottleneck(sites=attn,reduction=64)+norm()`; a preset's name stands for its text."""

import re
from dataclasses import dataclass, fields
from typing import Any

from ossicle.adapters.base import PartSpec
from ossicle.adapters.bitfit import BitFit
from ossicle.adapters.bottleneck import Bottleneck
from ossicle.adapters.convpass import Convpass
from ossicle.adapters.full import Full, Probe
from ossicle.adapters.hydra import Hydra
from ossicle.adapters.lookaside import LookAside
from ossicle.adapters.lora import Lora
from ossicle.adapters.norms import Norms
from ossicle.adapters.prefix import Prefix
from ossicle.adapters.presets import PRESETS
from ossicle.adapters.prompts import Prompts
from ossicle.errors import AdapterError, UnknownNameError

ADAPTERS: dict[str, type[Any]] = {
    "bitfit": BitFit,
    "bottleneck": Bottleneck,
    "convpass": Convpass,
    "full": Full,
    "hydra": Hydra,
    "lookaside": LookAside,
    "lora": Lora,
    "norm": Norms,
    "prefix": Prefix,
    "probe": Probe,
    "prompts": Prompts,
}


@dataclass(frozen=True)
class Adapter:
    """A parsed adapter.

    Args:
        text: what was written.
        parts: spec dataclasses, in order.
    """

    text: str
    parts: tuple[PartSpec, ...]


def parse(text: str) -> Adapter:
    """Read an adapter's text form or preset name.

    Raises:
        UnknownNameError: for an unknown adapter, preset or option, with the nearest name.
        AdapterError: for text that cannot be read or a value of the wrong type.
    """
    whole = PRESETS[text.strip()].text if text.strip() in PRESETS else text
    pieces = re.split(r"\+(?![^(]*\))", whole.replace(" ", ""))
    return Adapter(text, tuple(_part(piece) for piece in pieces))


def _part(piece: str) -> PartSpec:
    match = re.fullmatch(r"([\w.-]+)(?:\((.*)\))?", piece)
    if not match:
        raise AdapterError(f"cannot read adapter '{piece}'; write it like lora(rank=6,targets=qv,alpha=8)")
    name, inside = match.groups()
    if name in PRESETS and name not in ADAPTERS:
        raise AdapterError(f"'{name}' is a preset and stands alone; to join it write its text, '{PRESETS[name].text}'")
    if name not in ADAPTERS:
        raise UnknownNameError("adapter", name, [*ADAPTERS, *PRESETS])
    cls = ADAPTERS[name]
    types = {f.name: f.type for f in fields(cls)}
    options: dict[str, Any] = {}
    for pair in filter(None, (inside or "").split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise AdapterError(f"cannot read '{pair}' in {piece}; write option=value")
        if key not in types:
            raise UnknownNameError(f"option of {name}", key, types or ["(none: it has no options)"])
        options[key] = _value(name, key, value, types[key])
    part: PartSpec = cls(**options)
    return part


def _value(name: str, key: str, value: str, kind: Any) -> Any:
    readers: dict[Any, Any] = {int: int, float: float, str: str, bool: {"true": True, "false": False}.__getitem__}
    try:
        return readers[kind](value)
    except (ValueError, KeyError):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise AdapterError(f"{name}({key}={value}) wants {wanted}") from None
