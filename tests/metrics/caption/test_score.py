"""What must hold of any caption score; metrics that cannot run are named; files of every format; the verb."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import tries

from ossicle.data import captions
from ossicle.errors import DataError, UnknownNameError, WeightsError
from ossicle.metrics.caption import sbert, spice
from ossicle.metrics.caption.meteor import meteor
from ossicle.metrics.caption.pairs import pair
from ossicle.metrics.caption.rouge import longest_common
from ossicle.metrics.caption.score import METRICS, human, score
from ossicle.metrics.caption.tokenize import tokenize

FAST = ("bleu", "rouge_l", "cider")
WORDS = [
    "a",
    "dog",
    "barks",
    "while",
    "the",
    "rain",
    "falls",
    "on",
    "an",
    "old",
    "tin",
    "roof",
    "and",
    "people",
    "talk",
]
caption = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
corpora = st.lists(st.tuples(caption, st.lists(caption, min_size=1, max_size=3)), min_size=2, max_size=6)


def split(items: list[tuple[str, list[str]]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    return {str(i): c for i, (c, _) in enumerate(items)}, {str(i): r for i, (_, r) in enumerate(items)}


@tries(60)
@given(corpora, st.randoms())
def test_order_never_changes_a_corpus_score(items: list[tuple[str, list[str]]], random: object) -> None:
    candidates, references = split(items)
    expected = score(candidates, references, FAST).corpus
    names = list(candidates)
    random.shuffle(names)  # type: ignore[attr-defined]
    moved = score({n: candidates[n] for n in names}, {n: references[n][::-1] for n in names}, FAST).corpus
    assert moved == pytest.approx(expected)


@tries(60)
@given(corpora, caption)
def test_one_more_reference_never_lowers_what_rewards_the_best_one(
    items: list[tuple[str, list[str]]], extra: str
) -> None:
    candidates, references = split(items)
    before = score(candidates, references, ("rouge_l",)).items
    after = score(candidates, {k: [*v, extra] for k, v in references.items()}, ("rouge_l",)).items
    assert all(after[k]["rouge_l"] >= before[k]["rouge_l"] - 1e-12 for k in before)
    first, second = (
        meteor([p.candidate for p in pairs], [p.references for p in pairs]).items
        for pairs in (pair(candidates, references), pair(candidates, {k: [*v, extra] for k, v in references.items()}))
    )
    assert all(b >= a - 1e-12 for a, b in zip(first, second, strict=True))


@tries(40)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=4, max_size=9), min_size=2, max_size=5))
def test_the_same_caption_scores_the_most(rows: list[list[str]]) -> None:
    candidates = {str(i): " ".join(row) for i, row in enumerate(rows)}
    found = score(candidates, {k: [v] for k, v in candidates.items()}, (*FAST, "meteor"))
    for n in range(1, 5):
        assert found.corpus[f"bleu_{n}"] == pytest.approx(1.0)
    assert found.corpus["rouge_l"] == pytest.approx(1.0)
    assert all(row["meteor"] == pytest.approx(1.0) for row in found.items.values())
    if len(set(candidates.values())) == len(candidates):
        own = [row["cider_d"] for row in found.items.values()]
        others = score({k: "zebra" for k in candidates}, {k: [v] for k, v in candidates.items()}, ("cider",))
        assert min(own) >= 0 and max(r["cider_d"] for r in others.items.values()) == 0


def test_an_empty_caption_scores_nothing_and_breaks_nothing() -> None:
    found = score({"a": "", "b": "a dog barks"}, {"a": ["a cat meows"], "b": ["a dog barks"]}, (*FAST, "meteor"))
    assert all(value == pytest.approx(0.0, abs=1e-6) for value in found.items["a"].values())
    assert found.items["b"]["rouge_l"] == 1.0


@tries(50)
@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_longest_common_subsequence(first: list[str], second: list[str]) -> None:
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    assert longest_common(first, second) == table[-1, -1]


def test_meteor_sees_stems_synonyms_and_paraphrases() -> None:
    def one(candidate: str, reference: str) -> float:
        return meteor([tokenize(candidate)], [[tokenize(reference)]]).items[0]

    assert one("big zebra", "big dog") < one("big dogs", "big dog") == pytest.approx(0.8)  # stem
    assert one("he is crying", "he is departing") < one("he is leaving", "he is departing")  # synonym or paraphrase
    assert one("dogs", "dog") == 0.0  # as the jar: a single word that only its stem matches is passed over


def test_metrics_that_cannot_run_are_named_and_never_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSICLE_SPICE", str(tmp_path))
    said, known = {"a": "a dog", "b": "rain"}, {"a": ["a dog barks"], "b": ["it rains"]}
    found = score(said, known, ("bleu", "spice", "spider", "spider_fl"))
    assert set(found.absent) == {"spice", "spider", "spider_fl"}
    assert not {"spice", "spider", "spider_fl"} & set(found.corpus)
    assert "spice-1.0.jar" in found.absent["spider"] and "OSSICLE_SPICE" in found.absent["spice"]


def test_spice_reads_what_its_jar_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the jar, which needs 400 MB of models: the same arguments, the same file."""
    (tmp_path / "lib").mkdir()
    for name in (spice.JAR, *(f"lib/{n}" for n in spice.NEEDED)):
        (tmp_path / name).touch()
    fake = tmp_path / "java"
    fake.write_text(
        f"#!{sys.executable}\nimport json, os, sys\na = sys.argv\ngiven = json.load(open(a[a.index('-cache') - 1]))\n"
        "assert os.path.isdir(a[a.index('-cache') + 1]) and given[0]['test'] == 'a dog', given\n"
        "rows = [{'image_id': g['image_id'], 'scores': {'All': {'f': len(g['refs']) / 10}}} for g in given]\n"
        "json.dump(rows[::-1], open(a[a.index('-out') + 1], 'w'))\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = score(
        {"a": "A dog.", "b": "a cat"}, {"a": ["x"], "b": ["x", "y"]}, ("spice", "spider", "cider"), spice=tmp_path
    )
    assert (found.items["a"]["spice"], found.items["b"]["spice"]) == (0.1, 0.2)
    assert found.corpus["spider"] == pytest.approx((found.corpus["cider_d"] + 0.15) / 2)
    fake.write_text("#!/bin/sh\necho it broke >&2\nexit 3\n")
    assert score({"a": "x"}, {"a": ["y"]}, ("spice",), spice=tmp_path).absent["spice"].endswith("it broke")


