"""Adapters that ship with the package, by name."""

import difflib
import os
from pathlib import Path

from ossicle.adapters import store
from ossicle.backbones import BACKBONES, names_of, skeleton
from ossicle.errors import CheckpointError, UnknownNameError
from ossicle.share import hub
from ossicle.training.checkpoint import LAST

# Classifiers in the order in which the demo tries them: the second needs nothing but a package index.
CLASSIFIERS = ("esc50", "esc50-offline")
CAPTIONER = "everyday"
NAMES = (*CLASSIFIERS, CAPTIONER)
GONE = {
    "esc50-whisper-tiny": "esc50 (hears with mn04 too) or esc50-offline (with YAMNet, from a package index alone)",
    "scenes-whisper-tiny": "everyday (reads the tags of mn04 or YAMNet)",
}


def find(where: str) -> Path:
    """The folder of an adapter: whichever comes first in the order below.

    A folder with `ossicle.json`; an adapter that ships; a backbone, which alone is no adapter; any other path, which is
    none either; a repository name/birds on the hub. So a folder of sounds never hides a name, and the hub is never
    asked about a path that is here.

    Raises:
        CheckpointError: if there is no adapter; it says what was looked for.
    """
    folder = Path(where)
    if where and (folder / store.MANIFEST).is_file():
        return folder
    if where in NAMES:
        return Path(__file__).parent / where
    if where in GONE:
        raise CheckpointError(f"'{where}' ships no longer; use {GONE[where]}")
    if name := backbone(where):
        raise CheckpointError(
            f"'{name}' is a backbone, but an adapter trained on one is wanted; train it with"
            f" `ossicle train classify DATA --backbone {name} --out DIR` and give DIR{_tags(name)}"
        )
    if where and os.path.lexists(folder):
        raise CheckpointError(f"'{where}' is not an adapter folder: {_lacks(folder)}")
    if hub.REPO.fullmatch(where) and not where.startswith("."):
        return hub.fetch(where)
    near = difflib.get_close_matches(where, (*NAMES, *BACKBONES), n=1, cutoff=0.7)
    hint = f"did you mean '{near[0]}'?" if near else "give the --out of a training, or one of these"
    raise CheckpointError(
        f"no adapter folder '{where}'; looked for a folder with {store.MANIFEST}, an adapter that ships"
        f" ({', '.join(NAMES)}), a backbone, and a name/repository of the hub; {hint}"
    )


def backbone(where: str) -> str:
    """The backbone, alone or joined, that a name means in the order of `find`; "" where it means something else."""
    if where in NAMES or (where and (Path(where) / store.MANIFEST).is_file()):
        return ""
    try:
        return where if "+".join(names_of(where)) == where else ""
    except UnknownNameError:
        return ""


def _tags(name: str) -> str:
    """What a tagger can do untrained; "" of others."""
    tags = skeleton(name).tags if name in BACKBONES else None
    return "" if tags is None else f"; its own {len(tags.labels)} classes are those of `ossicle predict {name}` alone"


def _lacks(path: Path) -> str:
    """Why a path that is there is no adapter, what else was looked for, and what to do."""
    if (path / LAST).is_file():
        return f"it has no {store.MANIFEST}; if its training did not end, give that command again with --resume"
    if not path.is_dir() and (path.parent / store.MANIFEST).is_file():
        return f"it is a file; give its folder, '{path.parent}'"
    here = f"it has no {store.MANIFEST}" if path.is_dir() else "it is no folder"
    return (
        f"{here}; nor is that the name of an adapter that ships ({', '.join(NAMES)}) or of a backbone, and the hub is"
        " not asked about a path that is here; give the --out of a training"
    )
