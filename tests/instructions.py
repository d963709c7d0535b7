"""Which processor instructions the numbers come from, as each library tells it: `python -m tests.instructions`.

PyTorch has three sets of kernels: its own, oneDNN's for convolutions and some products, MKL's for the other products
and the Fourier transform. Each picks its instructions when it starts, so each is asked in a process of its own.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

# What each library reads when it starts.
CHOICES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "OMP_NUM_THREADS")
FLAGS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "avx10", "amx_tile", "amx_bf16",
         "asimd", "sve", "sve2", "bf16", "i8mm")  # fmt: skip
SILENT = "does not say"
WORK = """
import torch
with torch.no_grad():
    torch.nn.Conv1d(80, 384, 3)(torch.ones(1, 80, 1000))
    torch.ones(64, 64) @ torch.ones(64, 64)
"""


def processor() -> str:
    """The processor's name and those of its instruction sets that change float32 results."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    name = re.search(r"^model name\s*: (.*)$", text, re.M)
    has = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.M)
    flags = [flag for flag in FLAGS if has and flag in has[1].split()]
    return f"{name[1] if name else platform.processor() or platform.machine()}; {' '.join(flags) or 'flags unknown'}"


def libraries() -> dict[str, str]:
    """The instructions of torch's own kernels, of oneDNN and of MKL, each where torch was built with it."""
    told = subprocess.run(
        [sys.executable, "-c", WORK], env={**os.environ, "ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = {"torch": torch.backends.cpu.get_cpu_capability()}
    if torch.backends.mkldnn.is_available():
        isa = re.search(r"^onednn_verbose,.*,cpu,isa:(.*)$", told, re.M)
        used = re.search(r"exec,cpu,convolution,([^,]*),", told)
        found["oneDNN"] = f"{isa[1] if isa else SILENT}, convolution by {used[1] if used else 'another library'}"
    if torch.backends.mkl.is_available():
        isa = re.search(r"^MKL_VERBOSE .*MKL .* architecture (.*?)(?:, \w+ [\d.]+[GM]Hz.*)?$", told, re.M)
        mode = re.search(r"^MKL_VERBOSE SGEMM.*CNR:(\w+)", told, re.M)
        found["MKL"] = f"{isa[1] if isa else SILENT}, reproducibility {mode[1] if mode else SILENT}"
    return found


def report(told: dict[str, str]) -> str:
    """One line each: the processor, what the libraries told, threads, and what was asked for."""
    asked = " ".join(f"{name}={os.environ[name]}" for name in CHOICES if name in os.environ)
    lines = {"processor": processor(), **told, "threads": str(torch.get_num_threads()), "asked": asked or "nothing"}
    return "\n".join(f"{name:>9}: {value}" for name, value in lines.items())


if __name__ == "__main__":
    print(report(libraries()))
