"""A new user's first training: README's command on 15 clips each of six sounds, start-up included.

    python benchmarks/speed_first_training.py --data PATH_OF_ESC50

The clips are drawn from folds 1 to 3 of ESC-50 and copied into one folder a label; those of fold 4 are the test. The
weights are in the cache, no features are.
"""

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
from ossicle.backbones import weights

LABELS = ("dog", "rooster", "crow", "frog", "rain", "crickets")
CLIPS = 15


def copied(data: Path, to: Path) -> None:
    """Folders `learn` and `test` with one folder a label."""
    with (data / "meta.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for label in LABELS:
        own = [row for row in rows if row["category"] == label]
        learn = random.Random(0).sample(sorted(r["filename"] for r in own if r["fold"] != "4"), CLIPS)
        for part, names in (("learn", learn), ("test", [r["filename"] for r in own if r["fold"] == "4"])):
            (to / part / label).mkdir(parents=True)
            for name in names:
                (sound,) = (data / "audio").glob(f"{Path(name).stem}.*")
                shutil.copy(sound, to / part / label)


def ossicle(home: Path, *words: object) -> str:
    """What a verb prints, with caches of its own."""
    command = [sys.executable, "-c", "from ossicle.cli import main; main()", *map(str, words)]
    environment = {**os.environ, "OSSICLE_HOME": str(home)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Time the training and score it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copied(args.data, folder)
        (folder / "home").mkdir()
        (folder / "home" / "weights").symlink_to(weights.home() / "weights")
        began = time.perf_counter()
        ossicle(folder / "home", "train", "classify", folder / "learn", "--out", folder / "out")
        seconds = round(time.perf_counter() - began, 1)
        scores = json.loads(ossicle(folder / "home", "evaluate", folder / "out", folder / "test", "--json"))
        backbone = json.loads((folder / "out" / "ossicle.json").read_text(encoding="utf-8"))["backbone"]["name"]
    machine = measure.machine(("torch", "scikit-learn", "soundfile", "soxr"))
    row = {"backbone": backbone, "train_clips": len(LABELS) * CLIPS, "seconds": seconds}
    row |= {"test_clips": scores["clips"], "accuracy": scores["accuracy"]}
    measure.save("speed_first_training", {"machine": machine, **row})
    print(row)


if __name__ == "__main__":
    main()
