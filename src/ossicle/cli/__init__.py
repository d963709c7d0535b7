"""The command line: one file per verb."""

import sys
from collections.abc import Callable
from typing import Any

import typer

from ossicle import __version__
from ossicle.cli.adapters import adapters
from ossicle.cli.demo import demo
from ossicle.cli.doctor import doctor
from ossicle.cli.evaluate import evaluate
from ossicle.cli.models import models
from ossicle.cli.predict import predict
from ossicle.cli.train import train
from ossicle.errors import OssicleError

VERBS: dict[str, Callable[..., Any] | typer.Typer] = {
    "doctor": doctor,
    "models": models,
    "adapters": adapters,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "demo": demo,
}


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
        app()()
    except OssicleError as err:
        print(f"ossicle: {err}", file=sys.stderr)
        sys.exit(err.exit_code)
    except KeyboardInterrupt:
        print("ossicle: stopped", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True),
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
