"""Encoder LoRA to and from PEFT's folder format, for use with the same encoder in transformers.

What PEFT can hold of an adapter: one `lora(...)` and the final norm of `norm()` (as a module to save).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ossicle.adapters.inject import inject, load_state, trainable
from ossicle.adapters.lora import TARGETS, Lora, LoraDelta
from ossicle.adapters.norms import Norms
from ossicle.adapters.spec import parse
from ossicle.backbones.encoder import Encoder
from ossicle.errors import AdapterError, CheckpointError
from ossicle.files import write_atomic

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ROOT = "base_model.model."
LOW = {"down": "lora_A", "up": "lora_B"}


@dataclass(frozen=True)
class Names:
    """How transformers calls the parts of an encoder.

    Args:
        attention: path of a block's attention, with {n} for the block.
        out: name of the output projection there.
        norm: name of the final norm.
        base: hub id of the published model.
        alike: norms of a block whose name ends as the final norm's does, ours to theirs. PEFT finds modules to save by
            the end of their names, so it wants these in the file too, as they are.
    """

    attention: str
    out: str
    norm: str
    base: str
    alike: tuple[tuple[str, str], ...] = ()

    def module(self, block: int, part: str) -> str:
        """The path of a projection of ours, such as q_proj of block 2."""
        return f"{self.attention.format(n=block)}.{self.out if part == 'out_proj' else part}"


def _vit(base: str) -> Names:
    return Names("layers.{n}.attention", "o_proj", "layernorm", base)


def _dinov2(size: str) -> Names:
    return Names("encoder.layer.{n}.attention", "o_proj", "layernorm", f"facebook/dinov2-{size}")


def _whisper(size: str) -> Names:
    alike = (("norm1", "self_attn_layer_norm"), ("norm2", "final_layer_norm"))
    return Names("layers.{n}.self_attn", "out_proj", "layer_norm", f"openai/whisper-{size}", alike)


# Of transformers' ASTModel, ViTModel, DeiTModel, Dinov2Model and WhisperEncoder.
FAMILIES: dict[str, Names] = {
    "ast-base": _vit("MIT/ast-finetuned-audioset-10-10-0.4593"),
    "deit-base-384": _vit("facebook/deit-base-distilled-patch16-384"),
    "vit-base": _vit("google/vit-base-patch16-224-in21k"),
    "dinov2-small": _dinov2("small"),
    "dinov2-base": _dinov2("base"),
    "whisper-tiny.en": _whisper("tiny.en"),
    "whisper-tiny": _whisper("tiny"),
    "whisper-base.en": _whisper("base.en"),
    "whisper-base": _whisper("base"),
}


def to_peft(encoder: Encoder, folder: Path, *, name: str = "default") -> None:
    """Write an adapter as a PEFT folder.

    Args:
        encoder: with the adapter on it.
        folder: where adapter_config.json and adapter_model.safetensors go.
        name: of the adapter on the encoder.

    Raises:
        AdapterError: if the adapter has parts PEFT cannot hold, or the backbone has no transformers names.
        CheckpointError: if the folder cannot be written.
    """
    names = _names(encoder)
    own, adapter = trainable(encoder, name), encoder.adapters[name].adapter
    loras = [part for part in adapter.parts if isinstance(part, Lora)]
    if len(loras) != 1 or any(part not in (*loras, Norms()) for part in adapter.parts):
        raise AdapterError(f"PEFT holds one lora(...) and norm(), not '{adapter.text}'; keep it as Ossicle's")
    tensors, modules = {}, set()
    for key, value in own.items():
        path, _, kind = key.rpartition(".")
        if path == "norm":
            tensors[f"{ROOT}{names.norm}.{kind}"] = value.detach().contiguous()
            continue
        _, block, _, part, way = path.split(".")
        module = names.module(int(block), part)
        modules.add(module)
        tensors[f"{ROOT}{module}.{LOW[way]}.weight"] = value.detach().contiguous()
    saves = "norm.weight" in own
    tensors |= _alike(encoder, names) if saves else {}
    config = _config(encoder, name) | {
        "base_model_name_or_path": names.base, "target_modules": sorted(modules),
        "modules_to_save": [names.norm] if saves else None,
    }  # fmt: skip
    text = json.dumps(config, indent=2) + "\n"
    write_atomic(folder / WEIGHTS, lambda part: safetensors.torch.save_file(tensors, part, {"format": "pt"}))
    write_atomic(folder / CONFIG, lambda part: part.write_text(text, encoding="utf-8"))


def _config(encoder: Encoder, name: str) -> dict[str, Any]:
    """PEFT's settings of a LoRA on the encoder."""
    delta = next(m for p, m in encoder.named_modules() if p.endswith(f".deltas.{name}") and isinstance(m, LoraDelta))
    rank = len(delta.down.weight)
    return {
        "peft_type": "LORA", "r": rank, "lora_alpha": delta.scale * rank, "lora_dropout": delta.dropout.p,
        "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "task_type": None,
    }  # fmt: skip


