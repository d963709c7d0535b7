"""Adapters: what trains on a frozen encoder. A new one is a module here, a line in `spec.ADAPTERS` and a test case."""

from ossicle.adapters.inject import inject, load_state, merge, remove, trainable
from ossicle.adapters.presets import PRESETS
from ossicle.adapters.spec import ADAPTERS, Adapter, parse

__all__ = ["ADAPTERS", "PRESETS", "Adapter", "inject", "load_state", "merge", "parse", "remove", "trainable"]
