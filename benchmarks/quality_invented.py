"""How much captions of real recordings name that no tag supports: people's, the shipped captioner's, wrong ones.

    python benchmarks/quality_invented.py --recordings FOLDER

FOLDER has captions.json (rows with file_name and captions of people) and audio. Tags are those of `ossicle predict` by
each tagger in windows of 2 s, every second, the highest of each over the file. What people name without a tag is the
floor: they heard it. The same captions beside the tags of every other recording say what the measure sees at all.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measure
from ossicle.metrics.caption import invented
from ossicle.predict.predictor import Predictor
from ossicle.recipe import build
from ossicle.tasks import tag

TAGGERS = ("mn04", "yamnet")
CAPTIONER = "everyday"
WHOLE_S = 30.0
# Other ways to judge: the bare rule without words that stand in for each other, and other bounds.
WAYS: dict[str, dict[str, Any]] = {
    "no stand-ins": {"stand_ins": False},
    "score 0.05": {"least_score": 0.05},
    "score 0.2": {"least_score": 0.2},
    "cosine 0.4": {"least_cosine": 0.4},
    "cosine 0.6": {"least_cosine": 0.6},
}

Captions = Mapping[str, Sequence[str]]
Tags = Mapping[str, Mapping[str, float]]


def tagged(name: str, files: Sequence[Path]) -> Tags:
    """The highest score of each tag over a file, by the file's name."""
    found = {}
    for path, rows in Predictor(tag.load(name), name, tag.WINDOW_S, tag.WINDOW_S / 2).files(files):
        highest: dict[str, float] = {}
        for row in rows:
            for label, score in row.scores.items():
                highest[label] = max(score, highest.get(label, 0.0))
        found[path.name] = highest
    return found


def captioned(files: Sequence[Path]) -> Captions:
    """One caption of the captioner that ships for each whole file."""
    task = build.load(CAPTIONER, [], kinds=build.CAPTIONERS).task
    return {path.name: [str(rows[0].caption)] for path, rows in Predictor(task, CAPTIONER, WHOLE_S).files(files)}


def heard(support: invented.Support, said: Captions, tags: Tags, *, others: bool = False) -> list[invented.Heard]:
    """Each caption beside its own file's tags, or beside those of every other file."""
    beside = {name: [tags[other] for other in tags if (other != name) == others] for name in said}
    return [support.heard(text, own) for name, texts in said.items() for text in texts for own in beside[name]]


def judged(support: invented.Support, said: Captions, tags: Tags) -> dict[str, Any]:
    """The share, what it is of, the commonest unsupported words, and the share beside other files' tags."""
    rows = heard(support, said, tags)
    words = Counter(word for row in rows for word in row.unsupported)
    return {
        "share": round(invented.share(rows), 4),
        **{key: int(value) for key, value in invented.counts(rows).items()},
        "captions_without_invention": sum(not row.unsupported for row in rows),
        "share_beside_other_files": round(invented.share(heard(support, said, tags, others=True)), 4),
        "commonest": dict(words.most_common(12)),
    }


def otherwise(said: Mapping[str, Captions], tags: Tags) -> dict[str, Any]:
    """The shares beside the own file's tags and beside the others', judged in other ways."""
    found: dict[str, Any] = {}
    for way, options in WAYS.items():
        support = invented.Support(**options)
        found[way] = {
            who: [round(invented.share(heard(support, texts, tags, others=others)), 4) for others in (False, True)]
            for who, texts in said.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, required=True)
    folder = parser.parse_args().recordings
    rows = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    files = [folder / "audio" / row["file_name"] for row in rows]
    said = {"people": {row["file_name"]: row["captions"] for row in rows}, CAPTIONER: captioned(files)}
    found: dict[str, Any] = {}
    for name in TAGGERS:
        tags = tagged(name, files)
        each = sum(len(invented.names(own)) for own in tags.values()) / len(tags)
        found[name] = {"tags_of_a_file": round(each, 1)}
        found[name] |= {who: judged(invented.usual(), texts, tags) for who, texts in said.items()}
        found[name]["otherwise, own and other files"] = otherwise(said, tags)
    machine = measure.machine(("torch", "transformers"))
    facts = {"recordings": len(files), "sound_words_known": len(invented.sound_words())}
    print(measure.save("quality_invented", {"machine": machine, "data": facts, "taggers": found}))


if __name__ == "__main__":
    main()
