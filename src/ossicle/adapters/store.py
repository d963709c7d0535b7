"""An adapter as a folder: `ossicle.json` and `ossicle.safetensors`, with keys `backbone/... head/...`.

A language model's LoRA lies in `llm/`, in peft's format; in memory its keys are `llm/...`.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from ossicle.adapters.inject import load_state, trainable
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.joined import Joined
from ossicle.backbones.text import WEIGHTS as LORA_WEIGHTS
from ossicle.backbones.text import LanguageModel, read_lora
from ossicle.errors import AdapterError, CheckpointError
from ossicle.files import write_atomic

MANIFEST = "ossicle.json"
WEIGHTS = "ossicle.safetensors"
LLM = "llm"
FORMAT = 1


def collect(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """What is saved: an active adapter, a language model's LoRA, or the whole state of any other part."""
    tensors: dict[str, Tensor] = {}
    for prefix, part in parts.items():
        if isinstance(part, Encoder | Joined):
            own: Mapping[str, Tensor] = trainable(part, part.active) if part.active else {}
        else:
            own = part.saved() if isinstance(part, LanguageModel) else part.state_dict()
        tensors |= {f"{prefix}/{key}": value.detach().cpu().contiguous() for key, value in own.items()}
    return tensors


def restore(parts: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Fill parts from what `collect` gave.

    Raises:
        AdapterError: if names or shapes differ.
    """
    for prefix, part in parts.items():
        own = {key.removeprefix(f"{prefix}/"): v for key, v in tensors.items() if key.startswith(f"{prefix}/")}
        if isinstance(part, Encoder | Joined):
            if part.active:
                load_state(part, part.active, own)
            continue
        if isinstance(part, LanguageModel):
            part.restore(own)
            continue
        try:
            part.load_state_dict(own)
        except RuntimeError as err:
            raise AdapterError(f"saved {prefix} does not fit: {' '.join(str(err).split())}") from err


def save_weights(folder: Path, parts: Mapping[str, nn.Module]) -> None:
    """Write `ossicle.safetensors` whole or not at all, and the LoRA of a language model beside it.

    Raises:
        CheckpointError: if it cannot be written; an earlier file stays.
    """
    lent = {name: part for name, part in parts.items() if isinstance(part, LanguageModel) and part.lent}
    for name, part in lent.items():
        part.save(folder / name)
    tensors = collect({name: part for name, part in parts.items() if name not in lent})
    write_atomic(folder / WEIGHTS, lambda part: safetensors.torch.save_file(tensors, part))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read `ossicle.safetensors`, and the LoRA of a language model if there is one.

    Raises:
        CheckpointError: if it is absent or broken.
    """
    lora = read_lora(folder / LLM) if (folder / LLM / LORA_WEIGHTS).is_file() else {}
    try:
        own = safetensors.torch.load_file(folder / WEIGHTS)
        return own | {f"{LLM}/{key}": value for key, value in lora.items()}
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no {WEIGHTS}; the training may not have finished its first epoch"
        ) from None
    except (safetensors.SafetensorError, OSError) as err:
        raise CheckpointError(f"{folder / WEIGHTS} is broken ({err}); train or fetch it again") from err


def save_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `ossicle.json`: task, backbone with its digest, adapter text, head settings."""
    text = json.dumps({"format": FORMAT, **manifest}, indent=2, ensure_ascii=False) + "\n"
    write_atomic(folder / MANIFEST, lambda part: part.write_text(text, encoding="utf-8"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read `ossicle.json`.

    Raises:
        CheckpointError: if the folder is not an adapter folder, or made by a newer version.
    """
    file = folder / MANIFEST
    if not os.path.isfile(file):
        raise CheckpointError(f"{folder} is not an adapter folder: it has no {MANIFEST}; give the --out of a training")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = int(manifest["format"])
    except (ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"{file} cannot be read ({err}); train or fetch the adapter again") from err
    if version > FORMAT:
        raise CheckpointError(f"{file} has format {version} but this version reads up to {FORMAT}; upgrade ossicle")
    return manifest
