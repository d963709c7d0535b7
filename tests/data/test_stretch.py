"""Times in the columns that tools write, and times that are not understood."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.conftest import need

from ossicle.contracts import Clip
from ossicle.data import open_data
from ossicle.data.stretch import find
from ossicle.data.table import read_table
from ossicle.errors import DataError

FIELD = (
    Path(__file__).resolve().parents[3]
    / "shared"
    / "data"
    / "field"
    / "MSD-0003_20180427_2minstart00.Table.1.selections.txt"
)


def put(folder: Path, *names: str) -> None:
    for name in names:
        soundfile.write(folder / name, np.zeros(8000, dtype=np.float32), 8000)


def opened(folder: Path, text: str, name: str = "t.csv") -> tuple[list[tuple[float, float | None]], tuple[str, ...]]:
    put(folder, "a.wav")
    (folder / name).write_text(text)
    data = open_data(str(folder / name))
    return [(clip.start, clip.end) for clip in data.clips], data.notices


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("Begin Time (s)", "End Time (s)"), ("Start (s)", "End (s)"), ("onset", "offset"), ("Onset (s)", "Offset (s)"),
        ("start", "stop"), ("startTime", "endTime"), ("StartTime", "StopTime"), ("start_time", "end_time"),
        ("start_seconds", "end_seconds"), ("begin-time", "end-time"), ("start_s", "end_s"), ("t_start", "t_end"),
        ("time_start", "time_end"), ("segment_start", "segment_end"), ("xmin", "xmax"), ("tmin", "tmax"),
        ("start_time_seconds", "end_time_seconds"), ("start in s", "end in s"), ("begins", "ends"),
        ("startTimestamp", "stopTimestamp"), ("BEGIN_TIME", "FINISH_TIME"),
    ],
)  # fmt: skip
def test_names_that_tools_write(start: str, end: str, tmp_path: Path) -> None:
    spans, notices = opened(tmp_path, f"file,{start},{end},label\na.wav,0.25,0.5,wren\na.wav,0.5,0.75,crow\n")
    assert (spans, notices) == ([(0.25, 0.5), (0.5, 0.75)], ())


@pytest.mark.parametrize(
    ("heading", "row", "span"),
    [
        ("start_ms,end_ms", "250,500", (0.25, 0.5)),
        ("startMs,durationMs", "250,500", (0.25, 0.75)),
        ("onset (milliseconds),offset (milliseconds)", "250,500", (0.25, 0.5)),
        ("Begin Time (min),End Time (min)", "0.01,0.012", (0.6, 0.72)),
        ("start,duration", "0.25,0.5", (0.25, 0.75)),
        ("OFFSET,DURATION", "0.25,0.5", (0.25, 0.75)),
        ("onset,duration", "0.25,0.5", (0.25, 0.75)),
        ("start,end,duration", "0.25,0.5,1.0", (0.25, 0.5)),
        ("start,end", "00:00:00.25,00:00:00.5", (0.25, 0.5)),
        ("start,end", ",0.5", (0.0, 0.5)),
        ("start_s,start,end", "0.25,,0.5", (0.25, 0.5)),
        ("duration", "1.0", (0.0, None)),
        ("Begin Time (s),End Time (s),File Offset (s)", "60.5,60.75,0.5", (0.5, 0.75)),
    ],
)
def test_units_and_lengths(heading: str, row: str, span: tuple[float, float | None], tmp_path: Path) -> None:
    spans, notices = opened(tmp_path, f"file_name,label,{heading}\na.wav,wren,{row}\n")
    assert (spans, notices) == ([span], ())


@pytest.mark.parametrize(
    ("heading", "row"),
    [("start_frame,end_frame", "10,20"), ("offset", "0.5"), ("from,to", "1,2"), ("t0,t1", "0.5,1"), ("time", "0.5")],
)
def test_a_number_that_looks_like_a_time_is_told(heading: str, row: str, tmp_path: Path) -> None:
    spans, (notice,) = opened(tmp_path, f"file_name,label,{heading}\na.wav,wren,{row}\n")
    assert spans == [(0.0, None)]
    assert f"t.csv: {heading.replace(',', ', ')} may be times" in notice
    assert "every clip is its whole file; name columns start and end, in seconds" in notice


@pytest.mark.parametrize(
    "heading", ["sample_rate", "num_frames", "score", "target", "distance", "fold_time_zone", "duration", "latitude"]
)
def test_other_numbers_are_not(heading: str, tmp_path: Path) -> None:
    assert opened(tmp_path, f"file_name,label,{heading}\na.wav,wren,5\n")[1] == ()
    assert opened(tmp_path, "file_name,label,from\na.wav,wren,Berlin\n")[1] == ()


def test_half_a_stretch_is_told_and_two_that_differ(tmp_path: Path) -> None:
    spans, (notice,) = opened(tmp_path, "file,label,start,last_frame\na.wav,wren,0.25,30\n")
    assert spans == [(0.25, None)] and "last_frame may be times" in notice and "whole file" not in notice
    spans, (notice,) = opened(tmp_path, "file,label,start,start_ms,end\na.wav,wren,0.25,300,0.5\n")
    assert spans == [(0.25, 0.5)] and "start_ms differs from start, which is the start that is used" in notice
    assert opened(tmp_path, "file,label,start,start_ms,end\na.wav,wren,0.25,250,0.5\n")[1] == ()


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("soon", "begin_time_(s) is 'soon', a number of seconds is wanted"),
        ("0,5", "a number of seconds is wanted, 0.5; rename"),
        ("2024-05-01 10:00", "rename the column if it is no time"),
        ("01:30", "a number of seconds is wanted"),
        ("-1", "start -1.0 and end None are not a stretch"),
    ],
)
def test_times_that_are_none_are_faults(cell: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        opened(tmp_path, f"file;label;Begin Time (s)\na.wav;wren;{cell}\n")
    assert "line 2" in str(error.value) and told in str(error.value)


RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\tNotes\n"


def raven(*rows: str) -> str:
    return RAVEN + "".join(f"{n}\t{row}\n" for n, row in enumerate(rows, 1))


@pytest.mark.parametrize(
    "name", ["a.Table.1.selections.txt", "a.txt", "a.wav.txt", "a.selections", "a.BirdNET.results.txt"]
)
def test_a_selection_table_belongs_to_the_recording_of_its_name(name: str, tmp_path: Path) -> None:
    put(tmp_path, "ab.wav")
    view = "Spectrogram 1\t1"
    text = raven(f"{view}\t0.1\t0.2\t0\t9\tWREN\tfaint", f"{view}\t0.2\t0.4\t0\t9\tCROW", f"{view}\t0.5\t0.6\t0\t9")
    spans, (notice,) = opened(tmp_path, text, name)
    assert spans == [(0.1, 0.2), (0.2, 0.4)]
    assert notice == f"{name}: 1 selection(s) without a label are left out: line 4"
    assert [clip.labels for clip in open_data(str(tmp_path / name)).clips] == [("WREN",), ("CROW",)]


def test_both_views_of_a_selection_are_one_clip_and_two_birds_at_once_two_labels(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    rows = [f"{view} 1\t1\t0.1\t0.2\t0\t9\tWREN" for view in ("Waveform", "Spectrogram")]
    (tmp_path / "a.txt").write_text(raven(*rows, "Spectrogram 1\t1\t0.1\t0.2\t0\t9\tCROW"))
    (clip,) = open_data(str(tmp_path / "a.txt")).clips
    assert clip == Clip(tmp_path / "a.wav", 0.1, 0.2, ("WREN", "CROW"), name="a.wav")


def test_birdnets_results(tmp_path: Path) -> None:
    text = "Start (s),End (s),Scientific name,Common name,Confidence,File\n"
    raven = "Corvus corax,Raven,0.5,a.wav\n"
    text += f"0.0,0.3,Turdus merula,Blackbird,0.9,a.wav\n0.0,0.3,{raven}0.3,0.6,{raven}"
    spans, (notice,) = opened(tmp_path, text)
    assert spans == [(0.0, 0.3), (0.3, 0.6)]
    assert notice == "t.csv: the labels are those of common_name; scientific_name is not used"


def test_an_audacity_track(tmp_path: Path) -> None:
    spans, _ = opened(tmp_path, "0.100000\t0.200000\twren\n\\\t500.0\t900.0\n0.500000\t0.750000\tcrow\n", "a.txt")
    assert spans == [(0.1, 0.2), (0.5, 0.75)]


def test_ravens_count_over_several_files(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b.wav")
    head = "Selection\tView\tBegin Time (s)\tEnd Time (s)\tBegin File\tSpecies"
    rows = ["1\tS\t0.1\t0.2\ta.wav\tWREN", "2\tS\t1.1\t1.2\tb.wav\tCROW"]
    (tmp_path / "t.txt").write_text("\n".join([head, *rows]))
    (notice,) = open_data(str(tmp_path / "t.txt")).notices
    assert "the times go on from file to file" in notice and "File Offset (s)" in notice
    lines = [f"{head}\tFile Offset (s)", f"{rows[0]}\t0.1", f"{rows[1]}\t0.1"]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    data = open_data(str(tmp_path / "t.txt"))
    assert [(c.name, c.start, c.end) for c in data.clips] == [("a.wav", 0.1, 0.2), ("b.wav", 0.1, 0.2)]
    assert data.notices == ()


def test_our_own_raven_table_comes_back(tmp_path: Path) -> None:
    from ossicle.contracts import Prediction
    from ossicle.predict.results import write_rows

    put(tmp_path, "a.wav", "b.wav")
    rows = [Prediction(str(tmp_path / n), s, s + 0.5, "wren", 0.9) for n in ("a.wav", "b.wav") for s in (0.0, 0.5)]
    write_rows(rows, tmp_path / "r.selections.txt")
    data = open_data(str(tmp_path / "r.selections.txt"))
    assert [(str(c.path), c.start, c.end, c.labels) for c in data.clips] == [
        (row.path, row.start, row.end, ("wren",)) for row in rows
    ]


def test_a_folder_of_recordings_with_a_table_each(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b.wav", "c.wav")
    (tmp_path / "a.Table.1.selections.txt").write_text(raven("S\t1\t0.1\t0.2\t0\t9\tWREN", "S\t1\t0.3\t0.4\t0\t9"))
    (tmp_path / "b.txt").write_text("0.5\t0.75\tcrow\n")
    (tmp_path / "README.txt").write_text("Recorded in May.\n")
    data = open_data(str(tmp_path))
    assert [(c.name, c.start, c.end, c.labels) for c in data.clips] == [
        ("a.wav", 0.1, 0.2, ("WREN",)),
        ("b.wav", 0.5, 0.75, ("crow",)),
    ]
    assert data.notices == (
        "a.Table.1.selections.txt: 1 selection(s) without a label are left out: line 3",
        "1 sound(s) have no table beside them and are left out: c.wav",
    )


def test_a_table_of_a_recording_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.Table.1.selections.txt").write_text(raven("S\t1\t0.1\t0.2\t0\t9\tWREN"))
    with pytest.raises(DataError, match="no column with the sound file, and no sound that is called x lies beside it"):
        open_data(str(tmp_path / "x.Table.1.selections.txt"))


def test_a_table_from_the_field(tmp_path: Path) -> None:
    need(FIELD.is_file(), "../shared/data/field")
    shutil.copy(FIELD, tmp_path)
    put(tmp_path, f"{FIELD.name.partition('.')[0]}.wav")
    assert find("t", read_table(FIELD)).columns.keys() == {"start", "end"}
    data = open_data(str(tmp_path / FIELD.name))
    assert len(data.clips) == len(read_table(FIELD)) - 1
    assert {label for clip in data.clips for label in clip.labels} >= {"WOTH", "EATO", "LOWA"}
    assert data.clips[0].start == pytest.approx(1.897648) and data.clips[0].end == pytest.approx(4.110571)
    assert data.notices == (f"{FIELD.name}: 1 selection(s) without a label are left out: line 11",)
