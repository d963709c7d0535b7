"""Recipes: every fault at once, the nearest name, --set, and a file that reads back equal."""

import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import tries

from ossicle.errors import OssicleError, RecipeError, UsageError
from ossicle.recipe import config


def faults(*changes: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        config.read(None, changes)
    return caught.value.faults


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        ("train.epoch=3", "train.epochs"),
        ("task.poling=mean", "task.pooling"),
        ("task.augment.mixp=0.5", "task.augment.mixup"),
        ("backbone.nme=x", "backbone.name"),
        ("data.holdout=0.1", "data.hold_out"),
        ("adapter.spce=norm()", "adapter.spec"),
    ],
)
def test_an_unknown_key_offers_the_nearest(change, nearest):
    (fault,) = faults(change)
    assert fault == f"unknown key '{change.partition('=')[0]}'; did you mean '{nearest}'?"


def test_all_faults_are_told_at_once():
    told = faults("train.epochs=x", "train.btch=2", "task.poling=mean", "data.hold_out=1", "task.kind=caption")
    assert len(told) == 5
    with pytest.raises(RecipeError, match=r"command line: 2 fault\(s\) .*train\.epochs=0.*train\.lr=-1"):
        config.read(None, ["train.epochs=0", "train.lr=-1"])


@pytest.mark.parametrize(
    "change",
    [
        *("train.epochs=0", "train.batch=0", "train.accumulate=0", "train.batch=2.5", "train.lr=nan", "train.lr=-1"),
        *("train.warmup=2", "train.beta1=1", "train.clip=-1", "train.keep=bst", "train.precision=int8"),
        *("train.seed=-1", "train.decay_all=perhaps", "task.augment.drop_tokens=1", "task.augment.mixup=-1"),
        *("task.augment.time_mask=-1", "task.augment=3", "task.layers=2", "task.window_s=0", "task.dropout=1"),
        *("data.train=a", "data.per_class=-1", "backbone.source=ftp", "backbone.stride=-1", "task.head=-1"),
    ],
)
def test_values_that_cannot_be(change):
    (fault,) = faults(change)
    assert fault.startswith(change.partition("=")[0])


def test_set_reads_toml_values_and_plain_text():
    read = config.read(
        None,
        [
            *("train.epochs=3", "train.lr = 1e-4", "task.multi_label=true", "task.layers=[1, 2]", 'data.val=["4"]'),
            *("adapter.spec=lora(rank=2,targets=qv)+norm()", "task.augment.mixup=0.5", "backbone.name='ast-base'"),
        ],
    )
    assert (read.train.epochs, read.train.lr, read.task.multi_label, read.task.layers) == (3, 1e-4, True, [1, 2])
    assert (read.data.val, read.adapter.spec) == (["4"], "lora(rank=2,targets=qv)+norm()")
    assert (read.task.augment.mixup, read.backbone.name) == (0.5, "ast-base")
    assert config.read(None, ["train.epochs=3", "train.epochs=4"]).train.epochs == 4


@pytest.mark.parametrize("change", ["train.epochs", "epochs=3", "=3", "train=3", ""])
def test_set_that_cannot_be_read(change):
    with pytest.raises(UsageError, match=r"cannot read --set .*like train\.epochs=3"):
        config.read(None, [change])


def test_set_below_a_value():
    with pytest.raises(UsageError, match="epochs is a value, not a table"):
        config.read(None, ["train.epochs=3", "train.epochs.x=3"])


def test_later_sources_win(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('[train]\nepochs = 5\nbatch = 7\nlr = 0.5\n[backbone]\nname = "ast-base"\nstride = 12\n')
    read = config.read(file, ["train.epochs=1"], {"train": {"epochs": 2, "batch": 3}, "backbone": {"name": "vit-base"}})
    assert (read.train.epochs, read.train.batch, read.train.lr) == (1, 3, 0.5)
    assert (read.backbone.name, read.backbone.stride) == ("vit-base", 12)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="cannot read recipe .*No such file"):
        config.read(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="cannot read recipe"):
        config.read(tmp_path)
    broken, flat = tmp_path / "broken.toml", tmp_path / "flat.toml"
    for content in (b"[train\n", b"\xff\xfe\x00", b"epochs = = 3\n"):
        broken.write_bytes(content)
        with pytest.raises(RecipeError, match=r"broken\.toml: 1 fault.* not TOML"):
            config.read(broken)
    flat.write_text("train = 3\n")
    with pytest.raises(RecipeError, match=r"flat\.toml: 1 fault.*train"):
        config.read(flat)
    with pytest.raises(RecipeError, match=r"a table \[train\] is wanted"):
        config.read(flat, [], {"train": {"epochs": 3}})
    with pytest.raises(UsageError, match="train is a value"):
        config.read(flat, ["train.epochs=3"])


def test_what_was_written_reads_back_equal(tmp_path):
    file = tmp_path / "recipe.toml"
    changes = [
        *("train.lr=0.1", "train.keep=last", "task.layers=[2,3]", "task.augment.gain_db=6", "data.val=['ä \"1\"']"),
        *("adapter.spec=bottleneck(reduction=64)+norm()", "backbone.weights=a\\b", "task.label_smoothing=0.05"),
    ]
    for some in ([], changes):
        recipe = config.read(None, some)
        file.write_text(config.write(recipe), encoding="utf-8")
        assert config.read(file) == recipe
        assert set(tomllib.loads(config.write(recipe))) == {"data", "backbone", "adapter", "task", "train"}


RECIPES = sorted(p for p in (Path(__file__).parents[2] / "recipes").rglob("*.toml") if "papers" not in p.parts)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_read_and_reads_back_equal(path):
    recipe = config.read(path)
    assert recipe.task.kind == path.parent.name.replace("_", "-")
    assert config.check(tomllib.loads(config.write(recipe)), "again") == recipe


KEYS = ["data", "train", "task", "backbone", "epochs", "lr", "kind", "window_s", "augment", "llm", "=", ".", "[", "]"]
WORDS = st.lists(st.one_of(st.sampled_from(KEYS), st.text(max_size=4)), max_size=8).map("".join)


@tries(100)
@given(change=WORDS, text=WORDS)
def test_any_text_is_a_recipe_or_an_error_of_ours(change, text, tmp_path):
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8", errors="replace")
    for path, changes in ((None, [change]), (tmp_path / "recipe.toml", [])):
        with contextlib.suppress(OssicleError):
            assert isinstance(config.read(path, changes), config.Recipe)
