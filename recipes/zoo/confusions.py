"""Measure how a tagger's scores go together on real sounds, for captions without sound (`tasks.pseudo`).

    python recipes/zoo/confusions.py mn04 yamnet --sounds PATH_OF_ESC50 --words PATH_OF_SPEECH_COMMANDS --out DIR

The sounds are ESC-50's CC0 and CC-BY clips of folds 1 to 4 and 320 words of Speech Commands' training part (CC BY 4.0).
"""

import argparse
from pathlib import Path

import numpy as np

from ossicle import backbones
from ossicle.data import open_data
from ossicle.data.splits import select
from ossicle.metrics.caption.sbert import Sentences
from ossicle.tasks import pseudo
from ossicle.tasks.tracks import Track, Tracker

WORDS_OF, WORDS = 480, 320


def measured(name: str, sounds: Path, words: Path) -> pseudo.Confusions:
    """Of one tagger."""
    tracker = Tracker(backbones.load(name).eval())
    clips = select(open_data(f"esc50:{sounds}").clips, None, ["CC0", "CC-BY"])
    spoken = [c for c in open_data(f"speech-commands:{words}").clips if c.split == "train"][:WORDS_OF]
    chosen = [spoken[i] for i in np.random.default_rng(0).permutation(len(spoken))[:WORDS]]
    kinds = {clip.labels[0]: clip.labels[0].replace("_", " ") for clip in clips}
    events = pseudo.Clauses(list(kinds.values()), Sentences("all-minilm-l6-v2")).events(tracker.names)
    tracks: list[Track] = []
    sounding: list[tuple[int, ...]] = []
    for clip, track in zip([*clips, *chosen], tracker.get([*clips, *chosen]), strict=True):
        if isinstance(track, Track):
            named = events[kinds[clip.labels[0]]] if clip.labels[0] in kinds else []
            speech = (list(tracker.names).index("Speech"),) if clip.labels[0] not in kinds else ()
            tracks.append(track)
            sounding.append((int(named[0].classes[0]),) if named else speech)
    return pseudo.measured(tracks, tracker.names, sounding)


def main() -> None:
    """One file for each tagger."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("taggers", nargs="+")
    parser.add_argument("--sounds", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=pseudo.MEASURED)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.taggers:
        measured(name, args.sounds, args.words).save(args.out / f"{name}.safetensors")


if __name__ == "__main__":
    main()
