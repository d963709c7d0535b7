"""`ossicle caption DIR PATH...`: captions of files, folders and globs, with times for long recordings."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from ossicle import terminal
from ossicle.cli.predict import found, predictor_of, to_file
from ossicle.contracts import Prediction
from ossicle.errors import UsageError
from ossicle.recipe import build
from ossicle.tasks.caption_tags import TagCaptioner
from ossicle.tasks.decode import Decoding

WHOLE_S = 7 * 86_400.0  # no file is longer
STRICT_OF = 4


def caption(
    adapter: Annotated[str, typer.Argument(metavar="DIR", help="Captioner folder or the name of one that ships.")],
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Sound files, folders or quoted globs.")],
    out: Annotated[
        Path | None, typer.Option(help="Result file: .csv .jsonl .parquet .srt .vtt .txt; printed if not given.")
    ] = None,
    window: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds per caption; the recipe's window if not given.")
    ] = None,
    hop: Annotated[
        float | None, typer.Option(min=0.05, help="Seconds from one caption to the next; the window if not given.")
    ] = None,
    decoding: Annotated[
        list[str] | None,
        typer.Option("--decode", help="One setting, such as method=nucleus or candidates=5; may be repeated."),
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="One setting of its recipe, such as task.llm=FOLDER.")
    ] = None,
    channel: Annotated[
        int | None, typer.Option(min=0, help="Of files with several: 1 is the first, 0 averages; the recipe's usually.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows at a time.")] = 16,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "float32",
    whole: Annotated[
        bool, typer.Option("--whole", help="One caption for each file, whatever its length. For captioners from tags.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Of several candidates take one that names no sound that was not heard, if any."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Caption sounds; one caption per window. With --out a stopped run goes on with the same command."""
    if as_json and out is not None:
        raise UsageError("--json is for captions that are printed; leave it out, or give --out a name ending in .jsonl")
    changes = change or []
    _check_once(changes, window, channel)
    if whole and (window is not None or hop is not None or _sets(changes, "task.window_s")):
        raise UsageError("--whole writes one caption a file, a window or hop one a window; give one of them")
    settings = [f"task.decoding.{one}" for one in decoding or []]
    loaded = build.load(adapter, [*changes, *settings], kinds=build.CAPTIONERS)
    asked_for = _sets([*changes, *settings], "task.decoding.candidates")
    _set_up(loaded, whole=whole, strict=strict, asked_for=asked_for)
    predictor = predictor_of(loaded, WHOLE_S if whole else window, hop, channel, batch, precision)
    if out is not None:
        task = loaded.task
        extras = {
            "backbone": task.encoder.digest,
            "language model": task.language.digest,
            "decoding": asdict(task.decoding),
            "strict": strict,
        }
        raise typer.Exit(to_file(predictor, paths, out, extras))
    failed = False
    for _, rows in predictor.files(found(paths)):
        for row in rows:
            failed |= row.error is not None
            _tell(row, as_json)
    raise typer.Exit(1 if failed else 0)


def _set_up(loaded: build.Loaded, *, whole: bool, strict: bool, asked_for: bool) -> None:
    """What only a captioner from tags can do."""
    told = {"--whole": whole, "--strict": strict}
    asked = [option for option, wanted in told.items() if wanted]
    if asked and not isinstance(loaded.task, TagCaptioner):
        raise UsageError(
            f"{asked[0]} wants a captioner from tags, of `ossicle train caption-tags`; {loaded.name} is none"
        )
    if strict:
        loaded.task.strict, loaded.task.decoding = True, _several(loaded.task.decoding, asked_for)


def _several(how: Decoding, asked_for: bool) -> Decoding:
    """A decoding that writes several candidates."""
    if how.candidates == 1 and (asked_for or how.method == "greedy"):
        told = "--strict chooses among several candidates, but one was asked for"
        raise UsageError(f"{told}; give --decode method=beam and --decode candidates={STRICT_OF}")
    return replace(how, candidates=STRICT_OF) if how.candidates == 1 else how


def _sets(changes: list[str], key: str) -> bool:
    return any(change.partition("=")[0].strip() == key for change in changes)


def _check_once(changes: list[str], window: float | None, channel: int | None) -> None:
    """Refuse settings that an option overrules, and those of scores."""
    options = {"task.window_s": ("--window", window), "data.channel": ("--channel", channel)}
    for key in (change.partition("=")[0].strip() for change in changes):
        option, value = options.get(key, ("", None))
        if value is not None:
            raise UsageError(f"{option} and --set {key} say the same; give one of them")
        if key == "task.metrics":
            raise UsageError("--set task.metrics does nothing to captions; `ossicle evaluate` scores them")


def _tell(row: Prediction, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(row), ensure_ascii=False), flush=True)
        return
    span = "" if row.end is None else f" {row.start:.1f}–{row.end:.1f} s"
    terminal.say(f"{row.path}{span}: {row.error or row.caption}", error=row.error is not None)
