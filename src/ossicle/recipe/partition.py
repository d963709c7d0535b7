"""Which clips are trained on, which choose the best epoch, which are tested, and the classes they have."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ossicle.contracts import Clip
from ossicle.data.notices import shorten
from ossicle.data.splits import check_labels, hold_out, not_one_label, on_channel, per_class, select
from ossicle.errors import DataError
from ossicle.recipe.config import ClassifyTable, Data, Recipe

OWN_SPLITS = {
    "train": "train", "training": "train", "development": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Clips by what they are for.

    Args:
        train: that are learnt from.
        val: that choose the best epoch.
        test: that are only scored.
        drawn: whether `val` was drawn from the training clips, and is no split of the data's or the user's own.
    """

    train: list[Clip]
    val: list[Clip]
    test: list[Clip]
    drawn: bool = False


def split(clips: Sequence[Clip], data: Data, seed: int) -> Split:
    """Training, validation and test clips as a recipe asks; if it does not ask, as the data's own splits say.

    Raises:
        UnknownNameError: for a split the data does not have.
        DataError: if nothing is left to train on, or a split is both trained on and scored.
    """
    clips = on_channel(clips, data.channel)
    data = _own_splits(clips, data)
    both = sorted(set(data.train) & {*data.val, *data.test})
    if both:
        raise DataError(f"split '{both[0]}' is in data.train and in data.val or data.test too; name it once")
    usable = select(clips, None, data.licences or None)
    test = select(clips, data.test, None) if data.test else []
    val = select(usable, data.val, None) if data.val else []
    kept_out = {*data.test, *data.val}
    train = select(usable, data.train, None) if data.train else [c for c in usable if c.split not in kept_out]
    if data.per_class:
        train = per_class(train, data.per_class, seed if data.per_class_from == "seeded" else None)
    drawn = not data.val and data.hold_out > 0
    if drawn:
        train, val = hold_out(train, data.hold_out, seed)
    if not train:
        raise DataError(f"no clip of {len(clips)} is left to train on; check data.train, data.licences and data.test")
    return Split(list(train), list(val), list(test), drawn)


def check_heard(clips: Sequence[Clip], kept: Sequence[Clip], bad: Mapping[str, str]) -> None:
    """See that enough of the training clips can be read.

    Args:
        clips: all of them.
        kept: those that can be read.
        bad: by the names of the others why they cannot.

    Raises:
        DataError: if none can be read, or none of a class: a class without a sound would be a name and nothing else.
    """
    if not kept:
        name, why = next(iter(bad.items()))
        raise DataError(f"no training clip can be read; first: {name}: {why}")
    there = {label for clip in kept for label in clip.labels}
    lost = {label: clip for clip in reversed(clips) for label in clip.labels if label not in there}
    if lost:
        told = [f"'{label}' ({(name := c.name or c.path.name)}: {bad[name]})" for label, c in sorted(lost.items())]
        count = f"{len(lost)} class(es) have no training clip that can be read"
        raise DataError(f"{count}: {shorten(told)}; mend the files, or drop the class")


def labels_of(parts: Split, recipe: Recipe) -> list[str]:
    """The classes of the training clips, sorted; with several labels a clip may have any number of them.

    Raises:
        DataError: if the training clips cannot be learnt from, or other clips have a class they lack.
    """
    clips = [*parts.train, *parts.val]
    if recipe.classify.multi_label:
        clips = [replace(c, labels=(n,)) for c in clips for n in c.labels]
    if not any(clip.labels for clip in clips):
        captioned = any(clip.captions for clip in parts.train)
        do = (
            "they have captions: learn these with `ossicle train caption-llm`"
            if captioned
            else "add a label column to their table, or folders of labels"
        )
        raise DataError(f"none of {len(parts.train)} training clips has a label; {do}")
    faults = check_labels(clips)
    if faults and recipe.data.per_class != 1:
        raise DataError("; ".join(faults))
    strange_tests = [] if recipe.classify.multi_label else not_one_label(parts.test)
    if strange_tests:
        raise DataError(f"test clips: {'; '.join(strange_tests)}")
    labels = sorted({label for clip in parts.train for label in clip.labels})
    strange = sorted({label for clip in [*parts.val, *parts.test] for label in clip.labels} - set(labels))
    if strange:
        raise DataError(f"validation or test clips have classes that no training clip has: {', '.join(strange[:5])}")
    return labels


def _own_splits(clips: Sequence[Clip], data: Data) -> Data:
    """Use train, validation and test splits where the data has them by these names and the recipe names none."""
    there = {clip.split for clip in clips}
    own = {split: OWN_SPLITS[split.casefold()] for split in there if split.casefold() in OWN_SPLITS}
    if data.train or data.val or data.test or not there <= {*own, ""} or "train" not in own.values():
        return data
    named = {part: [s for s in sorted(there) if own.get(s) == part] for part in ("train", "val", "test")}
    return data.model_copy(update=named)


def class_weights(task: ClassifyTable, clips: Sequence[Clip], labels: Sequence[str]) -> torch.Tensor | None:
    """Weights inverse to how often a class occurs, 1 on average."""
    if task.class_weights == "none":
        return None
    counts = Counter(label for clip in clips for label in clip.labels)
    weights = torch.tensor([1 / counts[label] for label in labels])
    return weights / weights.mean()
