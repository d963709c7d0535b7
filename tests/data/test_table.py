"""Rows as tools save them, and tables that would lose rows without a word."""

import json
from pathlib import Path

import pytest

from ossicle.data import captions, open_data
from ossicle.data.table import listed, read_table
from ossicle.errors import DataError


def cells(path: Path, text: str, name: str = "t.csv") -> list[list[str]]:
    (path / name).write_text(text, encoding="utf-8")
    return [list(row.cells.values()) for row in read_table(path / name)]


ROWS = [f"{n:02}.wav,bird {n}" for n in range(2, 20)]  # the heading is line 1, so row n is line n


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({5: '05.wav,"bird 5'}, "line 5 to line 19"),
        ({19: '19.wav,"bird 19'}, "line 19"),
        ({5: '05.wav,"bird 5', 15: '15.wav,bird 15"'}, "line 5 to line 15"),
        ({5: '05.wav,"bird 5', 15: '15.wav,"bird 15"'}, "line 5 to line 15"),
        ({5: '"05.wav,bird 5', 6: '06.wav",bird 6'}, "line 5 to line 6"),
        ({5: '05.wav,"a "big" bird"'}, "line 5"),
    ],
    ids=["to the end", "in the last row", "closed ten rows later", "another opens", "in the path", "within a cell"],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_quote_that_is_not_closed_never_costs_rows(
    broken: dict[int, str], told: str, delimiter: str, tmp_path: Path
) -> None:
    lines = [broken.get(n, row) for n, row in enumerate(ROWS, start=2)]
    text = "\n".join(["file_name,label", *lines]).replace(",", delimiter) + "\n"
    with pytest.raises(DataError, match=rf"t\.csv cannot be read as csv: {told}: a double quote is opened") as error:
        cells(tmp_path, text)
    assert "UTF-8" not in str(error.value)


def test_rows_with_the_label_first_are_not_swallowed_either(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2 to line 4: a double quote"):
        cells(tmp_path, 'label,id\n"wren,17\ncrow,18\nowl,19"\nrobin,20\n')


@pytest.mark.parametrize(
    "cell", ["A dog barks,\nthen a cat, far away", "One\n\ntwo", "Then, it\nstops, and\nthat is all", 'He says "no"']
)
def test_a_cell_may_hold_lines_that_are_no_rows(cell: str, tmp_path: Path) -> None:
    quoted = cell.replace('"', '""')
    assert cells(tmp_path, f'file_name,caption\na.wav,"{quoted}"\nb.wav,x\n') == [["a.wav", cell], ["b.wav", "x"]]


def test_every_reader_of_a_table_refuses_an_open_quote(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('file_name,caption\na.wav,"rain\nb.wav,wind\n')
    for read in (captions.references, captions.candidates, lambda path: open_data(str(path))):
        with pytest.raises(DataError, match="line 2 to line 3: a double quote is opened"):
            read(tmp_path / "t.csv")


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "sep=|", "sep=,"])
def test_excels_line_with_the_separator(first: str, tmp_path: Path) -> None:
    mark = first.strip('"')[-1]
    (tmp_path / "t.csv").write_bytes(f"\ufeff{first}\r\nfile_name{mark}label\r\na.wav{mark}wren\r\n".encode())
    (row,) = read_table(tmp_path / "t.csv")
    assert (row.line, row.cells) == (3, {"file_name": "a.wav", "label": "wren"})


def test_empty_cells_after_the_last_column_are_no_fault(tmp_path: Path) -> None:
    assert cells(tmp_path, "file_name,label\na.wav,wren,,\nb.wav\n") == [["a.wav", "wren"], ["b.wav", ""]]


def test_a_text_file_is_a_table_only_with_tabs(tmp_path: Path) -> None:
    assert cells(tmp_path, "Begin Time (s)\tSpecies\n1.5\tWren\n2\n", "a.txt") == [["1.5", "Wren"], ["2", ""]]
    assert cells(tmp_path, "0.5\t1.25\twren\n\\\t100\t900\n2.0\t3.0\n", "l.txt") == [
        ["0.5", "1.25", "wren"],
        ["2.0", "3.0", ""],
    ]
    with pytest.raises(DataError, match="a table with tabs between its columns is wanted"):
        cells(tmp_path, "Notes, taken by hand\n", "notes.txt")


