"""Real captions through our metrics and the reference tools: tokens, BLEU, ROUGE-L, CIDEr-D and METEOR are the same."""

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from tests.conftest import need

from ossicle.data import captions
from ossicle.metrics.caption.bleu import bleu
from ossicle.metrics.caption.cider import cider
from ossicle.metrics.caption.meteor import meteor
from ossicle.metrics.caption.meteor_jar import meteor_jar
from ossicle.metrics.caption.meteor_tables import folder
from ossicle.metrics.caption.pairs import Pair, pair
from ossicle.metrics.caption.rouge import rouge_l
from ossicle.metrics.caption.tokenize import ptb

TOKENIZER = folder().parent / "tokenizer" / "stanford-corenlp-3.4.1.jar"
# What captions rarely hold and users may write.
ODD = """he said 'hello there' to me
it's 5:00 p.m. now and can't won't shouldn't
a U.S. train, e.g. a dog... what?
wait.. what a -- b - c
the 80's and '90s, 1990s, 1,000th 4x4 mp3 7-up
#1 @home C++ and c# R&B AT&T
[inaudible] {x} <b> $5 £5
hmm!! what?! y'all o'clock rock 'n' roll ma'am
“smart” ‘quotes’ it’s (“quoted”) 5'10" tall
Mr. Smith and Dr. Jones. 3.5 dogs 50% of it
-5 +5 1-2-3 -a dog and/or 1/2 cup well-known
gonna wanna gotta lemme cannot 'tis
visit http://www.example.com/a?b=c or a.b@c.com
naïve café A. I. no.1 vs. no. 2
Whoa!The end.Next talk.s a;b a:b 12:30:45""".splitlines()


def texts(shared: Path, name: str, part: str) -> dict[str, list[str]]:
    return captions.references(shared / "data" / "captions" / f"{name}_{part}.csv")


def java_tokens(lines: list[str], folder: Path) -> list[list[str]]:
    need(shutil.which("java") is not None, "Java")
    file = folder / "lines.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    command = ["java", "-cp", str(TOKENIZER), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    done = subprocess.run([*command, str(file)], capture_output=True, check=True)
    return [line.split() for line in done.stdout.decode("utf-8").split("\n")][: len(lines)]


def different(lines: list[str], folder: Path) -> list[str]:
    flat = [line.replace("\n", " ") for line in lines]
    return [line for line, tokens in zip(flat, java_tokens(flat, folder), strict=True) if ptb(line) != tokens]


def test_odd_text_is_tokenised_as_java_does(tmp_path: Path) -> None:
    assert different(ODD, tmp_path) == []


@pytest.mark.parametrize("name", ["audiocaps", "clotho"])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_every_real_caption_is_tokenised_as_java_does(shared: Path, name: str, part: str, tmp_path: Path) -> None:
    lines = [text for captions in texts(shared, name, part).values() for text in captions]
    assert len(lines) > 2000
    # By count only: what is derived from Clotho is not written anywhere.
    assert len(different(lines, tmp_path)) == 0


def first_against_rest(shared: Path, name: str) -> list[Pair]:
    all_texts = texts(shared, name, "test")
    return pair({k: v[0] for k, v in all_texts.items()}, {k: v[1:] for k, v in all_texts.items()})


def theirs(pairs: list[Pair]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    references = {p.name: [" ".join(r) for r in p.references] for p in pairs}
    return references, {p.name: [" ".join(p.candidate)] for p in pairs}


@pytest.mark.parametrize(("name", "items"), [("audiocaps", 975), ("clotho", 1045)])
def test_bleu_rouge_and_cider_equal_pycocoevalcap(shared: Path, name: str, items: int) -> None:
    pairs = first_against_rest(shared, name)
    assert len(pairs) == items
    given = theirs(pairs)
    corpus, each = Bleu(4).compute_score(*given, verbose=0)
    ours = bleu(pairs)
    assert np.allclose(corpus, ours.corpus, atol=1e-12) and np.allclose(np.array(each).T, ours.items, atol=1e-12)
    mean, each = Rouge().compute_score(*given)
    assert np.allclose(each, rouge_l(pairs), atol=1e-12) and mean == pytest.approx(np.mean(rouge_l(pairs)))
    mean, each = Cider().compute_score(*given)
    found = cider(pairs)
    assert np.allclose(each, found.cider_d, atol=1e-12) and mean == pytest.approx(np.mean(found.cider_d))
    assert all(plain >= clipped - 1e-12 for plain, clipped in zip(found.cider, found.cider_d, strict=True))


def test_our_way_to_the_jar_gives_what_it_says(shared: Path) -> None:
    need(shutil.which("java") is not None, "Java")
    pairs = first_against_rest(shared, "clotho")[:40]
    given = [p.candidate for p in pairs], [p.references for p in pairs]
    jar, ours = meteor_jar(*given), meteor(*given)
    assert jar.corpus == pytest.approx(ours.corpus, abs=1e-9)
    assert np.allclose(jar.items, ours.items, atol=1e-9)


def check_meteor(pairs: list[Pair]) -> None:
    need(shutil.which("java") is not None, "Java")
    jar = Meteor()
    corpus, each = jar.compute_score(*theirs(pairs))
    jar.meteor_p.kill()
    jar.meteor_p.wait()
    for pipe in (jar.meteor_p.stdin, jar.meteor_p.stdout, jar.meteor_p.stderr):
        pipe.close()
    del jar.meteor_p
    ours = meteor([p.candidate for p in pairs], [p.references for p in pairs])
    assert ours.corpus == pytest.approx(corpus, abs=1e-9)
    assert np.allclose(ours.items, each, atol=1e-9)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the wrapper's __del__
def test_meteor_equals_its_jar(shared: Path) -> None:
    check_meteor(first_against_rest(shared, "audiocaps")[:120])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["audiocaps", "clotho"])
def test_meteor_equals_its_jar_on_every_item(shared: Path, name: str) -> None:
    check_meteor(first_against_rest(shared, name))


def test_the_audiocaps_csv_gives_five_captions_a_clip(shared: Path) -> None:
    with (shared / "data" / "captions" / "audiocaps_test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    known = texts(shared, "audiocaps", "test")
    assert sum(map(len, known.values())) == len(rows)
    assert {len(v) for v in known.values()} == {5}
