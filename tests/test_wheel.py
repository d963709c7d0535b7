"""The package as it is installed from a wheel, without the repository around it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the contents of the built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("ossicle-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(site: Path, *words: str) -> str:
    """What Python says with the wheel's package before the editable one."""
    done = subprocess.run(
        [sys.executable, *words], cwd=site, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_papers_recipes_are_in_the_wheel(installed: Path) -> None:
    code = "import ossicle; from ossicle.reproduce import tables; print(ossicle.__file__, tables.ROOT)"
    assert [Path(p).is_relative_to(installed) for p in python(installed, "-c", code).split()] == [True, True]
    code = "from ossicle.cli import main; main()"
    listed = python(installed, "-c", code, "reproduce", "list").split()
    files = sorted(p.relative_to(ROOT / "recipes" / "papers") for p in (ROOT / "recipes" / "papers").rglob("*_*.toml"))
    assert listed == sorted({f"{p.parent}/{p.stem.partition('_')[0]}" for p in files})


def test_what_ships_is_in_the_wheel(installed: Path) -> None:
    code = "from ossicle.share import zoo; print(*[p for n in zoo.NAMES for p in zoo.find(n).glob('ossicle.json')])"
    found = [Path(p) for p in python(installed, "-c", code).split()]
    assert found
    assert all(p.is_relative_to(installed) for p in found)


def test_class_lists_and_the_stored_clip_are_in_the_wheel(installed: Path) -> None:
    code = (
        "from ossicle.backbones import tags; print(len(tags.names('audioset')), len(tags.names('yamnet')), tags.LISTS)"
    )
    audioset, yamnet, lists = python(installed, "-c", code).split()
    assert (audioset, yamnet) == ("527", "521") and Path(lists).is_relative_to(installed)
    for folder in ("classes", "check"):
        own = {path.name for path in (ROOT / "src" / "ossicle" / "backbones" / folder).iterdir()}
        shipped = {path.name for path in (installed / "ossicle" / "backbones" / folder).iterdir()}
        assert own == shipped and "SOURCE.txt" in shipped
    licences = (Path(lists) / "SOURCE.txt").read_text(encoding="utf-8")
    assert "Copyright (c) 2022 Florian Schmid" in licences and "Apache License, Version 2.0" in licences


def test_what_taggers_confuse_is_in_the_wheel(installed: Path) -> None:
    code = "from ossicle.tasks import pseudo; print(*[f'{n}={len(pseudo.load(n).names)}' for n in pseudo.known()])"
    found = python(installed, "-c", code).split()
    [where] = python(installed, "-c", "from ossicle.tasks import pseudo; print(pseudo.MEASURED)").split()
    assert found == ["mn04=527", "yamnet=521"] and Path(where).is_relative_to(installed)
