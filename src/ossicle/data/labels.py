"""A word where two labels may be one, or one may be several."""

import re
from collections import Counter
from collections.abc import Sequence

from ossicle.contracts import Clip
from ossicle.data.notices import shorten


def notices(clips: Sequence[Clip]) -> list[str]:
    """What is odd about the labels: several in one, and one in several spellings."""
    labels = list(dict.fromkeys(label for clip in clips for label in clip.labels))
    return [*_joined(labels), *_spelled(labels)]


def _joined(labels: Sequence[str]) -> list[str]:
    """Labels with a | in them, or with a comma between parts that come again in other labels."""
    parts = {label: [part.strip() for part in re.split(r"[|,]", label)] for label in labels}
    often = Counter(part for found in parts.values() for part in found)
    odd = [
        label
        for label, found in parts.items()
        if len(found) > 1 and ("|" in label or any(often[part] > 1 for part in found))
    ]
    if not odd:
        return []
    quoted = [f"'{label}'" for label in odd]
    return [
        f"{len(odd)} label(s) look like several in one: {shorten(quoted)}; each was taken as one label, as only ; in "
        "a table joins several"
    ]


def _spelled(labels: Sequence[str]) -> list[str]:
    """Labels that differ in capitals, blanks and hyphens only."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(re.sub(r"[\s_-]+", " ", label).strip().casefold(), []).append(label)
    several = [" and ".join(f"'{label}'" for label in sorted(found)) for found in alike.values() if len(found) > 1]
    if not several:
        return []
    return [f"{len(several)} label(s) in several spellings, which are classes of their own: {shorten(several)}"]
