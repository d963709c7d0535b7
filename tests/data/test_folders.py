from pathlib import Path

import numpy as np
import pytest
import soundfile

from ossicle.data import open_data
from ossicle.errors import DataError


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(800, dtype=np.float32), 8000)
    return path


def test_each_folder_is_a_label(tmp_path: Path) -> None:
    for name in ("wren/b.wav", "wren/a.wav", "robin/deep/er/c.wav", ".hidden/x.wav"):
        put(tmp_path / "birds" / name)
    data = open_data(str(tmp_path / "birds"))
    assert data.name == "birds"
    assert data.notices == ()
    assert [(clip.name, clip.labels) for clip in data.clips] == [
        ("robin/deep/er/c.wav", ("robin",)),
        ("wren/a.wav", ("wren",)),
        ("wren/b.wav", ("wren",)),
    ]
    assert all(clip.split == "" and clip.start == 0.0 and clip.end is None for clip in data.clips)


def test_a_level_of_splits_is_read_as_the_official_split(tmp_path: Path) -> None:
    for name in ("train/wren/a.wav", "train/robin/b.wav", "Test/wren/c.wav"):
        put(tmp_path / name)
    data = open_data(str(tmp_path))
    assert {(clip.name, clip.labels[0], clip.split) for clip in data.clips} == {
        ("train/wren/a.wav", "wren", "train"),
        ("train/robin/b.wav", "robin", "train"),
        ("Test/wren/c.wav", "wren", "Test"),
    }


def test_a_label_called_test_is_no_split_when_it_holds_sounds(tmp_path: Path) -> None:
    put(tmp_path / "test" / "a.wav")
    put(tmp_path / "noise" / "b.wav")
    assert {clip.labels[0] for clip in open_data(str(tmp_path)).clips} == {"test", "noise"}


def test_empty_labels_and_loose_files_are_told(tmp_path: Path) -> None:
    put(tmp_path / "wren" / "a.wav")
    put(tmp_path / "robin" / "b.wav")
    put(tmp_path / "loose.wav")
    put(tmp_path / "__MACOSX" / "a.wav")
    (tmp_path / "crow").mkdir()
    (tmp_path / "wre").mkdir()
    notices = open_data(str(tmp_path)).notices
    assert notices == (
        "2 label folder(s) without sound files: crow, wre",
        "2 sound file(s) lie outside the label folders and are left out: __MACOSX/a.wav, loose.wav",
    )


def test_the_name_is_the_base_name_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "sounds" / "wren" / "a.wav")
    put(tmp_path / "sounds" / "crow" / "a.wav")
    monkeypatch.chdir(tmp_path / "sounds")
    assert open_data(".").name == "sounds"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no label folders"):
        open_data(str(tmp_path))


def test_label_folders_without_sounds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "wren").mkdir()
    (tmp_path / "wren" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"no sound files in its folders wren"):
        open_data(str(tmp_path))


def test_a_table_beside_one_folder_is_not_taken_for_a_label(tmp_path: Path) -> None:
    put(tmp_path / "audio" / "a.wav")
    (tmp_path / "list.csv").write_text("filename,label\na.wav,wren\n")
    with pytest.raises(DataError, match=r"list\.csv"):
        open_data(str(tmp_path))
    assert open_data(str(tmp_path / "list.csv")).clips[0].labels == ("wren",)


def test_label_folders_may_be_links(tmp_path: Path) -> None:
    put(tmp_path / "store" / "a.wav")
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "wren").symlink_to(tmp_path / "store")
    put(tmp_path / "birds" / "crow" / "b.wav")
    data = open_data(str(tmp_path / "birds"))
    assert [clip.name for clip in data.clips] == ["crow/b.wav", "wren/a.wav"]
    assert data.notices == ()


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_links_are_followed_at_every_depth(tmp_path: Path) -> None:
    put(tmp_path / "store" / "deep" / "c.wav")
    put(tmp_path / "birds" / "crow" / "b.wav")
    link(tmp_path / "birds" / "wren" / "2021", tmp_path / "store")
    link(tmp_path / "birds" / "wren" / "d.wav", tmp_path / "birds" / "crow" / ".." / ".." / "d.wav")
    put(tmp_path / "d.wav")
    data = open_data(str(tmp_path / "birds"))
    assert [(c.name, c.labels) for c in data.clips] == [
        ("crow/b.wav", ("crow",)),
        ("wren/2021/deep/c.wav", ("wren",)),
        ("wren/d.wav", ("wren",)),
    ]
    assert data.notices == ()


def test_links_that_lead_back_or_nowhere_are_told(tmp_path: Path) -> None:
    put(tmp_path / "birds" / "wren" / "a.wav")
    put(tmp_path / "birds" / "crow" / "b.wav")
    for name in ("wren/again", "crow/up", "everything"):
        link(tmp_path / "birds" / name, tmp_path / "birds")
    link(tmp_path / "birds" / "robin", tmp_path / "gone")
    data = open_data(str(tmp_path / "birds"))
    assert [clip.name for clip in data.clips] == ["crow/b.wav", "wren/a.wav"]
    told = "\n".join(data.notices)
    for name in ("wren/again", "crow/up", "everything"):
        assert told.count(f"{name} is a link back to a folder that it lies in") == 1
    assert "robin is a link to what is not there" in told


def test_one_sound_twice_by_links_is_kept_once_and_in_two_labels_refused(tmp_path: Path) -> None:
    put(tmp_path / "birds" / "wren" / "a.wav")
    put(tmp_path / "birds" / "crow" / "b.wav")
    link(tmp_path / "birds" / "wren" / "best" / "a.wav", tmp_path / "birds" / "wren" / "a.wav")
    data = open_data(str(tmp_path / "birds"))
    assert [clip.name for clip in data.clips] == ["crow/b.wav", "wren/a.wav"]
    assert data.notices == ("1 sound(s) are there again by links and were left out: wren/best/a.wav is wren/a.wav",)
    link(tmp_path / "birds" / "robin", tmp_path / "birds" / "wren")
    with pytest.raises(
        DataError, match=r"2 sound\(s\) lie in two labels or splits by links: wren/a\.wav is robin/a\.wav"
    ):
        open_data(str(tmp_path / "birds"))
