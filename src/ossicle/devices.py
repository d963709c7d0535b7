"""Which processor computes, and in which precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def device() -> torch.device:
    """CUDA if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bfloat16() -> bool:
    """Whether matrix products in bfloat16 run on instructions made for them (AVX512-BF16, AMX or CUDA)."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def resolve(precision: Precision) -> Literal["float32", "bfloat16"]:
    """What "auto" means on this machine."""
    if precision != "auto":
        return precision
    return "bfloat16" if has_fast_bfloat16() else "float32"


def autocast(precision: Precision) -> torch.autocast:
    """A context in which linear maps, convolutions and attention run in the resolved precision."""
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=resolve(precision) == "bfloat16")


def prepare() -> None:
    """Let float32 products take the faster kernel where it is as exact: on some AMD processors twice the speed.

    One product is compared with float64 first; where the faster kernel rounds to bfloat16 the setting goes back.
    """
    if torch.cuda.is_available():
        return
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 512, generator=generator), torch.randn(512, 64, generator=generator)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    if ((a @ b).double() - a.double() @ b.double()).abs().max() > 1e-3:
        torch.set_float32_matmul_precision(before)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute on one core: the pieces are so small that threads gain little, and under load they wait for each other.

    It also keeps the numbers the same whatever the number of threads is. Use worker processes for more cores.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
