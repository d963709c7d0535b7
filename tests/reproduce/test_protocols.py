"""Folds, seeds and few-shot as runs; finished ones are read, begun ones gone on with; papers' tables from recipes."""

import json
import tomllib
from dataclasses import replace

import pytest
from tests import tiny

from ossicle import backbones
from ossicle.adapters import PRESETS, parse
from ossicle.contracts import Clip
from ossicle.data import DATASETS, Dataset
from ossicle.data.splits import per_class
from ossicle.errors import CheckpointError, UnknownNameError, UsageError, WeightsError
from ossicle.recipe import backbone, build, config
from ossicle.reproduce import protocols, tables
from ossicle.reproduce.tables import Options

TONES = {"low": 300.0, "high": 3000.0}
QUICK = ("train.epochs=1", "train.batch=4", "train.precision=float32", "task.head=trained")


@pytest.fixture
def tiny_backbone(monkeypatch, tmp_path):
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(backbone, "frozen", lambda recipe: tiny.encoder("whisper"))


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("tones")
    clips = [
        Clip(
            tiny.write_tone(folder / f"{label}{i}.wav", hz + 20 * i, 0.4, seed=i),
            labels=(label,), split=str(i % 4 + 1), name=f"{label}{i}.wav",
        )
        for i in range(12)
        for label, hz in TONES.items()
    ]  # fmt: skip
    return Dataset("esc50", tuple(clips))


def recipe(*changes: str) -> config.Recipe:
    named = ("backbone.name=whisper-tiny.en", "adapter.spec=lora(rank=2)+norm()")
    return config.read(None, [*QUICK, *named, *changes])


def test_folds_rotate_with_and_without_validation() -> None:
    made = protocols.runs(recipe(), folds=["1", "2", "3", "4", "5"], seeds=[3], validation="next")
    splits = [(r.name, r.recipe.data.train, r.recipe.data.val, r.recipe.data.test) for r in made]
    assert splits[4] == ("fold5_seed3", ["1", "2", "3"], ["4"], ["5"])
    assert splits[0] == ("fold1_seed3", ["2", "3", "4"], ["5"], ["1"])
    assert {r.recipe.train.seed for r in made} == {3}
    two = protocols.runs(recipe(), folds=["1", "2", "3"], tests=["2"], seeds=[0, 1])
    assert [(r.name, r.recipe.data.train, r.recipe.data.hold_out) for r in two] == [
        ("fold2_seed0", ["1", "3"], 0.0), ("fold2_seed1", ["1", "3"], 0.0),
    ]  # fmt: skip
    assert [r.name for r in protocols.runs(recipe(), seeds=[7])] == ["seed7"]
    (seen,) = protocols.runs(recipe(), folds=["1", "2", "3"], tests=["2"], validation="test")
    assert (seen.recipe.data.train, seen.recipe.data.val, seen.recipe.data.test) == (["1", "3"], ["2"], ["2"])


@pytest.mark.parametrize(
    "given", [{"folds": ["1"]}, {"folds": ["1", "2"], "validation": "next"}, {"folds": ["1", "2"], "tests": ["3"]}]
)
def test_folds_that_make_no_protocol_are_refused(given: dict) -> None:
    with pytest.raises(UsageError, match="folds are wanted"):
        protocols.runs(recipe(), **given)


