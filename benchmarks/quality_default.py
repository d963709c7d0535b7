"""What `ossicle train classify` should do by default: encoders and adapters by the number of clips a class.

    python benchmarks/quality_default.py --data esc50:PATH words:PATH digits:PATH [--only esc50 --kind probes]

ESC-50: each of folds 1 to 4 is tested in turn, learnt from the other three; probes with three draws of few clips, rows
that are iterated on test fold 4 with one. Words are four of Speech Commands on their official test part, digits are
FSDD. Settings are the defaults; nothing is tuned on these numbers. A row is written when it ends and never run twice.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import measure
from ossicle.data import Dataset, open_data
from ossicle.recipe import config
from ossicle.reproduce import protocols

RESULT = measure.RESULTS / "quality_default.json"
ENCODERS = ("mn04+whisper-tiny.en", "mn04", "yamnet+whisper-tiny.en", "whisper-tiny.en")
ITERATED = (
    ("whisper-tiny.en", "lora(rank=8)+norm()"),
    ("whisper-tiny.en", "bottleneck(sites=both,rank=32,blocks=top:2)+norm()"),
    ("mn04", "full()"),
    ("mn04+whisper-tiny.en", "whisper-tiny.en:lora(rank=8)+norm()"),
)
FULL_LR = 1e-4  # of every weight; the default rate is for adapters
FEW = {"esc50": (3, 8, 24, 15), "words": (15, 8, 3, 30, 100), "digits": (15, 8, 3, 30, 100)}
FEW_OF_ALL = 24  # three folds of ESC-50 have no more
LONG = {"esc50": (15, 24), "words": (30, 100), "digits": (30, 100)}
FOLDS = ("1", "2", "3", "4")
Job = dict[str, Any]


def jobs(name: str, kind: str) -> Iterator[Job]:
    """Every row that is wanted of a data set: probes, or what is iterated."""
    if kind == "probes":
        for seed, few in itertools.product(range(3), FEW[name]):
            for fold, encoder in itertools.product(FOLDS if name == "esc50" else ("",), ENCODERS):
                if name != "esc50" or few < FEW_OF_ALL or not seed:  # of all clips there is one draw
                    yield {"backbone": encoder, "adapter": "probe()", "clips": few, "fold": fold, "seed": seed}
        return
    for few in LONG[name]:
        for encoder, adapter in ITERATED:
            fold = "4" if name == "esc50" else ""
            yield {"backbone": encoder, "adapter": adapter, "clips": few, "fold": fold, "seed": 0}


def run(job: Job, dataset: Dataset) -> Job:
    """One row: train by the defaults and test."""
    tables: dict[str, Any] = {
        "backbone": {"name": job["backbone"]}, "adapter": {"spec": job["adapter"]},
        "data": {"per_class": job["clips"]}, "train": {"precision": "float32"},
    }  # fmt: skip
    if job["adapter"] == "full()":
        tables["train"]["lr"] = FULL_LR
    folds = {"folds": FOLDS, "tests": [job["fold"]]} if job["fold"] else {}
    recipe = config.check(tables, "quality_default")
    (one,) = protocols.runs(recipe, seeds=[job["seed"]], **folds)
    if job["fold"] and job["adapter"] != "probe()":  # protocols train on all; the default holds clips out
        data = one.recipe.data.model_copy(update={"hold_out": 0.1})
        one = protocols.Run(one.name, one.recipe.model_copy(update={"data": data}))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        row = protocols.run(one, dataset, Path(out))
        manifest = json.loads((Path(out) / one.name / "ossicle.json").read_text(encoding="utf-8"))
    scores = {key: round(row["scores"][key], 4) for key in ("accuracy", "map_macro", "f1_macro", "log_loss")}
    return {
        **scores, "train_clips": row["train_clips"], "test_clips": row["test_clips"],
        "seconds": round(time.perf_counter() - began, 1), "kept": manifest.get("kept", ""),
        "shares": manifest.get("head", {}).get("shares", {}), "strength": manifest.get("head", {}).get("strength"),
    }  # fmt: skip


def read() -> list[Job]:
    """Rows that are there already."""
    return json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []


def means(rows: list[Job]) -> list[Job]:
    """Mean accuracy of each setting over its folds and draws."""
    keys = ("data", "clips", "backbone", "adapter")
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        dict(zip(keys, group, strict=True))
        | {"accuracy": round(sum(r["accuracy"] for r in own) / len(own), 4), "rows": len(own)}
        for group, own in sorted(groups.items())
    ]


def main() -> None:
    """Run what is not there yet and keep each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--kind", choices=("probes", "iterated"), default="probes")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = {"words": "speech-commands", "digits": "fsdd"}
    for text in args.data:
        name, _, path = text.partition(":")
        dataset = open_data(f"{names.get(name, name)}:{path}")
        for job in jobs(name, args.kind):
            job = {"data": name, **job}
            if any(all(row[key] == value for key, value in job.items()) for row in read()):
                continue
            row = {**job, **run(job, dataset)}
            rows = [*read(), row]  # another process may have written meanwhile
            machine = measure.machine(("torch", "scikit-learn", "soundfile", "soxr")) | {"threads": args.threads}
            rows.sort(key=lambda r: (r["data"], r["clips"], r["fold"], r["backbone"], r["adapter"], r["seed"]))
            measure.save(RESULT.stem, {"machine": machine, "what": __doc__, "means": means(rows), "rows": rows})
            print(*job.values(), row["accuracy"], flush=True)


if __name__ == "__main__":
    main()
