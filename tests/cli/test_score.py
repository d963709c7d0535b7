"""The verbs that score files: retrieval and classes, and what they say of files that do not fit."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.conftest import need
from typer.testing import CliRunner

from ossicle.backbones import weights
from ossicle.cli import app
from ossicle.errors import DataError, OssicleError
from ossicle.metrics.classify import calibration_error


def run(*words: str) -> dict:
    done = CliRunner().invoke(app(), ["score", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


def fails(*words: str) -> str:
    done = CliRunner().invoke(app(), ["score", *words])
    assert isinstance(done.exception, OssicleError)
    return str(done.exception)


def test_retrieval_with_equal_and_with_given_numbers_of_captions(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.kron(np.eye(3), np.ones((5, 1))) + np.random.default_rng(0).random((15, 3)) * 0.1)
    found = run("retrieval", str(tmp_path / "s.npy"))["scores"]
    assert found["text_to_audio_r_at_1"] == found["audio_to_text_r_at_1"] == 1.0
    assert (found["clips"], found["captions_most"]) == (3, 5)
    np.save(tmp_path / "o.npy", np.array([0] * 7 + [1] * 5 + [2] * 3))
    uneven = run("retrieval", str(tmp_path / "s.npy"), "--owners", str(tmp_path / "o.npy"))["scores"]
    assert (uneven["captions_least"], uneven["captions_most"]) == (3, 7)
    assert "are wanted" in fails("retrieval", str(tmp_path / "s.npy"), "--captions-per-clip", "4")
    (tmp_path / "s.npy").write_text("no")
    assert "is no .npy file of numbers" in fails("retrieval", str(tmp_path / "s.npy"))


def test_classes(tmp_path: Path) -> None:
    truth, said = tmp_path / "truth.csv", tmp_path / "said.jsonl"
    truth.write_text("file_name,label\na.wav,dog\nb.wav,cat\nc.wav,dog\n")
    rows = [("x/a.wav", 0.9), ("x/b.wav", 0.2), ("x/c.wav", 0.4)]
    lines = [json.dumps({"path": p, "label": "dog", "scores": {"dog": q, "cat": 1 - q}}) for p, q in rows]
    said.write_text("\n".join(lines))
    found = run("classify", str(said), str(truth))
    assert found["scores"]["accuracy"] == pytest.approx(2 / 3)
    assert found["scores"]["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.6) / 3)
    assert {row["label"]: row["support"] for row in found["classes"]} == {"cat": 1, "dog": 2}
    said.write_text("\n".join(lines[:2]))
    assert "1 labelled file(s) have no prediction: c.wav" in fails("classify", str(said), str(truth))
    said.write_text("\n".join([*lines, lines[0].replace("a.wav", "z.wav")]))
    assert "1 prediction(s) have no label: x/z.wav" in fails("classify", str(said), str(truth))
    truth.write_text("file_name,label\na.wav,dog\nb.wav,cow\nc.wav,dog\n")
    said.write_text("\n".join(lines))
    assert "classes that were not predicted: cow" in fails("classify", str(said), str(truth))
    said.write_text('{"path": "a.wav", "label": "dog"}\n{"path": "b.wav"}\n{"path": "c.wav"}')
    with pytest.raises(DataError):
        CliRunner().invoke(app(), ["score", "classify", str(said), str(truth)], catch_exceptions=False)


def test_files_are_told_apart_by_folder_and_windows_are_averaged(tmp_path: Path) -> None:
    truth, said = tmp_path / "truth.csv", tmp_path / "said.jsonl"

    def tell(*rows: tuple[str, float | None]) -> None:
        cells = [{"path": p, "scores": {}, "error": "cut off"} if q is None else
                 {"path": p, "scores": {"dog": q, "cat": 1 - q}, "error": None} for p, q in rows]  # fmt: skip
        said.write_text("\n".join(map(json.dumps, cells)))

    truth.write_text("file_name,label\ndog/1.wav,dog\ncat/1.wav,cat\ndog/2.wav,dog\n")
    tell(
        ("in/dog/1.wav", 0.9),
        ("in/dog/1.wav", 0.2),
        ("in/dog/1.wav", 0.7),
        ("in/cat/1.wav", 0.4),
        ("in/dog/2.wav", None),
    )
    scores = run("classify", str(said), str(truth))["scores"]
    assert (scores["accuracy"], scores["files"], scores["failed"]) == (1.0, 2, 1)
    tell(("in/dog/1.wav", None), ("in/cat/1.wav", None), ("in/dog/2.wav", None))
    assert "no file that could be read" in fails("classify", str(said), str(truth))
    truth.write_text("file_name,label\n1.wav,dog\n")
    tell(("in/dog/1.wav", 0.9), ("in/cat/1.wav", 0.4))
    assert "several files are called 1.wav: write their folders" in fails("classify", str(said), str(truth))
    truth.write_text("file_name,label\n1.wav,dog\n1.wav,cat\n")
    assert "line 3 names 1.wav again" in fails("classify", str(said), str(truth))


def test_systems_are_compared_item_by_item_in_any_order(tmp_path: Path) -> None:
    words = ["a", "dog", "barks", "while", "a", "cat", "sleeps", "near", "the", "old", "red", "car"]
    lines = [(f"{i}.wav", " ".join(words[i : i + 4])) for i in range(8)]
    texts = {
        "refs": lines,
        "ours": [(n, t.replace("dog", "cow")) for n, t in lines],
        "theirs": lines,
        "mixed": lines[::-1],
    }
    for name, rows in texts.items():
        (tmp_path / f"{name}.csv").write_text("file_name,caption\n" + "".join(f"{n},{t}\n" for n, t in rows))
    given = [tmp_path / f"{n}.csv" for n in texts]
    common = ("captions", "--references", str(given[0]), "--candidates", str(given[1]), "--metrics", "rouge_l")
    straight, shuffled = (run(*common, "--against", str(file))["against"]["rouge_l"] for file in given[2:])
    assert straight == pytest.approx(shuffled) and straight["difference"] < 0


def test_arrays_that_are_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.eye(2), b=np.eye(2))
    assert "holds several arrays" in fails("retrieval", str(tmp_path / "two.npz"))
    np.save(tmp_path / "s.npy", np.eye(2))
    np.save(tmp_path / "o.npy", np.array([0.0, 1.0]))
    told = fails("retrieval", str(tmp_path / "s.npy"), "--owners", str(tmp_path / "o.npy"))
    assert "holds float64; wanted the number of each caption's clip" in told


def test_calibration_error_by_hand_and_at_its_ends() -> None:
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert calibration_error(probs, np.array([0, 1, 0, 1])) == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    assert calibration_error(np.eye(3), np.arange(3)) == 0.0
    assert calibration_error(np.eye(2), np.array([1, 0])) == 1.0


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def shown(*words: str) -> str:
    done = CliRunner().invoke(app(), ["score", *words], catch_exceptions=False, env={"COLUMNS": "300"})
    assert done.exit_code == 0
    return done.stdout


def rows_of(*rows: tuple[str, str, dict[str, float]]) -> str:
    keys = ("path", "model", "scores")
    return "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows)


def test_rows_of_adapters_with_other_classes_are_scored_over_all_classes_in_any_order(tmp_path: Path) -> None:
    first = ("a.wav", "one", {"dog": 0.9, "cat": 0.1})
    second = ("b.wav", "two", {"dog": 0.2, "cat": 0.1, "cow": 0.7})
    truth = write(tmp_path / "t.csv", "file_name,label\na.wav,dog\nb.wav,dog\n")
    for order in ((first, second), (second, first)):
        said = write(tmp_path / "s.jsonl", rows_of(*order))
        found = run("classify", said, truth)
        assert found["scores"]["accuracy"] == 0.5  # b.wav was taken for a cow
        assert {row["label"]: row["support"] for row in found["classes"]} == {"cat": 0, "cow": 0, "dog": 2}
        assert "rows know different classes" in shown("classify", said, truth)
    alike = ("b.wav", "two", {"dog": 0.2, "cat": 0.8})
    assert run("classify", write(tmp_path / "s.jsonl", rows_of(first, alike)), truth)["notes"] == []


def test_the_mean_of_a_file_is_over_rows_of_one_adapter(tmp_path: Path) -> None:
    truth = write(tmp_path / "t.csv", "file_name,label\na.wav,dog\n")
    rows = [("a.wav", "one", {"dog": 0.9, "cat": 0.1}), ("a.wav", "two", {"dog": 0.2, "cat": 0.8})]
    told = fails("classify", write(tmp_path / "s.jsonl", rows_of(*rows)), truth)
    assert "s.jsonl: a.wav has rows of 2 adapters: one, two" in told
    rows = [("a.wav", "", {"dog": 0.9, "cat": 0.1}), ("a.wav", "", {"dog": 0.2, "cow": 0.8})]
    assert "other classes in line 2 than in line 1" in fails(
        "classify", write(tmp_path / "s.jsonl", rows_of(*rows)), truth
    )


def test_windows_that_could_not_be_read_are_told(tmp_path: Path) -> None:
    truth = write(tmp_path / "t.csv", "filename,category\na.wav, dog\nb.wav,cat\n")
    cells = [
        {"path": "a.wav", "scores": {"dog": 0.9, "cat": 0.1}},
        {"path": "a.wav", "scores": None, "error": "cut off"},
        {"path": "b.wav", "scores": None, "error": "no sound"},
    ]
    said = write(tmp_path / "s.jsonl", "\n".join(map(json.dumps, cells)))
    found = run("classify", said, truth)
    assert (found["scores"]["files"], found["scores"]["failed"], found["left_out"]) == (1, 1, {"b.wav": "no sound"})
    assert found["notes"] == ["1 window(s) of a.wav could not be read; the mean is over the others"]
    assert "1 file scored, 1 of 2 left out: b.wav (no sound)" in shown("classify", said, truth)


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    said = write(tmp_path / "s.jsonl", rows_of(("a.wav", "one", {"dog": 0.9, "cat": 0.1})))
    truth = write(tmp_path / "t.csv", "file_name,kind\na.wav,dog\n")
    assert "line 2 has no label; give a column label" in fails("classify", said, truth)
    empty = write(tmp_path / "e.jsonl", '{"path": "a.wav"}')
    truth = write(tmp_path / "t.csv", "file_name,label\na.wav,dog\n")
    assert "line 1 has neither scores nor an error" in fails("classify", empty, truth)


REFERENCES = "file_name,caption_1\ncat/1.wav,a cat meows loudly\ndog/1.wav,a dog barks twice\nc.wav,rain falls on tin\n"


def captions(folder: Path, text: str, *more: str, references: str = REFERENCES) -> list[str]:
    known, said = write(folder / "refs.csv", references), write(folder / "said.csv", text)
    return ["captions", "--references", known, "--candidates", said, "--metrics", "rouge_l", *more]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    rows = "path,caption\n/r/dog/1.wav,a dog barks twice\n/r/cat/1.wav,a cat meows loudly\n/r/c.wav,rain falls on tin\n"
    assert run(*captions(tmp_path, rows))["scores"]["rouge_l"] == 1.0
    assert "3 items scored" in shown(*captions(tmp_path, rows))
    told = fails(*captions(tmp_path, rows.replace("dog/", "").replace("cat/", "/")))
    assert "several files are called 1.wav: write their folders in both files" in told and "dog/1.wav" in told
    told = fails(*captions(tmp_path, rows.replace("/r/dog/1.wav", "/r/cow/1.wav")))
    assert "1 candidate(s) have no reference: /r/cow/1.wav; 1 item(s)" in told and "no candidate: dog/1.wav" in told


def test_an_error_is_no_empty_caption(tmp_path: Path) -> None:
    rows = "path,caption,error\ncat/1.wav,a cat meows loudly,\ndog/1.wav,,\nc.wav,,it is text\n"
    found = run(*captions(tmp_path, rows))
    assert found["items"] == 2 and found["left_out"] == {"c.wav": "said.csv has an error: it is text"}
    assert found["scores"]["rouge_l"] == 0.5
    assert found["notes"] == ["1 of 2 captions are empty; an empty caption scores 0"]
    assert "2 items scored, 1 of 3 left out: c.wav (said.csv has an error: it is text)" in shown(
        *captions(tmp_path, rows)
    )
    other = write(tmp_path / "b.csv", "path,caption,error\ncat/1.wav,,cut off\ndog/1.wav,a dog,\nc.wav,rain,\n")
    both = captions(tmp_path, rows, "--against", other)
    assert set(run(*both)["left_out"]) == {"c.wav", "cat/1.wav"} and run(*both)["items"] == 1
    none = "path,caption,error\ncat/1.wav,,no\ndog/1.wav,,no\nc.wav,,no\n"
    assert "said.csv has no caption: of 3 row(s) 3 have an error" in fails(*captions(tmp_path, none))


def test_one_item_has_no_cider_no_interval_and_no_sure_difference(tmp_path: Path) -> None:
    refs, said = "file_name,caption\na.wav,a dog barks\n", "file_name,caption\na.wav,a dog barks\n"
    words = captions(
        tmp_path, said, "--metrics", "bleu,cider", "--against", str(tmp_path / "refs.csv"), references=refs
    )
    found = run(*words)
    assert "CIDEr weighs words by how rare they are among the items; 1 came, give 2" in found["absent"]["cider"]
    assert set(found["scores"]) == {"rouge_l", "bleu_1", "bleu_2", "bleu_3", "bleu_4"}
    assert found["intervals"] == found["against"] == {}
    assert "no caption has more than 3 word(s), so bleu_4 mean nothing here" in found["notes"][0]
    assert "1 item scored" in shown(*words) and "one item has no interval" in shown(*words)


def test_every_name_that_is_printed_is_accepted(tmp_path: Path) -> None:
    rows = "path,caption\ncat/1.wav,a cat meows\ndog/1.wav,a dog barks\nc.wav,rain falls\n"
    everything = run(*captions(tmp_path, rows, "--metrics", "bleu, cider, meteor"))["scores"]
    assert {"bleu_4", "cider_d", "cider", "meteor", "rouge_l"} <= set(everything)
    for name in everything:
        found = run(*captions(tmp_path, rows)[:-2], "--metrics", name)["scores"]
        assert found[name] == everything[name]
        assert set(found) == ({"cider_d", "cider"} if name == "cider" else {name})
    assert "did you mean 'cider_d'" in fails(*captions(tmp_path, rows, "--metrics", "cider-d"))


def test_options_that_would_do_nothing(tmp_path: Path) -> None:
    rows = "path,caption\ncat/1.wav,a cat\ndog/1.wav,a dog\nc.wav,rain\n"
    for option, told in (("--sbert", "is for sbert_sim"), ("--spice", "is for spice, spider, spider_fl")):
        assert told in fails(*captions(tmp_path, rows, option, str(tmp_path)))
    assert "give a name that ends in .jsonl" in fails(*captions(tmp_path, rows, "--items", str(tmp_path / "i.csv")))
    np.save(tmp_path / "s.npy", np.eye(2))
    np.save(tmp_path / "o.npy", np.array([0, 1]))
    given = [str(tmp_path / name) for name in ("s.npy", "o.npy")]
    told = fails("retrieval", given[0], "--owners", given[1], "--captions-per-clip", "1")
    assert "--owners says what --captions-per-clip says" in told
    assert run("retrieval", given[0], "--owners", given[1])["scores"]["captions"] == 2


def test_cells_that_are_no_caption(tmp_path: Path) -> None:
    known = write(tmp_path / "r.csv", "file_name,caption\na.wav,a dog barks\nb.wav,rain falls\n")
    words = ["captions", "--references", known, "--metrics", "rouge_l", "--candidates"]
    one = '{"file_name": "a.wav", "caption": "a dog barks"}\n'
    for cell in ('"caption": null', '"other": 1', '"caption": ["rain", "wind"]'):
        said = write(tmp_path / "c.jsonl", one + '{"file_name": "b.wav", ' + cell + "}")
        assert "whose caption is not one text: b.wav (line 2)" in fails(*words, said)
    said = write(tmp_path / "c.jsonl", one + '{"file_name": "b.wav", "caption": ["rain falls"]}')
    assert run(*words, said)["scores"]["rouge_l"] == 1.0


def test_invented_sounds_of_rows_with_tags_in_every_format_that_is_written(tmp_path: Path) -> None:
    need((weights.home() / "weights" / "all-minilm-l6-v2").is_dir(), "all-minilm-l6-v2 in the cache")
    known = write(tmp_path / "r.csv", "file_name,caption\na.wav,a dog barks\nb.wav,rain falls\n")
    words = ["captions", "--references", known, "--metrics", "rouge_l,invented", "--candidates"]
    rows = [("a.wav", "a dog barks", [["Dog", 0.9, 0.0, 2.0]]), ("b.wav", "a siren wails", [["Rain", 0.9, 0.0, 2.0]])]
    lines = [json.dumps({"path": p, "caption": c, "tags": t}) for p, c, t in rows]
    said = write(tmp_path / "c.jsonl", "\n".join(lines))
    found = run(*words, said)
    assert found["scores"]["invented"] == 0.5 and found["vocabulary"]["sound_words"] == 4
    assert "invented" not in found["intervals"] and "rouge_l" in found["intervals"]
    assert found["notes"] == ["invented: no tag supports 2 of 4 sound words: siren, wail; 2 of 2 captions name a sound"]
    assert "invented" in shown(*words, said)
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "caption", "tags"), *((p, c, json.dumps(t)) for p, c, t in rows)])
    assert run(*words, str(tmp_path / "c.csv"))["scores"] == found["scores"]
    structs = [dict(zip(("name", "score", "start", "end"), tag, strict=True)) for _, _, (tag,) in rows]
    cells = [{"path": p, "caption": c, "tags": [one]} for (p, c, _), one in zip(rows, structs, strict=True)]
    parquet.write_table(pa.Table.from_pylist(cells), tmp_path / "c.parquet")
    assert run(*words, str(tmp_path / "c.parquet"))["scores"] == found["scores"]
    items = tmp_path / "i.jsonl"
    both = run(*words, said, "--against", str(tmp_path / "c.csv"), "--items", str(items))
    assert both["against"]["invented"]["difference"] == 0.0
    assert [json.loads(line)["invented"] for line in items.read_text().splitlines()] == [0.0, 1.0]


@pytest.mark.parametrize(
    "cell", ["", "dog; park", "[]", '["dog", "park"]', '[["Dog"]]', '[["Dog", "high"]]', "[" * 9000]
)
def test_a_column_of_keywords_is_no_tags(tmp_path: Path, cell: str) -> None:
    known = write(tmp_path / "r.csv", "file_name,caption\na.wav,a dog barks\n")
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "caption", "tags"), ("a.wav", "a siren", cell)])
    words = ["captions", "--references", known, "--candidates", str(tmp_path / "c.csv"), "--metrics"]
    plain = run(*words, "rouge_l")
    assert "sound_words" not in plain["vocabulary"] and set(plain["scores"]) == {"rouge_l"}
    assert "no caption comes with tags" in run(*words, "invented")["absent"]["invented"]
