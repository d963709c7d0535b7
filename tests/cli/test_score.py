"""The verbs that score files: retrieval and classes, and what they say of files that do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

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
    assert "are both '1.wav'; write their folders into file_name" in fails("classify", str(said), str(truth))
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
