"""Labels that are several in one, or one in several spellings."""

import json
import unicodedata
from pathlib import Path

import pytest

from ossicle.data import open_data
from ossicle.errors import DataError


def opened(folder: Path, *labels: str, heading: str = "labels") -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    lines = [f"file_name\t{heading}"]
    for number, label in enumerate(labels):
        (folder / f"{number}.wav").write_bytes(b"x")
        lines.append(f"{number}.wav\t{label}")
    (folder / "t.tsv").write_text("\n".join(lines), encoding="utf-8")
    data = open_data(str(folder / "t.tsv"))
    return [clip.labels for clip in data.clips], data.notices


@pytest.mark.parametrize("mark", [",", ", ", "|", " | "])
def test_other_marks_between_labels_are_told(mark: str, tmp_path: Path) -> None:
    labels, (notice,) = opened(tmp_path, f"wren{mark}crow", "wren", "crow")
    assert labels[0] == (f"wren{mark}crow",)
    assert f"1 label(s) look like several in one: 'wren{mark}crow'" in notice and "only ; in a table" in notice


def test_a_comma_that_belongs_to_a_name_is_not(tmp_path: Path) -> None:
    assert opened(tmp_path, "Thrush, hermit", "crow;wren")[1] == ()


def test_folders_named_after_several_labels_are_told(tmp_path: Path) -> None:
    for name in ("wren,crow", "wren", "crow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").write_bytes(b"x")
    (notice,) = open_data(str(tmp_path)).notices
    assert "look like several in one: 'wren,crow'" in notice


def test_labels_in_several_spellings_are_told(tmp_path: Path) -> None:
    _, (notice,) = opened(tmp_path, "Wren", "wren", "great tit", "great_tit", "crow")
    assert notice.startswith(
        "2 label(s) in several spellings, which are classes of their own: 'Wren' and 'wren', 'great"
    )


def test_both_forms_of_unicode_are_one_label(tmp_path: Path) -> None:
    spellings = [unicodedata.normalize(form, "Grünspecht") for form in ("NFC", "NFD")]
    assert opened(tmp_path, *spellings) == ([("Grünspecht",)] * 2, ())
    for spelling in spellings:
        (tmp_path / "birds" / spelling).mkdir(parents=True)
        (tmp_path / "birds" / spelling / f"{len(spelling)}.wav").write_bytes(b"x")
    data = open_data(str(tmp_path / "birds"))
    assert {clip.labels for clip in data.clips} == {("Grünspecht",)} and len(data.clips) == 2
    rows = [{"file_name": f"{n}.wav", "labels": [s]} for n, s in enumerate(spellings)]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert [clip.labels for clip in open_data(str(tmp_path / "t.json")).clips] == [("Grünspecht",)] * 2


def test_lists_as_text_are_lists(tmp_path: Path) -> None:
    assert opened(tmp_path, "['wren', 'crow']", "['wren']", "[noise]")[0] == [("wren", "crow"), ("wren",), ("[noise]",)]
    with pytest.raises(DataError, match="line 2: .* is a list written without commas; join its parts by ;"):
        opened(tmp_path, "['wren' 'crow']")


def test_one_column_gives_the_labels_and_the_others_are_told(tmp_path: Path) -> None:
    labels, (notice,) = opened(tmp_path, "wren\tbird", "crow\tbird", heading="species\tcategory")
    assert labels == [("bird",), ("bird",)]
    assert notice == "t.tsv: the labels are those of category; species is not used"
    with pytest.raises(DataError, match="line 3: the category cell is empty"):
        opened(tmp_path, "wren\tbird", "crow\t", heading="species\tcategory")
