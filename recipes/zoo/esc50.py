"""Train a classifier that ships, esc50 or esc50-offline, and write its card and credits.

    python recipes/zoo/esc50.py esc50 --data PATH_OF_ESC50 --run DIR

It learns from the CC0 and CC-BY clips of folds 1 to 4 only. The scores on its card are those of the same recipe
trained on the CC0 and CC-BY clips of three folds and tested on all clips of the fourth, each in turn; they are written
to benchmarks/results/quality_zoo_NAME.json.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from ossicle.data import open_data
from ossicle.data.splits import select
from ossicle.recipe import build, config
from ossicle.reproduce import protocols
from ossicle.share.card import card

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import measure  # noqa: E402

RECIPES = {
    "esc50": "esc50_mn04+whisper-tiny.en_probe.toml",
    "esc50-offline": "esc50_yamnet+whisper-tiny.en_probe.toml",
}
FREE = 'data.licences=["CC0","CC-BY"]'
FOLDS = ["1", "2", "3", "4"]
KEPT = ("ossicle.json", "ossicle.safetensors", "recipe.toml", "labels.json")
CREDIT = re.compile(
    r"- \[(?P<clip>[\w-]+)\.\w+\]: clip derived from (?P<title>.*) \((?P<url>\S+)\) "
    r"by (?P<author>.*) \[(?P<licence>.*)\]"
)


def recipe_of(name: str, *changes: str) -> config.Recipe:
    """The recipe of an adapter on the clips that may be passed on."""
    return config.read(ROOT / "recipes" / "classify" / RECIPES[name], [FREE, *changes])


def cross_validated(name: str, data: Path, runs: Path) -> list[dict[str, Any]]:
    """One row for each test fold."""
    rows = []
    for one in protocols.runs(recipe_of(name), folds=FOLDS):
        row = protocols.run(one, open_data(f"esc50:{data}"), runs)
        scores = {key: round(row["scores"][key], 4) for key in ("accuracy", "map_macro", "f1_macro", "log_loss")}
        rows.append({"test_fold": one.recipe.data.test[0], "train_folds": one.recipe.data.train, **scores})
        rows[-1] |= {"train_clips": row["train_clips"], "test_clips": row["test_clips"]}
    mean = round(sum(row["accuracy"] for row in rows) / len(rows), 4)
    machine = measure.machine(("torch", "scikit-learn", "soundfile", "soxr"))
    command = f"python recipes/zoo/esc50.py {name} --data PATH --run DIR"
    measure.save(f"quality_zoo_{name}", {"command": command, "machine": machine, "mean_accuracy": mean, "rows": rows})
    return rows


def told(rows: list[dict[str, Any]]) -> list[str]:
    """What the card says of the recipe's scores."""
    table = ["| test fold | trained on | accuracy | macro mAP | macro F1 |", "|---|---|---|---|---|"]
    for r in rows:
        scores = " | ".join(f"{r[key]:.3f}" for key in ("accuracy", "map_macro", "f1_macro"))
        table.append(f"| {r['test_fold']} | {', '.join(r['train_folds'])} | {scores} |")
    mean = sum(r["accuracy"] for r in rows) / len(rows)
    return [
        "The same recipe, trained on the CC0 and CC-BY clips of three folds and tested on all of the fourth, reaches "
        f"{mean:.1%} accuracy on average. The weights in this folder learnt from all four folds, so they have no fold "
        "left to be scored on.",
        "\n".join(table),
        "ESC-50 clips are short and clean; on long field recordings expect less, and look at every window's scores.",
    ]


def credits(data: Path, used: set[str]) -> str:
    """One line for every clip learnt from, from the data set's own licence file."""
    text = next(iter(sorted(data.glob("LICENSE*")))).read_text(encoding="utf-8")
    found = {m["clip"]: m for m in CREDIT.finditer(text)}
    lines = [
        "The clips this adapter learnt from (ESC-50, K. J. Piczak 2015), each under the licence its author chose:",
        "",
    ]
    for stem in sorted(used):
        m = found[stem.rsplit("-", 1)[0]]
        lines.append(f"{stem}: {m['title']} by {m['author']}, {m['url']} [{m['licence']}]")
    return "\n".join(lines) + "\n"


def published(name: str, data: Path, out: Path, rows: list[dict[str, Any]]) -> None:
    """Copy a finished training into the package, with its card and credits."""
    target = ROOT / "src" / "ossicle" / "share" / "zoo" / name
    target.mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        shutil.copyfile(out / file, target / file)
    manifest, labels = (
        json.loads((target / file).read_text(encoding="utf-8")) for file in ("ossicle.json", "labels.json")
    )
    notes = [*told(rows), "Every clip, its author and its licence are listed in CREDITS.txt."]
    does, use = f"classifies sound into {len(labels)} classes", f"predict {name} sounds/ --out labels.csv"
    text = card(name, manifest, does, use, {"Classes": ", ".join(labels)}, notes=notes)
    (target / "README.md").write_text(text, encoding="utf-8")
    licences = config.read(target / "recipe.toml").data.licences
    used = {clip.path.stem for clip in select(open_data(f"esc50:{data}").clips, None, licences)}
    (target / "CREDITS.txt").write_text(credits(data, used), encoding="utf-8")


def main() -> None:
    """Score, train, and put the folder into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--run", required=True, type=Path, help="folder of the trainings; none is run twice")
    args = parser.parse_args()
    rows = cross_validated(args.name, args.data, args.run / f"{args.name}-folds")
    out = args.run / args.name
    if not (out / "README.md").exists():
        recipe = recipe_of(args.name, f"data.train={json.dumps(FOLDS)}", "data.test=[]")
        build.train(recipe, open_data(f"esc50:{args.data}"), out)
    published(args.name, args.data, out, rows)


if __name__ == "__main__":
    main()
