"""`ossicle train caption-tags` and `caption --whole --strict` from the command line, on tiny taggers."""

import csv
import json
from pathlib import Path

import pytest
from tests import tiny
from tests.recipe.test_caption_tags import QUICK, stand_ins

from ossicle.metrics.caption import invented
from ossicle.tasks import tracks

SETTINGS = [word for change in [*QUICK, "task.window_s=1.0", "train.epochs=1"] for word in ("--set", change)]


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch, tmp_path):
    stand_ins(monkeypatch, tmp_path / "home")


@pytest.fixture
def sounds(tmp_path) -> Path:
    folder = tmp_path / "sounds"
    rows = ["file_name,caption_1,caption_2"]
    for i in range(3):
        tiny.write_tone(folder / f"{i}.wav", 400.0 * (i + 1), 0.6 + i, seed=i)
        rows.append(f"{i}.wav,a tone of number {i},the tone is {i}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def texts(tmp_path) -> Path:
    table = tmp_path / "texts.csv"
    table.write_text(
        "audiocap_id,youtube_id,start_time,caption\n91139,abc,30,A dog barks\n58146,def,0,Rain then a dog\n"
    )
    return table


@pytest.fixture
def captioner(ossicle, sounds, texts, tmp_path) -> Path:
    run = ossicle(
        "train", "caption-tags", texts, "--text-only", "--scenes", sounds, "--out", tmp_path / "cap", *SETTINGS
    )
    assert run.code == 0, run.err
    assert "mapper and" in run.out and "language model parameters" in run.out
    return tmp_path / "cap"


def rows(table: Path) -> list[dict]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


# --- training --------------------------------------------------------------------------------------------------------


def test_captions_alone_and_sounds_are_learnt_from(captioner, ossicle, sounds):
    manifest = json.loads((captioner / "ossicle.json").read_text())
    assert manifest["data"]["train"] == 5 and manifest["data"]["name"] == "texts and sounds"
    run = ossicle("evaluate", captioner, sounds, "--json")
    assert run.code == 0 and {"cider_d", "rouge_l"} <= json.loads(run.out).keys()


@pytest.mark.parametrize(
    "text",
    [
        "caption\nA dog barks\nRain falls and a dog barks\nA dog barks\n",
        "file_name,caption_1,caption_2\na.wav,A dog barks,The dog barks\nb.wav,Rain falls,\nc.wav,A man speaks,\n",
        "youtube_id,start_time,caption\nab,30,A dog barks\nab,40,A cat meows\ncd,0,Rain falls down\n",
    ],
    ids=["one column", "clotho", "audiocaps"],
)
def test_tables_of_captions_alone(ossicle, tmp_path, text):
    (tmp_path / "said.csv").write_text(text)
    run = ossicle("train", "caption-tags", tmp_path / "said.csv", "--text-only", "--out", tmp_path / "out", *SETTINGS)
    assert run.code == 0, run.err
    assert json.loads((tmp_path / "out" / "ossicle.json").read_text())["data"]["train"] == 3


def test_training_goes_on(ossicle, texts, tmp_path):
    words = ("train", "caption-tags", texts, "--text-only", "--out", tmp_path / "out")
    assert ossicle(*words, *SETTINGS).code == 0
    assert "already holds a trained adapter" in ossicle(*words, *SETTINGS).said
    run = ossicle(*words, "--resume", "--set", "train.epochs=2")
    assert run.code == 0 and len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 2


def test_wrong_use_of_training(ossicle, sounds, texts, tmp_path):
    (tmp_path / "labels.csv").write_text("file_name,label\na.wav,dog\nb.wav,cat\n")
    (tmp_path / "broken.csv").write_text("audiocap_id,youtube_id,start_time,caption\n1,ab,3,A dog\n it is there,,,\n")
    (tmp_path / "empty.csv").write_text("")
    tiny.write_tone(tmp_path / "kinds" / "low" / "0.wav", 300, 0.4)
    tiny.write_tone(tmp_path / "kinds" / "high" / "0.wav", 3000, 0.4)
    cases = [
        ((sounds, "--scenes", sounds), "--scenes adds sounds to captions without sound; give --text-only too"),
        ((sounds, "--text-only"), "is a folder; give a csv, jsonl or json file"),
        ((tmp_path / "none.csv", "--text-only"), "none.csv' is not there; give a csv, jsonl or json file"),
        ((tmp_path / "empty.csv", "--text-only"), "empty.csv has no rows"),
        ((tmp_path / "labels.csv", "--text-only"), "labels.csv has 2 id(s) without a caption: a.wav, b.wav; add one"),
        ((tmp_path / "broken.csv", "--text-only"), "1 id(s) without a caption: it is there; add one or drop them"),
        (
            (texts,),
            "put the files beside the table, with their paths relative to the table; or learn from its captions",
        ),
        ((tmp_path / "kinds",), "2 of 2 clips have no caption"),
        ((texts, "--text-only", "--scenes", tmp_path / "kinds"), "2 of 4 clips have no caption"),
        ((texts, "--text-only", "--backbone", "whisper-tiny.en"), "need a tagger, such as mn04 or yamnet"),
        ((texts, "--text-only", "--llm", "smollm2-135m"), "did you mean 'smollm2-135m-instruct'"),
        ((texts, "--text-only", "--set", "task.small.heads=3"), "width 16 cannot be shared by 3 heads"),
    ]
    for words, told in cases:
        run = ossicle("train", "caption-tags", *SETTINGS, "--out", tmp_path / "out", *words)
        assert run.code in (1, 2) and told in run.said, (words, run)
    assert not (tmp_path / "out").exists()


# --- captions --------------------------------------------------------------------------------------------------------


def test_whole_files_have_one_row_each_from_beginning_to_end(ossicle, captioner, sounds, tmp_path, monkeypatch):
    monkeypatch.setattr(tracks, "LONG_S", 1.0)  # also of files that are heard in stretches
    assert ossicle("caption", captioner, sounds, "--out", tmp_path / "windows.csv").code == 0
    assert len(rows(tmp_path / "windows.csv")) > 3
    assert ossicle("caption", captioner, sounds, "--whole", "--out", tmp_path / "whole.csv").code == 0
    found = rows(tmp_path / "whole.csv")
    assert [Path(row["path"]).name for row in found] == ["0.wav", "1.wav", "2.wav"]
    assert [(float(row["start"]), float(row["end"])) for row in found] == [(0.0, 0.6), (0.0, 1.6), (0.0, 2.6)]
    for row in found:
        tags = json.loads(row["tags"])
        assert tags and all(0 <= start < end <= float(row["end"]) + 1e-3 for _, _, start, end in tags)


def test_whole_and_windows_are_two_different_things(ossicle, captioner, sounds):
    for words in (("--window", 2), ("--hop", 1), ("--set", "task.window_s=2")):
        assert "--whole writes one caption a file" in ossicle("caption", captioner, sounds, "--whole", *words).said


class Support:
    """Says that nothing is supported but captions of an even number of letters."""

    def kept(self, candidates, tags):
        assert tags and all(0 <= score <= 1 for score in tags.values())
        clean = [i for i, text in enumerate(candidates) if text == candidates[-1]]
        return invented.Kept(clean, "")


def test_strict_chooses_among_candidates(ossicle, captioner, sounds, monkeypatch):
    monkeypatch.setattr(invented, "usual", Support)
    beam = ("--decode", "method=beam", "--json")
    plain = ossicle("caption", captioner, sounds / "0.wav", *beam, "--decode", "candidates=4")
    found = json.loads(plain.out)
    strict = ossicle("caption", captioner, sounds / "0.wav", *beam, "--strict")
    assert len(found["scores"]) > 1 and strict.code == 0
    assert json.loads(strict.out)["caption"] == list(found["scores"])[-1] != found["caption"]


def test_strict_wants_several_candidates(ossicle, captioner, sounds):
    told = "--strict chooses among several candidates, but one was asked for; give --decode method=beam and"
    assert told in ossicle("caption", captioner, sounds, "--strict").said  # its recipe says greedy
    words = ("--strict", "--decode", "method=beam", "--decode", "candidates=1")
    assert told in ossicle("caption", captioner, sounds, *words).said


def test_a_strict_run_does_not_go_on_in_a_table_that_is_not(ossicle, captioner, sounds, tmp_path, monkeypatch):
    monkeypatch.setattr(invented, "usual", Support)
    words = ("caption", captioner, sounds / "0.wav", "--decode", "method=beam", "--out", tmp_path / "a.csv")
    assert ossicle(*words, "--decode", "candidates=4").code == 0
    first = rows(tmp_path / "a.csv")
    assert ossicle(*words, "--strict").code == 0
    assert rows(tmp_path / "a.csv")[0]["caption"] != first[0]["caption"]


def test_only_captioners_from_tags_can(ossicle, captioner, sounds, tmp_path, monkeypatch):
    from ossicle.recipe import backbone

    monkeypatch.setattr(backbone, "frozen", lambda recipe: tiny.encoder("whisper"))
    monkeypatch.setattr("ossicle.recipe.caption_llm.language_model", lambda name, **options: tiny.language())
    settings = [w for c in ("train.epochs=1", "train.precision=float32", "data.hold_out=0") for w in ("--set", c)]
    assert ossicle("train", "caption-llm", sounds, "--out", tmp_path / "llm", *settings).code == 0
    for option in ("--whole", "--strict"):
        said = ossicle("caption", tmp_path / "llm", sounds, option).said
        assert said.startswith(f"{option} wants a captioner from tags, of `ossicle train caption-tags`; llm is none")


def test_another_tagger_hears(ossicle, captioner, sounds):
    run = ossicle("caption", captioner, sounds / "2.wav", "--whole", "--json", "--set", "backbone.name=yamnet")
    row = json.loads(run.out)
    plain = json.loads(ossicle("caption", captioner, sounds / "2.wav", "--whole", "--json").out)
    assert run.code == 0 and row["caption"] and row["tags"] != plain["tags"]


def test_bad_files_never_stop_a_batch(ossicle, captioner, sounds):
    (sounds / "3.wav").write_text("a letter")
    code, out, err = ossicle("caption", captioner, sounds, "--whole")
    assert code == 1 and out.count(".wav") == 3 and "3.wav" in err and "Traceback" not in err


def test_more_than_can_be_written_or_read(ossicle, captioner, sounds):
    run = ossicle("caption", captioner, sounds, "--decode", "max_tokens=400")
    assert run.code == 2 and "a small BART writes 255 tokens and an end token at the most; lower it" in run.said
    code, _, err = ossicle("caption", captioner, sounds / "0.wav", "--set", "task.most=500", "--set", "task.least=0")
    assert code == 1 and "500 tags are" in err and "lower task.most" in err and "Traceback" not in err


def test_verbs_for_other_kinds(ossicle, captioner, sounds, tmp_path):
    run = ossicle("predict", captioner, sounds, "--out", tmp_path / "a.csv")
    assert run.code == 2 and "holds a caption-tags adapter, not a classify one; use `ossicle caption`" in run.said
    run = ossicle("merge", captioner, captioner, "--out", tmp_path / "m")
    assert run.code == 2 and "only those of `ossicle train caption-llm` are merged" in run.said
