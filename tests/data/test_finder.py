"""Finding the sounds of a table: forms of Unicode, and what is there where a name is wrong."""

import unicodedata
from pathlib import Path

import pytest

from ossicle.data import open_data
from ossicle.data.finder import Finder
from ossicle.errors import DataError

FORMS = ("NFC", "NFD")
NAME = "Café Öl/übung ß.wav"


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")  # nothing here reads sound


@pytest.mark.parametrize("on_disk", FORMS)
@pytest.mark.parametrize("in_table", FORMS)
@pytest.mark.parametrize("where", ["", "deep/er/"])
def test_either_form_finds_either_form(on_disk: str, in_table: str, where: str, tmp_path: Path) -> None:
    put(tmp_path, where + unicodedata.normalize(on_disk, NAME), "plain.wav")
    text = unicodedata.normalize(in_table, f"file_name,label\n{NAME},Grünspecht\nplain.wav,crow\n")
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    data = open_data(str(tmp_path / "t.csv"))
    assert [clip.labels for clip in data.clips] == [("Grünspecht",), ("crow",)]
    assert data.clips[0].path.is_file() and data.notices == ()


def test_a_name_of_mixed_form_is_found(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "é") + unicodedata.normalize("NFC", "é") + ".wav"
    put(tmp_path, name)
    finder = Finder(tmp_path)
    for form in FORMS:
        text = unicodedata.normalize(form, name)
        assert finder.named([text]) == finder.stemmed([text.removesuffix(".wav")]) == tmp_path / name


@pytest.mark.parametrize(
    ("named", "there", "told"),
    [
        ("a.wav", "a.WAV", "a.WAV is there, the table says a.wav"),
        ("Wren/A.wav", "wren/a.wav", "wren/a.wav is there, the table says Wren/A.wav"),
        ("a.wav", "x/a.flac", "x/a.flac is there, the table says a.wav"),
        ("a", "a.wav", "a.wav is there, the table says a"),
        ("rec.2021", "rec.2021.wav", "rec.2021.wav is there, the table says rec.2021"),
        (r"C:\Users\me\sounds\a.wav", "x/a.wav", r"x/a.wav is there, the table says C:\Users\me\sounds\a.wav"),
        ("/home/me/a.wav", "a.wav", "a.wav is there, the table says /home/me/a.wav"),
        ("wren/a.wav", "crow/a.wav", "crow/a.wav is there, the table says wren/a.wav"),
        ("É.wav", unicodedata.normalize("NFD", "é.WAV"), "is there, the table says É.wav"),
    ],
    ids=["case of the ending", "case", "ending", "none", "dots", "windows", "absolute", "folder", "form and case"],
)
def test_what_is_there_in_place_of_what_is_named(named: str, there: str, told: str, tmp_path: Path) -> None:
    put(tmp_path, there, "plain.wav")
    (tmp_path / "t.csv").write_text(f"file_name,label\n{named},wren\n", encoding="utf-8")
    with pytest.raises(DataError, match="write the names as the files have them") as error:
        open_data(str(tmp_path / "t.csv"))
    assert told in str(error.value) and "beside the table" not in str(error.value)
    (tmp_path / "t.csv").write_text(f"file_name,label\n{named},wren\nplain.wav,crow\n", encoding="utf-8")
    data = open_data(str(tmp_path / "t.csv"))
    assert told in data.notices[0] and data.missing == (named,)


def test_nothing_alike_is_told_to_be_put_there(tmp_path: Path) -> None:
    put(tmp_path, "other.wav")
    (tmp_path / "t.csv").write_text("file_name,label\na.wav,wren\n")
    with pytest.raises(DataError, match=r"not there: a\.wav; put the files beside the table"):
        open_data(str(tmp_path / "t.csv"))
