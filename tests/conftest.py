"""Where real data and weights are, and what happens when they are absent."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

# A shell that starts tests in the background has them ignore Ctrl-C; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Weights that come from no package index, as they lie in SHARED.
FILES = {"mn04": "mn04_as_mAP_432.pt"}
SHARED = Path(__file__).resolve().parents[2] / "shared"


def need(present: bool, what: str) -> None:
    """Skip for lack of something real; under CI its absence is a failure."""
    if present:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is absent")
    pytest.skip(f"{what} is absent")


def tries(count: int) -> Callable[[Any], Any]:
    """A property test with so many examples; `make fuzz` gives these tests alone many times as many."""
    many = count * int(os.environ.get("OSSICLE_FUZZ", "1"))
    quiet = [HealthCheck.function_scoped_fixture]
    return lambda test: pytest.mark.fuzz(settings(max_examples=many, deadline=None, suppress_health_check=quiet)(test))


def _matrix_precision() -> Iterator[None]:
    """The precision of matrix products, which training and verbs set, is put back."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


precision_of_module = pytest.fixture(scope="module", autouse=True)(_matrix_precision)
precision_of_test = pytest.fixture(autouse=True)(_matrix_precision)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and goldens."""
    need((SHARED / "data").is_dir(), "../shared/data")
    return SHARED


@pytest.fixture(scope="session")
def esc50(shared: Path) -> Path:
    """ESC-50, folds 1 to 4."""
    return shared / "data" / "esc50"


def pulled(name: str) -> Path:
    """A folder of the cache that `make test` fills first."""
    from ossicle.backbones.weights import adopt, home

    folder = home() / "weights" / name
    file = SHARED / "weights" / FILES.get(name, "none")
    if not folder.is_dir() and file.is_file():
        adopt(name, file)
    need(folder.is_dir(), f"{name} in the cache (ossicle models pull {name})")
    return folder


@pytest.fixture(scope="session")
def whisper_weights() -> Path:
    """The weights of whisper-tiny.en."""
    return pulled("whisper-tiny.en")
