"""Train the captioner that ships, scenes-whisper-tiny, and write its card and credits.

    python recipes/zoo/scenes_whisper_tiny.py --data PATH_OF_ESC50 --run DIR

It learns from scenes made of the CC0 and CC-BY clips of folds 1 to 4 only. The scores on its card are those of the same
recipe trained on scenes of folds 1 to 3 and tested on scenes of fold 4: run
`python benchmarks/quality_captions.py --data esc50:PATH --work DIR` first.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from esc50 import ROOT, credits

from ossicle.adapters import store
from ossicle.backbones import text
from ossicle.data import open_data, scenes
from ossicle.data.splits import select
from ossicle.files import write_atomic
from ossicle.recipe import build, config
from ossicle.recipe.caption_llm import CaptionPlan
from ossicle.share.card import card

NAME = "scenes-whisper-tiny"
RECIPE = ROOT / "recipes" / "caption_llm" / "scenes_whisper-tiny_lora.toml"
SCORES = ROOT / "benchmarks" / "results" / "quality_captions.json"
ROW = "ours, 8 soft tokens"
SHOWN = ("cider_d", "meteor", "rouge_l", "sbert_sim", "event_recall", "event_precision", "order_accuracy")


def trained(data: Path, run: Path, count: int, epochs: int) -> None:
    """Make scenes of all four folds and train on them."""
    clips = select(open_data(f"esc50:{data}").clips, None, ["CC0", "CC-BY"])
    scenes.make(clips, run / "scenes", count, seed=0)
    build.train(config.read(RECIPE, [f"train.epochs={epochs}"]), open_data(str(run / "scenes")), run / "captioner")


def halved(source: Path, target: Path) -> None:
    """Weights in float16: half the size, the same captions."""
    tensors = {k: v.half() for k, v in safetensors.torch.load_file(source).items()}
    write_atomic(target, lambda part: safetensors.torch.save_file(tensors, part))


def notes(result: dict[str, Any], several: float) -> list[str]:
    """What the card says of the recipe's scores, and of the share of scenes with several sounds."""
    row = next(row for row in result["rows"] if row["row"] == ROW)
    table = ["| scenes of fold 4 | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for part in ("all", "several events"):
        table.append(f"| {part} ({row[part]['scenes']}) | " + " | ".join(f"{row[part][k]:.3f}" for k in SHOWN) + " |")
    return [
        f"The same recipe, trained on {result['train_scenes']} scenes of folds 1 to 3 and tested on "
        f"{result['test_scenes']} scenes of fold 4, has the scores below. The weights in this folder learnt from all "
        "four folds, so they have no fold left to be scored on.",
        "\n".join(table),
        "It knows the fifty kinds of sound of ESC-50, as made scenes put them together, and calls everything by one of "
        f"them; of speech and music it knows nothing. {several:.0%} of the scenes it learnt from have several sounds, "
        "so it hears several where there is one.",
        "Every clip the scenes were made of, its author and its licence are listed in CREDITS.txt.",
    ]


def published(data: Path, run: Path) -> None:
    """Put a finished training into the package, with its card and credits."""
    source, target = run / "captioner", ROOT / "src" / "ossicle" / "share" / "zoo" / NAME
    halved(source / store.WEIGHTS, target / store.WEIGHTS)
    halved(source / store.LLM / text.WEIGHTS, target / store.LLM / text.WEIGHTS)
    shutil.copyfile(source / store.LLM / text.CONFIG, target / store.LLM / text.CONFIG)
    for name in (store.MANIFEST, build.RECIPE):
        shutil.copyfile(source / name, target / name)
    rows = scenes.read(run / "scenes")
    used = {Path(event["source"]).stem for row in rows for event in row["events"]}
    several = sum(len(row["events"]) > 1 for row in rows) / len(rows)
    manifest = store.read_manifest(target)
    manifest["data"] |= {"name": "scenes of esc50", "sources": len(used)}
    store.save_manifest(target, {k: v for k, v in manifest.items() if k != "format"})
    plan = CaptionPlan.saved(config.read(target / build.RECIPE), target)
    does, use, more = plan.told(NAME, manifest)
    told = card(NAME, manifest, does, use, more, notes=notes(json.loads(SCORES.read_text(encoding="utf-8")), several))
    (target / "README.md").write_text(told, encoding="utf-8")
    (target / "CREDITS.txt").write_text(credits(data, used), encoding="utf-8")


def main() -> None:
    """Train, and put the folder into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--run", required=True, type=Path, help="folder of the training; a finished one is used")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    if not (args.run / "captioner" / "README.md").exists():
        trained(args.data, args.run, args.scenes, args.epochs)
    published(args.data, args.run)


if __name__ == "__main__":
    main()
