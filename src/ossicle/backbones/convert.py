"""What is published (a state dict, CTranslate2, ONNX, GGUF, a transformers folder) turned into safetensors.

Each function fills a folder with `model.safetensors` and `config.json` under transformers' names.
"""

import contextlib
import importlib.util
import io
import json
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ossicle.backbones.checkpoints import read_checkpoint
from ossicle.errors import WeightsError

CT2_TYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "<u2"}
WHISPER_PARTS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
LEAVES = {"gamma": "weight", "beta": "bias", "encodings": "weight", "weight": "weight", "bias": "bias"}


def save_weights(tensors: Mapping[str, Tensor], config: Mapping[str, object] | None, out: Path) -> None:
    """Write `model.safetensors` and, if given, `config.json`; tensors that share memory are written apart."""
    whole = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    save_file(whole, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # the library keeps it to its owner; a cache may be shared
    if config is not None:
        (out / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")


def _only(raw: Path, suffix: str) -> Path:
    found = sorted(raw.rglob(f"*{suffix}"))
    if len(found) != 1:
        raise WeightsError(f"{len(found)} files end in {suffix} in {raw}, wanted one; pin exactly one in SOURCES")
    return found[0]


def read_ctranslate2(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Read a CTranslate2 `model.bin` of format version 6.

    Returns:
        The model spec's name, and variable name to array in the file's shape and number type.

    Raises:
        WeightsError: another format version, or a file that ends early.
    """
    data = path.read_bytes()
    at = 0

    def take(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize(kind)
        return int(value)

    def text() -> str:
        nonlocal at
        size = take("H")
        at += size
        return data[at - size : at].rstrip(b"\0").decode()

    arrays: dict[str, np.ndarray] = {}
    try:
        version = take("I")
        if version != 6:
            raise WeightsError(f"{path.name} is CTranslate2 format {version}, wanted 6; convert it with CTranslate2 4")
        spec, _revision, count = text(), take("I"), take("I")
        for _ in range(count):
            name, shape = text(), [take("I") for _ in range(take("B"))]
            kind, size = CT2_TYPES[take("B")], take("I")
            arrays[name] = np.frombuffer(data[at : at + size], kind).reshape(shape)
            at += size
    except (struct.error, KeyError, ValueError) as error:
        raise WeightsError(f"{path.name} is a damaged CTranslate2 file ({error}); fetch it again") from None
    return spec, arrays


def whisper_from_ctranslate2(raw: Path, out: Path) -> None:
    """Write a Whisper encoder from the one CTranslate2 `.bin` in `raw`, as float32 under WhisperEncoder's names.

    The file stores float16; float32 holds those values exactly and is what every loader expects.

    Raises:
        WeightsError: not a Whisper model, quantised to integers, or damaged.
    """
    spec, arrays = read_ctranslate2(_only(raw, ".bin"))
    if spec != "WhisperSpec":
        raise WeightsError(f"this CTranslate2 file is a {spec}, wanted WhisperSpec; give a Whisper model")
    names = {n: n.removeprefix("encoder/") for n in arrays if n.startswith("encoder/") and arrays[n].ndim}
    tensors: dict[str, Tensor] = {}
    for full, name in names.items():
        if arrays[full].dtype.kind != "f":
            raise WeightsError(f"{full} is stored as {arrays[full].dtype}, wanted float16 or float32; use that variant")
        tensors.update(_whisper_tensors(name, torch.from_numpy(arrays[full].astype(np.float32))))
    try:
        config = _whisper_config(tensors, heads=int(arrays["encoder/num_heads"]))
    except KeyError as error:
        raise WeightsError(f"this Whisper file lacks {error}; fetch it again") from None
    save_weights(tensors, config, out)


def _whisper_tensors(name: str, value: Tensor) -> dict[str, Tensor]:
    path, leaf = name.rsplit("/", 1)
    leaf = LEAVES.get(leaf, leaf)
    layer = re.fullmatch(r"layer_(\d+)/(.+)", path)
    if layer is None:
        return {f"{'embed_positions' if path == 'position_encodings' else path}.{leaf}": value}
    prefix = f"layers.{layer[1]}"
    if layer[2] != "self_attention/linear_0":
        return {f"{prefix}.{WHISPER_PARTS.get(layer[2], layer[2])}.{leaf}": value}
    parts = {f"{prefix}.self_attn.{p}_proj.{leaf}": v for p, v in zip("qkv", value.chunk(3), strict=True)}
    parts.pop(f"{prefix}.self_attn.k_proj.bias", None)  # Whisper's keys have no bias; the stacked file holds zeros
    return parts


def _whisper_config(tensors: Mapping[str, Tensor], heads: int) -> dict[str, object]:
    width, mels, _kernel = tensors["conv1.weight"].shape
    return {
        "architectures": ["WhisperEncoder"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "d_model": width,
        "dtype": "float32",
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": tensors["layers.0.fc1.weight"].shape[0],
        "encoder_layers": sum(k.endswith(".fc1.weight") for k in tensors),
        "max_source_positions": tensors["embed_positions.weight"].shape[0],
        "num_mel_bins": mels,
        "scale_embedding": False,
    }


def read_onnx(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The graph of an ONNX file and its initialisers by name.

    Raises:
        WeightsError: the package onnx is missing, or the file is damaged.
    """
    try:
        import onnx
    except ImportError:
        raise WeightsError('reading ONNX weights needs the package onnx: pip install "ossicle[convert]"') from None
    try:
        graph = onnx.load(str(path)).graph
        return graph, {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in graph.initializer}
    except Exception as error:  # protobuf and numpy each raise their own
        raise WeightsError(f"{path.name} is a damaged ONNX file ({type(error).__name__}); fetch it again") from None


def dinov2_from_onnx(raw: Path, out: Path, head_dim: int = 64) -> None:
    """Write a DINOv2 encoder from the one ONNX graph in `raw`, under the names of the hub's DINOv2 checkpoints.

    The exporter kept the names of biases and norms; weight matrices are anonymous and found through the name of the
    MatMul node that reads them, the position table through the embedding's Concat and Reshape. `mask_token`, used in
    pre-training only, is not in the graph and is written as zeros.

    Args:
        raw: folder with the graph.
        out: folder to write to.
        head_dim: width of one attention head; 64 in every published DINOv2.

    Raises:
        WeightsError: the package onnx is missing, or the graph is damaged or not a DINOv2 encoder.
    """
    path = _only(raw, ".onnx")
    graph, values = read_onnx(path)
    tensors = {k.removeprefix("backbone."): v for k, v in values.items() if k.startswith("backbone.")}
    positions: dict[str, Tensor] = {}
    for node in graph.node:
        hidden = [values[i] for i in node.input if i.startswith("onnx::") and i in values]
        if not hidden or not node.name.startswith("/backbone/"):
            continue
        if node.op_type == "MatMul":
            key = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{key}.weight"] = hidden[0].T
        elif node.name.startswith("/backbone/embeddings/") and hidden[0].ndim == 3:
            positions[node.op_type] = hidden[0]
    try:
        tensors["embeddings.position_embeddings"] = torch.cat([positions["Concat"], positions["Reshape"]], 1)
        tensors["embeddings.mask_token"] = torch.zeros_like(tensors["embeddings.cls_token"][0])
        config = _dinov2_config(tensors, head_dim)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{path.name} is not a DINOv2 encoder: no {error}; give a graph exported from one") from None
    save_weights(tensors, config, out)


def _dinov2_config(tensors: Mapping[str, Tensor], head_dim: int) -> dict[str, object]:
    width, channels, patch, _ = tensors["embeddings.patch_embeddings.projection.weight"].shape
    side = round((tensors["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "dtype": "float32",
        "hidden_act": "gelu",
        "hidden_size": width,
        "image_size": side * patch,
        "layer_norm_eps": 1e-6,
        "mlp_ratio": tensors["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
        "num_attention_heads": width // head_dim,
        "num_channels": channels,
        "num_hidden_layers": sum(k.endswith(".norm1.weight") for k in tensors),
        "patch_size": patch,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
    }


def language_model_from_gguf(raw: Path, out: Path) -> None:
    """Write a transformers folder (weights, config, tokenizer) from the one GGUF file in `raw`.

    Weights are stored as float16: against float32 it moves the next-token distribution of the 4-bit SmolLM2 by a
    Kullback-Leibler distance of 3e-6, far below what the 4 bits cost, and halves the disk space; bfloat16 moves it by
    9e-5. `config.json` says float32, so transformers computes in float32 unless told otherwise.

    Raises:
        WeightsError: the package gguf is missing, or transformers cannot read the file.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = _only(raw, ".gguf")
    if importlib.util.find_spec("gguf") is None:
        raise WeightsError('reading GGUF weights needs the package gguf: pip install "ossicle[convert]"')
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # the reader raises whatever the bytes make it
        raise WeightsError(f"{path.name} cannot be read as GGUF ({error}); it may be damaged, fetch it again") from None
    tensors = {k: v.half() for k, v in model.state_dict().items()}
    config = model.config.to_diff_dict() | {"architectures": [type(model).__name__], "dtype": "float32"}
    config.pop("quantization_config", None)  # the tensors are plain numbers now
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_weights(tensors, config, out)
    model.generation_config.save_pretrained(out)
    tokenizer.save_pretrained(out)


def state_from_checkpoint(raw: Path, out: Path) -> None:
    """Write the tensors of the one checkpoint in `raw` under their own names; counters of batches are left out.

    Raises:
        WeightsError: damaged, or a pickle that wants to run code.
    """
    (path,) = raw.iterdir()
    tensors = {k: v for k, v in read_checkpoint(path).items() if not k.endswith("num_batches_tracked")}
    save_weights(tensors, None, out)


def move_files(raw: Path, out: Path) -> None:
    """Move everything in `raw`; it needs no conversion."""
    for item in sorted(raw.iterdir()):
        shutil.move(item, out / item.name)


def byte_pairs(raw: Path, out: Path) -> None:
    """Write OpenAI's `encoder.json` and `vocab.bpe` under the names that tokenizers of transformers load."""
    shutil.move(raw / "encoder.json", out / "vocab.json")
    shutil.move(raw / "vocab.bpe", out / "merges.txt")
    told = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024}
    (out / "tokenizer_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def copy_transformers(folder: Path, out: Path, prefix: str = "") -> None:
    """Copy a transformers folder with its weights as one `model.safetensors`.

    Args:
        folder: weights in any layout `read_checkpoint` knows, config and tokenizer.
        out: folder to write to.
        prefix: keep only tensors whose key starts so, and cut it off; "" keeps all and copies one file as it is.

    Raises:
        WeightsError: the weights are absent or damaged, or no key starts with `prefix`.
    """
    for file in sorted(f for f in folder.rglob("*") if f.suffix in (".json", ".txt", ".model", ".jinja")):
        if not file.name.endswith(".index.json"):
            target = out / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    whole = folder / "model.safetensors"
    if whole.is_file() and not prefix:
        shutil.copyfile(whole, out / whole.name)
        return
    tensors = {k.removeprefix(prefix): v for k, v in read_checkpoint(folder).items() if k.startswith(prefix)}
    if not tensors:
        raise WeightsError(f"no key in {folder} starts with {prefix}; give the folder of a whole model")
    save_weights(tensors, None, out)
