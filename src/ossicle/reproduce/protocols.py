"""Protocols: folds, seeds and few-shot as single runs, each written as it ends and never run twice; their means.

A folder of runs holds, for each, `NAME/` (the adapter with everything `build.train` writes) and `NAME.json` (its row).
"""

import hashlib
import json
import statistics
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ossicle.data import Dataset
from ossicle.errors import CheckpointError, DataError, UsageError
from ossicle.files import write_atomic
from ossicle.metrics.compare import Comparison, paired_bootstrap
from ossicle.recipe import build
from ossicle.recipe.backbone import settled
from ossicle.recipe.config import Recipe
from ossicle.training.checkpoint import LAST
from ossicle.training.loop import METRICS

Validation = Literal["none", "next", "test"]


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: of its folder and row.
        recipe: everything it follows from.
    """

    name: str
    recipe: Recipe


def runs(
    recipe: Recipe,
    *,
    folds: Sequence[str] = (),
    tests: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    validation: Validation = "none",
) -> list[Run]:
    """The runs of a cross-validation, or of official splits where there are no folds.

    Args:
        recipe: what all have in common.
        folds: names of all folds; empty uses the recipe's own splits.
        tests: folds to test on in turn; empty takes all of them.
        seeds: each fold is run with every one.
        validation: "none" trains on all other folds, "next" keeps the fold before the test fold, in a circle, for
            validation (PETL of AST: train 1 2 3, validate 4, test 5), "test" also scores the test fold after every
            epoch, for `best_epoch`.

    Raises:
        UsageError: for a test fold that is not among the folds, or fewer folds than the protocol needs.
    """
    wanted = 2 + (validation == "next")
    if folds and (len(folds) < wanted or not set(tests) <= set(folds)):
        raise UsageError(f"folds {list(folds)} and test folds {list(tests)}: at least {wanted} folds are wanted")
    if not folds:
        return [Run(f"seed{seed}", _with(recipe, {}, seed)) for seed in seeds]
    made = []
    for test in tests or folds:
        val = {"none": [], "next": [folds[folds.index(test) - 1]], "test": [test]}[validation]
        train = [fold for fold in folds if fold not in (test, *val)]
        parts: dict[str, Any] = {"train": train, "val": val, "test": [test], "hold_out": 0.0}
        made += [Run(f"fold{test}_seed{seed}", _with(recipe, parts, seed)) for seed in seeds]
    return made


def _with(recipe: Recipe, parts: dict[str, Any], seed: int) -> Recipe:
    """The recipe on these splits with this seed."""
    raw = recipe.model_dump()
    raw["data"] |= parts
    raw["train"]["seed"] = seed
    return Recipe.model_validate(raw)


def run(one: Run, dataset: Dataset, out: Path, *, quiet: bool = True) -> dict[str, Any]:
    """Train and test one run, go on with a begun one, or read its row if it is done.

    Returns:
        `name`, `test` (splits tested on), `seed`, `scores`, `correct` ("1" and "0" by clip name, for pairing; empty
        where there are captions), `clips`
        (a digest of those names), counts; `epochs`, the scores after each one, where validation is on the test splits.

    Raises:
        OssicleError: of every kind training raises.
        DataError: if it leaves no test clips.
        CheckpointError: if the row there was made, or the run there begun, by another recipe.
    """
    file, folder = out / f"{one.name}.json", out / one.name
    one = replace(one, recipe=settled(one.recipe)[0])
    recipe = one.recipe.model_dump(mode="json")
    if file.is_file():
        row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not _same(row["recipe"], one.recipe):
            raise CheckpointError(f"{file} was made by another recipe; give another folder or take it away")
        return row
    resume = (folder / LAST).is_file()
    if resume and not _begun_by(folder, one.recipe, dataset.name):
        raise CheckpointError(f"{folder} was begun by another recipe; give another folder or take it away")
    manifest = build.train(one.recipe, dataset, folder, resume=resume, quiet=quiet)
    if "test" not in manifest["scores"]:
        raise DataError(f"{one.name} has no test clips; name data.test or use data with a test split")
    judged = (folder / build.JUDGED.format("test")).read_text(encoding="utf-8").splitlines()
    lines = sorted((json.loads(line) for line in judged), key=lambda line: (line["name"], line["start"]))
    data, names = one.recipe.data, "\n".join(line["name"] for line in lines)
    row = {
        "name": one.name, "test": data.test, "seed": one.recipe.train.seed,
        "scores": manifest["scores"]["test"],
        "epochs": _validated(folder) if data.val and data.val == data.test else [],
        "correct": "".join(str(int(line["label"] == line["wanted"])) for line in lines if "wanted" in line),
        "clips": hashlib.blake2b(names.encode(), digest_size=16).hexdigest(),
        "train_clips": manifest["data"]["train"], "test_clips": manifest["data"]["test"],
        "parameters": manifest["parameters"], "recipe": recipe,
    }  # fmt: skip
    write_atomic(file, lambda part: part.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8"))
    return row


def _validated(folder: Path) -> list[dict[str, float]]:
    """The validation scores after each epoch."""
    lines = map(json.loads, (folder / METRICS).read_text(encoding="utf-8").splitlines())
    return [{k.removeprefix("val_"): v for k, v in line.items() if k.startswith("val_")} for line in lines]


def _begun_by(folder: Path, recipe: Recipe, source: str) -> bool:
    """Whether the run in a folder follows this recipe; `build.train` wrote the name of the data into its own."""
    stored = tomllib.loads((folder / build.RECIPE).read_text(encoding="utf-8"))
    return _same(stored, recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})}))


def _same(stored: dict[str, Any], recipe: Recipe) -> bool:
    """Whether a stored recipe is this one; settings that are newer than it have their defaults."""
    try:
        return Recipe.model_validate(stored) == recipe
    except ValidationError:
        return False


def summary(rows: Sequence[dict[str, Any]], score: str = "accuracy") -> dict[str, Any]:
    """Mean and sample standard deviation of a score over folds (each the mean of its seeds), and over seeds.

    Raises:
        UsageError: if there is no row.
    """
    if not rows:
        raise UsageError("there is no finished run to sum up")
    folds: dict[str, list[float]] = {}
    seeds: dict[int, list[float]] = {}
    for row in rows:
        folds.setdefault(",".join(row["test"]), []).append(row["scores"][score])
        seeds.setdefault(row["seed"], []).append(row["scores"][score])
    by_fold, by_seed = ([statistics.fmean(v) for v in group.values()] for group in (folds, seeds))
    return {
        "mean": statistics.fmean(by_fold),
        "std_folds": statistics.stdev(by_fold) if len(by_fold) > 1 else None,
        "std_seeds": statistics.stdev(by_seed) if len(by_seed) > 1 else None,
        "folds": len(by_fold), "seeds": len(by_seed),
    }  # fmt: skip


def best_epoch(rows: Sequence[dict[str, Any]], score: str = "accuracy") -> tuple[int, float] | None:
    """The epoch with the best mean of a score over test folds, and that mean: AST's way of choosing, which flatters.

    Returns:
        Epoch counted from 1 and the mean; None where a row was not scored on its test splits after every epoch.
    """
    epochs = zip(*(row.get("epochs", []) for row in rows), strict=False)
    means = [
        summary([{**row, "scores": scores} for row, scores in zip(rows, epoch, strict=True)], score)["mean"]
        for epoch in epochs
    ]
    return (means.index(max(means)) + 1, max(means)) if means else None


def compare(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> Comparison:
    """Paired bootstrap of accuracy over all clips both were tested on in the same runs; a clip's seeds are averaged.

    Raises:
        UsageError: if the two share no run, or a run was tested on other clips.
    """
    both = {row["name"] for row in first} & {row["name"] for row in second}
    sides = [sorted((row for row in rows if row["name"] in both), key=lambda r: r["name"]) for rows in (first, second)]
    if not both or any(_clips(a) != _clips(b) for a, b in zip(*sides, strict=True)):
        raise UsageError("these two have no runs in common that were tested on the same clips; run both alike")
    return paired_bootstrap(*map(_shares, sides))


def _clips(row: dict[str, Any]) -> tuple[int, str]:
    """What tells the tested clips of a row."""
    return len(row["correct"]), row["clips"]


def _shares(rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """For each clip of each test fold the share of its seeds that were right: (clips,)."""
    folds: dict[str, list[list[bool]]] = {}
    for row in rows:
        folds.setdefault(",".join(row["test"]), []).append([c == "1" for c in row["correct"]])
    return np.concatenate([np.mean(seeds, axis=0) for seeds in folds.values()])
