import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ossicle.contracts import Prediction
from ossicle.errors import UsageError
from ossicle.predict.results import write_rows


def lines(out: Path) -> list[Prediction]:
    return [Prediction(**json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()]


ROWS = [
    Prediction("a.wav", 0.0, 1.00049, "dog", 0.75, {"dog": 0.75, "cat": 0.25}, model="m"),
    Prediction("a.wav", 1.0, 1.5, "cat", 0.5, {"dog": 0.5, "cat": 0.5}, model="m"),
    Prediction('b "x",\n\r\ty\rz é.wav', 0.0, None, error='b "x", y: is empty', model="m"),
    Prediction("c.wav", 0.0, 2.0, caption="a dog\tbarks", model="m"),
]
ROUNDED = [replace(ROWS[0], end=1.0), *ROWS[1:]]


def test_csv_round_trips_whatever_is_in_a_path(tmp_path):
    write_rows(ROWS, tmp_path / "rows.csv")
    assert b"\r\n" not in (tmp_path / "rows.csv").read_bytes().replace(b"\n\r\ty", b"")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["path", "start", "end", "label", "score", "caption", "error", "model", "scores"]
    read = [
        Prediction(
            r["path"], float(r["start"]), float(r["end"]) if r["end"] else None, r["label"] or None,
            float(r["score"]) if r["score"] else None, json.loads(r["scores"] or "{}"), r["caption"] or None,
            r["error"] or None, r["model"],
        )
        for r in table
    ]  # fmt: skip
    assert read == ROUNDED


def test_jsonl_round_trips(tmp_path):
    write_rows(iter(ROWS), tmp_path / "deep" / "rows.JSONL")
    assert lines(tmp_path / "deep" / "rows.JSONL") == ROUNDED


def test_parquet_round_trips_with_types(tmp_path):
    write_rows(ROWS, tmp_path / "rows.parquet")
    table = pq.read_table(tmp_path / "rows.parquet")
    kind = table.schema.field("scores").type
    assert (str(kind.key_type), str(kind.item_type)) == ("string", "double")
    assert [str(table.schema.field(n).type) for n in ("start", "end", "score")] == ["double"] * 3
    assert [Prediction(**{**r, "scores": dict(r["scores"])}) for r in table.to_pylist()] == ROUNDED


def test_audacity_labels(tmp_path):
    rows = [ROWS[0], ROWS[1], replace(ROWS[3], path="a.wav"), Prediction("a.wav", 3.0, error="cut\noff")]
    write_rows(rows, tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text().splitlines() == [
        *("0.000\t1.000\tdog 0.750", "1.000\t1.500\tcat 0.500", "0.000\t2.000\ta dog barks"),
        "3.000\t3.000\terror: cut off",
    ]
    with pytest.raises(UsageError, match="belongs to one recording but 3 files"):
        write_rows(ROWS, tmp_path / "a.txt")


def test_subtitles(tmp_path):
    rows = [
        Prediction("a.wav", 0.0, 2.5, caption="A dog barks"),
        Prediction("a.wav", 3661.2, 3662.0, label="dog", score=0.5),
        Prediction("a.wav", 4000.0, None, error="could\nnot be read"),
    ]
    write_rows(rows, tmp_path / "a.srt")
    write_rows(rows, tmp_path / "a.vtt")
    srt, vtt = ((tmp_path / name).read_text() for name in ("a.srt", "a.vtt"))
    assert srt.split("\n\n")[:3] == [
        "1\n00:00:00,000 --> 00:00:02,500\nA dog barks",
        "2\n01:01:01,200 --> 01:01:02,000\ndog 0.500",
        "3\n01:06:40,000 --> 01:06:40,001\nerror: could not be read",
    ]
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nA dog barks\n\n01:01:01.200 --> 01:01:02.000\n")
    with pytest.raises(UsageError, match="a subtitle file belongs to one recording but 2 files were given"):
        write_rows([*rows, Prediction("b.wav")], tmp_path / "b.vtt")


@pytest.mark.parametrize("name", ["rows.selections", "rows.selections.txt"])
def test_raven_selections(tmp_path, name):
    write_rows(ROWS, tmp_path / name)
    with (tmp_path / name).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    times = [(r["Selection"], r["Begin Time (s)"], r["End Time (s)"], r["File Offset (s)"]) for r in table]
    assert times == [
        ("1", "0.000", "1.000", "0.000"), ("2", "1.000", "1.500", "1.000"),
        ("3", "1.500", "1.501", "0.000"), ("4", "1.500", "3.500", "0.000"),
    ]  # fmt: skip
    assert [r["Label"] for r in table] == ["dog", "cat", "", "a dog barks"]
    assert table[2]["Error"] == ROWS[2].error and table[0]["Begin Path"] == "a.wav"


def test_times_of_a_raven_table_do_not_drift_over_many_files(tmp_path):
    lasts = 1.000454  # 44,120 samples at 44.1 kHz; rounded before it is summed this drifts by 0.9 s
    write_rows((Prediction(f"{i}.wav", 0.0, lasts, "dog", 1.0) for i in range(2000)), tmp_path / "r.selections")
    with (tmp_path / "r.selections").open(encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file, delimiter="\t"))[-1]
    assert last["Begin Time (s)"] == f"{1999 * lasts:.3f}" and last["End Time (s)"] == f"{2000 * lasts:.3f}"
    assert last["File Offset (s)"] == "0.000"


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet", "rows.txt", "rows.selections"])
def test_paths_of_odd_bytes_and_no_rows_at_all(tmp_path, name):
    odd = Prediction(os.fsdecode(b"caf\xe9.wav"), 0.0, 1.0, "dog", 1.0, {"dog": 1.0})
    write_rows([odd], tmp_path / name)
    assert "\\udce9" in (tmp_path / name).read_bytes().decode("latin-1") or name == "rows.txt"
    if name == "rows.jsonl":
        assert lines(tmp_path / name) == [odd]
    write_rows([], tmp_path / name)
