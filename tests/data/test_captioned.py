"""AudioCaps, Clotho and WavCaps: rows of the real tables with made sounds, and their faults."""

import csv
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from tests.conftest import need
from tests.tiny import write_tone

from ossicle.contracts import Clip
from ossicle.data import Dataset, open_data
from ossicle.data.clotho import short_licence
from ossicle.errors import DataError

AUDIOCAPS_HEAD = "audiocap_id,youtube_id,start_time,caption\n"
CLOTHO_HEAD = "file_name," + ",".join(f"caption_{n}" for n in range(1, 6)) + "\n"
METADATA_HEAD = "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license\n"
FIVE = "a,b,c,d,e"
SOURCES = {"audiocaps": "cdjkim/audiocaps", "clotho": "zenodo.org", "wavcaps": "cvssp/WavCaps"}


def tone(root: Path, *names: str) -> Path:
    for name in names:
        write_tone(root / name, 440.0, 0.05)
    return root


def put(root: Path, name: str, text: str, encoding: str = "utf-8") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding=encoding)


def audiocaps(root: Path, rows: str, name: str = "train.csv") -> Path:
    put(root, name, AUDIOCAPS_HEAD + rows)
    return root


def wavcaps(root: Path, file: str, *ids: str) -> Path:
    rows = [{"id": i, "caption": f"Sound {i}.", "duration": 1.0, "file_name": "rain.wav"} for i in ids]
    put(root, file, json.dumps({"num_captions_per_audio": 1, "data": rows}))
    return root


