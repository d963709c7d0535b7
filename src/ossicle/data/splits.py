"""Choosing clips: official splits, licences, a validation part, a few per class."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ossicle.contracts import Clip
from ossicle.data.notices import shorten
from ossicle.errors import DataError, UnknownNameError, UsageError


def select(
    clips: Sequence[Clip],
    splits: Sequence[str] | None = None,
    licences: Sequence[str] | None = None,
) -> list[Clip]:
    """Keep the clips of some official splits and licences, in their order.

    Args:
        clips: where to choose from.
        splits: names of splits or folds, or None for all.
        licences: licences allowed, upper or lower case, or None for all. A clip without a licence is not allowed.

    Raises:
        UnknownNameError: if no clip has one of the splits.
        DataError: if no clip is left.
    """
    present = {clip.split for clip in clips}
    for split in splits or ():
        if split not in present:
            raise UnknownNameError("split", split, present - {""} or ["(this data set has none)"])
    kept = [clip for clip in clips if splits is None or clip.split in splits]
    if licences is not None:
        allowed = {licence.casefold() for licence in licences}
        stated = Counter(clip.licence or "(none stated)" for clip in kept)
        kept = [clip for clip in kept if clip.licence and clip.licence.casefold() in allowed]
        if stated and not kept:
            found = ", ".join(f"{name} ({count} clips)" for name, count in sorted(stated.items()))
            raise DataError(f"no clip has the licence {', '.join(licences)}; found {found}; allow one of these")
    if not kept:
        raise DataError(f"no clip is left of {len(clips)} with splits {splits}; name at least one split with clips")
    return kept


def on_channel(clips: Sequence[Clip], channel: int) -> list[Clip]:
    """The clips heard on one channel, 1 the first, or on the mean of all for 0."""
    return [replace(clip, channel=channel) for clip in clips]


def hold_out(clips: Sequence[Clip], fraction: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Set clips apart for validation, stratified by first label; a group is never split.

    Every class with two or more groups keeps at least one for training and, where its groups belong to it alone,
    has at least one for validation; the only group of a class stays in training. A class's choice depends on the
    seed and on that class alone.

    Args:
        clips: where to choose from. Clips without a group are grouped by file.
        fraction: share of each class's clips to set apart, 0 <= fraction < 1.
        seed: chooses the groups.

    Returns:
        Training and validation clips, each in the order they came.

    Raises:
        UsageError: if the fraction is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"validation fraction {fraction} is outside [0, 1); 0.2 sets one clip in five apart")
    if fraction == 0:
        return list(clips), []
    members: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=_order):
        members.setdefault(_group(clip), []).append(clip)
    classes = {group: {_first(clip) for clip in found} for group, found in members.items()}
    left = Counter(label for labels in classes.values() for label in labels)  # training groups of each class
    strata: dict[str, list[str]] = {}
    for group, found in members.items():
        strata.setdefault(_main_label(found), []).append(group)
    held: set[str] = set()
    for label, groups in sorted(strata.items()):
        sizes = {group: len(members[group]) for group in groups}
        random.Random(f"{seed}:{label}").shuffle(groups)
        for group in _fill(groups, sizes, fraction):
            if all(left[name] > 1 for name in classes[group]):
                held.add(group)
                left.subtract(classes[group])
    train = [clip for clip in clips if _group(clip) not in held]
    return train, [clip for clip in clips if _group(clip) in held]


def _fill(order: Sequence[str], sizes: dict[str, int], fraction: float) -> list[str]:
    """Groups that come nearest to the wanted number of clips, at least one, never all."""
    if len(order) < 2:
        return []
    wanted = max(1, round(fraction * sum(sizes.values())))
    chosen: list[str] = []
    count = 0
    for group in order:
        nearer = abs(count + sizes[group] - wanted) < abs(count - wanted)
        if nearer and len(chosen) < len(order) - 1:
            chosen.append(group)
            count += sizes[group]
    return chosen or [min(order, key=lambda group: sizes[group])]


def per_class(clips: Sequence[Clip], k: int, seed: int | None) -> list[Clip]:
    """Choose k clips of every class, for learning from few; the choice for a smaller k is part of that for a larger.

    Args:
        clips: where to choose from; the first label counts.
        k: clips of each class.
        seed: chooses them; None takes the first of the file order, as PETL of AST does.

    Returns:
        The chosen clips sorted by label, then name.

    Raises:
        UsageError: if k is below 1.
        DataError: if a class has fewer than k clips.
    """
    if k < 1:
        raise UsageError(f"{k} clips per class were asked for; ask for at least 1")
    classes: dict[str, list[Clip]] = {}
    for clip in clips if seed is None else sorted(clips, key=_order):
        classes.setdefault(_first(clip), []).append(clip)
    short = [f"{label} ({len(found)})" for label, found in sorted(classes.items()) if len(found) < k]
    if short:
        raise DataError(f"{k} clips per class were asked for but these have fewer: {shorten(short)}; ask for less")
    chosen: list[Clip] = []
    for label, found in sorted(classes.items()):
        if seed is not None:
            random.Random(f"{seed}:{label}").shuffle(found)
        chosen += sorted(found[:k], key=_order)
    return chosen


def not_one_label(clips: Iterable[Clip]) -> list[str]:
    """A line for clips without a label and one for those with several; none if each has one."""
    found = list(clips)
    without = [clip.name or clip.path.name for clip in found if not clip.labels]
    several = [clip.name or clip.path.name for clip in found if len(clip.labels) > 1]
    faults = []
    if without:
        faults.append(f"{len(without)} clip(s) have no label: {shorten(without)}; label them or drop them")
    if several:
        faults.append(
            f"{len(several)} clip(s) have more than one label: {shorten(several)}; "
            "keep one label each, or train with several labels"
        )
    return faults


def check_labels(clips: Sequence[Clip]) -> list[str]:
    """What stops clips from training a single-label classifier: one line per fault, none if they are fine."""
    counts = Counter(label for clip in clips for label in clip.labels[:1])
    faults = not_one_label(clips)
    faults += [
        f"label '{label}' has 1 clip, at least 2 are wanted; add clips or drop the label"
        for label, count in sorted(counts.items())
        if count == 1
    ]
    if len(counts) == 1:
        faults.append(f"'{next(iter(counts))}' is the only label, at least 2 are wanted; add clips of another")
    return faults


def _first(clip: Clip) -> str:
    return clip.labels[0] if clip.labels else ""


def _main_label(clips: Sequence[Clip]) -> str:
    counts = Counter(_first(clip) for clip in clips)
    return min(counts, key=lambda label: (-counts[label], label))


def _group(clip: Clip) -> str:
    return f"group {clip.group}" if clip.group else f"file {clip.path}"


def _order(clip: Clip) -> tuple[str, str, float]:
    return clip.name or clip.path.name, str(clip.path), clip.start
