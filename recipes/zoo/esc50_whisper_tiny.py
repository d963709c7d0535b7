"""Train the adapter that ships, esc50-whisper-tiny, and write its card and credits.

    python recipes/zoo/esc50_whisper_tiny.py --data PATH_OF_ESC50 --run DIR

It learns from the CC0 and CC-BY clips of folds 1 to 4 only. The scores on its card are those of the same recipe
trained on the CC0 and CC-BY clips of three folds and tested on all clips of the fourth, each in turn: run
`python benchmarks/quality_esc50.py --data esc50:PATH --recipe zoo --folds 1 2 3 4` first.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

from ossicle.data import open_data
from ossicle.data.splits import select
from ossicle.recipe import build, config
from ossicle.share.card import card

ROOT = Path(__file__).resolve().parents[2]
NAME = "esc50-whisper-tiny"
RECIPE = ROOT / "recipes" / "classify" / "esc50_whisper-tiny.en_zoo.toml"
SCORES = ROOT / "benchmarks" / "results" / "quality_esc50_zoo.json"
KEPT = ("ossicle.json", "ossicle.safetensors", "recipe.toml", "labels.json")
CREDIT = re.compile(
    r"- \[(?P<clip>[\w-]+)\.\w+\]: clip derived from (?P<title>.*) \((?P<url>\S+)\) "
    r"by (?P<author>.*) \[(?P<licence>.*)\]"
)


def cross_validated() -> list[str]:
    """What the card says of the recipe's scores."""
    result = json.loads(SCORES.read_text(encoding="utf-8"))
    rows = result["rows"]
    table = ["| test fold | trained on | accuracy | macro mAP | macro F1 |", "|---|---|---|---|---|"]
    for r in rows:
        scores = " | ".join(f"{r[key]:.3f}" for key in ("accuracy", "map_macro", "f1_macro"))
        table.append(f"| {r['test_fold']} | {', '.join(r['train_folds'])} | {scores} |")
    return [
        "The same recipe, trained on the CC0 and CC-BY clips of three folds and tested on all of the fourth, reaches "
        f"{result['mean_accuracy']:.1%} accuracy on average (seed {rows[0]['seed']}). The weights in this folder "
        "learnt from all four folds, so they have no fold left to be scored on.",
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


def trained(data: Path, out: Path) -> None:
    """Train on all four folds."""
    recipe = config.read(RECIPE, ['data.train=["1","2","3","4"]', "data.test=[]", "data.hold_out=0"])
    build.train(recipe, open_data(f"esc50:{data}"), out)


def published(data: Path, out: Path) -> None:
    """Copy a finished training into the package, with its card and credits."""
    target = ROOT / "src" / "ossicle" / "zoo" / NAME
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(out / name, target / name)
    manifest, labels = (
        json.loads((target / name).read_text(encoding="utf-8")) for name in ("ossicle.json", "labels.json")
    )
    notes = [*cross_validated(), "Every clip, its author and its licence are listed in CREDITS.txt."]
    does, use = f"classifies sound into {len(labels)} classes", f"predict {NAME} sounds/ --out labels.csv"
    text = card(NAME, manifest, does, use, {"Classes": ", ".join(labels)}, notes=notes)
    (target / "README.md").write_text(text, encoding="utf-8")
    licences = config.read(target / "recipe.toml").data.licences
    used = {clip.path.stem for clip in select(open_data(f"esc50:{data}").clips, None, licences)}
    (target / "CREDITS.txt").write_text(credits(data, used), encoding="utf-8")


def main() -> None:
    """Train, and put the folder into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument(
        "--run", required=True, type=Path, help="folder of the training; a finished one is used as it is"
    )
    args = parser.parse_args()
    if not (args.run / "curve.png").exists():
        trained(args.data, args.run)
    published(args.data, args.run)


if __name__ == "__main__":
    main()
