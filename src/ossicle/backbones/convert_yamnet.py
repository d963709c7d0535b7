"""YAMNet's weights from the two forms they are published in, to one layout with batch norms folded in.

`convs.0` is the first convolution, then depthwise and pointwise ones in turn to `convs.26`, each with `weight` (output,
input, time, frequency) and `bias`; `classifier` is the last map, without its sigmoid.
"""

import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ossicle.backbones.convert import read_onnx, save_weights
from ossicle.errors import WeightsError

SEPARABLE = 13
CONVS = 1 + 2 * SEPARABLE
NORM_EPS = 1e-4
Layer = tuple[np.ndarray, np.ndarray]


def yamnet_from_keras(raw: Path, out: Path) -> None:
    """Write YAMNet from the one Keras file in `raw`.

    Raises:
        WeightsError: the package h5py is missing, or the file is damaged or of another model.
    """
    (path,) = raw.iterdir()
    found = _keras_arrays(path)
    try:
        names = ["layer1/conv"]
        for number in range(2, 2 + SEPARABLE):
            names += [f"layer{number}/depthwise_conv", f"layer{number}/pointwise_conv"]
        convs = [_folded(found, name) for name in names]
        (last,) = {name.rpartition("/")[0] for name, value in found.items() if value.ndim == 2}
        classifier = found[f"{last}/kernel"].T, found[f"{last}/bias"]
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path.name} is not YAMNet as Keras saves it: no {error}; give yamnet.h5") from None
    _save(path.name, convs, classifier, out)


def _keras_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a Keras weight file by layer and last name, such as `layer1/conv/bn/beta`."""
    try:
        import h5py
    except ImportError:
        raise WeightsError('reading Keras weights needs the package h5py: pip install "ossicle[convert]"') from None
    found: dict[str, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            root = file if "layer_names" in file.attrs else file["model_weights"]
            for layer in map(_text, root.attrs["layer_names"]):
                for name in map(_text, root[layer].attrs["weight_names"]):
                    found[f"{layer}/{name.rpartition('/')[2].split(':')[0]}"] = np.asarray(root[layer][name])
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path.name} is no whole Keras weight file ({error}); fetch it again") from None
    return found


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _folded(found: dict[str, np.ndarray], name: str) -> Layer:
    """A convolution with its batch norm, which has no gain of its own, folded into weight and bias."""
    depthwise = name.endswith("depthwise_conv")
    kernel = found[f"{name}/{'depthwise_kernel' if depthwise else 'kernel'}"].astype(np.float64)
    shift, mean, variance = (
        found[f"{name}/bn/{leaf}"].astype(np.float64) for leaf in ("beta", "moving_mean", "moving_variance")
    )
    weight = kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(3, 2, 0, 1)
    scale = found.get(f"{name}/bn/gamma", np.ones(1)) / np.sqrt(variance + NORM_EPS)
    return weight * scale[:, None, None, None], shift - mean * scale


def yamnet_from_onnx(raw: Path, out: Path) -> None:
    """Write YAMNet from the ONNX graph in the one zip in `raw`; its values lie on a grid of 8 bits.

    Pairs that quantise and dequantise are left out: of weights in float32 the values are taken as they are stored,
    integers are multiplied by their scales.

    Raises:
        WeightsError: the package onnx is missing, or the graph is damaged or of another model.
    """
    (path,) = raw.glob("*.zip")
    graph, values = read_onnx(_unzipped(path))
    makers = {node.output[0]: node for node in graph.node}
    layers: list[Layer] = []
    try:
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm"):
                weight, bias = (_constant(name, makers, values) for name in node.input[1:3])
                layers.append((weight, bias))
                kind = node.op_type
        if len(layers) != CONVS + 1 or kind != "Gemm" or sum(node.op_type == "Gemm" for node in graph.node) != 1:
            raise ValueError(f"{CONVS} convolutions and a last map, it has {len(layers)}")
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path.name} is not YAMNet: no {error}; give that of the checked wheel") from None
    _save(path.name, layers[:-1], layers[-1], out)


def _unzipped(path: Path) -> Path:
    """The graph and its values, beside each other under the names the graph knows."""
    folder = path.with_suffix("")
    folder.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                plain = Path(name).name
                if plain in ("model.onnx", "model.data"):
                    with archive.open(name) as inside, (folder / plain).open("wb") as outside:
                        shutil.copyfileobj(inside, outside, 1 << 20)
    except (zipfile.BadZipFile, EOFError, RuntimeError, zlib.error) as error:
        raise WeightsError(f"{path.name} is a damaged zip ({error}); fetch it again") from None
    return folder / "model.onnx"


def _constant(name: str, makers: dict[str, Any], values: dict[str, Tensor]) -> np.ndarray:
    """A weight behind the nodes that quantise and dequantise it."""
    if name in values:
        return values[name].double().numpy()
    node = makers[name]
    inner = node.input[0]
    if node.op_type != "DequantizeLinear":
        raise KeyError(f"constant {name} but {node.op_type}")
    if inner in makers and makers[inner].op_type == "QuantizeLinear":
        return _constant(makers[inner].input[0], makers, values)
    whole, scale = (values[part].double().numpy() for part in node.input[:2])
    zero = values[node.input[2]].double().numpy() if len(node.input) > 2 else np.zeros_like(scale)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if scale.ndim:
        shape = [-1 if at == axis % whole.ndim else 1 for at in range(whole.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    product: np.ndarray = (whole - zero) * scale
    return product


def _save(name: str, convs: list[Layer], classifier: Layer, out: Path) -> None:
    """Check that each layer takes what the one before it gives, and write all."""
    width = 1
    for number, (weight, bias) in enumerate(convs):
        side, depthwise = (1 if number and number % 2 == 0 else 3), number % 2 == 1
        given = width if depthwise else len(weight)
        if weight.shape != (given, 1 if depthwise else width, side, side) or bias.shape != (given,):
            raise WeightsError(f"{name} is not YAMNet: its convolution {number} is {weight.shape}; give another file")
        width = given
    if classifier[0].shape[1:] != (width,) or classifier[1].shape != classifier[0].shape[:1]:
        raise WeightsError(f"{name} is not YAMNet: its last map is {classifier[0].shape}; give another file")
    layers = {f"convs.{number}": layer for number, layer in enumerate(convs)} | {"classifier": classifier}
    tensors: dict[str, Tensor] = {}
    for layer, pair in layers.items():
        for part, value in zip(("weight", "bias"), pair, strict=True):
            tensors[f"{layer}.{part}"] = torch.from_numpy(value.astype(np.float32))
    save_weights(tensors, {"model_type": "yamnet"}, out)
