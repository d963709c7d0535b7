"""Caption metrics beside pycocoevalcap: AudioCaps test, one reference as candidate against the other four, same run.

    python benchmarks/speed_metrics.py --references captions/audiocaps_test.csv

Both start from text: PTB tokens, BLEU, ROUGE-L, CIDEr-D, and METEOR. Java starts anew each time, as it does for a user;
our METEOR tables were indexed before, once for all.
"""

import argparse
import contextlib
import io
import os
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

import measure
from ossicle.data import captions
from ossicle.metrics.caption import meteor as our_meteor
from ossicle.metrics.caption import tokenize
from ossicle.metrics.caption.meteor_tables import tables
from ossicle.metrics.caption.score import score

Texts = dict[str, list[str]]
COMMON = ("bleu", "rouge_l", "cider")


def theirs(candidates: Texts, references: Texts, *, meteor: bool) -> None:
    """pycocoevalcap, as its own evaluation runs it."""
    own, others = (
        PTBTokenizer().tokenize({k: [{"caption": c} for c in v] for k, v in t.items()})
        for t in (candidates, references)
    )
    scorers = [Bleu(4), Rouge(), Cider(), *([Meteor()] if meteor else [])]
    with contextlib.redirect_stdout(io.StringIO()):
        for scorer in scorers:
            scorer.compute_score(others, own)
    if meteor:
        scorers[-1].meteor_p.kill()


def ours(candidates: Texts, references: Texts, *, meteor: bool) -> None:
    """Ours, with nothing remembered from an earlier call."""
    tokenize._chunk.cache_clear()
    our_meteor.text.cache_clear()
    our_meteor._stem.cache_clear()
    score({k: v[0] for k, v in candidates.items()}, references, (*COMMON, *(["meteor"] if meteor else [])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--references", type=Path, required=True)
    args = parser.parse_args()
    texts = captions.references(args.references)
    candidates, others = {k: v[:1] for k, v in texts.items()}, {k: v[1:] for k, v in texts.items()}
    tables()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Java's chatter
    work = {
        f"{name}{', with METEOR' if with_meteor else ''}": lambda f=f, m=with_meteor: f(candidates, others, meteor=m)
        for with_meteor in (False, True)
        for name, f in (("ossicle", ours), ("pycocoevalcap", theirs))
    }
    medians = measure.interleaved_medians(work, rounds=3)
    faster = {
        "tokens, BLEU, ROUGE-L, CIDEr-D": round(medians["pycocoevalcap"] / medians["ossicle"], 2),
        "with METEOR": round(medians["pycocoevalcap, with METEOR"] / medians["ossicle, with METEOR"], 2),
    }
    machine = measure.machine(("numpy", "pycocoevalcap", "snowballstemmer"))
    result = {
        "clips": len(texts),
        "captions": sum(map(len, texts.values())),
        "ms": {k: round(v) for k, v in medians.items()},
    }
    measure.save("speed_metrics", {"machine": machine, **result, "times_faster": faster})
    print(medians, faster)


if __name__ == "__main__":
    main()
