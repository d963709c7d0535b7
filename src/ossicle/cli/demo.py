"""`ossicle demo`: real animal sounds through a trained adapter, with a table and a page to look at and listen to."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ossicle import terminal
from ossicle.adapters import store
from ossicle.backbones import weights
from ossicle.contracts import Clip
from ossicle.errors import UsageError, WeightsError
from ossicle.pictures import spectrogram
from ossicle.predict import report
from ossicle.predict.report import Item, Model
from ossicle.recipe import build
from ossicle.share import zoo
from ossicle.sound import audio
from ossicle.tasks.classify import Classifier
from ossicle.training.evaluate import average, bound, cut, predict_rows

SOUNDS = "sample-sounds"
BATCH = 16


def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html; made if absent.")] = Path("demo"),
    adapter: Annotated[
        str | None,
        typer.Option(help="Adapter folder or the name of one that ships; usually the first whose encoders can be had."),
    ] = None,
    captioner: Annotated[
        str, typer.Option(help="Captioner folder or the name of one that ships; '' writes no captions.")
    ] = zoo.CAPTIONER,
) -> None:
    """Name and caption ten animal recordings, and write a page with pictures and players."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UsageError(f"--out {out} cannot be a folder: {err.strerror}; give another") from None
    with terminal.waiting(f"fetching {SOUNDS}") as tell:
        sounds = sorted(weights.fetch(SOUNDS).glob("*.mp3"))
        loaded = usual(tell) if adapter is None else build.load(adapter, kinds=["classify"])
        writer = None
        if captioner:
            tell(f"loading {captioner}")
            writer = captioner_or_none(captioner)
        items = []
        for path in sounds:
            tell(f"listening to {path.name}")
            items.append(listen(loaded.task, path, loaded.recipe.task.window_s, loaded.recipe.data.channel))
        notes = [f"The sounds are {SOUNDS} ({weights.SOURCES[SOUNDS].licence})."]
        if writer is not None:
            items = captioned(items, writer, tell)
            what = "captions and tags" if any(item.row.tags for item in items) else "captions"
            notes.append(f"The {what} are by {writer.name}; its model card says what it knows.")
        tell("writing the report")
        took_s = sum(item.took_s for item in items)
        model = described(loaded, zoo.find(adapter or loaded.name))
        page = report.html_report(
            items, title=f"What {loaded.name} heard", model=model, took_s=took_s, folder=out, notes=notes,
        )  # fmt: skip
        report.save(page, out / "report.html")
    table(items)
    if writer is not None:
        terminal.say()
        captions(items)
    terminal.say()
    for item in items:
        if item.row.error is not None:
            terminal.say(item.row.error, style="red")
    terminal.say(report.verdict(items) or "no sound here is of a class the model knows")
    terminal.say(f"report in {out / 'report.html'}")
    raise typer.Exit(1 if any(item.row.error is not None for item in items) else 0)


def usual(tell: Callable[[str], None]) -> build.Loaded:
    """The first classifier that ships whose encoders can be had; of the others it is told why not.

    Raises:
        WeightsError: if none can.
    """
    faults = []
    for name in zoo.CLASSIFIERS:
        tell(f"loading {name}")
        try:
            loaded = build.load(name, kinds=["classify"])
        except WeightsError as err:
            faults.append(f"{name} cannot be used: {err}")
            continue
        for fault in faults:
            terminal.note(fault)
        terminal.note(f"the classifier is {name}, on {loaded.recipe.backbone.name}")
        return loaded
    raise WeightsError("; ".join(faults))


def captioner_or_none(captioner: str) -> build.Loaded | None:
    """The captioner, or None, which is told, where its models cannot be had."""
    try:
        return build.load(captioner, kinds=build.CAPTIONERS)
    except WeightsError as err:
        terminal.note(f"no captions: {err}")
        return None


def listen(task: Classifier, path: Path, window_s: float | None, channel: int = 0) -> Item:
    """Predict one whole sound, cut into windows if it is longer than one; its name says what it should be."""
    began = time.perf_counter()
    whole = bound([Clip(path, channel=channel)], window_s)[0]
    row = average(task, predict_rows(task, cut(whole, window_s), batch=BATCH, precision="float32"))
    took_s = time.perf_counter() - began
    expected = path.stem if path.stem in task.labels else None
    if row.error is not None:
        reason = task.unreadable.get(row.path, row.error)
        return Item(replace(row, error=reason), took_s=took_s, expected=expected)
    encoder = task.encoder.encoders[0]
    wave = audio.load(path, encoder.rate_hz, channel=channel)
    duration_s = len(wave) / encoder.rate_hz
    return Item(row, wave.numpy(), spectrogram.listen(encoder, wave), duration_s, took_s, expected)


def captioned(items: Sequence[Item], loaded: build.Loaded, tell: Callable[[str], None]) -> list[Item]:
    """The same with a caption of each sound that could be read, and the tags it was written from."""
    done = []
    for item in items:
        tell(f"captioning {item.path.name}")
        if item.row.error is not None:
            done.append(item)
            continue
        window_s, channel = loaded.recipe.task.window_s, loaded.recipe.data.channel
        pieces = cut(bound([Clip(item.path, channel=channel)], window_s)[0], window_s)
        heard = average(loaded.task, predict_rows(loaded.task, pieces, batch=BATCH, precision="float32"))
        if heard.error is not None:
            terminal.note(f"{item.path.name} has no caption: {heard.error}")
        done.append(replace(item, row=replace(item.row, caption=heard.caption, tags=heard.tags)))
    return done


def described(loaded: build.Loaded, folder: Path) -> Model:
    """What the page says of the model."""
    counts = loaded.manifest["parameters"]
    return Model(
        loaded.name, loaded.recipe.backbone.name, loaded.recipe.adapter.spec,
        adapter_parameters=counts["adapter"], head_parameters=counts["head"], backbone_parameters=counts["backbone"],
        file_bytes=(folder / store.WEIGHTS).stat().st_size,
    )  # fmt: skip


def table(items: Sequence[Item]) -> None:
    """Print what was heard, one row per sound."""
    rows = []
    for item in items:
        heard = [f"{label.replace('_', ' ')} {share:.0%}" for label, share in report.best(item.row, 3)]
        best, rest = heard[:1] or [""], ", ".join(heard[1:])
        rows.append((item.path.name, *best, said(item), f"{item.took_s:.2f} s", rest))
    terminal.table(("file", "heard", "right", "time", "or else"), rows, right=("time",))


def captions(items: Sequence[Item]) -> None:
    """Print what was written of each sound."""
    rows = [
        (item.path.name, "could not be read" if item.row.error is not None else item.row.caption or "")
        for item in items
    ]  # fmt: skip
    terminal.table(("file", "caption"), rows)


def said(item: Item) -> str:
    """Whether the sound was named rightly, in words."""
    if item.row.error is not None:
        return "could not be read"
    if item.expected is None:
        return "no such class"
    return "yes" if item.right else "no"
