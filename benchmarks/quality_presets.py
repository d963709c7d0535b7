"""Every preset on ESC-50 in the few-shot protocol: 8 clips a class from folds 1 to 3, tested on fold 4.

    python benchmarks/quality_presets.py --data esc50:PATH

Whole folds, one file for each, are `--per-class 0 --train 2 3 4 --test 1 --name quality_presets_fold1` and so on.

Rates follow the papers' families around `--lr`: the same for adapters, LoRA and biases, twice as much for prompts, a
tenth for full fine-tuning. The default is the better of 0.001 and 0.003 for one method, hou-par, that had learnt from
folds 1 and 2 and was tested on fold 3.
"""

import argparse
from typing import Any

import rows
from ossicle.adapters import PRESETS
from ossicle.adapters.count import count
from ossicle.errors import AdapterError

FAMILY = {"prompts": 2.0, "prefix": 2.0, "full": 0.1}


def settings(preset: str, args: argparse.Namespace) -> dict[str, Any]:
    """The tables of one preset's recipe."""
    text = PRESETS[preset].text
    frozen = text == "probe()"
    folds = {"train": args.train, "test": args.test, "hold_out": 0.0}
    return {
        "data": {"source": "esc50", **folds, "per_class": args.per_class},
        "backbone": {"name": args.backbone},
        "adapter": {"spec": preset},
        "task": {
            **rows.TASK, "dropout": 0.3,
            "cache_versions": 0 if frozen or text == "full()" else 4,
            "augment": {} if frozen else {"shift_s": 1.0, "gain_db": 6.0},
        },
        "train": {
            **rows.TRAIN,
            "epochs": 30 if frozen else args.epochs, "batch": args.batch,
            "lr": args.lr * FAMILY.get(text.partition("(")[0], 1.0),
        },
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
            continue
        if preset.text in texts:
            out[name] = f"the same adapter as {texts[preset.text]}"
        texts.setdefault(preset.text, name)
    return list(texts.values()), out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", default="whisper-tiny.en")
    parser.add_argument("--presets", nargs="*", default=[], help="names; none means all that fit")
    parser.add_argument("--train", nargs="+", default=["1", "2", "3"])
    parser.add_argument("--test", nargs="+", default=["4"])
    parser.add_argument("--per-class", type=int, default=8, help="training clips of each class; 0 takes all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--name", default="quality_presets")
    args = parser.parse_args()
    names, left_out = fitting(args.backbone)
    how = {key: getattr(args, key) for key in ("backbone", "train", "test", "epochs", "batch")}
    jobs = {(preset, seed): settings(preset, args) for seed in args.seeds for preset in args.presets or names}
    rows.collect(args.name, jobs, args.data, how | {"clips_per_class": args.per_class, "left_out": left_out})


if __name__ == "__main__":
    main()
