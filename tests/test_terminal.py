"""Nothing that is printed is lost: no brackets, no names, no ends of cells."""

import io
import re
import subprocess
import sys

import pytest

from ossicle import terminal

ODD = "[bird] :dog: [/x] [red]é[/red] 鳥"
ROWS = [("paraphrase-tinybert-l6-v2", "269", f"sentence embeddings that FENSE uses, {ODD}"), (ODD, "1", "")]
WIDTHS = ["40", "60", "80", "200", ""]


@pytest.fixture(params=WIDTHS)
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if request.param:
        monkeypatch.setenv("COLUMNS", request.param)
    return int(request.param) if request.param else None


def test_a_table_cuts_no_cell_and_breaks_no_name(columns: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(("name", "MB", "what it is"), ROWS, right=("MB",))
    out = capsys.readouterr().out
    assert "…" not in out
    for name, size, told in ROWS:
        assert re.search(rf"^{re.escape(name)} +{size}\b", out, re.M)
        assert " ".join(told.split()) in " ".join(out.split())
    prose = [line for line in out.splitlines() if not line.startswith(("para", "[bird] :dog"))]
    assert all(columns is None or len(line) <= columns for line in prose)


def test_where_a_row_goes_into_a_file_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    terminal.table(("a", "b"), [("x", "long " * 100), ("y", "")])
    assert capsys.readouterr().out.splitlines() == ["a  b", "x  " + ("long " * 100).strip(), "y"]


def test_the_last_column_is_folded_beside_the_others_or_put_beneath(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "42")
    terminal.table(("name", "n", "told"), [("wren", "7", "a small bird with a very loud song in spring")], right=("n",))
    folded = ["name  n  told", "wren  7  a small bird with a very loud", "         song in spring"]
    assert capsys.readouterr().out.splitlines() == folded
    terminal.table(("name", "told"), [("wren " * 5, "a small bird with a very loud song in spring")])
    beneath = [("wren " * 5).strip(), "    a small bird with a very loud song in", "    spring"]
    assert capsys.readouterr().out.splitlines() == ["name", "    told", *beneath]


def test_wide_characters_keep_columns_in_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(("a", "b"), [("鳥", "1"), ("xx", "2")])
    assert capsys.readouterr().out.splitlines() == ["a   b", "鳥  1", "xx  2"]


def test_an_empty_table_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(("a", "b"), [])
    assert capsys.readouterr().out == "a  b\n"


def test_lines_are_printed_as_they_are(columns: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say(ODD * 9)
    terminal.note(ODD)
    told = capsys.readouterr()
    assert (told.out, told.err) == (ODD * 9 + "\n", f"note: {ODD}\n")


def test_prose_is_folded_between_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    terminal.prose("use `ossicle [x]` for birds", error=True)
    assert capsys.readouterr().err == "use `ossicle [x]` for birds\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal.prose("use `ossicle [x]` for birds")
    assert capsys.readouterr().out.splitlines() == ["use `ossicle", "[x]` for", "birds"]


def test_control_characters_and_broken_names_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("a\nb\x1b[2Jc\udcff")
    terminal.table(("a", "b"), [("x\ny", "\x1b[8m")])
    assert capsys.readouterr().out.splitlines() == [r"a\nb\x1b[2Jc\udcff", "a     b", r"x\ny  \x1b[8m"]


def test_a_terminal_without_unicode() -> None:
    code = "from ossicle import terminal; terminal.say('0.0–1.0 s: é'); terminal.table(['a', 'b'], [['é', '鳥']])"
    env = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [r"0.0\u20131.0 s: \xe9", "a     b", r"\xe9  \u9ce5"], done.stderr


def test_what_is_waited_for_and_what_progresses_is_named_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", shown)
    with terminal.waiting("fetching [bird].wav"):
        pass
    with terminal.waiting("fetching") as tell:
        tell("listening to [/red].wav")
    assert "fetching [bird].wav" in shown.getvalue() and "listening to [/red].wav" in shown.getvalue()
    monkeypatch.setattr(sys, "stdout", shown)
    with terminal.progress(quiet=False) as bar:
        bar.add_task("epoch 1 [cat] [/dog]", total=2)
    assert "epoch 1 [cat] [/dog]" in shown.getvalue()
