"""The official data sets: real parts of two, small made trees of all, and their faults."""

import hashlib
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from ossicle.contracts import Clip
from ossicle.data import DATASETS, open_data
from ossicle.errors import DataError


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


US8K_HEAD = "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
FSC_HEAD = ",path,speakerId,transcription,action,object,location\n"
EPIC_HEAD = (
    "annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,start_sample,stop_sample,description,class,"
    "class_id\n"
)
TREES: dict[str, dict[str, str]] = {
    "urbansound8k": {
        "metadata/UrbanSound8K.csv": US8K_HEAD
        + "100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark\n"
        + "100263-2-0-117.wav,100263,58.5,62.5,1,10,2,children_playing\n",
        "audio/fold5/100032-3-0-0.wav": "",
        "audio/fold10/100263-2-0-117.wav": "",
    },
    "speech-commands": {
        "validation_list.txt": "yes/a1_nohash_0.wav\n",
        "testing_list.txt": "no/b2_nohash_1.wav\n",
        "yes/a1_nohash_0.wav": "", "yes/c3_nohash_0.wav": "", "no/b2_nohash_1.wav": "",
        "_background_noise_/pink_noise.wav": "", "README.md": "",
    },
    "fsdd": {"recordings/7_jackson_4.wav": "", "recordings/7_jackson_5.wav": "", "metadata.py": ""},
    "fluent-speech": {
        "data/train_data.csv": FSC_HEAD + "0,wavs/speakers/s1/a.wav,s1,Turn on the lights,activate,lights,none\n",
        "data/valid_data.csv": FSC_HEAD + "0,wavs/speakers/s2/b.wav,s2,Heat up,increase,heat,kitchen\n",
        "data/test_data.csv": FSC_HEAD + "0,wavs/speakers/s3/c.wav,s3,\"Louder, please\",increase,volume,none\n",
        "wavs/speakers/s1/a.wav": "", "wavs/speakers/s2/b.wav": "", "wavs/speakers/s3/c.wav": "",
    },
    "epic-sounds": {
        "EPIC_Sounds_train.csv": EPIC_HEAD
        + "P01_01_0,P01,P01_01,00:00:02.466,00:00:05.315,59184,127560,paper rustle,rustle,4\n",
        "EPIC_Sounds_validation.csv": EPIC_HEAD
        + "P02_09_3,P02,P02_09,01:00:00.000,01:00:00.500,0,1,clang,metal-only collision,2\n",
        "audio/P01_01.flac": "", "audio/P02_09.wav": "",
    },
}  # fmt: skip
EXPECTED: dict[str, list[tuple[str, str, str, str]]] = {  # name, label, split, group
    "urbansound8k": [
        ("100032-3-0-0.wav", "dog_bark", "5", "100032"),
        ("100263-2-0-117.wav", "children_playing", "10", "100263"),
    ],
    "speech-commands": [
        ("no/b2_nohash_1.wav", "no", "test", "b2"),
        ("yes/a1_nohash_0.wav", "yes", "val", "a1"),
        ("yes/c3_nohash_0.wav", "yes", "train", "c3"),
    ],
    "fsdd": [("7_jackson_4.wav", "7", "test", ""), ("7_jackson_5.wav", "7", "train", "")],
    "fluent-speech": [
        ("wavs/speakers/s1/a.wav", "activate_lights_none", "train", "s1"),
        ("wavs/speakers/s2/b.wav", "increase_heat_kitchen", "val", "s2"),
        ("wavs/speakers/s3/c.wav", "increase_volume_none", "test", "s3"),
    ],
    "epic-sounds": [
        ("P01_01_0", "rustle", "train", "P01_01"),
        ("P02_09_3", "metal-only collision", "val", "P02_09"),
    ],
}


def test_every_official_data_set_is_covered() -> None:
    assert {*TREES, "esc50", "audiocaps", "clotho", "wavcaps"} == set(DATASETS)  # the last three: test_captioned


@pytest.mark.parametrize("name", TREES)
def test_a_small_tree(name: str, tmp_path: Path) -> None:
    data = open_data(f"{name}:{write(tmp_path, TREES[name])}")
    assert [(c.name, c.labels[0], c.split, c.group) for c in data.clips] == EXPECTED[name]
    assert all(clip.path.is_file() and clip.licence for clip in data.clips)
    assert all("the release has" in notice for notice in data.notices)
    assert len(data.notices) == len({c.split for c in data.clips})


