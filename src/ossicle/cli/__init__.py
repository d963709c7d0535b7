"""The command line: one file per verb."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import typer

from ossicle import __version__
from ossicle.cli.adapters import adapters
from ossicle.cli.caption import caption
from ossicle.cli.data import data
from ossicle.cli.demo import demo
from ossicle.cli.doctor import doctor
from ossicle.cli.evaluate import evaluate
from ossicle.cli.export import export
from ossicle.cli.merge import merge
from ossicle.cli.models import models
from ossicle.cli.plot import plot
from ossicle.cli.predict import predict
from ossicle.cli.push import push
from ossicle.cli.reproduce import reproduce
from ossicle.cli.scenes import scenes
from ossicle.cli.score import score
from ossicle.cli.train import note, train
from ossicle.data.manifest import SHOWN
from ossicle.errors import OssicleError

VERBS: dict[str, Callable[..., Any] | typer.Typer] = {
    "doctor": doctor,
    "models": models,
    "adapters": adapters,
    "data": data,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "caption": caption,
    "merge": merge,
    "plot": plot,
    "export": export,
    "push": push,
    "reproduce": reproduce,
    "score": score,
    "scenes": scenes,
    "demo": demo,
}


# The base of what Typer says of a wrong command line; its module moved from one version to the next.
WRONG_USE = cast(type[Exception], typer.BadParameter.__bases__[0])
STOPPED = 130


def app() -> typer.Typer:
    """The Typer application with every verb."""
    root = typer.Typer(
        help="Adapt big frozen models to hear: train about 1 % of a model on your own sounds.",
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    )  # fmt: skip
    root.callback()(_version)
    for name, verb in VERBS.items():
        if isinstance(verb, typer.Typer):
            root.add_typer(verb, name=name)
        else:
            root.command(name)(verb)
    return root


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
        told = list(kept.texts)
        for text in told[:SHOWN]:
            note(text)
        if len(told) > SHOWN:
            note(f"and {len(told) - SHOWN:,} more file(s) alike")


def _leave(text: str, code: int) -> NoReturn:
    """Say why on one line, and end."""
    if text:
        print(f"ossicle: {' '.join(text.splitlines())}", file=sys.stderr)
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
