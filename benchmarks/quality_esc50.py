"""ESC-50 by the fold protocol: one row per recipe, test fold and seed, written as it finishes and never run twice.

    python benchmarks/quality_esc50.py --data esc50:PATH --recipe probe --folds 1 4

Of the folds at hand (1 to 4) one is the test fold and the others are trained on, without any validation part: epochs
and rates were tuned before on a validation part of folds 2 to 4. Every row runs in a process of its own, so that its
peak memory is its own.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import measure
from ossicle.data import open_data
from ossicle.recipe import build, config

ROOT = Path(__file__).resolve().parents[1]
FOLDS = ("1", "2", "3", "4")


def run(recipe: str, data: str, fold: str, seed: int, changes: list[str]) -> dict[str, Any]:
    """Train on the other folds, test on this one."""
    others = [f for f in FOLDS if f != fold]
    settings = [f"data.train={json.dumps(others)}", f'data.test=["{fold}"]', "data.hold_out=0", f"train.seed={seed}"]
    chosen = config.read(ROOT / "recipes" / "classify" / f"esc50_whisper-tiny.en_{recipe}.toml", [*settings, *changes])
    out = Path(tempfile.mkdtemp())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    manifest = build.train(chosen, open_data(data), out / "run", quiet=True)
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(out)
    return {
        "test_fold": fold, "train_folds": others, "seed": seed,
        **{k: round(manifest["scores"]["test"][k], 4) for k in ("accuracy", "map_macro", "f1_macro", "top_5")},
        "train_clips": manifest["data"]["train"], "test_clips": manifest["data"]["test"],
        "adapter_parameters": manifest["parameters"]["adapter"], "head_parameters": manifest["parameters"]["head"],
        "threads": torch.get_num_threads(), "epochs": len(lines),
        "seconds_per_epoch": round(sum(line["seconds"] for line in lines) / len(lines), 2),
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),
        "memory_before_gb": round(before / 1024**2, 2),
    }  # fmt: skip


def save(name: str, recipe: str, rows: list[dict[str, Any]], changed: str) -> None:
    """Write all finished rows with their mean and the command that makes them."""
    folds = " ".join(sorted({r["test_fold"] for r in rows}))
    seeds = " ".join(map(str, sorted({r["seed"] for r in rows})))
    command = f"python benchmarks/quality_esc50.py --data esc50:PATH --recipe {recipe} --folds {folds} --seeds {seeds}"
    rows = sorted(rows, key=lambda r: (r["test_fold"], r["seed"]))
    mean = round(sum(r["accuracy"] for r in rows) / len(rows), 4)
    toml = f"recipes/classify/esc50_whisper-tiny.en_{recipe}.toml"
    packages = ("torch", "accelerate", "soundfile", "soxr")
    result = {"recipe": toml, "mean_accuracy": mean, "rows": rows, "command": command + changed}
    measure.save(name, {"machine": measure.machine(packages), **result})


def finished(path: Path) -> list[dict[str, Any]]:
    """Rows that are there already, also those another process wrote meanwhile."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--folds", nargs="+", default=["1", "4"], choices=FOLDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="*", default=[], dest="changes")
    parser.add_argument("--name", default="")
    args = parser.parse_args()
    name = args.name or args.recipe
    path = ROOT / "benchmarks" / "results" / f"quality_esc50_{name}.json"
    changed = f" --set {' '.join(args.changes)}" if args.changes else ""
    for seed in args.seeds:
        for fold in args.folds:
            if any(r["test_fold"] == fold and r["seed"] == seed for r in finished(path)):
                continue
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(run, (args.recipe, args.data, fold, seed, args.changes))
            save(path.stem, args.recipe, [*finished(path), row], changed)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