def test_fluency_and_fense_on_a_tiny_checkpoint(tmp_path: Path) -> None:
    """The layout of the published file, made here with random weights; the penalty by hand."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = tmp_path / "base"
    base.mkdir()
    (base / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(base / "vocab.txt")).save_pretrained(base)
    config = BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )  # fmt: skip
    config.save_pretrained(base)
    torch.manual_seed(0)
    encoder, head = BertModel(config), torch.nn.Linear(8, 6)
    state = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    state |= {f"clf.{k}": v for k, v in head.state_dict().items()}
    state["encoder.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save({"model_type": str(base), "num_classes": 6, "state_dict": state}, tmp_path / "checker.ckpt")
    made = sbert.Fluency(tmp_path / "checker.ckpt")
    one, two = made.errors(["A dog barks!", "the rain"]), made.errors(["a dog barks"])
    assert one[0] == pytest.approx(two[0], abs=1e-6) and len(one) == 2 and 0 < min(one) <= max(one) < 1
    assert sbert.penalised([0.8, 0.8], [0.91, 0.89]) == pytest.approx([0.08, 0.8])
    (tmp_path / "broken.ckpt").write_bytes(b"no")
    with pytest.raises(WeightsError, match="no fluency checkpoint"):
        sbert.Fluency(tmp_path / "broken.ckpt")


def test_sbert_similarity_has_its_own_name() -> None:
    from tests.conftest import need

    from ossicle.backbones import weights

    need((weights.home() / "weights" / "all-minilm-l6-v2").is_dir(), "all-minilm-l6-v2 in the cache")
    references = {"a": ["A dog is barking.", "Barking of a dog"], "b": ["Rain falls on a roof."]}
    found = score({"a": "A dog barks.", "b": "A car engine starts."}, references, ("sbert_sim",))
    assert set(found.corpus) == {"sbert_sim"}
    assert found.items["a"]["sbert_sim"] > 0.8 > 0.4 > found.items["b"]["sbert_sim"]


def test_people_against_each_other() -> None:
    references = {"a": ["a dog barks", "a dog barks", "a cat"], "b": ["rain", "rain", "rain"], "c": ["one only"]}
    found = human(references, ("rouge_l",))
    assert found.items["b"]["rouge_l"] == 1.0
    third = score({"a": "a cat"}, {"a": references["a"][:2]}, ("rouge_l",)).corpus["rouge_l"]
    assert found.items["a"]["rouge_l"] == pytest.approx((1 + 1 + third) / 3)
    assert set(found.items) == {"a", "b"} and found.left_out == {"c": "fewer than two references"}
    with pytest.raises(DataError):
        human({"a": ["x"]}, ("rouge_l",))


def test_people_with_unequal_numbers_of_captions_are_scored_over_all_items_in_every_turn() -> None:
    """A turn over the one item that has a third caption would have no CIDEr, or one of 0 for a perfect caption."""
    references = {"a": ["a dog barks"] * 3, "b": ["rain falls down"] * 2}
    found = human(references, ("cider", "rouge_l"))
    assert found.corpus["rouge_l"] == 1.0 and found.absent == {}
    pair_only = human({name: texts[:2] for name, texts in references.items()}, ("cider",))
    assert found.corpus["cider_d"] == pytest.approx(pair_only.corpus["cider_d"]) and found.corpus["cider_d"] > 5


def test_cider_is_not_run_where_no_word_is_rarer_than_another() -> None:
    for items in (1, 3):
        said = {str(i): "a dog barks" for i in range(items)}
        found = score(said, {name: [text] for name, text in said.items()}, FAST)
        assert set(found.absent) == {"cider"} and "rare" in found.absent["cider"] and "cider_d" not in found.corpus


def test_ids_that_do_not_go_together_are_named() -> None:
    with pytest.raises(DataError, match=r"1 candidate\(s\) have no reference: b; 1 item\(s\) .* no candidate: c"):
        score({"a": "x", "b": "y"}, {"a": ["x"], "c": ["z"]})
    with pytest.raises(UnknownNameError, match="did you mean 'rouge_l'"):
        score({"a": "x"}, {"a": ["x"]}, ("rouge",))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.csv", "file_name,caption_1,caption_2\nx/a.wav,one,two\nb.wav,three,\n"),
        ("r.csv", "fname,caption_predicted,caption_1,caption_2\na.wav,guess,one,two\nb.wav,other,three,\n"),
        ("r.csv", "audio_id,caption\na.wav,one\na.wav,two\nb.wav,three\n"),
        (
            "r.json",
            '[{"file_name": "a.wav", "captions": ["one", "two"]}, {"file_name": "b.wav", "captions": ["three"]}]',
        ),
        (
            "r.jsonl",
            '{"image_id": "a.wav", "references": ["one", "two", ""]}\n{"image_id": "b.wav", "caption": "three"}\n',
        ),
    ],
)
def test_references_in_every_format(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    found = captions.references(tmp_path / name)
    assert {name.rpartition("/")[2]: own for name, own in found.items()} == {
        "a.wav": ["one", "two"],
        "b.wav": ["three"],
    }


def test_candidates_in_every_format_and_their_faults(tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    file.write_text("fname,caption_predicted,caption_1\na.wav,guess,one\nb.wav,,two\n")
    assert captions.candidates(file) == captions.Said({"a.wav": "guess", "b.wav": ""}, {})
    coco = tmp_path / "c.json"
    coco.write_text('[{"image_id": 7, "caption": "guess"}]')
    assert captions.candidates(coco) == captions.Said({"7": "guess"}, {})
    file.write_text("youtube_id,start_time,caption\nxyz,30,guess\n")
    assert captions.candidates(file) == captions.Said({"xyz_30": "guess"}, {})
    file.write_text("file_name,caption\na.wav,x\na.wav,y\n")
    with pytest.raises(DataError, match=r"1 id\(s\) more than once: a.wav \(line 3\)"):
        captions.candidates(file)
    file.write_text("file_name,text\na.wav,x\n")
    with pytest.raises(DataError, match="no column of captions"):
        captions.candidates(file)
    file.write_text("caption\nx\n")
    with pytest.raises(DataError, match="line 2 names no item"):
        captions.candidates(file)
    file.write_text("file_name,caption_1\na.wav,\n")
    with pytest.raises(DataError, match=r"1 id\(s\) without a caption"):
        captions.references(file)


def test_the_verb(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("file_name,caption_1,caption_2\na.wav,a dog barks,a dog\nb.wav,rain falls,rain\n")
    (tmp_path / "c.csv").write_text("file_name,caption\na.wav,a dog barks\nb.wav,wind\n")
    code = "from ossicle.cli import main; main()"
    words = ["score", "captions", "--references", "r.csv", "--candidates", "c.csv", "--json", "--items", "i.jsonl"]
    command = [sys.executable, "-c", code, *words, "--metrics", ",".join([*FAST, "spice"])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["absent"]) == {"spice"} and result["scores"]["rouge_l"] == 0.5
    low, high = result["intervals"]["rouge_l"]
    assert low <= 0.5 <= high
    rows = [json.loads(line) for line in (tmp_path / "i.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a.wav", "b.wav"] and rows[0]["rouge_l"] == 1.0
    assert set(METRICS) >= set(FAST)
