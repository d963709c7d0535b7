"""Checkpoints as people have them, read flat and as data only."""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ossicle.errors import WeightsError

PICKLES = (".bin", ".pt", ".pth", ".pyth", ".ckpt")
WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a checkpoint, flat, on the CPU.

    Args:
        path: a folder with `model.safetensors` (or its sharded index) or `pytorch_model.bin`, or one file
            (.safetensors .bin .pt .pth .pyth .ckpt). Pickles are read as data only: code in them is refused.

    Returns:
        Key to tensor, in the file's own names, shapes and dtypes; entries that are not tensors are left out.

    Raises:
        WeightsError: nothing there, an unknown kind of file, a damaged file, or a pickle that wants to run code.
    """
    if path.is_dir():
        tensors: dict[str, Tensor] = {}
        for file in weight_files(path):
            tensors.update(read_checkpoint(file))
        return tensors
    if not path.is_file():
        raise WeightsError(f"no checkpoint at {path}; give an existing file or folder")
    _look(path)
    if path.suffix == ".safetensors":
        found: object = _read_safetensors(path)
    elif path.suffix in PICKLES:
        found = _read_pickle(path)
    else:
        kinds = " ".join((".safetensors", *PICKLES))
        raise WeightsError(f"{path.name} is not a kind of checkpoint that can be read; wanted one of {kinds}")
    settings = found.get("cfg") if isinstance(found, Mapping) else None
    for _ in range(3):
        inner = [found[k] for k in WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(k), Mapping)]
        found = inner[0] if inner else found
    items = found.items() if isinstance(found, Mapping) else ()
    tensors = {str(k): v.detach() for k, v in items if isinstance(v, Tensor)}
    if not tensors:
        raise WeightsError(
            f"{path.name} holds no tensors by name; wanted a state dict, save model.state_dict() instead"
        )
    return tensors | _settings(settings)


def _look(path: Path) -> None:
    """Tell what often lies in the place of weights from a damaged file."""
    with path.open("rb") as file:
        begins = file.read(64).lstrip().lower()
    if begins.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a pointer of Git LFS, not weights; run `git lfs pull` there")
    if begins.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise WeightsError(f"{path} is a web page, not weights; open it to read why, and download the file itself")


def _settings(cfg: object) -> dict[str, Tensor]:
    """What no tensor shows of a model, from the settings beside it: BEATs' furthest distance."""
    values = cfg if isinstance(cfg, Mapping) else vars(cfg) if isinstance(cfg, argparse.Namespace) else {}
    furthest = values.get("max_distance")
    return {"cfg.max_distance": torch.tensor(furthest)} if isinstance(furthest, int) else {}


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights: `model.safetensors`, its shards, or `pytorch_model.bin`.

    Raises:
        WeightsError: there is none, or the sharded index is damaged or names a missing file.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        for name in ("model.safetensors", "pytorch_model.bin"):
            if (folder / name).is_file():
                return [folder / name]
        raise WeightsError(f"no weights in {folder}; wanted model.safetensors or pytorch_model.bin there")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        bad = [n for n in names if Path(n).name != n or not (folder / n).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is damaged ({error}); fetch the folder again") from None
    if bad:
        raise WeightsError(f"{index.name} names {bad[0]}, which is not in {folder}; fetch the missing shards")
    return [folder / n for n in names]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}); fetch or copy it again") from None


def _read_pickle(path: Path) -> object:
    allowed: list[Any] = [argparse.Namespace, np.dtype, np.ndarray]
    allowed += [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?", "U", "S")]
    for value in (np.float64(0), np.zeros(0)):  # what rebuilds a number and an array, under its old and new module
        rebuild: Any = value.__reduce__()[0]
        allowed += [(rebuild, f"numpy.{core}.multiarray.{rebuild.__name__}") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # hostile bytes can raise anything
        wants = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wants:
            raise WeightsError(
                f"{path} is a pickle that wants to run {wants[1]}, which is refused; wanted plain tensors: "
                "save the state dict as safetensors where you trust the file"
            ) from None
        kind = type(error).__name__
        raise WeightsError(f"{path} cannot be read as a checkpoint ({kind}); it is damaged, fetch it again") from None