CAPTIONS = {"a.wav": ["It rains.", "Rain."], "b.wav": ["Wind."]}


@pytest.mark.parametrize(
    "content",
    [
        CAPTIONS,
        {name: [{"caption": text} for text in texts] for name, texts in CAPTIONS.items()},
        {
            "annotations": [
                {"image_id": k, "id": n, "caption": t} for n, (k, v) in enumerate(CAPTIONS.items()) for t in v
            ]
        },
        {
            "info": {"year": 2024},
            "images": [{"id": 1, "file_name": "a.wav"}, {"id": 2, "file_name": "b.wav"}],
            "annotations": [
                {"image_id": n, "id": 2, "caption": t} for n, v in enumerate(CAPTIONS.values(), 1) for t in v
            ],
        },
        {"data": [{"file_name": k, "captions": v} for k, v in CAPTIONS.items()]},
        {k: {"captions": v} for k, v in CAPTIONS.items()},
    ],
    ids=["lists by id", "objects by id", "annotations", "coco", "wavcaps", "rows by id"],
)
def test_json_of_captions_in_every_shape(content: object, tmp_path: Path) -> None:
    for name in CAPTIONS:
        (tmp_path / name).write_bytes(b"x")  # opening a table reads no sound
    (tmp_path / "c.json").write_text(json.dumps(content))
    found = {clip.name: list(clip.captions) for clip in open_data(str(tmp_path / "c.json")).clips}
    assert found == CAPTIONS
    assert list(captions.references(tmp_path / "c.json").values()) == list(CAPTIONS.values())


def test_cocos_answers_and_references_have_the_same_ids(tmp_path: Path) -> None:
    images = [{"id": 17, "file_name": "a.wav"}]
    rows = [{"image_id": 17, "id": 5, "caption": "It rains."}, {"image_id": 17, "id": 6, "caption": "Rain."}]
    (tmp_path / "refs.json").write_text(json.dumps({"images": images, "annotations": rows}))
    (tmp_path / "cands.json").write_text(json.dumps([{"image_id": 17, "caption": "Water."}]))
    assert captions.references(tmp_path / "refs.json") == {"17": ["It rains.", "Rain."]}
    assert captions.candidates(tmp_path / "cands.json").captions == {"17": "Water."}
    (tmp_path / "cands.json").write_text('{"17": ["Water."], "18": "Wind."}')
    assert captions.candidates(tmp_path / "cands.json").captions == {"17": "Water.", "18": "Wind."}
    (tmp_path / "cands.json").write_text('{"17": ["Water.", "Rain."]}')
    with pytest.raises(DataError, match=r"whose caption is not one text: 17 \(line 1\)"):
        captions.candidates(tmp_path / "cands.json")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.json", '{"rows": [{"file_name": "a.wav"}]}', r"it is an object of rows; a list of objects"),
        ("t.json", '"text"', "it is str; a list of objects"),
        ("t.jsonl", '{"id": 1}\n{"id": \n', "line 2: .*one whole JSON object a line"),
    ],
)
def test_well_formed_files_of_another_shape_are_not_told_to_be_saved_as_utf8(
    name: str, text: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=told) as error:
        read_table(tmp_path / name)
    assert "UTF-8" not in str(error.value)
    (tmp_path / "t.csv").write_bytes(b"file_name,label\na.wav,caf\xe9\n")
    with pytest.raises(DataError, match="save it again as UTF-8"):
        read_table(tmp_path / "t.csv")


def test_lists_written_as_text() -> None:
    assert listed("['wren', 'crow']") == listed('["wren", "crow"]') == listed(["wren", "crow"]) == ["wren", "crow"]
    assert listed("""["a dog's bark", 'x']""") == ["a dog's bark", "x"]
    for text in ("[noise]", "wren", "[1, 2]", "['tis the season]", None, 3.0):
        assert listed(text) is None
    assert listed("[]") == []
    with pytest.raises(ValueError, match="a list written without commas"):
        listed("['wren' 'crow']")
