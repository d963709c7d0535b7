import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from tests.conftest import tries

from ossicle.contracts import Clip
from ossicle.data import manifest, open_data
from ossicle.data.table import TEXT_SUFFIXES
from ossicle.errors import DataError, UnknownNameError


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, np.zeros(800, dtype=np.float32), 8000, format="WAV")


def read(folder: Path, text: str | bytes, name: str = "list.csv") -> tuple[Clip, ...]:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_data(str(folder / name)).clips


def test_every_optional_column_is_read(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    (clip,) = read(
        tmp_path, "file_name,label,split,start,end,licence,group\na.wav,wren,train,0.01,0.05,CC0,session 1\n"
    )
    assert clip == Clip(
        path=tmp_path / "a.wav",
        start=0.01,
        end=0.05,
        labels=("wren",),
        split="train",
        group="session 1",
        licence="CC0",
        name="a.wav",
    )


@pytest.mark.parametrize("column", manifest.PATH_COLUMNS)
def test_the_path_column_has_several_names(tmp_path: Path, column: str) -> None:
    put(tmp_path, "a.wav")
    assert read(tmp_path, f"{column.upper()},label\na.wav,wren\n")[0].path == tmp_path / "a.wav"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_folder_with_metadata(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "birds"
    put(folder, "clips/a.wav")
    text = "file_name,label\nclips/a.wav,wren\n"
    if name.endswith("jsonl"):
        text = json.dumps({"file_name": "clips/a.wav", "label": "wren"})
    (folder / name).write_text(text)
    data = open_data(str(folder))
    assert data.name == "birds"
    assert data.clips[0].labels == ("wren",)
    assert data.clips[0].name == "clips/a.wav"


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbffile_name,label\r\na.wav,wren\r\n",
        "file_name,label\na.wav,wren\n".encode("utf-16"),
        b"file_name;label\na.wav;wren\n",
        b"file_name\tlabel\na.wav\twren\n",
        b"\n file_name , Label \n\na.wav, wren \n\n",
        b'"file_name","label"\n"a.wav","wren"',
    ],
    ids=["bom", "utf-16", "semicolon", "tab", "blanks", "quoted"],
)
def test_csv_as_spreadsheets_write_it(tmp_path: Path, text: bytes) -> None:
    put(tmp_path, "a.wav")
    (clip,) = read(tmp_path, text)
    assert clip.labels == ("wren",)
    assert clip.path == tmp_path / "a.wav"


def test_windows_separators(tmp_path: Path) -> None:
    put(tmp_path, "wren/a.wav")
    (clip,) = read(tmp_path, "file_name,label\nwren\\a.wav,wren\n")
    assert clip.path == tmp_path / "wren" / "a.wav"
    assert clip.name == "wren/a.wav"


