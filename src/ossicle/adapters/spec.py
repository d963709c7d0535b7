"""Adapters as text: `bottleneck(sites=attn,reduction=64)+norm()`; a preset's name stands for its text."""

import re
from collections.abc import Mapping, Sequence
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


def share_out(text: str, names: Sequence[str], blocks: Mapping[str, int]) -> dict[str, Adapter]:
    """Which encoder of a joined backbone gets which adapter; those that get none are probes.

    Args:
        text: adapters as in `parse`. A prefix names an encoder and holds up to the next one, as in
            "whisper-tiny.en:lora(rank=8)+norm()"; without any, the text is for every encoder that can carry it.
        names: of the encoders.
        blocks: how many transformer blocks each has.

    Raises:
        UnknownNameError: for a prefix that is none of the encoders, and as `parse`.
        AdapterError: for text before the first prefix, or if no encoder can carry it.
    """
    pieces = re.split(r"\+(?![^(]*\))(?!:)", text.replace(" ", ""))  # a name may end in +
    prefixed = [re.fullmatch(r"(?:([^(:]*):)?(.*)", piece).groups(default="") for piece in pieces]  # type: ignore[union-attr]
    if not any(name for name, _ in prefixed):
        adapter = parse(text)
        fits = [n for n in names if blocks[n] or all(isinstance(part, Full | Probe) for part in adapter.parts)]
        if not fits:
            raise AdapterError(f"none of {', '.join(names)} has transformer blocks for '{text}'; use probe() or full()")
        return {name: adapter if name in fits else parse("probe()") for name in names}
    shares: dict[str, list[str]] = {}
    now = ""
    for name, piece in prefixed:
        now = name or now
        if not now:
            raise AdapterError(f"'{piece}' in '{text}' stands before the first prefix; write {names[0]}:{piece}")
        if now not in names:
            raise UnknownNameError("encoder", now, names)
        shares.setdefault(now, []).append(piece)
    return {name: parse("+".join(shares.get(name, ["probe()"]))) for name in names}


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
