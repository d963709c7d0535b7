"""Captions of made scenes whose sounds and times are known: ours beside a majority, retrieval and a label template.

    python benchmarks/quality_captions.py --data esc50:PATH --work FOLDER

Training scenes come from the CC0 and CC-BY clips of folds 1 to 3, test scenes from all of fold 4 and nothing else. Each
row is kept when it ends; the same command goes on. `--work` keeps scenes and captioners. METEOR and sentence similarity
are scored with the others; SPICE where its jar is there.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import measure
from ossicle import devices
from ossicle.contracts import Clip
from ossicle.data import Dataset, open_data, scenes
from ossicle.data.phrases import esc50
from ossicle.data.splits import select
from ossicle.deliver.merge import merge
from ossicle.errors import OssicleError
from ossicle.metrics.caption import events
from ossicle.metrics.caption.score import score
from ossicle.recipe import backbone, build, config
from ossicle.tasks.features import FeatureStore
from ossicle.training.evaluate import predict_rows

NAME = "quality_captions"
ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "caption_llm" / "scenes_whisper-tiny_lora.toml"
METRICS = ["bleu", "rouge_l", "cider", "meteor", "sbert_sim", "spice"]
TAGS = ROOT / "recipes" / "caption_tags" / "scenes.toml"
BARTS = {
    "a small BART, tags": [],
    "a small BART, embedding": ["backbone.name=whisper-tiny.en", "task.join=alone"],
    "a small BART, tags and embedding": ["backbone.name=mn04+whisper-tiny.en", "task.join=cat"],
}
ONE_TOKEN = ["task.pooling=mean", "task.soft_tokens=1"]
SINGLES = ["ours, 8 soft tokens", *(f"ours, further LoRA {n}" for n in range(1, 5))]


class Bench:
    """Scenes, and where captioners lie.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, Path(args.work)
        self.train = self._scenes("train", args.train, 0, ["1", "2", "3"], ["CC0", "CC-BY"])
        self.test = self._scenes("test", args.test, 1, ["4"])
        self.truth = scenes.read(self.work / "test")

    def _scenes(self, name: str, count: int, seed: int, folds: list[str], licences: list[str] | None = None) -> Dataset:
        out = self.work / name
        scenes.make(select(open_data(self.args.data).clips, folds, licences), out, count, seed=seed)
        return open_data(str(out))

    # --- what is compared ---------------------------------------------------------------------------------------------

    def majority(self) -> list[str]:
        """The training caption that is most like those of 300 training scenes, for every clip."""
        known = {str(i): list(clip.captions) for i, clip in enumerate(self.train.clips[:300])}
        tried = sorted({clip.captions[0] for clip in self.train.clips[:300]})
        best = max(tried, key=lambda text: score(dict.fromkeys(known, text), known, ["rouge_l"]).corpus["rouge_l"])
        return [best] * len(self.test.clips)

    def retrieval(self) -> list[str]:
        """The first caption of the training clip whose standardised mean features are nearest."""
        store = FeatureStore(backbone.frozen(self.recipe_of_probe()), (2, 3, 4), "mean")
        found = [torch.stack(store.get(d.clips)) for d in (self.train, self.test)]  # type: ignore[arg-type]
        mean, std = found[0].mean(0), found[0].std(0)
        train, test = (F.normalize((vectors - mean) / std) for vectors in found)
        return [self.train.clips[i].captions[0] for i in (test @ train.T).argmax(1).tolist()]

    def recipe_of_probe(self) -> config.Recipe:
        """A linear probe for several labels on the same features."""
        return config.read(None, [
            "adapter.spec=probe()", "task.multi_label=true", "task.layers=[2,3,4]", "train.epochs=60", "train.batch=32",
            "train.lr=2e-3", "train.precision=float32", "data.hold_out=0", "train.keep=last",
        ])  # fmt: skip

    def template(self) -> list[str]:
        """Every class the probe hears (at least the likeliest), as a clause, joined by "and"."""
        out = self.work / "probe"
        if not (out / "README.md").is_file():
            build.train(self.recipe_of_probe(), self.train, out, quiet=True)
        rows = predict_rows(build.load(str(out)).task, self.test.clips, batch=16, precision="float32")
        return [self._clauses(row.scores) for row in rows]

    def _clauses(self, scores: dict[str, float]) -> str:
        ranked = sorted(scores, key=lambda label: -scores[label])
        heard = [label for label in ranked[:3] if scores[label] >= 0.5] or ranked[:1]
        text = " and ".join(esc50().of(label).clauses[0].present for label in heard)
        return text[:1].upper() + text[1:]

    def trained(self, name: str, changes: Sequence[str] = (), init: str | None = None) -> list[str]:
        """A captioner of ours."""
        folder = self.folder(name)
        if not (folder / "README.md").is_file():
            recipe = config.read(RECIPE, [f"train.epochs={self.args.epochs}", "train.precision=float32", *changes])
            resume = (folder / "last.ckpt").is_file()
            start = None if init is None else self.folder(init)
            build.train(recipe, self.train, folder, resume=resume, init=start, quiet=True)
        return self.said(folder)

    def tagged(self, name: str) -> list[str]:
        """A small BART from random start, on what a tagger names, what an encoder hears, or both."""
        folder = self.folder(name)
        if not (folder / "README.md").is_file():
            build.train(config.read(TAGS, BARTS[name]), self.train, folder, quiet=True)
        return self.said(folder)

    def merged(self) -> list[str]:
        """The five LoRAs concatenated with mean weights."""
        folder = self.folder("ours, five LoRAs merged")
        if not folder.exists():
            merge([str(self.folder(name)) for name in SINGLES], folder)
        return self.said(folder)

    def folder(self, name: str) -> Path:
        """Where a captioner lies."""
        return self.work / name.replace(",", "").replace(" ", "_")

    def said(self, folder: Path) -> list[str]:
        """The captions of the test scenes."""
        task = build.load(str(folder), kinds=build.CAPTIONERS).task
        return [r.caption or "" for r in predict_rows(task, self.test.clips, batch=16, precision="float32")]

    def rows(self) -> dict[str, Callable[[], list[str]]]:
        """Every row's captions by its name."""
        lora = ["task.stage=lora-only", "train.epochs=1"]  # the mapper is trained already
        return {
            "one caption for all": self.majority,
            "nearest training clip": self.retrieval,
            "label template": self.template,
            SINGLES[0]: lambda: self.trained(SINGLES[0]),
            "ours, one soft token": lambda: self.trained("ours, one soft token", ONE_TOKEN),
            **{
                name: (lambda name=name, n=n: self.trained(name, [*lora, f"train.seed={n}"], SINGLES[0]))
                for n, name in enumerate(SINGLES[1:], 1)
            },
            "ours, five LoRAs merged": self.merged,
            **{name: (lambda name=name: self.tagged(name)) for name in BARTS},
        }  # fmt: skip

    # --- scores -------------------------------------------------------------------------------------------------------

    def judge(self, captions: list[str]) -> dict[str, Any]:
        """Scores of all test scenes and of those with several events."""
        several = [i for i, row in enumerate(self.truth) if len(row["events"]) > 1]
        whole = range(len(captions))
        return {"all": self._judge(captions, whole), "several events": self._judge(captions, several)}

    def _judge(self, captions: list[str], chosen: Sequence[int]) -> dict[str, Any]:
        clips: list[Clip] = [self.test.clips[i] for i in chosen]
        candidates = {clip.name: captions[i] for i, clip in zip(chosen, clips, strict=True)}
        found = score(candidates, {clip.name: list(clip.captions) for clip in clips}, METRICS)
        known = events.score(candidates, [self.truth[i] for i in chosen])
        known.pop("items")
        return {
            "scenes": len(clips), **{k: round(v, 4) for k, v in found.corpus.items()},
            **{k: round(v, 4) if isinstance(v, float) else v for k, v in known.items()},
            "distinct_captions": int(found.vocabulary["distinct_captions"]), "absent": sorted(found.absent),
        }  # fmt: skip


