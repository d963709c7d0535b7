"""Train a captioner of everyday sound, put it into the package, and write its card and credits.

    python recipes/zoo/everyday.py --captions audiocaps_train.csv --scenes DIR --data PATH_OF_ESC50 --run DIR

It learns to write from AudioCaps' training captions (MIT) and from scenes of CC0 and CC-BY clips, and to read tags from
how those of mn04 and YAMNet go together on CC0 and CC-BY clips. Its card has the scores of
`python benchmarks/quality_everyday.py`: run that on the finished training first. A run may also be the last of several
that began with each other (`--init-from`), as that of the one that ships.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from esc50 import ROOT, credits

from ossicle.adapters import store
from ossicle.data import open_data, scenes
from ossicle.data.texts import open_texts
from ossicle.files import write_atomic
from ossicle.recipe import build, config
from ossicle.recipe.caption_tags import VOCABULARY, TagsPlan
from ossicle.share.card import card

NAME = "everyday"
RECIPE = ROOT / "recipes" / "caption_tags" / "everyday.toml"
SCORES = ROOT / "benchmarks" / "results" / "quality_everyday.json"
SHOWN = ("cider_d", "sbert_sim", "rouge_l", "meteor", "invented")


def trained(captions: Path, made: Path, run: Path) -> None:
    """Learn from captions alone and from scenes."""
    alone, heard = open_texts(str(captions)), open_data(str(made))
    both = type(alone)(f"{alone.name} and {heard.name}", (*alone.clips, *heard.clips))
    build.train(config.read(RECIPE), both, run)


def halved(source: Path, target: Path) -> None:
    """Weights in float16: half the size."""
    tensors = {k: v.half() for k, v in safetensors.torch.load_file(source).items()}
    write_atomic(target, lambda part: safetensors.torch.save_file(tensors, part))


def notes(result: dict[str, Any], captions: int) -> list[str]:
    """What the card says of its scores."""
    lines = ["| 16 recordings | tagger | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 2) + "|"]
    for row in result["rows"]:
        if "text in" not in row["row"]:
            shown = (f"{row[key]:.3f}" if row.get(key) is not None else "" for key in SHOWN)
            lines.append(f"| {row['row']} | {row.get('tagger', '')} | " + " | ".join(shown) + " |")
    return [
        f"It learnt to write from {captions:,} captions alone: what a tagger would have heard was made up for each. "
        "The scores below are of 16 recordings of Clotho's validation part with five captions each, one caption for "
        "each whole file. `invented` is the share of sound words that no tag supports.",
        "\n".join(lines),
        "It learnt in three trainings of five, one and one epochs, each begun with the one before; the made-up tracks "
        "became more like real ones between them. Clips kept aside in one were learnt from in another.",
        "It names what the tagger hears, and its mistakes. It counts badly, and what it says of people (man, woman) is "
        "often a guess.",
        "The sounds of the scenes, their authors and licences are listed in CREDITS.txt. The captions are AudioCaps' "
        "(C. D. Kim et al. 2019), MIT licence.",
    ]


def published(captions: Path, made: Path, data: Path, run: Path) -> None:
    """Put a finished training into the package, with its card and credits."""
    target = ROOT / "src" / "ossicle" / "share" / "zoo" / NAME
    target.mkdir(parents=True, exist_ok=True)
    halved(run / store.WEIGHTS, target / store.WEIGHTS)
    for name in (store.MANIFEST, build.RECIPE, VOCABULARY):
        shutil.copyfile(run / name, target / name)
    used = {Path(event["source"]).stem for row in scenes.read(made) for event in row["events"]}
    manifest = store.read_manifest(target)
    manifest["data"] |= {"name": "AudioCaps' training captions and scenes of esc50", "sources": len(used)}
    if "begun with" in manifest:  # what was kept aside was learnt from in the training before
        manifest |= {"scores": {}, "kept": "the last epoch"}
        manifest["begun with"]["name"] = NAME
    licences = manifest["data"]["licences"]
    if "not stated" in licences:
        licences["captions MIT"] = licences.pop("not stated")
    store.save_manifest(target, {k: v for k, v in manifest.items() if k != "format"})
    plan = TagsPlan.saved(config.read(target / build.RECIPE), target)
    does, use, more = plan.told(NAME, manifest)
    result = json.loads(SCORES.read_text(encoding="utf-8"))
    said = sum(len(clip.captions) for clip in open_texts(str(captions)).clips)
    told = card(NAME, manifest, does, use, more, notes=notes(result, said))
    (target / "README.md").write_text(told, encoding="utf-8")
    (target / "CREDITS.txt").write_text(credits(data, used), encoding="utf-8")


def main() -> None:
    """Train, and put the folder into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("captions", "scenes", "data"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--run", required=True, type=Path, help="folder of the training; a finished one is used")
    args = parser.parse_args()
    if not (args.run / "README.md").exists():
        trained(args.captions, args.scenes, args.run)
    if SCORES.exists():
        published(args.captions, args.scenes, args.data, args.run)


if __name__ == "__main__":
    main()