def from_peft(encoder: Encoder, folder: Path, *, name: str = "default") -> None:
    """Put a PEFT LoRA folder on an encoder as an adapter.

    Args:
        encoder: the encoder it was trained on.
        folder: with adapter_config.json and adapter_model.safetensors.
        name: of the adapter on the encoder.

    Raises:
        CheckpointError: if a file is absent or broken.
        AdapterError: if it is no plain LoRA on attention projections of this encoder.
    """
    names = _names(encoder)
    config, tensors = _read(folder)
    unknown = [key for key in ("use_dora", "rank_pattern", "alpha_pattern", "lora_bias") if config.get(key)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or unknown:
        raise AdapterError(f"{folder.name} is no plain PEFT LoRA ({config.get('peft_type')}, {unknown}); give one")
    rank = int(config["r"])
    alpha = float(config["lora_alpha"]) * (rank**0.5 if config.get("use_rslora") else 1.0)
    copies = _alike(encoder, names)
    same = {k for k, v in copies.items() if k in tensors and torch.equal(v, tensors[k].to(v))}
    state = {_ours(key, names, encoder.depth, folder): value for key, value in tensors.items() if key not in same}
    sites = [re.fullmatch(r"blocks\.(\d+)\.(attn\.\w+)\.(?:down|up)\.weight", key) for key in state]
    blocks = sorted({int(m[1]) for m in sites if m})
    targets = "".join(letter for letter, part in TARGETS.items() if any(m and m[2] == part for m in sites))
    if not blocks or blocks != list(range(blocks[0], blocks[-1] + 1)):
        raise AdapterError(f"{folder.name} adapts blocks {blocks}; a stretch without gaps is wanted")
    text = f"lora(rank={rank},alpha={alpha:g},targets={targets},blocks={blocks[0]}-{blocks[-1]})"
    inject(encoder, parse(text + ("+norm()" if "norm.weight" in state else "")), name=name)
    load_state(encoder, name, state)


def _names(encoder: Encoder) -> Names:
    if encoder.name not in FAMILIES:
        raise AdapterError(f"{encoder.name} has no names in transformers; PEFT knows: {', '.join(FAMILIES)}")
    return FAMILIES[encoder.name]


def _alike(encoder: Encoder, names: Names) -> dict[str, Tensor]:
    """Frozen norms under the names PEFT looks for, which lie beside each block's attention."""
    state = {key.replace(".base.", "."): value for key, value in encoder.state_dict().items() if ".deltas." not in key}
    layer = names.attention.rpartition(".")[0]
    return {
        f"{ROOT}{layer.format(n=n)}.{theirs}.{kind}": state[f"blocks.{n}.{ours}.{kind}"].contiguous()
        for n in range(encoder.depth)
        for ours, theirs in names.alike
        for kind in ("weight", "bias")
    }


def _read(folder: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config["r"], config["lora_alpha"]
        return config, safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder} is no PEFT folder with {CONFIG} and {WEIGHTS}: {error}") from error


def _ours(key: str, names: Names, depth: int, folder: Path) -> str:
    """Our name of one of PEFT's tensors."""
    path = key.removeprefix(ROOT)
    if path.startswith(f"{names.norm}."):
        return f"norm.{path.rpartition('.')[2]}"
    for block in range(depth):
        for part in TARGETS.values():
            module = names.module(block, part.removeprefix("attn."))
            for way, low in LOW.items():
                if path == f"{module}.{low}.weight":
                    return f"blocks.{block}.{part}.{way}.weight"
    raise AdapterError(f"{folder.name} has {path}, which is no attention projection of this encoder")