def spread(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation of the five single LoRAs, once all are there."""
    singles = [row for row in rows if row["row"] in SINGLES]
    if len(singles) < len(SINGLES):
        return {}
    keys = [k for k, v in singles[0]["all"].items() if isinstance(v, float)]
    return {
        part: {
            k: [round(f([s[part][k] for s in singles]), 4) for f in (statistics.mean, statistics.stdev)] for k in keys
        }
        for part in ("all", "several events")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--rows", nargs="*", default=[])
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    devices.prepare()
    bench = Bench(args)
    path = measure.RESULTS / f"{NAME}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    how = {"recipe": RECIPE.name, "train_scenes": args.train, "test_scenes": args.test, "epochs": args.epochs}
    for name, captions in bench.rows().items():
        if any(row["row"] == name for row in rows) or (args.rows and name not in args.rows):
            continue
        began = time.perf_counter()
        try:
            said = captions()
        except OssicleError as error:
            print(name, "did not run:", error, flush=True)
            continue
        rows.append(
            {"row": name, **bench.judge(said), "seconds": round(time.perf_counter() - began), "said": said[:12]}
        )
        machine = measure.machine(("torch", "transformers", "peft")) | {"threads": torch.get_num_threads()}
        measure.save(NAME, {"machine": machine, **how, "single_loras": spread(rows), "rows": rows})
        print(name, {k: rows[-1]["all"][k] for k in ("cider_d", "rouge_l", "event_f1")}, flush=True)


if __name__ == "__main__":
    main()
