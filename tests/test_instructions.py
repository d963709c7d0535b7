"""The run under other instructions runs under other instructions."""

import os

import pytest
import torch

from tests import instructions

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    return instructions.libraries()


def asked(name: str) -> str:
    if name not in os.environ:
        pytest.skip(f"{name} is not set; make numerics sets it")
    return os.environ[name].upper()


def test_every_library_says_what_it_uses(told: dict[str, str]) -> None:
    built = {"torch": True, "oneDNN": torch.backends.mkldnn.is_available(), "MKL": torch.backends.mkl.is_available()}
    assert set(told) == {name for name, there in built.items() if there}
    assert [text for text in told.values() if instructions.SILENT in text] == []


def test_torch_does_as_it_is_told(told: dict[str, str]) -> None:
    assert told["torch"] == asked("ATEN_CPU_CAPABILITY") == torch.backends.cpu.get_cpu_capability()


def test_onednn_does_as_it_is_told(told: dict[str, str]) -> None:
    level = asked("ONEDNN_MAX_CPU_ISA")
    if "MKL" not in told:
        pytest.skip("these are levels of x86")
    assert told["oneDNN"].replace(".", "").startswith(f"Intel {level},")


def test_mkl_does_as_it_is_told(told: dict[str, str]) -> None:
    mode = asked("MKL_CBWR")
    if "MKL" not in told:
        pytest.skip("torch is built without MKL")
    assert told["MKL"].endswith(f"reproducibility {mode}")


def test_a_report_has_the_processor_and_every_library(told: dict[str, str]) -> None:
    lines = instructions.report(told).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["processor", *told, "threads", "asked"]
    assert all(line.split(":", 1)[1].strip() for line in lines)
