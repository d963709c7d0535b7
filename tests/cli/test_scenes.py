"""`ossicle scenes`."""

from pathlib import Path

import pytest
from tests import tiny
from tests.cli.conftest import call

from ossicle.data import open_data


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for k, label in enumerate(("dog", "rain", "siren", "wren")):
        for n in range(2):
            tiny.write_tone(tmp_path / "sounds" / "train" / label / f"{n}.wav", 300.0 * (k + 1), 1.0, seed=n)
            tiny.write_tone(tmp_path / "sounds" / "test" / label / f"{n}.wav", 310.0 * (k + 1), 1.0, seed=n)
    return tmp_path / "sounds"


def test_scenes_from_one_split(sounds: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call("scenes", sounds, "--out", out, "--count", 5, "--split", "train", "--seconds", 6, "--seed", 3) == 0
    assert f"5 scenes in {out}" in capfd.readouterr().out
    assert [len(clip.captions) for clip in open_data(str(out)).clips] == [5] * 5
    assert '"source": "test/' not in (out / "metadata.jsonl").read_text()


def test_a_bad_file_is_told_and_the_rest_is_done(
    sounds: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (sounds / "train" / "dog" / "bad.wav").write_text("no sound")
    assert call("scenes", sounds, "--out", tmp_path / "out", "--count", 20, "--seconds", 5) == 1
    told = capfd.readouterr()
    assert "1 clip(s) could not be used" in told.err
    assert "bad.wav" in told.err
    assert len(open_data(str(tmp_path / "out")).clips) == 20


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--seconds", "1"), "seconds of the scenes came as 1.0; give 4 to 60"),
        (("--split", "5"), "unknown split '5'"),
        (("--licence", "CC0"), "no clip has the licence CC0"),
        (("--count", "0"), "see ossicle scenes --help"),
    ],
)
def test_mistakes_are_one_line(
    sounds: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    assert call("scenes", sounds, "--out", tmp_path / "out", "--count", 2, *args) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ossicle: ")]
    assert message in line


def test_another_seed_needs_another_folder(sounds: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("scenes", sounds, "--out", tmp_path / "out", "--count", 1) == 0
    assert call("scenes", sounds, "--out", tmp_path / "out", "--count", 1, "--seed", 1) == 2
    assert "made with another seed" in capfd.readouterr().err
