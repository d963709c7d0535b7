"""Adapters that ship with the package, by name."""

from pathlib import Path

from ossicle.errors import CheckpointError
from ossicle.share import hub

NAMES = ("esc50-whisper-tiny", "scenes-whisper-tiny")


def find(where: str) -> Path:
    """The folder of an adapter: a path, the name of one that ships, or a repository name/birds on the hub.

    Raises:
        CheckpointError: if there is none of these.
    """
    folder = Path(where)
    if folder.exists():
        return folder
    if where in NAMES:
        return Path(__file__).parent / where
    if hub.REPO.fullmatch(where) and not where.startswith("."):
        return hub.fetch(where)
    raise CheckpointError(
        f"no adapter folder '{where}'; give a folder, name/repository on the hub, or one that ships: {', '.join(NAMES)}"
    )