def test_a_finished_run_is_read_and_a_begun_one_gone_on_with(tiny_backbone, tones, tmp_path, monkeypatch) -> None:
    one, two = protocols.runs(recipe("train.epochs=2"), folds=["1", "2", "3", "4"], tests=["1", "2"])
    row = protocols.run(one, tones, tmp_path)
    assert len(row["correct"]) == row["test_clips"] == 6
    assert row["correct"].count("1") / 6 == pytest.approx(row["scores"]["accuracy"])
    resumed = []
    real = build.train

    def watched(*given, **options):
        resumed.append(options["resume"])
        return real(*given, **options)

    monkeypatch.setattr(build, "train", watched)
    assert protocols.run(one, tones, tmp_path) == row and resumed == []
    protocols.run(two, tones, tmp_path)
    (tmp_path / f"{two.name}.json").unlink()
    protocols.run(two, tones, tmp_path)
    assert resumed == [False, True]
    older = json.loads((tmp_path / f"{one.name}.json").read_text())
    del older["recipe"]["backbone"]["frontend"]  # a setting that came later
    (tmp_path / f"{one.name}.json").write_text(json.dumps(older))
    assert protocols.run(one, tones, tmp_path) == older
    (tmp_path / f"{two.name}.json").unlink()
    with pytest.raises(CheckpointError, match="begun by another recipe"):
        protocols.run(protocols.Run(two.name, recipe("train.epochs=2", "train.lr=0.5")), tones, tmp_path)
    with pytest.raises(CheckpointError, match="another recipe"):
        protocols.run(protocols.Run(one.name, recipe("train.lr=0.5")), tones, tmp_path)


def rows(*figures: tuple[str, int, float, str]) -> list[dict]:
    return [
        {
            "name": f"fold{fold}_seed{seed}",
            "test": [fold],
            "seed": seed,
            "scores": {"accuracy": a},
            "correct": marks,
            "clips": "of fold " + fold,
        }
        for fold, seed, a, marks in figures
    ]


def test_means_are_over_folds_first() -> None:
    made = rows(("1", 0, 0.8, ""), ("1", 1, 0.9, ""), ("2", 0, 0.6, ""), ("2", 1, 0.7, ""))
    found = protocols.summary(made)
    assert found["mean"] == pytest.approx(0.75)
    assert found["std_folds"] == pytest.approx(0.2 / 2**0.5)
    assert found["std_seeds"] == pytest.approx(0.1 / 2**0.5)
    assert protocols.summary(made[:1])["std_folds"] is None
    with pytest.raises(UsageError, match="no finished run"):
        protocols.summary([])


def test_the_best_epoch_is_that_of_the_mean_over_folds() -> None:
    made = rows(("1", 0, 0.9, ""), ("2", 0, 0.5, ""))
    assert protocols.best_epoch(made) is None
    for row, figures in zip(made, ((0.2, 0.8, 0.9), (0.7, 0.7, 0.5)), strict=True):
        row["epochs"] = [{"accuracy": figure} for figure in figures]
    assert protocols.best_epoch(made) == (2, pytest.approx(0.75))  # not 3 and 1, the best of each


def test_two_systems_are_compared_run_by_run() -> None:
    first = rows(("1", 0, 1.0, "1111"), ("2", 0, 0.5, "1100"))
    second = rows(("1", 0, 0.5, "1010"), ("3", 0, 0.0, "0000"))
    found = protocols.compare(first, second)
    assert (found.difference, found.items) == (0.5, 4)
    assert protocols.compare([*first, *rows(("1", 1, 1.0, "1111"))], [*second, *rows(("1", 1, 0.5, "1010"))]) == found
    with pytest.raises(UsageError, match="no runs in common"):
        protocols.compare(first, rows(("3", 0, 0.0, "0000")))
    with pytest.raises(UsageError, match="same clips"):
        protocols.compare(first, [{**second[0], "clips": "others"}])
    with pytest.raises(UsageError, match="same clips"):
        protocols.compare(first, rows(("1", 0, 0.0, "000")))


def test_few_shot_takes_the_first_files_or_draws_with_the_seed(tones) -> None:
    names = [c.name for c in per_class(tones.clips, 2, None)]
    assert names == ["high0.wav", "high1.wav", "low0.wav", "low1.wav"]
    drawn = {tuple(c.name for c in per_class(tones.clips, 2, seed)) for seed in range(6)}
    assert len(drawn) > 1


# --- the papers' tables ----------------------------------------------------------------------------------------------


