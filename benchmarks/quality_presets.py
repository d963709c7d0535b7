"""Every preset on ESC-50 in the few-shot protocol: 8 clips a class from folds 1 to 3, tested on fold 4.

    python benchmarks/quality_presets.py --data esc50:PATH

One row per preset and seed, written as it finishes and never run twice, each in a process of its own; several copies of
this script may work on one file. Rates follow the papers' families (PETL of AST, section 1.5 of its code: one rate for
adapters, LoRA and biases, twice as much for prompts, a hundredth for full fine-tuning) around `--lr`; they were chosen
on fold 3 with models that had learnt from folds 1 and 2.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

import measure
from ossicle import config, protocols
from ossicle.adapters import PRESETS
from ossicle.adapters.count import count
from ossicle.data import open_data
from ossicle.errors import AdapterError

BACKBONE = "whisper-tiny.en"
FAMILY = {"prompts": 2.0, "prefix": 2.0, "full": 0.1, "norm": 1.0, "probe": 1.0}


def settings(preset: str, args: argparse.Namespace) -> dict[str, Any]:
    """The tables of one preset's recipe."""
    text = PRESETS[preset].text
    lr = args.lr * FAMILY.get(text.partition("(")[0], 1.0)
    return {
        "data": {"source": "esc50", "train": args.train, "test": args.test, "hold_out": 0.0, "per_class": 8},
        "backbone": {"name": args.backbone},
        "adapter": {"spec": preset},
        "task": {
            "head_norm": "standard", "head_first": 0, "dropout": 0.3,
            "cache_versions": 0 if text in ("full()", "probe()") else 4,
            "augment": {"shift_s": 1.0, "gain_db": 6.0} if text != "probe()" else {},
        },
        "train": {
            "epochs": args.epochs, "batch": args.batch, "lr": lr, "head_lr": 2e-3, "weight_decay": 0.1,
            "precision": "float32", "keep": "last",
        },
    }  # fmt: skip


def run(preset: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and test one preset."""
    torch.set_num_threads(args.threads)
    recipe = config.check(settings(preset, args), preset)
    one = protocols.runs(recipe, seeds=[seed])[0]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        row = protocols.run(one, open_data(args.data), Path(out))
        lines = (Path(out) / one.name / "metrics.jsonl").read_text().splitlines()
        epochs = [json.loads(line)["seconds"] for line in lines]
    return {
        "preset": preset, "adapter": PRESETS[preset].text, "seed": seed,
        "accuracy": round(row["scores"]["accuracy"], 4), "map_macro": round(row["scores"]["map_macro"], 4),
        "adapter_parameters": row["parameters"]["adapter"], "correct": row["correct"], "lr": recipe.train.lr,
        "seconds": round(time.perf_counter() - began, 1), "seconds_per_epoch": round(sum(epochs) / len(epochs), 2),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),
    }  # fmt: skip


def fitting(backbone: str) -> tuple[list[str], dict[str, str]]:
    """Presets the backbone can carry, one for each text, and why the others are left out."""
    texts: dict[str, str] = {}
    out = {}
    for name, preset in PRESETS.items():
        try:
            count(backbone, name)
        except AdapterError as error:
            out[name] = str(error)
        else:
            if preset.text in texts:
                out[name] = f"the same adapter as {texts[preset.text]}"
            texts.setdefault(preset.text, name)
    return list(texts.values()), out


def read(path: Path) -> list[dict[str, Any]]:
    """Rows that are there already."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--presets", nargs="*", default=[], help="names; none means all that fit")
    parser.add_argument("--train", nargs="+", default=["1", "2", "3"])
    parser.add_argument("--test", nargs="+", default=["4"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="quality_presets")
    args = parser.parse_args()
    path = measure.RESULTS / f"{args.name}.json"
    lock = FileLock(Path(tempfile.gettempdir()) / f"{args.name}.lock")
    names, left_out = fitting(args.backbone)
    taken = Path(tempfile.gettempdir()) / f"{args.name}.taken"
    taken.mkdir(exist_ok=True)
    for seed in args.seeds:
        for preset in args.presets or names:
            mark = taken / f"{preset}_{seed}"
            with lock:
                if mark.exists() or any(r["preset"] == preset and r["seed"] == seed for r in read(path)):
                    continue
                mark.touch()
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(run, (preset, seed, args))
            with lock:
                machine = measure.machine(("torch", "accelerate", "soundfile", "soxr"))
                how = {"backbone": args.backbone, "per_class": 8, "train": args.train, "test": args.test}
                how |= {"epochs": args.epochs, "batch": args.batch, "threads": args.threads}
                rows = sorted([*read(path), row], key=lambda r: (-r["accuracy"], r["preset"], r["seed"]))
                measure.save(args.name, {"machine": machine, **how, "left_out": left_out, "rows": rows})
            print(preset, seed, row["accuracy"], row["seconds"], flush=True)


if __name__ == "__main__":
    main()