@pytest.mark.parametrize("name", TREES)
def test_an_empty_folder_says_where_to_get_the_data(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"so it is not .*; get .* and give"):
        open_data(f"{name}:{tmp_path}")


@pytest.mark.parametrize("name", TREES)
def test_missing_sound_is_named_and_none_at_all_refused(name: str, tmp_path: Path) -> None:
    tree = write(tmp_path, TREES[name])
    sounds = sorted(f for f in tree.rglob("*") if f.suffix in (".wav", ".flac") and "noise" not in f.name)
    sounds[0].unlink()
    data = open_data(f"{name}:{tree}")
    if name != "fsdd":  # which has no table to miss a file from
        assert "1 of" in data.notices[0] and "are not there" in data.notices[0]
    for file in sounds[1:]:
        file.unlink()
    with pytest.raises(DataError, match="none of the"):
        open_data(f"{name}:{tree}")


@pytest.mark.parametrize(
    ("name", "file", "text", "says"),
    [
        ("urbansound8k", "metadata/UrbanSound8K.csv", US8K_HEAD + "1-3-0-0.wav,1,0,1,1,11,3,dog_bark\n", "fold '11'"),
        ("urbansound8k", "metadata/UrbanSound8K.csv", US8K_HEAD + "1-3-0-0.wav,2,0,1,1,5,3,dog_bark\n", "fsID"),
        ("urbansound8k", "metadata/UrbanSound8K.csv", "slice_file_name,fold\na,1\n", "no column fsid"),
        ("fsdd", "recordings/seven.wav", "", "not named digit_speaker_take"),
        (
            "epic-sounds", "EPIC_Sounds_train.csv",
            EPIC_HEAD + "P01_01_0,P01,P01_01,soon,later,0,1,rustle,rustle,4\n", "not a time like",
        ),
        (
            "epic-sounds", "EPIC_Sounds_train.csv",
            EPIC_HEAD + "P01_01_0,P01,P01_01,00:00:02.0,00:00:01.0,0,1,rustle,rustle,4\n", "before it begins",
        ),
    ],
)  # fmt: skip
def test_contradictions_are_named_by_line(name: str, file: str, text: str, says: str, tmp_path: Path) -> None:
    tree = write(tmp_path, TREES[name] | {file: text})
    with pytest.raises(DataError, match=says):
        open_data(f"{name}:{tree}")


def test_epic_sounds_are_stretches_of_a_video(tmp_path: Path) -> None:
    clip = open_data(f"epic-sounds:{write(tmp_path, TREES['epic-sounds'])}").clips[1]
    assert (clip.start, clip.end, clip.path.name) == (3600.0, 3600.5, "P02_09.wav")


def official_split(clip: Clip) -> str:
    """Where the release's hash rule puts a recording: by speaker, a tenth to validation, a tenth to test."""
    most = 2**27 - 1
    digest = int(hashlib.sha1(re.sub(r"_nohash_.*$", "", clip.path.name).encode()).hexdigest(), 16)
    percent = (digest % (most + 1)) * (100 / most)
    return "val" if percent < 10 else "test" if percent < 20 else "train"


def real(shared: Path, name: str, folder: str) -> tuple[Clip, ...]:
    assert os.path.isdir(shared / "data" / folder)
    return open_data(f"{name}:{shared / 'data' / folder}").clips


def test_the_real_words(shared: Path) -> None:
    clips = real(shared, "speech-commands", "speech_commands_4")
    assert Counter(c.split for c in clips) == {"train": 2000, "val": 400, "test": 400}
    assert {c.labels[0] for c in clips} == {"yes", "no", "up", "down"}
    assert all(official_split(clip) == clip.split for clip in clips)
    assert all(clip.path.is_file() for clip in clips)


def test_the_real_digits(shared: Path) -> None:
    clips = real(shared, "fsdd", "fsdd")
    assert Counter(c.split for c in clips) == {"train": 2700, "test": 300}
    assert Counter(c.labels[0] for c in clips) == dict.fromkeys("0123456789", 300)
