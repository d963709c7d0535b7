"""The house in order: imports go down, files stay small, tables and tests agree, docs name what exists."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossicle.adapters import ADAPTERS
from ossicle.backbones import BACKBONES
from ossicle.cli import VERBS
from ossicle.data import DATASETS
from tests.adapters.cases import CASES

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "ossicle"
# A module may import its own layer and those above it in this list, which lie lower in the house.
LAYERS = [
    {"__init__", "errors", "contracts", "files", "devices", "terminal"},
    {"sound"},
    {"backbones"},
    {"adapters", "metrics", "data"},
    {"tasks"},
    {"pictures", "share", "training"},
    {"recipe"},
    {"predict", "deliver", "reproduce"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(SRC.rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 40
NAMELESS = {"utils", "util", "common", "helper", "helpers", "manager", "misc"}


def name_of(path: Path) -> str:
    return str(path.relative_to(SRC))


def top(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The first name below `ossicle` of everything a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "ossicle":
            yield from (alias.name for alias in node.names if alias.name in LEVEL)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ossicle."):
            yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("ossicle."))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_go_down(path: Path) -> None:
    assert top(path) in LEVEL, f"{name_of(path)} has no layer; give it one in LAYERS and in docs/design.md"
    up = [name for name in imported(path) if LEVEL[name] > LEVEL[top(path)]]
    assert up == []


def test_the_import_check_sees_an_import_that_goes_up(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("from ossicle.cli import main\ndef f():\n    from ossicle import recipe\n", encoding="utf-8")
    assert list(imported(module)) == ["cli", "recipe"]


def packages(path: Path) -> Iterator[str]:
    """The package of everything a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


def test_only_the_terminal_prints_through_rich() -> None:
    """Elsewhere brackets in labels and file names would be taken for styles, and tables would be cut."""
    assert [name_of(path) for path in MODULES if "rich" in packages(path)] == ["terminal.py"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_are_small_and_well_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE
    assert path.stem not in NAMELESS
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.body[0].lineno + 1 > MAX_FUNCTION]
    assert long == []


def test_every_adapter_has_contract_cases() -> None:
    covered = {part.split("(")[0] for case in CASES for part in case.text.split("+")}
    assert covered | {"full", "probe"} == set(ADAPTERS)


@pytest.mark.parametrize(
    ("page", "names"),
    [("adapters.md", ADAPTERS), ("backbones.md", BACKBONES), ("data.md", DATASETS), ("index.md", VERBS)],
    ids=["adapters", "backbones", "data", "verbs"],
)
def test_docs_name_everything_that_exists(page: str, names: dict[str, object]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert [name for name in names if f"`{name}" not in text and f"ossicle {name}" not in text] == []


def test_readmes_tree_names_every_folder() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = {p.name for p in SRC.iterdir() if p.is_dir() and not p.name.startswith("__")}
    assert [f for f in sorted(folders | {"recipes", "benchmarks", "docs", "tests"}) if f"{f}/" not in text] == []
