"""Captions for what is known of a scene: which sounds, which of them together, in which order, over what background.

Every caption names every sound and says of every two whether one came before the other or both were there at once.
"""

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from ossicle.data.phrases import Phrase, Phrases
from ossicle.errors import UsageError

Slots = tuple[tuple[str, ...], ...]  # labels that sound together, one group after another
T = TypeVar("T")
MOST = 5
_TRIES = 200

# {S0} is a sentence about sound 0 ("a dog barks"), {N0} a noun phrase ("a dog barking", "a barking dog"), {T0} one of
# those that no sentence was made into.
TEMPLATES: dict[tuple[int, ...], tuple[str, ...]] = {
    (1,): ("{S0}", "{N0}", "{S0}", "{T0} can be heard"),
    (1, 1): (
        "{S0} then {S1}", "{S0} and then {S1}", "{S0}, then {S1}", "{S0} followed by {N1}", "{N0} followed by {N1}",
        "{N0} and then {N1}", "{S0} before {S1}", "{S1} after {S0}", "{S1} after {N0}", "after {N0}, {S1}",
        "first {S0}, then {S1}", "{S0} and afterwards {S1}", "before {S1}, {S0}",
    ),
    (2,): (
        "{S0} while {S1}", "{S0} as {S1}", "{S0} and {S1} at the same time", "{N0} and {N1} at the same time",
        "{N0} with {N1}", "while {S0}, {S1}", "as {S0}, {S1}", "{N0} together with {N1}", "{N0} while {S1}",
    ),
    (1, 1, 1): (
        "{S0} then {S1} and then {S2}", "{S0}, then {S1}, then {S2}", "{S0} followed by {N1} and then {N2}",
        "{N0} followed by {N1} and then {N2}", "first {S0}, then {S1} and finally {S2}",
        "after {N0}, {S1} and then {S2}",
        "{N0}, then {N1} and then {N2}", "{S0} before {S1}, then {S2}", "{S1} after {S0}, and then {S2}",
    ),
    (1, 2): (
        "{S0}, then {S1} while {S2}", "{S0}, and then {S1} as {S2}", "{S0}, followed by {N1} with {N2}",
        "{N0}, followed by {N1} and {N2} at the same time", "{S0}, then {S1} and {S2} at the same time",
        "after {N0}, {S1} while {S2}", "after {S0}, {S1} as {S2}", "first {S0}, then {S1} while {S2}",
        "{N0}, and then {N1} together with {N2}",
    ),
    (2, 1): (
        "{S0} while {S1}, then {S2}", "{S0} as {S1}, and then {S2}", "{S0} as {S1}, followed by {N2}",
        "{N0} with {N1}, followed by {N2}", "{S0} and {S1} at the same time, then {S2}",
        "{S0} while {S1}, and afterwards {S2}", "{N0} and {N1} at the same time, then {N2}",
        "{N0} together with {N1}, and then {S2}", "first {S0} while {S1}, then {S2}",
    ),
}  # fmt: skip
# {C} is a caption of the sounds in front, which for those that begin with it must begin with a sentence or a noun.
ENDINGS = {
    "with": "{C} with {NG} in the background",
    "while": "{C} while {SG} in the background",
    "as": "{C} as {SG} in the background",
}
CLASHES = {"with": {"with"}, "while": {"while", "as"}, "as": {"while", "as"}}  # words a caption has no two of
OPENINGS = (
    "with {NG} in the background, {C}", "{SG} in the background while {C}", "{SG} in the background as {C}",
    "as {SG} in the background, {C}", "as {SG}, {C}",
)  # fmt: skip


def compose(
    slots: Slots, phrases: Phrases, rng: np.random.Generator, *, background: str | None = None, count: int = MOST
) -> tuple[str, ...]:
    """Write captions of one scene, no two alike.

    Args:
        slots: labels in order of time; those of one group sound together. One to three labels, all different.
        phrases: their wordings.
        rng: draws templates and wordings.
        background: label of a sound that lies under all the others.
        count: captions wanted, 1 to 5.

    Raises:
        UsageError: for another count, or sounds in a shape nobody wrote sentences for.
    """
    shape = tuple(len(group) for group in slots)
    if shape not in TEMPLATES:
        raise UsageError(f"groups of {shape} sounds came; wanted one of {', '.join(map(str, TEMPLATES))}")
    if not 1 <= count <= MOST:
        raise UsageError(f"{count} captions were asked for; wanted 1 to {MOST}")
    templates = [TEMPLATES[shape][k] for k in rng.permutation(len(TEMPLATES[shape]))]
    found: dict[str, None] = {}
    for turn in range(_TRIES):
        template = templates[turn % len(templates)]
        under = None if background is None else phrases.of(background)
        text = _write(template, [_shuffled(group, rng) for group in slots], phrases, under, rng)
        found.setdefault(text[0].upper() + text[1:])
        if len(found) == count:
            return tuple(found)
    raise UsageError(f"only {len(found)} of {count} captions of {slots} differ; give the labels more wordings")


def _shuffled(group: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Sounds that are there at once may be named in any order."""
    return [group[k] for k in rng.permutation(len(group))]


def _write(
    template: str, slots: Sequence[Sequence[str]], phrases: Phrases, under: Phrase | None, rng: np.random.Generator
) -> str:
    """One caption, in one tense."""
    entries = {str(k): phrases.of(label) for k, label in enumerate(label for group in slots for label in group)}
    if under is not None:
        entries["G"] = under
        template = _over(template, rng)
    progressive = bool(rng.random() < 0.3) and not re.search(r"\b(?:after|before)\b", template)

    def fill(match: re.Match[str]) -> str:
        kind, entry = match[1], entries[match[2]]
        if kind == "S":
            clause = _one(entry.clauses, rng)
            return clause.progressive if progressive else clause.present
        return _one(entry.nouns if kind == "N" else entry.things, rng)

    return re.sub(r"\{([SNT])(\w)\}", fill, template)


def _over(template: str, rng: np.random.Generator) -> str:
    """Put the background around a caption, so that it says of the background that it lies under all of it."""
    used = set(re.findall(r"\b(?:with|while|as)\b", template))
    around = [ending for link, ending in ENDINGS.items() if not used & CLASHES[link]]
    if template.startswith("{S"):
        around += OPENINGS if "," not in template else OPENINGS[:1]
    return _one(around or OPENINGS[:1], rng).replace("{C}", template)


def _one(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
