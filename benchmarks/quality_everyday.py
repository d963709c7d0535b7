"""Captioners from tags on real recordings with five captions of people each, beside what they must beat.

    python benchmarks/quality_everyday.py --recordings FOLDER --captions FOLDER --models NAME=DIR ...
        [--taggers mn04 yamnet] [--decode candidates=8 rerank=consensus]

FOLDER of recordings has captions.json (rows with file_name and captions) and audio; FOLDER of captions has
audiocaps_train.csv and audiocaps_test.csv. One caption is written for each whole file. Rows: the two best tags joined
by "and"; the training caption whose MiniLM embedding is nearest to the three best tags; each model with each tagger;
the captioner of scenes; people, each against the other four. `text`: AudioCaps' test clips with five captions, written
from pseudo-tags of the first and scored against the other four: the language half alone.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import measure
from ossicle import backbones
from ossicle.contracts import Clip
from ossicle.metrics.caption import invented, score
from ossicle.metrics.caption.sbert import Sentences
from ossicle.predict.predictor import Predictor
from ossicle.recipe import build
from ossicle.tasks import pseudo, tracks
from ossicle.tasks.tracks import Track, Tracker
from ossicle.training.evaluate import predict_rows

WHOLE_S = 600.0
METRICS = ["cider", "rouge_l", "meteor", "sbert_sim"]
SHOWN = ("cider_d", "rouge_l", "meteor", "sbert_sim")
FIRST = 12_000
References = Mapping[str, Sequence[str]]


def scores(said: Mapping[str, str], references: References) -> dict[str, float]:
    """Corpus scores of one caption each."""
    found = score.score(said, {name: list(references[name]) for name in said}, METRICS).corpus
    return {key: round(float(found[key]), 4) for key in SHOWN if key in found}


def people(references: References) -> dict[str, float]:
    """Each person against the other four, the mean."""
    rows = []
    for one in range(5):
        said = {name: texts[one] for name, texts in references.items()}
        rows.append(scores(said, {n: [t for i, t in enumerate(v) if i != one] for n, v in references.items()}))
    return {key: round(sum(row[key] for row in rows) / len(rows), 4) for key in rows[0]}


def heard(tagger: str, files: Sequence[Path]) -> dict[str, list[tracks.Tag]]:
    """The surest tags of each file."""
    tracker = Tracker(backbones.load(tagger).eval())
    found = zip(files, tracker.get([Clip(path) for path in files]), strict=True)
    return {p.name: tracks.heard(t, tracker.names, most=5, least=0.0) for p, t in found if isinstance(t, Track)}


def nearest(tags: Mapping[str, Sequence[tracks.Tag]], captions: Sequence[str]) -> dict[str, str]:
    """Of captions the one most like the three best tags."""
    sentences = Sentences("all-minilm-l6-v2")
    known = sentences.embed(captions)
    asked = sentences.embed([", ".join(tag.name for tag in own[:3]) for own in tags.values()])
    best = (asked @ known.T).argmax(dim=1).tolist()
    return {name: captions[i] for name, i in zip(tags, best, strict=True)}


def written(folder: str, tagger: str, files: Sequence[Path], decode: Sequence[str]) -> dict[str, Any]:
    """Captions of a model, and the share of sound words that no tag supports."""
    changes = [f"task.decoding.{one}" for one in decode] + ([f"backbone.name={tagger}"] if tagger else [])
    loaded = build.load(folder, changes, kinds=build.CAPTIONERS)
    rows = [rows[0] for _, rows in Predictor(loaded.task, "model", WHOLE_S).files(files)]
    support = invented.usual()
    share = invented.share([support.heard(r.caption or "", r.tags) for r in rows]) if rows[0].tags else None
    return {"said": {Path(r.path).name: r.caption or "" for r in rows}, "invented": share}


def language_half(folder: str, table: Path) -> dict[str, Any]:
    """AudioCaps' test clips from pseudo-tags of one reference against the other four."""
    groups: dict[str, list[str]] = {}
    for row in csv.DictReader(table.open(encoding="utf-8")):
        groups.setdefault(f"{row['youtube_id']}_{row['start_time']}", []).append(row["caption"].strip())
    chosen = {name: texts for name, texts in groups.items() if len(texts) == 5}
    loaded = build.load(folder, kinds=build.CAPTIONERS)
    clauses = pseudo.Clauses([texts[0] for texts in chosen.values()], Sentences("all-minilm-l6-v2"))
    confusions = pseudo.load(loaded.recipe.backbone.name)
    assert confusions is not None
    loaded.task.pretences = [(pseudo.Pretence(confusions), clauses.events(confusions.names))]
    clips = [Clip(Path(n), end=10.0, captions=(texts[0],), name=n, text_only=True) for n, texts in chosen.items()]
    rows = predict_rows(loaded.task, clips, batch=32, precision="float32")
    said = {c.name: r.caption or "" for c, r in zip(clips, rows, strict=True)}
    return {"clips": len(said), **scores(said, {name: texts[1:] for name, texts in chosen.items()})}


def main() -> None:
    """Every row, printed and saved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--taggers", nargs="+", default=["mn04", "yamnet"])
    parser.add_argument("--decode", nargs="*", default=[])
    parser.add_argument("--text", action="store_true", help="the language half, too")
    parser.add_argument("--name", default="quality_everyday")
    args = parser.parse_args()
    known = json.loads((args.recordings / "captions.json").read_text(encoding="utf-8"))
    references = {row["file_name"]: row["captions"] for row in known}
    files = [args.recordings / "audio" / name for name in references]
    with (args.captions / "audiocaps_train.csv").open(encoding="utf-8") as file:
        learnt = [row["caption"].strip() for row in csv.DictReader(file)][:FIRST]
    rows: list[dict[str, Any]] = [{"row": "people, each against the other four", **people(references)}]
    for tagger in args.taggers:
        tags = heard(tagger, files)
        two = {name: " and ".join(tag.name for tag in own[:2]) for name, own in tags.items()}
        rows.append({"row": "two best tags", "tagger": tagger, **scores(two, references)})
        rows.append({"row": "nearest caption", "tagger": tagger, **scores(nearest(tags, learnt), references)})
    for model in args.models:
        name, _, folder = model.partition("=")
        for tagger in args.taggers if "=" in model else [""]:
            found = written(folder or name, tagger, files, args.decode if folder else [])
            rows.append({"row": name, "tagger": tagger, **scores(found["said"], references), **found})
        if args.text and folder:
            rows.append(
                {"row": f"{name}, text in, text out", **language_half(folder, args.captions / "audiocaps_test.csv")}
            )
    for row in rows:
        print({key: value for key, value in row.items() if key != "said"})
    machine = measure.machine(("torch", "transformers")) | {"threads": torch.get_num_threads()}
    measure.save(args.name, {"machine": machine, "what": __doc__, "decode": args.decode, "rows": rows})


if __name__ == "__main__":
    main()
