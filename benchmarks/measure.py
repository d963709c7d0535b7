"""What the speed benchmarks share: interleaved medians, the machine in words, the result file."""

import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def interleaved_medians(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int = 9, warmup: int = 1
) -> dict[str, float]:
    """Time callables in turns, so that whatever slows the machine for a while slows them all.

    Args:
        candidates: name to a callable that does one unit of work.
        rounds: timed calls of each.
        warmup: calls of each before, not timed.

    Returns:
        Name to median milliseconds per call.
    """
    for _ in range(warmup):
        for work in candidates.values():
            work()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds):
        names = list(candidates)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            candidates[name]()
            times[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def ratios(medians: Mapping[str, float], ours: str) -> dict[str, float]:
    """How many times faster `ours` is than each other candidate."""
    return {name: round(value / medians[ours], 2) for name, value in medians.items() if name != ours}


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Processor model, cores this process may use, Python and library versions."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "cpu": _processor(),
        "cores": cores,
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in packages},
    }


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Write a result as benchmarks/results/NAME.json with the command that made it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    words = [re.sub(r"^(\w[\w-]*[:=])?[./].*", r"\1PATH", word) for word in sys.argv[1:]]  # no paths of this machine
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
    path.write_text(json.dumps({"command": command, **result}, indent=2) + "\n", encoding="utf-8")
    return path


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields: dict[str, str] = {}
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
        if "model name" in fields:
            family, model = fields.get("cpu family", "?"), fields.get("model", "?")
            return f"{fields['model name']} (family {family}, model {model})"
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
