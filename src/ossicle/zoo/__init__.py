"""Adapters that ship with the package, by name."""

from pathlib import Path

from ossicle.errors import CheckpointError

NAMES = ("esc50-whisper-tiny",)


def find(where: str) -> Path:
    """The folder of an adapter: a path, or the name of one that ships.

    Raises:
        CheckpointError: if there is neither.
    """
    folder = Path(where)
    if folder.exists():
        return folder
    if where in NAMES:
        return Path(__file__).parent / where
    raise CheckpointError(f"no adapter folder '{where}'; give a folder, or one that ships: {', '.join(NAMES)}")