def column_tables(paper: str, column: str) -> dict:
    name = column.partition("@")[0].partition("/")[0]
    return tomllib.loads((tables.ROOT / paper / f"{name}.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("table", tables.tables())
@pytest.mark.parametrize("mode", tables.MODES)
def test_every_row_of_every_table_is_a_recipe(table: str, mode: str) -> None:
    paper = table.partition("/")[0]
    for row in tables.rows(table):
        for column in row.printed:
            made = tables.recipe_of(row, column, column_tables(paper, column), Options(mode=mode))  # type: ignore[arg-type]
            assert parse(made.adapter.spec).parts
            assert backbones.names_of(made.backbone.name)
            assert made.data.source in DATASETS
        assert row.preset in PRESETS or "(" in row.preset


def test_the_tables_hold_the_printed_numbers() -> None:
    lora = next(row for row in tables.rows("A/table1") if row.key == "lora")
    assert list(lora.printed.values()) == [86.45, 83.83, 93.61, 76.00]
    assert [len(tables.rows(f"A/table{n}")) for n in range(1, 8)] == [15, 4, 6, 4, 8, 6, 4]
    assert [len(tables.rows(f"E/table{n}")) for n in range(1, 4)] == [24, 7, 10]


def test_parity_rows_do_as_the_code_did() -> None:
    shared, row = column_tables("A", "esc50"), next(r for r in tables.rows("A/table1") if r.key == "spt-300")
    parity = tables.recipe_of(row, "esc50", shared, Options(mode="parity"))
    assert (parity.backbone.positions, parity.train.keep) == ("zero", "last")
    assert "extra=drop" in PRESETS[parity.adapter.spec].text
    written = tables.recipe_of(row, "esc50", shared, Options())
    assert (written.backbone.positions, written.train.keep, written.adapter.spec) == ("usual", "best", "spt-300")
    assert (written.train.lr, written.train.beta2, written.train.batch) == (0.01, 0.98, 32)
    few = tables.recipe_of(row, "esc50@4", shared, Options(mode="parity")).data
    assert (few.per_class, few.per_class_from) == (4, "first")


def test_what_cannot_run_says_why_and_what_can_is_run_once(tiny_backbone, tones, tmp_path, monkeypatch) -> None:
    options = Options(backbone="whisper-tiny.en", folds=("1", "2", "3", "4"), tests=("4",), changes=QUICK)
    wanted = ["lora", "Bottle"]
    data = {"esc50": tones}
    cells = tables.reproduce("A/table2", data, tmp_path, options, wanted)
    ran = {(c.row, c.column): c for c in cells if c.ours}
    assert {column for _, column in ran} == {"esc50@1", "esc50@2", "esc50@4"}  # there are six clips a class
    reasons = {c.column: c.reason for c in cells if not c.ours}
    assert reasons["speech-commands@8"] == "data: give --data speech-commands:PATH"
    assert "8 clips per class were asked for" in reasons["esc50@8"]
    assert {
        "train.epochs=1",
        "backbone whisper-tiny.en, with its own front end and lengths, and the mean of all tokens",
        "tested on fold 4",
    } <= set(ran["LoRA", "esc50@2"].notes)
    assert ran["LoRA", "esc50@2"].printed == 42.2
    text = (tmp_path / "A_table2_whisper-tiny.en.md").read_text()
    assert "| LoRA | esc50@2 | 42.20 |" in text and "*not run*: data: give --data speech-commands:PATH" in text
    again, real = [], build.train

    def watched(recipe, *given, **options):
        again.append(recipe.data.per_class)
        return real(recipe, *given, **options)

    monkeypatch.setattr(build, "train", watched)
    assert tables.reproduce("A/table2", data, tmp_path, options, ["lora"])[1].ours == ran["LoRA", "esc50@2"].ours
    assert again == [8]  # only the one that never finished
    found = tmp_path / "A_table2_whisper-tiny.en.json"
    kept = json.loads(found.read_text())["cells"]
    assert {cell["row"] for cell in kept} == {"LoRA", "Bottle"}  # the other row's cells are not lost
    tables.reproduce("A/table2", {}, tmp_path, options, ["lora"])  # nor those whose data are not given again
    others = replace(options, changes=(*QUICK, "train.lr=0.5"))
    other = tables.reproduce("A/table2", data, tmp_path, others, ["lora"])
    assert "made by another recipe" in other[0].reason
    left = json.loads(found.read_text())["cells"]
    assert [cell for cell in left if cell["ours"]] == [cell for cell in kept if cell["ours"]]


def test_modes_and_backbones_do_not_meet(tiny_backbone, tones, tmp_path) -> None:
    for options in (Options(), Options(mode="parity"), Options(mode="parity", backbone="whisper-tiny.en")):
        options = replace(options, folds=("1", "2", "3", "4"), tests=("4",), changes=(*QUICK, "task.layers=[]"))
        options = replace(options, changes=(*options.changes, "backbone.frames=0", "backbone.positions=usual"))
        (cell, *_) = tables.reproduce("A/table2", {"esc50": tones}, tmp_path, options, ["lora"])
        assert cell.ours, cell.reason


@pytest.mark.parametrize("change", ["train.seed=3", "data.hold_out=0.3"])
def test_what_the_protocol_sets_is_not_changed(tmp_path, change: str) -> None:
    with pytest.raises(UsageError, match="the protocol sets it"):
        tables.reproduce("A/table2", {}, tmp_path, Options(changes=(change,)))


def test_notes_name_only_what_was_done(tmp_path) -> None:
    cells = tables.reproduce("A/table2", {}, tmp_path, Options(folds=("1", "2"), tests=("2",)), ["lora"])
    assert {c.column.partition("@")[0] for c in cells if "tested on fold 2" in c.notes} == {"esc50"}


def test_the_epoch_is_chosen_by_the_test_folds_where_the_paper_did_so(tiny_backbone, tones, tmp_path) -> None:
    changes = (*QUICK, "train.epochs=3", "task.window_s=1")
    options = Options(backbone="whisper-tiny.en", folds=("1", "2", "3", "4"), tests=("3", "4"), changes=changes)
    cells = tables.reproduce("E/table2", {"esc50": tones}, tmp_path, options, ["linear"])
    (cell,) = (c for c in cells if c.column == "esc50")
    folder = tmp_path / "linear_esc50_whisper-tiny.en"
    rows = [json.loads((folder / f"fold{n}_seed0.json").read_text()) for n in (3, 4)]
    each = [[epoch["accuracy"] for epoch in row["epochs"]] for row in rows]
    assert [e[-1] for e in each] == [pytest.approx(row["scores"]["accuracy"]) for row in rows]  # the last is kept
    means = [50 * (a + b) for a, b in zip(*each, strict=True)]
    assert len(means) == 3 and cell.best == (means.index(max(means)) + 1, pytest.approx(max(means)))
    assert f"{max(means):.2f} after epoch" in (tmp_path / "E_table2_whisper-tiny.en.md").read_text()


def test_absent_weights_are_a_reason(tones, tmp_path, monkeypatch) -> None:
    def absent(recipe):
        raise WeightsError("no weights of ast-base")

    monkeypatch.setattr(backbone, "frozen", absent)
    cells = tables.reproduce("A/table7", {"esc50": tones}, tmp_path, Options(), ["par"])
    assert [c.reason for c in cells] == ["no weights of ast-base", "data: give --data fluent-speech:PATH"]


def test_unknown_tables_and_rows_name_the_nearest(tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'A/table1'"):
        tables.reproduce("A/tabel1", {}, tmp_path, Options())
    with pytest.raises(UnknownNameError, match="unknown row 'lorra'"):
        tables.reproduce("A/table1", {}, tmp_path, Options(), ["lorra"])
    with pytest.raises(UnknownNameError, match="did you mean 'whisper-tiny.en'"):
        tables.reproduce("A/table1", {}, tmp_path, Options(backbone="whisper-tny.en"))
