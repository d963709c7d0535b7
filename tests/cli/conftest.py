"""Running verbs in this process."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from ossicle.cli import main


class Run(NamedTuple):
    """How a verb ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Our line on stderr; there must be exactly one."""
        ours = [line for line in self.err.splitlines() if line.startswith("ossicle: ")]
        assert len(ours) == 1, self.err
        assert "Traceback" not in self.err and "Traceback" not in self.out
        return ours[0].removeprefix("ossicle: ")


Ossicle = Callable[..., Run]


def call(*args: object) -> int:
    """Run `ossicle ARGS` here; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(sys, "argv", ["ossicle", *map(str, args)])
        main()
    code = caught.value.code
    assert code is None or isinstance(code, int)
    return code or 0


@pytest.fixture
def ossicle(capfd: pytest.CaptureFixture[str]) -> Ossicle:
    """Runs `ossicle ARGS` in this process."""

    def run(*args: object) -> Run:
        capfd.readouterr()
        code = call(*args)
        told = capfd.readouterr()
        return Run(code, told.out, told.err)

    return run
