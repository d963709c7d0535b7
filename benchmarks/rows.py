"""What the quality benchmarks share: many small trainings, each in a process of its own, each row kept when it ends.

Several copies of a script may work on one result file; a row that is there, or that another copy has taken, is passed
over.
"""

import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

import measure
from ossicle.data import open_data
from ossicle.recipe import config
from ossicle.reproduce import protocols

Job = tuple[str, int]
# What every recipe of these benchmarks has in common.
TASK = {"head_norm": "standard", "head": "trained"}
TRAIN = {"head_lr": 2e-3, "weight_decay": 0.1, "precision": "float32", "keep": "last"}


def train(tables: dict[str, Any], name: str, seed: int, data: str, threads: int) -> dict[str, Any]:
    """One row: train and test a recipe."""
    torch.set_num_threads(threads)
    one = protocols.runs(config.check(tables, name), seeds=[seed])[0]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        row = protocols.run(one, open_data(data), Path(out))
        lines = (Path(out) / one.name / "metrics.jsonl").read_text().splitlines()
        epochs = [json.loads(line)["seconds"] for line in lines]
    return {
        "preset": name, "adapter": one.recipe.adapter.spec, "seed": seed,
        "accuracy": round(row["scores"]["accuracy"], 4), "map_macro": round(row["scores"]["map_macro"], 4),
        "adapter_parameters": row["parameters"]["adapter"], "lr": one.recipe.train.lr,
        "train_clips": row["train_clips"], "test_clips": row["test_clips"], "correct": row["correct"],
        "seconds": round(time.perf_counter() - began, 1), "seconds_per_epoch": round(sum(epochs) / len(epochs), 2),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),
    }  # fmt: skip


def collect(
    result: str, jobs: Mapping[Job, dict[str, Any]], data: str, how: Mapping[str, Any], threads: int = 1
) -> None:
    """Run what is not there yet and keep each row.

    Args:
        result: name of the result file.
        jobs: (name, seed) to recipe tables.
        data: the data set as the command line takes it.
        how: what all rows have in common, noted in the file.
        threads: of each process.
    """
    path = measure.RESULTS / f"{result}.json"
    lock = FileLock(Path(tempfile.gettempdir()) / f"{result}.lock")
    for (name, seed), tables in jobs.items():
        mark = Path(tempfile.gettempdir()) / f"{result}.{name}.{seed}.taken"
        with lock:
            if _alive(mark) or any(r["preset"] == name and r["seed"] == seed for r in read(path)):
                continue
            mark.write_text(str(os.getpid()))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(train, (tables, name, seed, data, threads))
        with lock:
            machine = measure.machine(("torch", "accelerate", "soundfile", "soxr")) | {"threads": threads}
            rows = sorted([*read(path), row], key=lambda r: (-r["accuracy"], r["preset"], r["seed"]))
            measure.save(result, {"machine": machine, **how, "rows": rows})
            mark.unlink()
        print(name, seed, row["accuracy"], f"{row['seconds']} s", flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Rows that are there already."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def _alive(mark: Path) -> bool:
    """Whether the process that took a row still runs."""
    return mark.exists() and Path(f"/proc/{mark.read_text()}").exists()
