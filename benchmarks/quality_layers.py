"""Which layers of whisper-tiny.en hear sounds: linear probes on each, tuned on nothing, folds 2 and 3 only.

    python benchmarks/quality_layers.py --data esc50:PATH

Trains on fold 2 and tests on fold 3, and the other way round, so that the test folds of the other benchmarks stay
unseen. One row per choice of layers.
"""

import argparse
import tempfile
from pathlib import Path

import measure
from ossicle.data import open_data
from ossicle.recipe import build, config

CHOICES = ([1], [2], [3], [4], [1, 2, 3], [2, 3, 4])
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "classify" / "esc50_whisper-tiny.en_probe.toml"


def accuracy(data: str, layers: list[int], train: str, test: str) -> float:
    """Of one probe."""
    changes = [f'data.train=["{train}"]', f'data.test=["{test}"]', "data.hold_out=0", f"task.layers={layers}"]
    with tempfile.TemporaryDirectory() as out:
        manifest = build.train(config.read(RECIPE, changes), open_data(data), Path(out) / "run", quiet=True)
    return round(float(manifest["scores"]["test"]["accuracy"]), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    data = parser.parse_args().data
    rows = []
    for layers in CHOICES:
        scores = {f"fold {b}": accuracy(data, layers, a, b) for a, b in (("2", "3"), ("3", "2"))}
        rows.append({"layers": layers, **scores, "mean": round(sum(scores.values()) / 2, 4)})
        print(rows[-1], flush=True)
    command = "python benchmarks/quality_layers.py --data esc50:PATH"
    machine = measure.machine(("torch",))
    measure.save("quality_layers", {"machine": machine, "recipe": RECIPE.name, "rows": rows, "command": command})


if __name__ == "__main__":
    main()
