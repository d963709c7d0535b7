"""The command line: one file per verb, imported when the verb is called, so that help needs no torch."""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from ossicle import __version__
from ossicle.errors import OssicleError

# The verb VERB is `VERB` in `ossicle.cli.VERB`, with this as the first paragraph of its help.
VERBS: dict[str, str] = {
    "doctor": "Show what works here: audio formats, devices, packages, caches, reachable weight sources.",
    "models": "List and fetch weights.",
    "adapters": "List adapters with what they train on a backbone. No weights are needed.",
    "data": "Show what a data set holds: clips, labels, captions, recordings and licences of every split. No sound is"
    " read.",
    "train": "Train an adapter.",
    "evaluate": "Score a trained adapter on labelled sounds.",
    "predict": "Label sounds; one row per window. A stopped run goes on with the same command.",
    "caption": "Caption sounds; one caption per window. With --out a stopped run goes on with the same command.",
    "merge": "Merge the LoRAs of captioners that were trained over one mapper.",
    "plot": "Draw figures.",
    "export": "Write a trained adapter for use without Ossicle.",
    "push": "Upload an adapter to the Hugging Face hub.",
    "reproduce": "Run a paper's table; what cannot be run is marked, what is finished is not run again.",
    "score": "Score answers.",
    "scenes": "Make captioned scenes from labelled sounds. A stopped run goes on with the same command.",
    "demo": "Name and caption ten animal recordings, and write a page with pictures and players.",
}


# The base of what Typer says of a wrong command line; its module moved from one version to the next.
WRONG_USE = cast(type[Exception], typer.BadParameter.__bases__[0])
STOPPED = 130


def app() -> typer.Typer:
    """The Typer application with every verb."""
    root = typer.Typer(
        cls=Verbs, help="Adapt big frozen models to hear: train about 1 % of a model on your own sounds.",
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    )  # fmt: skip
    root.callback()(_version)
    for name, told in VERBS.items():
        root.command(name, help=told, short_help=told)(_unloaded)
    return root


def _unloaded() -> None:
    """Stands for a verb in the list of verbs; `Verbs` never calls it."""


class Verbs(TyperGroup):
    """The list of verbs; only the one that is called is imported."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The verb of a command line, and what comes after it."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else command(name), rest


def command(name: str) -> Any:
    """A verb as Typer runs it. Its help is plain text, as rich would cut names of options in a narrow terminal."""
    verb = getattr(importlib.import_module(f"ossicle.cli.{name}"), name)
    if not isinstance(verb, typer.Typer):
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name)(verb)
        return get_command(alone)
    verb.rich_markup_mode = None
    made: Any = get_group(verb)
    made.name = name
    for below in made.commands.values():
        below.short_help = below.help.partition("\n\n")[0]  # else it is cut
    return made


def main() -> None:
    """Run a verb. A user's mistake is one line on stderr and exit code 1 or 2, never a traceback."""
    try:
        with _notes():
            code = app()(prog_name="ossicle", standalone_mode=False)
    except OssicleError as err:
        _leave(str(err), err.exit_code)
    except WRONG_USE as err:
        _leave(_usage(err), 2)
    except (KeyboardInterrupt, typer.Abort):
        _leave("stopped", 1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as err:
        _leave(f"{err}; check the path, its permissions and the free space", 1)
    if code == STOPPED:  # Typer's word for Ctrl-C
        _leave("stopped", 1)
    sys.exit(code)


class _Kept(logging.Handler):
    """Keeps what is logged, each text once."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one text."""
        self.texts[record.getMessage()] = None


@contextmanager
def _notes() -> Iterator[None]:
    """Tell at the end what was noted of sound files that can be used but are not quite in order; some, and how many."""
    log, kept = logging.getLogger("ossicle.sound"), _Kept()
    log.addHandler(kept)
    try:
        yield
    finally:
        log.removeHandler(kept)
        if kept.texts:
            _tell_notes(list(kept.texts))


def _tell_notes(texts: list[str]) -> None:
    from ossicle import terminal  # inside, so that help needs no rich
    from ossicle.data.notices import SHOWN

    for text in texts[:SHOWN]:
        terminal.note(text)
    if len(texts) > SHOWN:
        terminal.note(f"and {len(texts) - SHOWN:,} more file(s) alike")


def _leave(text: str, code: int) -> NoReturn:
    """Say why on one line, and end."""
    if text:
        from ossicle import terminal  # inside, so that help needs no rich

        terminal.prose(f"ossicle: {' '.join(text.splitlines())}", error=True)
    sys.exit(code)


def _usage(err: Any) -> str:
    """What is wrong with a command line and where to look; nothing where Typer has shown the help instead."""
    text = str(err.format_message()).rstrip(".")
    command = err.ctx.command_path if err.ctx is not None else "ossicle"
    return f"{text}; see {command} --help" if text else ""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _version(
    version: bool = typer.Option(
        False, "--version", help="Print the version and stop.", is_eager=True, callback=_print_version
    ),
) -> None:
    pass
