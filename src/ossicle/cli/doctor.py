"""`ossicle doctor`: what works on this machine."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from typing import Annotated, Any

import typer

from ossicle import terminal

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "soundfile",
    "soxr",
    "safetensors",
    "huggingface_hub",
    "numpy",
)
EXTRAS = {"av": "containers", "gguf": "convert", "h5py": "convert", "onnx": "convert"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Show what works here: audio formats, devices, packages, caches, reachable weight sources."""
    found = {
        "audio": _audio(), "devices": _devices(), "packages": _versions(PACKAGES),
        "extras": _extras(), "cache": _cache(), "sources": _sources(),
    }  # fmt: skip
    if as_json:
        print(json.dumps(found))
        return
    rows = [(part, name, _words(state)) for part, facts in found.items() for name, state in facts.items()]
    terminal.table(("part", "what", "state"), rows)


def _words(state: object) -> str:
    return ("yes" if state else "no") if isinstance(state, bool) else str(state)


def _audio() -> dict[str, Any]:
    import soundfile  # inside, so that help needs neither it nor torch

    known = soundfile.available_formats()
    subtypes = soundfile.available_subtypes("OGG")
    return {
        "wav": "WAV" in known, "flac": "FLAC" in known, "ogg": "OGG" in known,
        "opus": "OPUS" in subtypes, "mp3": "MP3" in known, "libsndfile": soundfile.__libsndfile_version__,
    }  # fmt: skip


def _devices() -> dict[str, Any]:
    import torch

    from ossicle import devices

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "gpu": gpu,
        "fast bfloat16": devices.has_fast_bfloat16(), "training precision": devices.resolve("auto"),
    }  # fmt: skip


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}


def _extras() -> dict[str, str]:
    present = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    return {n: _versions((n,))[n] if n in present else f'absent: pip install "ossicle[{e}]"' for n, e in EXTRAS.items()}


def _cache() -> dict[str, Any]:
    from ossicle.backbones import weights

    home = weights.home()
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free / 1024**3
    held = [row["name"] for row in weights.listing() if row["cached"]]
    return {"folder": str(home), "free": f"{free:.1f} GiB", "weights": ", ".join(held) or "none yet"}


def _sources() -> dict[str, Any]:
    from ossicle.backbones import network

    hub = network.hub_reachable()
    pip = shutil.which("pip") is not None or importlib.util.find_spec("pip") is not None
    return {
        "hugging face hub": "reachable" if hub else "not reachable",
        "wheels through pip": "yes" if pip else "no pip",
    }