def test_several_labels(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b.wav")
    clips = read(tmp_path, "file_name,labels\na.wav,wren; crow ;wren\nb.wav,\n")
    assert [clip.labels for clip in clips] == [("wren", "crow"), ()]


def test_jsonl_and_parquet_lists(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    line = json.dumps({"path": "a.wav", "labels": ["wren", "crow"], "fold": 2})
    (clip,) = read(tmp_path, line, "list.jsonl")
    assert (clip.labels, clip.split) == (("wren", "crow"), "2")
    table = pa.table({"path": ["a.wav"], "captions": [["One.", "Two."]], "fold": [3.0], "end": [None]})
    parquet.write_table(table, tmp_path / "list.parquet")
    (clip,) = open_data(str(tmp_path / "list.parquet")).clips
    assert (clip.captions, clip.split, clip.end) == (("One.", "Two."), "3", None)


def test_rows_of_our_own_predictions_can_be_read_back(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    row = {"path": "a.wav", "start": 0.0, "end": 0.05, "label": "wren", "score": 0.9, "scores": {"wren": 0.9}}
    (clip,) = read(tmp_path, json.dumps(row), "predicted.jsonl")
    assert (clip.labels, clip.end) == (("wren",), 0.05)


def test_any_character_may_stand_in_a_json_line(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    (clip,) = read(tmp_path, '{"file_name": "a.wav", "caption": "a dog\u2028barks\x85away"}\r\n', "t.jsonl")
    assert clip.captions == ("a dog\u2028barks\x85away",)


def test_clotho(tmp_path: Path) -> None:
    put(tmp_path, "development/Blade Big.wav")
    columns = ",".join(f"caption_{n}" for n in range(1, 6))
    (clip,) = read(tmp_path, f'file_name,{columns}\nBlade Big.wav,"One, two.",b,c,d,e\n', "clotho_dev.csv")
    assert clip.captions == ("One, two.", "b", "c", "d", "e")
    assert clip.path == tmp_path / "development" / "Blade Big.wav"
    assert clip.name == "Blade Big.wav"


@pytest.mark.parametrize(
    "file",
    ["Y7fmOlUlwoNg.wav", "7fmOlUlwoNg_20.wav", "7fmOlUlwoNg_20_30.wav", "103549.wav", "7fmOlUlwoNg_20000_30000.wav"],
)
def test_audiocaps_joins_references_and_knows_file_names(tmp_path: Path, file: str) -> None:
    put(tmp_path, f"test/{file}")
    rows = "103549,7fmOlUlwoNg,20,A rattle\n103549,7fmOlUlwoNg,20,A bell\n"
    (clip,) = read(tmp_path, f"audiocap_id,youtube_id,start_time,caption\n{rows}")
    assert clip.captions == ("A rattle", "A bell")
    assert (clip.start, clip.end, clip.group) == (0.0, None, "7fmOlUlwoNg")


def test_wavcaps_finds_files_by_id(tmp_path: Path) -> None:
    put(tmp_path, "FreeSound_flac/180913.flac", "AudioSet/Yb0RFKhbpFJA.flac")
    rows = [
        {"id": "180913", "file_name": "Rain on roof.wav", "caption": "It rains.", "duration": 30.1},
        {"id": "Yb0RFKhbpFJA.wav", "caption": "Wind.", "audio": "wav_path", "duration": 10.0},
    ]
    clips = read(tmp_path, json.dumps({"num_captions_per_audio": 1, "data": rows}), "fsd_final.json")
    assert [clip.path.name for clip in clips] == ["180913.flac", "Yb0RFKhbpFJA.flac"]
    assert [clip.captions for clip in clips] == [("It rains.",), ("Wind.",)]


def test_missing_files_are_left_out_and_told(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    (tmp_path / "list.csv").write_text("file_name,label\na.wav,wren\nb.wav,crow\n")
    data = open_data(str(tmp_path / "list.csv"))
    assert len(data.clips) == 1
    assert "1 of 2 rows" in data.notices[0]
    assert "b.wav" in data.notices[0]
    with pytest.raises(DataError, match=r"2 of 2 rows.*put the files beside the table"):
        read(tmp_path, "file_name,label\nx.wav,wren\ny.wav,crow\n")


def test_a_file_listed_twice_is_refused_but_two_stretches_are_fine(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    clips = read(tmp_path, "file_name,label,start,end\na.wav,wren,0,0.05\na.wav,crow,0.05,\n")
    assert [(clip.start, clip.end) for clip in clips] == [(0.0, 0.05), (0.05, None)]
    with pytest.raises(DataError, match=r"line 3: a\.wav is listed before"):
        read(tmp_path, "file_name,label\na.wav,wren\na.wav,crow\n")


def test_an_ambiguous_name_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "one/a.wav", "two/a.wav")
    with pytest.raises(DataError, match=r"a\.wav may be any of one/a\.wav, two/a\.wav"):
        read(tmp_path, "file_name,label\na.wav,wren\n")


def test_absolute_paths_leave_no_trace_in_names(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/a.wav")
    (tmp_path / "here").mkdir()
    (clip,) = read(tmp_path / "here", f"path,label\n{tmp_path}/elsewhere/a.wav,wren\n")
    assert clip.name == "a.wav"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sound,label\na.wav,wren\n", "no column with the sound file; it has sound, label"),
        ("file_name,text\na.wav,wren\n", "no label, labels or caption column; it has file_name, text"),
        ("file_name,label\na.wav,\n", "line 2: the label cell is empty"),
        ("file_name,label\n,wren\n", "line 2: no sound file is named"),
        ("file_name,caption\na.wav,Rain, then wind\n", "line 2 has 3 cells but the heading has 2"),
        ("file_name,label,start\na.wav,wren,soon\n", "start is 'soon', a number of seconds"),
        ("file_name,label,start,end\na.wav,wren,2,1\n", r"start 2\.0 and end 1\.0"),
        ("file_name,label,start\na.wav,wren,nan\n", "not a stretch"),
        ("file_name,label,end\na.wav,wren,inf\n", "not a stretch"),
        ("file_name,Label,label\na.wav,wren,crow\n", "names label twice"),
        ("file_name,label\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_unusable_tables_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "a.wav")
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", b"file_name,label\na.wav,caf\xe9\n"),
        ("list.jsonl", b'{"file_name": "a.wav", "label": "wren"}\n{"file_name"'),
        ("list.jsonl", b"[1, 2]\n"),
        ("list.json", b'{"rows": []}'),
        ("list.json", b"[" * 100_000),
        ("list.parquet", b"not parquet"),
        ("list.xlsx", b"PK"),
    ],
)
def test_files_that_are_not_what_they_say(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=name):
        read(tmp_path, content, name)


def test_faults_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    with pytest.raises(DataError, match=r"7 unusable row\(s\).*and 2 more"):
        read(tmp_path, "file_name,label\n" + "a.wav,\n" * 7)


def test_text_that_names_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match="unknown data set 'esc5'; did you mean 'esc50'"):
        open_data("esc5:somewhere")
    with pytest.raises(DataError, match="write esc50:PATH"):
        open_data("esc50")
    with pytest.raises(DataError, match="write esc50:PATH"):
        open_data("esc50:nowhere")
    with pytest.raises(DataError, match="'nowhere' is not there"):
        open_data("nowhere")
    for text in ("C:\\sounds", "~nobody-here/x", "x" * 5000, "a\0b"):
        with pytest.raises(DataError):
            open_data(text)


def test_no_text_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "wren/a.wav", "crow/a.wav")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no data was named"):
        open_data("")


def test_a_general_table_name_gives_way_to_its_folder(tmp_path: Path) -> None:
    put(tmp_path / "birds", "a.wav")
    read(tmp_path / "birds", "file_name,label\na.wav,wren\n", "meta.csv")
    assert open_data(str(tmp_path / "birds" / "meta.csv")).name == "birds"
    read(tmp_path / "birds", "file_name,label\na.wav,wren\n", "garden.csv")
    assert open_data(str(tmp_path / "birds" / "garden.csv")).name == "garden"


@tries(60)
@given(content=st.binary(max_size=200), suffix=st.sampled_from((*manifest.SUFFIXES, *TEXT_SUFFIXES)))
def test_hostile_bytes_never_cause_another_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    path.write_bytes(b"file_name,label\n" + content if suffix == ".csv" else content)
    try:
        manifest.rows(path)
    except DataError as error:
        assert "list" in str(error)
