"""`ossicle export DIR --to F`: a trained adapter for use without Ossicle, as ONNX or in PEFT's format."""

from pathlib import Path
from typing import Annotated

import typer

from ossicle import terminal
from ossicle.adapters import peft_format
from ossicle.deliver import export as exporting
from ossicle.errors import UsageError
from ossicle.recipe import build
from ossicle.recipe.backbone import single


def export(
    adapter: Annotated[str, typer.Argument(metavar="DIR", help="Adapter folder or the name of one that ships.")],
    to: Annotated[Path, typer.Option(help="A .onnx file, or a folder for LoRA in PEFT's format.")],
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="ONNX: length of the clips it takes; the recipe's if not given.")
    ] = None,
) -> None:
    """Write a trained adapter for use without Ossicle."""
    if to.suffix and to.suffix != ".onnx":
        raise UsageError(f"--to {to} is neither a .onnx file nor a folder; give one of them")
    if to.exists() and to.is_dir() == (to.suffix == ".onnx"):
        raise UsageError(f"--to {to} is a {'folder' if to.is_dir() else 'file'}; give another name")
    if seconds is not None and to.suffix != ".onnx":
        raise UsageError(f"--seconds is for a .onnx file and does nothing for {to}, a folder; leave it out")
    loaded = build.load(adapter, kinds=["classify"] if to.suffix == ".onnx" else [])
    if to.suffix != ".onnx":
        peft_format.to_peft(single(loaded.task.encoder, "PEFT's format"), to)
        terminal.say(f"the encoder's LoRA in PEFT's format in {to}; nothing above the encoder is part of it")
        return
    task = loaded.recipe.task
    length = seconds or task.shortest_s or task.window_s
    made = exporting.to_onnx(loaded, to, seconds=length)
    resampled = "" if made.predict is None else f", from predict by {made.predict:.1e} for what it resamples"
    terminal.say(
        f"{to}: waves (batch, {made.samples}) at {made.rate_hz} Hz to probabilities of {len(loaded.task.labels)}"
        f" classes; differs from torch by at most {made.torch:.1e}{resampled}"
    )
