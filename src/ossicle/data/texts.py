"""Captions without sound, as clips of text alone: what a captioner from tags can learn to write from."""

from pathlib import Path

from ossicle.contracts import Clip
from ossicle.data import Dataset
from ossicle.data.captions import references
from ossicle.errors import DataError

SECONDS = 10.0  # a clip has an end, so that nothing looks for it in a file


def open_texts(text: str) -> Dataset:
    """Captions of a table: a column of captions, or the columns of AudioCaps, Clotho or COCO.

    Args:
        text: the table; sounds that it names are not looked for.

    Raises:
        DataError: if it is no table, or has no captions.
    """
    path = Path(text).expanduser()
    if not path.is_file():
        here = "is a folder" if path.is_dir() else "is not there"
        raise DataError(f"--text-only wants a table of captions, but '{text}' {here}; give a csv, jsonl or json file")
    clips = [
        Clip(Path(name), end=SECONDS, captions=tuple(captions), group=name, name=name, text_only=True)
        for name, captions in references(path, nameless=True).items()
    ]
    return Dataset(path.stem, tuple(clips))
