"""One exception tree. Every message says what came, what was wanted and what to do.

OssicleError
├── UsageError           wrong use or configuration; a verb ends with exit code 2
│   ├── UnknownNameError     no such backbone, adapter, key, verb...; offers the nearest name
│   ├── RecipeError          all faults of a recipe at once
│   └── AdapterError         an adapter that does not fit its backbone
├── AudioError           one sound cannot be read; becomes an error row, never stops a batch
├── DataError            a data set is absent, empty or inconsistent
├── WeightsError         weights cannot be found, fetched, verified or converted
├── CheckpointError      a saved folder cannot be written, read or resumed
└── Interrupted          Ctrl-C; what is done is saved and the same command goes on
"""

import difflib
from collections.abc import Iterable


class OssicleError(Exception):
    """Base of every error a user can cause. `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(OssicleError, ValueError):
    """Wrong use or configuration."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in a literal table; the message offers the nearest one.

    Args:
        kind: what the name stands for, such as "backbone".
        name: what came.
        options: what was wanted.
    """

    def __init__(self, kind: str, name: str, options: Iterable[str]) -> None:
        known = sorted(options)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from: {', '.join(known)}"
        super().__init__(f"unknown {kind} '{name}'; {hint}")


class RecipeError(UsageError):
    """A recipe with faults, all of them listed.

    Args:
        where: the file or command line the recipe came from.
        faults: one line each.
    """

    def __init__(self, where: str, faults: list[str]) -> None:
        self.faults = faults
        listed = "; ".join(faults)
        super().__init__(f"{where}: {len(faults)} fault(s) in the recipe: {listed}")


class AdapterError(UsageError):
    """An adapter that cannot sit on the given backbone or does not match its file."""


class AudioError(OssicleError):
    """One sound that cannot be decoded or is not usable."""


class DataError(OssicleError):
    """A data set that is absent, empty or inconsistent."""

    exit_code = 2


class WeightsError(OssicleError):
    """Weights that cannot be found, fetched, verified or converted."""

    exit_code = 2


class CheckpointError(OssicleError):
    """A saved folder that cannot be written, read or resumed."""

    exit_code = 2


class Interrupted(OssicleError):
    """Work was stopped by Ctrl-C; what is done is saved and can go on."""