def first_lines(table: Path, lines: int, target: Path) -> list[dict[str, str]]:
    """Copy the heading and some rows of a real table; return the rows."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(islice(csv.DictReader(file), lines))
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.fixture(scope="session")
def captions(shared: Path) -> Path:
    folder = shared / "data" / "captions"
    need(folder.is_dir(), "../shared/data/captions")
    return folder


def only(data: Dataset) -> Clip:
    (clip,) = data.clips
    return clip


def test_real_rows_of_audiocaps(tmp_path: Path, captions: Path) -> None:
    train = first_lines(captions / "audiocaps_train.csv", 3, tmp_path / "train.csv")
    test = first_lines(captions / "audiocaps_test.csv", 4875, tmp_path / "audiocaps_test.csv")
    start = train[0]["start_time"]
    tone(tmp_path, f"sounds/Y{train[0]['youtube_id']}_{start}_{int(start) + 10}.wav")
    tone(tmp_path, f"sounds/{train[1]['youtube_id']}.wav", f"test/{test[0]['audiocap_id']}.flac")
    data = open_data(f"audiocaps:{tmp_path}")
    first, second, third = data.clips
    assert [c.split for c in data.clips] == ["train", "train", "test"]
    assert first.captions == (train[0]["caption"],)
    assert (first.name, first.group) == (f"{train[0]['youtube_id']}_{start}", train[0]["youtube_id"])
    assert second.path.name == f"{train[1]['youtube_id']}.wav"
    own = [row["caption"] for row in test if row["youtube_id"] == test[0]["youtube_id"]]
    assert third.captions == tuple(own) and len(own) == 5
    assert all(c.path.is_file() and "MIT" in c.licence and "YouTube" in c.licence for c in data.clips)
    assert "975 of 978 sound files are not there (974 of split test, 1 of split train)" in data.notices[0]
    assert data.notices[-1] == "there is no table of val"


def test_the_whole_of_both_releases(tmp_path: Path, captions: Path) -> None:
    for name in ("train", "val", "test"):
        (tmp_path / f"audiocaps_{name}.csv").symlink_to(captions / f"audiocaps_{name}.csv")
        (tmp_path / f"clotho_{name}.csv").symlink_to(captions / f"clotho_{name}.csv")
    with pytest.raises(DataError, match="none of the 51308 clips of AudioCaps"):
        open_data(f"audiocaps:{tmp_path}")
    with pytest.raises(DataError, match="none of the 5929 clips of Clotho"):
        open_data(f"clotho:{tmp_path}")


def test_audiocaps_joins_rows_of_a_clip_and_finds_any_of_its_ids(tmp_path: Path) -> None:
    audiocaps(tmp_path, "7,abc,30,Rain\n8,abc,30,Wind\n9,abc,30,Rain and wind\n", "dataset/val.csv")
    clip = only(open_data(f"audiocaps:{tone(tmp_path, 'a/b/8.flac')}"))
    assert (clip.captions, clip.split, clip.start, clip.end) == (("Rain", "Wind", "Rain and wind"), "val", 0.0, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,abc,30,\n", r"line 2: the caption cell is empty"),
        ("1,,30,Rain\n", r"line 2: the youtube_id cell is empty"),
        ("1,abc,soon,Rain\n", r"line 2: start_time 'soon' is not a whole number"),
        ("1,abc,30,Rain\n1,Xabc,30,Rain\n", r"abc may be any of"),
    ],
)
def test_faults_of_audiocaps_are_named_by_line(text: str, says: str, tmp_path: Path) -> None:
    tone(tmp_path, "one/abc.wav", "two/abc.wav")
    with pytest.raises(DataError, match=says):
        open_data(f"audiocaps:{audiocaps(tmp_path, text)}")


def test_another_train_csv_is_not_audiocaps(tmp_path: Path) -> None:
    put(tmp_path, "train.csv", "file_name,label\na.wav,wren\n")
    with pytest.raises(DataError, match=r"train\.csv has no column youtube_id, start_time, caption; get"):
        open_data(f"audiocaps:{tmp_path}")


def test_real_rows_of_clotho(tmp_path: Path, captions: Path) -> None:
    train = first_lines(captions / "clotho_train.csv", 3839, tmp_path / "clotho_captions_development.csv")
    test = first_lines(captions / "clotho_test.csv", 2, tmp_path / "clotho_test.csv")
    (odd,) = [r for r in train if r["file_name"] == " Ambience Birds.wav"]
    tone(tmp_path, f"development/{train[0]['file_name']}", "development/Ambience Birds.wav")
    tone(tmp_path, f"unpacked/{test[1]['file_name']}")
    data = open_data(f"clotho:{tmp_path}")
    assert [c.split for c in data.clips] == ["development", "development", "evaluation"]
    assert [c.name for c in data.clips] == [train[0]["file_name"], "Ambience Birds.wav", test[1]["file_name"]]
    assert data.clips[1].captions == tuple(odd[f"caption_{n}"] for n in range(1, 6))
    assert Counter(len(c.captions) for c in data.clips) == {5: 3}
    assert "3838 of 3841 sound files are not there (3837 of split development, 1 of" in data.notices[0]
    assert list(data.notices[-2:]) == [
        "there is no table of validation",
        "3 sound(s) have no known licence: no clotho_metadata_*.csv beside the table names them",
    ]


def test_clotho_takes_licences_and_recordings_from_its_metadata(tmp_path: Path) -> None:
    put(tmp_path, "clotho_captions_validation.csv", f"{CLOTHO_HEAD}Café.wav,{FIVE}\nb.wav,{FIVE}\nc.wav,{FIVE}\n")
    by = "http://creativecommons.org/licenses/by/3.0/"
    zero = "http://creativecommons.org/publicdomain/zero/1.0/"
    metadata = f"Café.wav,bird;rain,80399,link,[0 1],José,{by}\nb.wav,x,Not found,Not found,,,{zero}\n"
    put(tmp_path, "clotho_metadata_validation.csv", METADATA_HEAD + metadata, "latin-1")
    data = open_data(f"clotho:{tone(tmp_path, 'validation/Café.wav', 'validation/b.wav', 'validation/c.wav')}")
    assert [(c.licence, c.group) for c in data.clips[:2]] == [("CC-BY-3.0", "80399"), ("CC0-1.0", "")]
    assert "not known" in data.clips[2].licence
    assert "1 sound(s) have no known licence" in data.notices[-1]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/licenses/by-nc/3.0/", "CC-BY-NC-3.0"),
        (" http://creativecommons.org/licenses/by/4.0/ ", "CC-BY-4.0"),
        ("http://creativecommons.org/licenses/sampling+/1.0/", "CC-SAMPLING+-1.0"),
        ("ask the author ", "ask the author"),
        ("", ""),
    ],
)
def test_licences_of_freesound_have_short_names(text: str, short: str) -> None:
    assert short_licence(text) == short


def test_a_name_in_two_splits_of_clotho_is_two_sounds(tmp_path: Path) -> None:
    for split in ("development", "evaluation"):
        put(tmp_path, f"clotho_captions_{split}.csv", f"{CLOTHO_HEAD}DOOR.wav,{FIVE}\nonly {split}.wav,{FIVE}\n")
    tone(tmp_path, "sounds/development/DOOR.wav", "evaluation/DOOR.wav", "evaluation/only development.wav")
    data = open_data(f"clotho:{tmp_path}")
    assert [(c.split, c.path.parent.name) for c in data.clips] == [
        ("development", "development"),
        ("evaluation", "evaluation"),
    ]
    (tmp_path / "evaluation" / "DOOR.wav").rename(tmp_path / "DOOR.wav")
    assert [c.split for c in open_data(f"clotho:{tmp_path}").clips] == ["development"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.wav,a,b,c,d,\n", r"line 2: a\.wav has 4 caption\(s\), five are wanted"),
        (",a,b,c,d,e\n", r"line 2: the file_name cell is empty"),
        (f"a.wav,{FIVE}\na.wav,{FIVE}\n", r"line 3: a\.wav is listed before"),
        (f"b.wav,{FIVE}\n", r"line 2: b\.wav may be any of"),
    ],
)
def test_faults_of_clotho_are_named_by_line(text: str, says: str, tmp_path: Path) -> None:
    put(tmp_path, "clotho_captions_development.csv", CLOTHO_HEAD + text)
    with pytest.raises(DataError, match=says):
        open_data(f"clotho:{tone(tmp_path, 'a.wav', 'x/b.wav', 'y/b.wav')}")


def test_wavcaps_keeps_equal_ids_of_two_sources_apart(tmp_path: Path) -> None:
    wavcaps(tmp_path, "json_files/FreeSound/fsd_final.json", "2219", "5")
    wavcaps(tmp_path, "json_files/SoundBible/sb_final.json", "2219")
    wavcaps(tmp_path, "json_files/AudioSet_SL/as_final.json", "Yb0RFKhbpFJA.wav")
    wavcaps(tmp_path, "json_files/BBC_Sound_Effects/bbc_final.json", "NHU0510", "07076051")
    tone(tmp_path, "FreeSound_flac/2219.flac", "unpacked/SoundBible_flac/2219.flac", "AudioSet_SL/Yb0RFKhbpFJA.wav")
    data = open_data(f"wavcaps:{tone(tmp_path, 'all/NHU0510.flac', 'SoundBible_flac/07076051.flac')}")
    assert [(c.name, c.path.parent.name) for c in data.clips] == [
        ("freesound/2219", "FreeSound_flac"),
        ("bbc/NHU0510", "all"),
        ("soundbible/2219", "SoundBible_flac"),
        ("audioset/Yb0RFKhbpFJA", "AudioSet_SL"),
    ]
    assert data.clips[0].captions == ("Sound 2219.",)
    assert all("academic" in c.licence and c.split == c.name.partition("/")[0] for c in data.clips)
    assert data.notices[0].startswith("no exclusion list is there")
    assert "2 of 6 sound files are not there" in data.notices[1]


def test_clips_on_an_exclusion_list_are_left_out(tmp_path: Path) -> None:
    wavcaps(tmp_path, "fsd_final.json", "1", "2", "3")
    wavcaps(tmp_path, "as_final.json", "Ya.wav", "Yb.wav")
    all_ac, test_ac = "blacklist/blacklist_exclude_all_ac.json", "blacklist/blacklist_exclude_test_ac.json"
    put(tmp_path, all_ac, json.dumps({"AudioSet": ["Ya.wav", "Yelsewhere.wav"], "FreeSound": ["2"]}))
    put(tmp_path, test_ac, json.dumps({"AudioSet": ["Ya.wav"], "FreeSound": []}))
    data = open_data(f"wavcaps:{tone(tmp_path, '1.flac', '2.flac', '3.flac', 'Ya.flac', 'Yb.flac')}")
    assert [c.name for c in data.clips] == ["freesound/1", "freesound/3", "audioset/Yb"]
    assert len(data.notices) == 1
    assert data.notices[0].startswith("2 of 5 clips are left out")
    assert "2 by blacklist_exclude_all_ac.json, 1 by blacklist_exclude_test_ac.json" in data.notices[0]
    for text in ("[1]", "{", '{"AudioSet": 1}'):
        put(tmp_path, all_ac, text)
        with pytest.raises(DataError, match=r"blacklist_exclude_all_ac\.json is not an object of lists"):
            open_data(f"wavcaps:{tmp_path}")


def test_faults_of_wavcaps(tmp_path: Path) -> None:
    wavcaps(tone(tmp_path, "1.flac"), "fsd_final.json", "1", " ")
    with pytest.raises(DataError, match=r"fsd_final\.json is not WavCaps's: 1 fault\(s\): line 2: no id"):
        open_data(f"wavcaps:{tmp_path}")
    put(tmp_path, "fsd_final.json", "version https://git-lfs.github.com/spec/v1\noid sha256:4499\n")
    with pytest.raises(DataError, match=r"fsd_final\.json is a Git LFS pointer.*git lfs pull"):
        open_data(f"wavcaps:{tmp_path}")


@pytest.mark.parametrize("name", SOURCES)
def test_a_wrong_folder_says_what_was_found_and_where_to_get_the_data(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"is empty, so it is not .*; get .*{SOURCES[name]}.* and give"):
        open_data(f"{name}:{tmp_path}")
    put(tmp_path, "readme.txt", "")
    with pytest.raises(DataError, match=r"holds readme\.txt, so it is not"):
        open_data(f"{name}:{tmp_path}")


@pytest.mark.parametrize("name", SOURCES)
def test_no_sound_at_all_says_how_many_and_what_was_looked_for(name: str, tmp_path: Path) -> None:
    audiocaps(tmp_path, "1,abc,30,Rain\n2,abd,0,Wind\n")
    put(tmp_path, "clotho_captions_evaluation.csv", f"{CLOTHO_HEAD}a.wav,{FIVE}\nb.wav,{FIVE}\n")
    wavcaps(tmp_path, "fsd_final.json", "1", "2")
    wanted = {"audiocaps": "train/Yabc_30_40.wav", "clotho": "evaluation/a.wav", "wavcaps": "freesound/1.flac"}[name]
    with pytest.raises(DataError, match=f"none of the 2 clips of .* is wanted at .*{wanted}; get .*{SOURCES[name]}"):
        open_data(f"{name}:{tmp_path}")
