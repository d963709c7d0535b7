"""`ossicle train classify DATA --out DIR`: an adapter on the user's own sounds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ossicle import terminal
from ossicle.data import Dataset, open_data
from ossicle.data.manifest import SHOWN, shorten
from ossicle.data.texts import open_texts
from ossicle.errors import DataError, UsageError
from ossicle.recipe import build, config

train = typer.Typer(help="Train an adapter.", no_args_is_help=True)

Sounds = Annotated[
    str, typer.Argument(help="Folder of label folders, a folder with metadata.csv, a manifest, or esc50:PATH.")
]
Out = Annotated[Path, typer.Option(help="Folder for the adapter.")]
Backbone = Annotated[
    str | None, typer.Option(help="A name from `ossicle models`, or several joined, such as mn04+whisper-tiny.en.")
]
Adapter = Annotated[
    str | None, typer.Option(help="Text such as 'lora(rank=8)+norm()', or a name from `ossicle adapters`.")
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="A TOML recipe.")]
Change = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, such as train.epochs=3; may be repeated.")
]
Resume = Annotated[bool, typer.Option(help="Go on where an earlier run in --out stopped.")]
Init = Annotated[
    Path | None, typer.Option(help="A trained folder of the same kind whose weights this one begins with.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@train.callback()
def _group() -> None:
    """Train an adapter on labelled or captioned sounds."""


@train.command("classify")
def classify(
    data: Sounds,
    out: Out,
    backbone: Backbone = None,
    adapter: Adapter = None,
    recipe: RecipeFile = None,
    change: Change = None,
    resume: Resume = False,
    init_from: Init = None,
    as_json: Json = False,
) -> None:
    """Train a classifier on labelled sounds."""
    tables = {"backbone": {"name": backbone}, "adapter": {"spec": adapter}}
    _train("classify", data, out, recipe, change, tables, resume, init_from, as_json)


@train.command("caption-llm")
def caption_llm(
    data: Sounds,
    out: Out,
    backbone: Backbone = None,
    adapter: Adapter = None,
    llm: Annotated[
        str | None, typer.Option(help="A language model of `ossicle models`, a folder, or a hub repository.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="all, or lora-only: a new LoRA over a frozen mapper.")] = None,
    recipe: RecipeFile = None,
    change: Change = None,
    resume: Resume = False,
    init_from: Init = None,
    as_json: Json = False,
) -> None:
    """Train a captioner on captioned sounds: a mapper from the encoder, and LoRA on a language model."""
    tables = {"backbone": {"name": backbone}, "adapter": {"spec": adapter}, "task": {"llm": llm, "stage": stage}}
    _train("caption-llm", data, out, recipe, change, tables, resume, init_from, as_json)


@train.command("caption-tags")
def caption_tags(
    data: Annotated[str, typer.Argument(help="Captioned sounds; with --text-only a table of captions alone.")],
    out: Out,
    backbone: Annotated[str | None, typer.Option(help="The tagger that hears, such as mn04 or yamnet.")] = None,
    llm: Annotated[
        str | None,
        typer.Option(help="A language model of either family; if not given, a small one is trained from nothing."),
    ] = None,
    text_only: Annotated[
        bool, typer.Option("--text-only", help="DATA has captions and no sound: what would be heard is made up.")
    ] = False,
    scenes: Annotated[
        str | None, typer.Option(help="With --text-only: captioned sounds to learn from as well, by their real tags.")
    ] = None,
    recipe: RecipeFile = None,
    change: Change = None,
    resume: Resume = False,
    init_from: Init = None,
    as_json: Json = False,
) -> None:
    """Train a captioner that reads what a tagger hears; from captioned sounds, or from captions alone."""
    if scenes is not None and not text_only:
        raise UsageError("--scenes adds sounds to captions without sound; give --text-only too, or one table of both")
    tables = {"backbone": {"name": backbone}, "task": {"llm": llm}}
    dataset = open_texts(data) if text_only else _heard(data)
    if scenes is not None:
        heard = opened(scenes)
        dataset = replace(dataset, name=f"{dataset.name} and {heard.name}", clips=(*dataset.clips, *heard.clips))
    _train("caption-tags", dataset, out, recipe, change, tables, resume, init_from, as_json)


def _heard(data: str) -> Dataset:
    try:
        return opened(data)
    except DataError as err:
        if not Path(data).is_file():
            raise
        raise DataError(f"{err}; or learn from its captions alone by --text-only") from err


def _train(
    kind: str,
    data: str | Dataset,
    out: Path,
    recipe: Path | None,
    change: list[str] | None,
    given: dict[str, dict[str, Any]],
    resume: bool,
    init: Path | None,
    as_json: bool,
) -> None:
    tables = {name: {k: v for k, v in table.items() if v} for name, table in given.items()}
    tables["task"] = tables.get("task", {}) | {"kind": kind}
    if resume and recipe is None and (out / build.RECIPE).is_file():
        recipe = out / build.RECIPE
    chosen = config.read(recipe, change or [], {name: table for name, table in tables.items() if table})
    dataset = opened(data) if isinstance(data, str) else data
    manifest = build.train(chosen, dataset, out, resume=resume, init=init, quiet=as_json)
    unreadable = manifest["data"]["unreadable"]
    if unreadable:
        told = [f"{name}: {why}" for name, why in unreadable.items()]
        terminal.note(f"{len(unreadable)} file(s) could not be read and were left out: {shorten(told)}")
    _tell(manifest, out, as_json)
    raise typer.Exit(1 if unreadable else 0)


def _tell(manifest: dict[str, Any], out: Path, as_json: bool) -> None:
    """What was trained and how well it does."""
    if as_json:
        print(json.dumps(manifest))
        return
    sizes = manifest["parameters"]
    if "head" in manifest:
        terminal.say(f"head of {sizes['head']:,} parameters {manifest['head']['told']}")
    if sizes["adapter"]:
        share = sizes["adapter"] / sizes["backbone"]
        terminal.say(f"trained {sizes['adapter']:,} adapter parameters ({share:.2%} of the backbone)")
    if "kept" in manifest:
        terminal.say(f"kept {manifest['kept']}")
    if "language_model" in sizes:
        own = "LoRA" if "llm_lora" in sizes else "language model"
        count = sizes.get("llm_lora", sizes.get("llm_trained", 0))
        terminal.say(f"trained {sizes['mapper']:,} mapper and {count:,} {own} parameters")
    for name, scores in manifest["scores"].items():
        shown = ", ".join(f"{key} {value:.3f}" for key, value in scores.items() if key != "classes_absent")
        terminal.say(f"{name}: {shown}")
    terminal.say(f"adapter in {out}")


def opened(data: str) -> Dataset:
    """The data set, its notices printed to stderr."""
    dataset = open_data(data)
    for notice in dataset.notices:
        terminal.note(notice)
    if len(dataset.missing) > SHOWN:
        terminal.note(
            f"`ossicle data {data} --missing FILE` writes all {len(dataset.missing):,} names of what is not there"
        )
    return dataset
