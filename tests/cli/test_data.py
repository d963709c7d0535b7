"""`ossicle data`."""

import json
from pathlib import Path

import pytest
from tests import tiny
from tests.cli.conftest import Ossicle


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two sounds that are there, of one recording, and eight that are not."""
    rows = ["file_name,label,split,group,licence"]
    for i, (label, split) in enumerate((("wren", "train"), ("[crow]", "test"))):
        tiny.write_tone(tmp_path / f"{i}.wav", 400.0, 0.1)
        rows.append(f"{i}.wav,{label},{split},one,[CC0]")
    rows += [f"gone{i}.wav,wren,train,two,CC-BY" for i in [*range(8), 0]]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "list.csv"


def test_what_a_data_set_holds_and_all_that_is_missing(ossicle: Ossicle, table: Path, tmp_path: Path) -> None:
    run = ossicle("data", table, "--missing", tmp_path / "gone.txt", "--json")
    told = json.loads(run.out)
    one = {"clips": 1, "labels": 1, "captions": 0, "recordings": 1, "licences": {"[CC0]": 1}}
    assert (run.code, told["splits"]) == (0, {"test": one, "train": one})
    gone = [f"gone{i}.wav" for i in range(8)]
    assert told["missing"] == gone
    assert (tmp_path / "gone.txt").read_text().splitlines() == gone
    assert "9 of 11 rows" in run.err and "gone7.wav" not in run.err
    shown = ossicle("data", table)
    assert "[CC0] (1)" in shown.out and "8 sounds are not there" in shown.out


def test_other_verbs_say_where_all_names_are(ossicle: Ossicle, table: Path, tmp_path: Path) -> None:
    run = ossicle("scenes", table, "--out", tmp_path / "out", "--count", 1)
    assert f"`ossicle data {table} --missing FILE` writes all 8 names" in run.err


def test_wrong_data_is_one_line(ossicle: Ossicle, tmp_path: Path) -> None:
    run = ossicle("data", tmp_path / "none")
    assert (run.code, "is not there" in run.said) == (2, True)
