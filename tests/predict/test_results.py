import csv
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests import tiny

from ossicle.contracts import Prediction
from ossicle.data import answers, captions, manifest
from ossicle.errors import UsageError
from ossicle.predict.results import from_json, write_rows


def lines(out: Path) -> list[Prediction]:
    return [from_json(json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()]


def told(table: list[dict[str, str]]) -> list[Prediction]:
    """The rows of a csv, by the names of its columns."""
    empty = {"label": None, "caption": None, "error": None, "end": None, "score": None, "scores": "{}", "tags": "[]"}
    found = []
    for cells in table:
        row: dict[str, Any] = {name: text or empty.get(name, "") for name, text in cells.items()}
        row |= {name: float(row[name]) for name in ("start", "end", "score") if row.get(name)}
        found.append(from_json(row | {name: json.loads(row[name]) for name in ("scores", "tags") if name in row}))
    return found


TAGS = [("Bee, wasp, etc.", 0.75, 10.0, 11.5), ('"Dog";\té\n', 0.25, 11.00049, 12.0)]


ROWS = [
    Prediction("a.wav", 0.0, 1.00049, "dog", 0.75, {"dog": 0.75, "cat": 0.25}, model="m"),
    Prediction("a.wav", 1.0, 1.5, "cat", 0.5, {"dog": 0.5, "cat": 0.5}, model="m"),
    Prediction('b "x",\n\r\ty\rz é.wav', 0.0, None, error='b "x", y: is empty', model="m"),
    Prediction("c.wav", 0.0, 2.0, caption="a dog\tbarks", model="m"),
    Prediction("d.wav", 10.0, 20.0, caption="a bee flies", model="m", tags=TAGS),
]
ROUNDED = [replace(ROWS[0], end=1.0), *ROWS[1:4], replace(ROWS[4], tags=[TAGS[0], (*TAGS[1][:2], 11.0, 12.0)])]


def test_csv_round_trips_whatever_is_in_a_path(tmp_path):
    write_rows(ROWS, tmp_path / "rows.csv")
    assert b"\r\n" not in (tmp_path / "rows.csv").read_bytes().replace(b"\n\r\ty", b"")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["path", "start", "end", "label", "score", "caption", "error", "model", "scores", "tags"]
    assert told(table) == ROUNDED
    assert [row["tags"] for row in table[:4]] == [""] * 4  # as it is of scores
    assert json.loads(table[4]["tags"])[0] == ["Bee, wasp, etc.", 0.75, 10.0, 11.5]


def test_jsonl_round_trips(tmp_path):
    write_rows(iter(ROWS), tmp_path / "deep" / "rows.JSONL")
    assert lines(tmp_path / "deep" / "rows.JSONL") == ROUNDED


def test_parquet_round_trips_with_types(tmp_path):
    write_rows(ROWS, tmp_path / "rows.parquet")
    table = pq.read_table(tmp_path / "rows.parquet")
    kind = table.schema.field("scores").type
    assert (str(kind.key_type), str(kind.item_type)) == ("string", "double")
    assert [str(table.schema.field(n).type) for n in ("start", "end", "score")] == ["double"] * 3
    tags = table.schema.field("tags").type.value_type
    assert {field.name: str(field.type) for field in tags} == {
        "name": "string", "score": "double", "start": "double", "end": "double",
    }  # fmt: skip
    rows = [
        from_json({**r, "scores": dict(r["scores"]), "tags": [tuple(tag.values()) for tag in r["tags"]]})
        for r in table.to_pylist()
    ]
    assert rows == ROUNDED
    assert table.column("tags").null_count == 0


def test_json_rows_hold_tags_as_lists(tmp_path):
    write_rows(ROWS, tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["tags"] for row in rows] == [[], [], [], [], [list(tag) for tag in ROUNDED[4].tags]]


@pytest.mark.parametrize("name", ["a.txt", "a.srt", "a.vtt", "a.selections"])
def test_labels_and_subtitles_are_the_same_with_tags_and_without(tmp_path, name):
    write_rows([ROWS[4]], tmp_path / name)
    bare = (tmp_path / name).read_text(encoding="utf-8")
    assert "a bee flies" in bare and "wasp" not in bare
    write_rows([replace(ROWS[4], tags=[])], tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8") == bare


@pytest.mark.parametrize("tags", [TAGS, [("Hum", 0.5, i / 10, i / 10 + 0.1) for i in range(6000)]], ids=["few", "many"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_rows_with_tags_and_older_ones_without_are_read_by_all_that_reads_rows(tmp_path, kind, tags):
    """Six thousand tags are ten minutes of a busy street: more text than Python's csv takes for a cell by itself."""
    row = Prediction("a.wav", 0.0, 600.0, "hum", 0.9, {"hum": 0.9, "bee": 0.1}, "a bee hums", model="m", tags=tags)
    out = tmp_path / f"rows.{kind}"
    write_rows([row], out)
    tiny.write_tone(tmp_path / "a.wav", 440.0, 0.2)

    def read() -> list[object]:
        labelled = answers.predicted(out, {"a.wav": "hum"}).scores
        (clip,) = manifest.rows(out)[0]
        return [labelled, captions.candidates(out).captions, captions.references(out), clip.labels, clip.captions]

    assert read() == [
        {"a.wav": row.scores}, {"a.wav": "a bee hums"}, {"a.wav": ["a bee hums"]}, ("hum",), ("a bee hums",),
    ]  # fmt: skip
    found = read()
    if kind == "parquet":
        pq.write_table(pq.read_table(out).drop_columns(["tags"]), out)
    elif kind == "jsonl":
        out.write_text(json.dumps({k: v for k, v in asdict(row).items() if k != "tags"}) + "\n")
        assert lines(out) == [replace(row, tags=[])]
    else:
        header = "path,start,end,label,score,caption,error,model,scores"
        cells = 'a.wav,0.0,600.0,hum,0.9,a bee hums,,m,"{""hum"": 0.9, ""bee"": 0.1}"'
        out.write_text(f"{header}\n{cells}\n")
        with out.open(encoding="utf-8", newline="") as file:
            assert told(list(csv.DictReader(file))) == [replace(row, tags=[])]
    assert read() == found


def test_audacity_labels(tmp_path):
    rows = [ROWS[0], ROWS[1], replace(ROWS[3], path="a.wav"), Prediction("a.wav", 3.0, error="cut\noff")]
    write_rows(rows, tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text().splitlines() == [
        *("0.000\t1.000\tdog 0.750", "1.000\t1.500\tcat 0.500", "0.000\t2.000\ta dog barks"),
        "3.000\t3.000\terror: cut off",
    ]
    with pytest.raises(UsageError, match="belongs to one recording but 4 files"):
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
    write_rows(ROWS[:4], tmp_path / name)
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
    odd = Prediction(
        os.fsdecode(b"caf\xe9.wav"), 0.0, 1.0, "dog", 1.0, {"dog": 1.0}, tags=[("caf\udce9", 1.0, 0.0, 1.0)]
    )
    write_rows([odd], tmp_path / name)
    assert "\\udce9" in (tmp_path / name).read_bytes().decode("latin-1") or name == "rows.txt"
    if name == "rows.jsonl":
        assert lines(tmp_path / name) == [odd]
    write_rows([], tmp_path / name)
