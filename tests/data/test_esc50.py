import os
from collections import Counter
from pathlib import Path

import pytest

from ossicle.data import open_data
from ossicle.errors import DataError

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "esc50"
HEADING = "filename,fold,target,category,esc10,src_file,take\n"


def real() -> Path:
    if not REAL.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("shared/data/esc50 is not beside the repository")
        pytest.skip("shared/data/esc50 is not beside the repository")
    return REAL


def release(folder: Path, rows: str, files: tuple[str, ...]) -> str:
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").mkdir()
    (folder / "meta" / "esc50.csv").write_text(HEADING + rows)
    for name in files:
        (folder / "audio" / name).touch()
    return f"esc50:{folder}"


def test_the_real_folds() -> None:
    data = open_data(f"esc50:{real()}")
    assert data.name == "esc50"
    assert data.notices == ()
    assert len(data.clips) == 1600
    assert Counter(clip.split for clip in data.clips) == {fold: 400 for fold in "1234"}
    assert set(Counter(clip.labels for clip in data.clips).values()) == {32}
    assert len({clip.labels for clip in data.clips}) == 50
    assert {clip.licence for clip in data.clips} == {"CC0", "CC-BY", "CC-BY-NC", "CC-Sampling+", ""}
    assert sum(not clip.licence for clip in data.clips) == 2
    first = data.clips[0]
    assert (first.name, first.labels, first.group) == ("1-100032-A-0.opus", ("dog",), "100032")
    assert first.path.is_file()


def test_takes_of_one_recording_are_one_group() -> None:
    data = open_data(f"esc50:{real()}")
    takes = [clip.name for clip in data.clips if clip.group == "100210"]
    assert takes == ["1-100210-A-36.opus", "1-100210-B-36.opus"]
    folds: dict[str, set[str]] = {}
    for clip in data.clips:
        folds.setdefault(clip.group, set()).add(clip.split)
    across = {group for group, found in folds.items() if len(found) > 1}
    assert across == {"131943", "134049"}  # the release has these two recordings in folds 2 and 3, in two classes each


def test_the_release_layout(tmp_path: Path) -> None:
    rows = "1-100032-A-0.wav,1,0,dog,True,100032,A\n5-9032-A-0.wav,5,0,dog,True,9032,A\n"
    data = open_data(release(tmp_path, rows, ("1-100032-A-0.wav", "5-9032-A-0.wav")))
    assert [(clip.split, clip.group, clip.labels, clip.licence) for clip in data.clips] == [
        ("1", "100032", ("dog",), ""),
        ("5", "9032", ("dog",), ""),
    ]
    assert data.clips[0].path == tmp_path / "audio" / "1-100032-A-0.wav"
    assert data.notices == ("fold 1 has 1 clips, the release has 400", "fold 5 has 1 clips, the release has 400")


def test_missing_files_are_counted_by_fold(tmp_path: Path) -> None:
    rows = "1-100032-A-0.wav,1,0,dog,True,100032,A\n5-9032-A-0.wav,5,0,dog,True,9032,A\n"
    data = open_data(release(tmp_path, rows, ("1-100032-A-0.wav",)))
    assert len(data.clips) == 1
    assert "1 of 2 sound files are not there (1 of fold 5): 5-9032-A-0.wav" in data.notices[0]


def test_no_file_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 1 clips.*karolpiczak/ESC-50"):
        open_data(release(tmp_path, "1-100032-A-0.wav,1,0,dog,True,100032,A\n", ()))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1-100032-A-0.wav,6,0,dog,True,100032,A", "fold '6' is not one of 1, 2, 3, 4, 5"),
        ("1-100032-A-0.wav,2,0,dog,True,100032,A", "does not agree with its fold"),
        ("1-100032-A-0.wav,1,3,dog,True,100032,A", "does not agree with its fold and target"),
        ("dog.wav,1,0,dog,True,100032,A", "does not agree"),
        ("1-100032-A-0.wav", "fold ''"),
    ],
)
def test_rows_that_cannot_be_right(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(release(tmp_path, row + "\n", ("1-100032-A-0.wav",)))


def test_a_file_listed_twice(tmp_path: Path) -> None:
    row = "1-100032-A-0.wav,1,0,dog,True,100032,A\n"
    with pytest.raises(DataError, match=r"line 3: 1-100032-A-0\.wav is listed twice"):
        open_data(release(tmp_path, row * 2, ("1-100032-A-0.wav",)))


def test_another_table(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta.csv").write_text("filename,label\na.wav,dog\n")
    with pytest.raises(DataError, match="no column fold, category"):
        open_data(f"esc50:{tmp_path}")


def test_another_layout_says_where_the_data_comes_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"meta/esc50\.csv or meta\.csv.*karolpiczak/ESC-50"):
        open_data(f"esc50:{tmp_path}")
