"""The adapters that ship: small, whole, documented, and right about sounds they never learnt from."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.conftest import pulled

from ossicle.cli.demo import captioned, captioner_or_none, demo, listen
from ossicle.cli.export import export
from ossicle.contracts import Prediction
from ossicle.data.phrases import esc50
from ossicle.errors import CheckpointError, UsageError, WeightsError
from ossicle.predict.report import Item
from ossicle.recipe import build, config
from ossicle.share import zoo

CREDIT = re.compile(r"^[1-4]-\d+-\w-\d+: .* by .* \[CC(?:0|-BY)\]$", re.M)


class Shipped(NamedTuple):
    """What a folder must hold beside what every one holds."""

    files: set[str]
    megabytes: float
    credits: str
    told: str


SHIPPED = {
    "esc50": Shipped({"labels.json"}, 2, "train", "on average"),
    "esc50-offline": Shipped({"labels.json"}, 2, "train", "on average"),
    "everyday": Shipped({"vocabulary.json"}, 20, "sources", "captions alone"),
}
ALL = {"ossicle.json", "ossicle.safetensors", "recipe.toml", "README.md", "CREDITS.txt"}


@pytest.fixture(scope="module")
def sounds() -> list[Path]:
    """Ten recordings that are in no data set of ours."""
    return sorted(pulled("sample-sounds").glob("*.mp3"))


def test_every_adapter_that_ships_is_looked_at() -> None:
    assert set(zoo.NAMES) == set(SHIPPED)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_an_adapter_that_ships_is_whole_and_small(name: str) -> None:
    folder, wanted = zoo.find(name), SHIPPED[name]
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert {p.relative_to(folder).as_posix() for p in files} == ALL | wanted.files
    assert sum(p.stat().st_size for p in files) < wanted.megabytes * 1e6
    manifest = json.loads((folder / "ossicle.json").read_text(encoding="utf-8"))
    licences = {part for text in manifest["data"]["licences"] for part in text.split("; ")}
    assert licences - {"captions MIT"} == {"CC0", "CC-BY"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    credits = (folder / "CREDITS.txt").read_text(encoding="utf-8")
    assert len(CREDIT.findall(credits)) == manifest["data"][wanted.credits] == len(credits.splitlines()) - 2
    assert wanted.told in card
    assert name not in zoo.CLASSIFIERS or "no fold left to be scored on" in card
    texts = [p.read_text(encoding="utf-8") for p in files if p.suffix != ".safetensors"]
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", "".join(texts))


@pytest.mark.parametrize("name", zoo.CLASSIFIERS)
def test_a_classifiers_recipe_is_that_of_its_card(name: str) -> None:
    recipe = config.read(zoo.find(name) / "recipe.toml")
    assert (recipe.data.source, set(recipe.data.licences)) == ("esc50", {"CC0", "CC-BY"})


@pytest.mark.parametrize(("name", "least"), [("esc50", 7), ("esc50-offline", 4)])
def test_the_demo_hears_its_seven_animals(name: str, least: int, whisper_weights: Path, sounds: list[Path]) -> None:
    pulled("mn04" if name == "esc50" else "yamnet")
    loaded = build.load(name)
    known = [p for p in sounds if p.stem in loaded.task.labels]
    assert [p.stem for p in known] == ["cat", "cow", "dog", "frog", "pig", "rooster", "sheep"]
    rows = {p.stem: listen(loaded.task, p, loaded.recipe.task.window_s).row for p in known}
    assert all(row.error is None for row in rows.values())
    assert sum(row.label == animal for animal, row in rows.items()) >= least


def test_the_demos_captions_name_at_least_three_of_its_seven_animals(whisper_weights: Path, sounds: list[Path]) -> None:
    pulled("mn04")
    items = captioned([Item(Prediction(str(p))) for p in sounds], build.load("everyday"), lambda _: None)
    captions = {item.path.stem: item.row.caption or "" for item in items}
    assert all(item.row.tags for item in items)
    named = {stem: {mention.label for mention in esc50().mentions(text)} for stem, text in captions.items()}
    assert sum(stem in labels for stem, labels in named.items()) >= 3


def test_each_is_asked_for_what_it_can_do(tmp_path: Path, whisper_weights: Path) -> None:
    with pytest.raises(UsageError, match="a caption-tags adapter, not a classify one; use `ossicle caption`"):
        export("everyday", tmp_path / "x.onnx")
    for options in ({"adapter": "everyday"}, {"captioner": "esc50-offline"}):
        with pytest.raises(UsageError, match="adapter, not a"):
            demo(tmp_path, **options)


def test_without_its_language_model_the_demo_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def absent(*given: object, **options: object) -> None:
        raise WeightsError("smollm2-135m-instruct is not here")

    monkeypatch.setattr(build, "load", absent)
    assert captioner_or_none("everyday") is None
    assert "no captions: smollm2-135m-instruct is not here" in capfd.readouterr().err


# --- what a name stands for ------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, and a hub that must not be asked."""

    def asked(repo: str) -> Path:
        raise AssertionError(f"the hub was asked for {repo}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo.hub, "fetch", asked)
    return tmp_path


def test_a_folder_of_sounds_hides_no_name(here: Path) -> None:
    for name in (*zoo.NAMES, "whisper-tiny.en"):
        (here / name / "wren").mkdir(parents=True)
    for name in zoo.NAMES:
        assert (zoo.find(name) / "ossicle.safetensors").is_file()
    with pytest.raises(CheckpointError, match="is a backbone, but an adapter .* --backbone whisper-tiny.en --out DIR"):
        zoo.find("whisper-tiny.en")


@pytest.mark.parametrize("name", ["mn04", "mn04+whisper-tiny.en", "beats-iter3+", "beats-iter3++yamnet"])
def test_a_backbone_alone_or_joined_is_no_adapter(here: Path, name: str) -> None:
    (here / name).mkdir()
    assert zoo.backbone(name) == name
    with pytest.raises(
        CheckpointError, match=f"'{re.escape(name)}' is a backbone, but an adapter .*and give DIR"
    ) as told:
        zoo.find(name)
    assert ("its own 527 classes are those of `ossicle predict mn04` alone" in str(told.value)) == (name == "mn04")
    (here / name / "ossicle.json").write_text("{}")
    assert zoo.backbone(name) == "" and zoo.find(name) == Path(name)


def test_what_is_no_backbone(here: Path) -> None:
    assert [zoo.backbone(name) for name in (*zoo.NAMES, "", ".", "me/birds", "mn4", "mn04+", "mn04+birds")] == [""] * 9


def test_a_folder_that_is_an_adapter_comes_first(here: Path) -> None:
    for name in (zoo.NAMES[0], "whisper-tiny.en", "me/birds"):
        (here / name).mkdir(parents=True)
        (here / name / "ossicle.json").write_text("{}")
        assert zoo.find(name) == Path(name)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("me/birds", "'me/birds' is not an adapter folder: it has no ossicle.json; nor is that .*esc50-offline"),
        ("esc50-whisper-tiny", r"ships no longer; use esc50 \(.*\) or esc50-offline"),
        ("me/birds", "the hub is not asked about a path that is here; give the --out of a training"),
        ("file", "it is no folder; nor is that the name"),
        ("link", "it is no folder; nor"),
        ("begun", "no ossicle.json; if its training did not end, .*--resume"),
        ("whole/ossicle.safetensors", "it is a file; give its folder, 'whole'"),
        ("esc50-ofline", "no adapter folder 'esc50-ofline'; looked for .*did you mean 'esc50-offline'?"),
    ],
)
def test_a_path_without_an_adapter_says_what_was_looked_for(here: Path, where: str, told: str) -> None:
    for name in ("me/birds", "begun", "whole"):
        (here / name).mkdir(parents=True)
    (here / "file").write_text("")
    (here / "link").symlink_to("nowhere")
    for name in ("begun/last.ckpt", "whole/ossicle.json", "whole/ossicle.safetensors"):
        (here / name).write_text("{}")
    with pytest.raises(CheckpointError, match=told):
        zoo.find(where)


def test_no_name_is_not_the_folder_one_stands_in(here: Path) -> None:
    (here / "ossicle.json").write_text("{}")
    assert zoo.find(".") == here.relative_to(here)
    with pytest.raises(CheckpointError, match="no adapter folder ''; looked for a folder with ossicle.json"):
        zoo.find("")


def test_the_hub_comes_last(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.hub, "fetch", Path)
    assert zoo.find("me/birds") == Path("me/birds")
