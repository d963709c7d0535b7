"""`ossicle evaluate DIR DATA`: scores of a trained adapter on labelled sounds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from ossicle import terminal
from ossicle.cli.train import opened
from ossicle.contracts import Clip, Prediction
from ossicle.data.splits import on_channel, select
from ossicle.devices import Precision
from ossicle.errors import UnknownNameError, UsageError
from ossicle.predict import results
from ossicle.recipe import build
from ossicle.training import evaluate as scoring


def evaluate(
    adapter: Annotated[str, typer.Argument(metavar="DIR", help="Adapter folder or the name of one that ships.")],
    data: Annotated[str, typer.Argument(help="Labelled sounds, as for train.")],
    split: Annotated[list[str] | None, typer.Option(help="Only these splits or folds; may be repeated.")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="Of a captioner: these metrics instead of its recipe's; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the rows: .csv, .jsonl or .parquet.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="One setting of its recipe, such as task.decoding.method=beam.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips at a time.")] = 16,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a trained adapter on labelled sounds."""
    if metrics and any(one.partition("=")[0].strip() == "task.metrics" for one in change or []):
        raise UsageError("--metrics and --set task.metrics say the same; give one of them")
    loaded = build.load(adapter, change or [])
    if metrics:
        if loaded.recipe.task.kind != "caption-llm":
            raise UsageError("--metrics chooses caption metrics, but this is no captioner; leave it out")
        loaded.task.metrics = tuple(name.strip() for text in metrics for name in text.split(","))
    clips = on_channel(select(opened(data).clips, split or None, None), loaded.recipe.data.channel)
    chosen = checked_precision(precision)
    if out is not None:
        results.check_out(out, len(clips))
    loaded.task.check(clips)
    window = loaded.recipe.task.window_s
    rows, scores = scoring.evaluate(loaded.task, clips, batch=batch, precision=chosen, window_s=window)
    for row in rows:
        row.model = loaded.name
    if out is not None:
        results.write_rows(rows, out)
    counts = _counted(loaded, clips, rows)
    result = {"adapter": loaded.name, **counts, **scores}
    absent: dict[str, str] = getattr(loaded.task, "absent", {})
    if as_json:
        print(json.dumps(result | ({"absent": absent} if absent else {})))
    else:
        _tell(result, absent)
    raise typer.Exit(1 if counts["failed"] else 0)


def _counted(loaded: build.Loaded, clips: Sequence[Clip], rows: Sequence[Prediction]) -> dict[str, int]:
    """How many clips there are, how many could not be read or have nothing to be scored against, and how many rest."""
    failed = sum(row.error is not None for row in rows)
    counts = {"clips": len(rows), "failed": failed}
    if loaded.recipe.task.kind == "caption-llm":
        good = [clip for clip, row in zip(clips, rows, strict=True) if row.error is None]
        counts["without_captions"] = sum(not clip.captions for clip in good)
    return {**counts, "scored": len(rows) - failed - counts.get("without_captions", 0)}


def _tell(result: Mapping[str, Any], absent: Mapping[str, str]) -> None:
    """A table of counts and scores, and what could not run."""
    cells = ((key, f"{value:.4f}" if isinstance(value, float) else str(value)) for key, value in result.items())
    terminal.table(("score", "value"), cells)
    for name, reason in absent.items():
        terminal.say(f"not run: {name}: {reason}")


def checked_precision(text: str) -> Precision:
    """A precision the user wrote.

    Raises:
        UnknownNameError: for another word.
    """
    if text not in get_args(Precision):
        raise UnknownNameError("precision", text, get_args(Precision))
    return text  # type: ignore[return-value]
