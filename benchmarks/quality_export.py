"""Joined encoders as one ONNX file: how far its probabilities are from those of `predict`, by the recordings' own rate.

    python benchmarks/quality_export.py ../shared/data/esc50

A probe on mn04+whisper-tiny.en learns eight classes of ESC-50 from eight clips each; other clips, brought to several
rates first, go through `predict` and through the file in onnxruntime, at 32 kHz by soxr. Whisper hears at 16 kHz: the
file resamples its one waveform for it, `predict` resamples the recording.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import soxr

import measure
from ossicle import data
from ossicle.contracts import Clip
from ossicle.deliver import export
from ossicle.predict.predictor import Predictor
from ossicle.recipe import build
from ossicle.recipe.config import check

BACKBONE, SECONDS, PER_CLASS = "mn04+whisper-tiny.en", 5.0, 8
CLASSES = ("clock_tick", "crow", "dog", "laughing", "mouse_click", "rain", "siren", "sneezing")
RATES = (48_000, 44_100, 32_000, 22_050, 16_000)


def clips_of(folder: Path) -> dict[str, list[Path]]:
    """Sounds of five seconds by class."""
    found: dict[str, list[Path]] = {name: [] for name in CLASSES}
    with (folder / "meta.csv").open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            path = folder / "audio" / row["filename"]
            if row["category"] in found and abs(soundfile.info(path).duration - SECONDS) < 1e-3:
                found[row["category"]].append(path)
    return found


def trained(clips: dict[str, list[Path]], out: Path) -> build.Loaded:
    """The probe."""
    rows = tuple(Clip(p, labels=(name,), name=p.name) for name, paths in clips.items() for p in paths[:PER_CLASS])
    recipe = check({"task": {"kind": "classify"}, "backbone": {"name": BACKBONE}, "adapter": {"spec": "probe()"}}, "")
    build.train(recipe, data.Dataset("esc50", rows), out, quiet=True)
    return build.load(str(out))


def copies(paths: list[Path], rate: int, folder: Path) -> list[Path]:
    """The same sounds at another rate."""
    made = []
    for path in paths:
        wave, own = soundfile.read(path, dtype="float32")
        made.append(folder / f"{path.stem}-{rate}.wav")
        soundfile.write(made[-1], soxr.resample(wave, own, rate, quality="VHQ").clip(-1, 1), rate, subtype="FLOAT")
    return made


def differences(loaded: build.Loaded, file: Path, paths: list[Path]) -> list[float]:
    """The largest difference of a probability, clip by clip."""
    session, found = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]), []
    rate = int(session.get_modelmeta().custom_metadata_map["ossicle.rate_hz"])
    for path, (row,) in Predictor(loaded.task, loaded.name, SECONDS).files(paths):
        wave, own = soundfile.read(path, dtype="float32")
        (got,) = session.run(None, {"waves": soxr.resample(wave, own, rate, quality="HQ")[None]})
        found.append(float(np.abs(got[0] - [row.scores[label] for label in loaded.task.labels]).max()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("esc50", type=Path)
    parser.add_argument("--clips", type=int, default=3, help="of each class that are compared")
    args = parser.parse_args()
    clips = clips_of(args.esc50)
    tested = [p for paths in clips.values() for p in paths[PER_CLASS : PER_CLASS + args.clips]]
    rows: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = trained(clips, folder / "probe")
        made = export.to_onnx(loaded, folder / "probe.onnx", seconds=SECONDS)
        for rate in RATES:
            found = differences(loaded, folder / "probe.onnx", copies(tested, rate, folder))
            over = sum(value > 1e-3 for value in found)
            rows[str(rate)] = {
                "median": float(f"{np.median(found):.2g}"), "largest": float(f"{max(found):.2g}"), "above_1e-3": over,
            }  # fmt: skip
            print(f"{rate} Hz: {rows[str(rate)]}")
    result = {
        "what": f"differences of probabilities, ONNX file of {BACKBONE} from predict, {len(tested)} clips of ESC-50",
        "machine": measure.machine(["torch", "onnxruntime", "soxr"]),
        "made_sounds": {"from_torch": made.torch, "from_predict": made.predict},
        "by_rate_of_the_recording": rows,
    }
    path = measure.save("quality_export", result)
    print(f"written to {path.parent.name}/{path.name}")


if __name__ == "__main__":
    main()
