"""Help is quick, whole and true: no verb is imported for it, and it says what the verbs say."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Ossicle

import ossicle.cli
from ossicle.cli import VERBS, command

HEAVY = ("torch", "transformers", "peft", "accelerate", "scipy", "sklearn", "matplotlib", "pyarrow", "numpy")


def imported(code: str) -> set[str]:
    """The heavy packages that a process of its own has imported after some code."""
    ending = f"import sys; print('imported:', *(name for name in {HEAVY} if name in sys.modules))"
    wrapped = f"import sys\ntry:\n    {code}\nexcept SystemExit as end:\n    assert not end.code\n{ending}"
    done = subprocess.run([sys.executable, "-c", wrapped], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("imported:").split())


@pytest.mark.parametrize("words", ["--help", "--version", "doctor --help", "models --help", "adapters --help"])
def test_help_imports_nothing_heavy(words: str) -> None:
    assert imported(f"from ossicle.cli import main; sys.argv = ['ossicle', *{words.split()}]; main()") == set()


def test_prediction_imports_only_what_predicts() -> None:
    assert imported("import ossicle.cli.predict, ossicle.cli.caption") == {"torch", "numpy"}


def test_the_check_sees_a_heavy_import() -> None:
    assert "numpy" in imported("import numpy")


@pytest.mark.parametrize("name", VERBS)
def test_the_list_of_verbs_says_what_the_verb_says(name: str) -> None:
    made = command(name)
    assert made.name == name
    assert " ".join(made.help.partition("\n\n")[0].split()) == VERBS[name]


def test_every_module_with_a_verb_is_in_the_list() -> None:
    modules = {path.stem for path in Path(ossicle.cli.__file__).parent.glob("*.py")}
    assert modules - {"__init__"} == set(VERBS)


def commands(made: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and those below it, with the words that call them."""
    yield words, made
    for name, below in getattr(made, "commands", {}).items():
        yield from commands(below, (*words, name))


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("name", VERBS)
def test_no_help_is_cut(ossicle: Ossicle, monkeypatch: pytest.MonkeyPatch, name: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words, made in commands(command(name), (name,)):
        run = ossicle(*words, "--help")
        told = "".join(run.out.split())
        assert run.code == 0 and "…" not in told
        below = getattr(made, "commands", {}).values()
        shown = [made.help.partition("\n\n")[0], *(one.help.partition("\n\n")[0] for one in below)]
        shown += [option for parameter in made.params for option in parameter.opts if option.startswith("-")]
        shown += [parameter.help or "" for parameter in made.params if hasattr(parameter, "help")]
        assert [text for text in shown if "".join(text.split()) not in told] == []


def test_the_list_of_verbs_is_whole(ossicle: Ossicle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    told = " ".join(ossicle("--help").out.split())
    assert [name for name, text in VERBS.items() if f"{name} {text}" not in told] == []


@pytest.mark.parametrize("name", ["train", "models"])
def test_groups_offer_no_completion_of_their_own(name: str) -> None:
    assert [p.name for p in command(name).params if "completion" in p.name] == []
