"""Captioning: an epoch with the encoder's tokens cached beside one without, and greedy decoding of 16 clips at once.

    python benchmarks/speed_captions.py

The language model is SmolLM2-135M-Instruct with LoRA; clips are ten seconds of noise, which take as long as any sound.
AST-base has random weights here: time does not depend on what they are. Interleaved medians, float32.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import soundfile
import torch

import measure
from ossicle import backbones, devices
from ossicle.backbones import Encoder
from ossicle.backbones.text import Lora, language_model
from ossicle.contracts import Clip
from ossicle.tasks.caption_llm import Captioner
from ossicle.tasks.decode import Decoding
from ossicle.tasks.features import SEQUENCE, FeatureStore
from ossicle.tasks.mapper import Mapper
from speed_adapters import random_encoder

CAPTIONS = (
    "A dog barks while rain falls in the background",
    "An engine idles, then a door creaks and someone walks away",
    "Birds chirp as water drips",
    "A man coughs, followed by a clock ticking",
)
SECONDS, RATE_HZ = 10, 16_000


def noise(folder: Path, count: int) -> list[Clip]:
    """Clips of noise with captions."""
    generator = torch.Generator().manual_seed(0)
    clips = []
    for i in range(count):
        path = folder / f"{i}.flac"
        soundfile.write(path, (0.1 * torch.randn(SECONDS * RATE_HZ, generator=generator)).numpy(), RATE_HZ)
        clips.append(Clip(path, captions=(CAPTIONS[i % len(CAPTIONS)],)))
    return clips


def captioner(encoder: Encoder, layers: Sequence[int]) -> Captioner:
    """The usual captioner on an encoder, eight soft tokens."""
    language = language_model("smollm2-135m-instruct")
    language.add_lora(Lora())
    mapper = Mapper(encoder.dim * len(layers), language.width, pooling="stride", tokens=8)
    return Captioner(encoder, language, mapper, layers=layers, squeeze=10, chat=False)


def epoch(task: Captioner, clips: list[Clip], store: FeatureStore | None, batch: int) -> Callable[[], None]:
    """Load, forward, backward and update over all clips."""
    optimizer = torch.optim.AdamW([p for part in task.parts().values() for p in part.parameters() if p.requires_grad])

    def run() -> None:
        task.store = store
        task.language.train()
        for first in range(0, len(clips), batch):
            loss = task.loss(task.collate(clips[first : first + batch], torch.Generator().manual_seed(first)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def cached_epochs(name: str, encoder: Encoder, layers: Sequence[int], args: argparse.Namespace) -> dict[str, object]:
    """One row: an epoch both ways."""
    with tempfile.TemporaryDirectory() as folder:
        clips, task = noise(Path(folder), args.clips), captioner(encoder, layers)
        store = FeatureStore(encoder, task.layers, SEQUENCE, squeeze=task.squeeze, root=Path(folder) / "cache")
        store.get(clips)
        ways = {"cached": epoch(task, clips, store, 8), "encoder in every step": epoch(task, clips, None, 8)}
        medians = measure.interleaved_medians(ways, rounds=args.rounds)
    return {
        "encoder": name, "clips": args.clips, "ms": {k: round(v) for k, v in medians.items()},
        "times_faster": round(medians["encoder in every step"] / medians["cached"], 2),
    }  # fmt: skip


def decoding(args: argparse.Namespace) -> dict[str, object]:
    """Greedy captions of 16 clips, one at a time and all at once, encoder included."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        clips, task = noise(Path(folder), 16), captioner(backbones.load("whisper-tiny.en"), (2, 3, 4))
        task.language.eval()
        task.decoding = Decoding(method="greedy", max_tokens=16, min_tokens=16)

        def run(batch: int) -> None:
            for first in range(0, len(clips), batch):
                task.predict(task.collate(clips[first : first + batch], None))

        ways = {"batch 1": lambda: run(1), "batch 16": lambda: run(16)}
        medians = measure.interleaved_medians(ways, rounds=args.rounds)
    return {
        "ms_per_clip": {name: round(ms / 16, 1) for name, ms in medians.items()},
        "times_faster": round(medians["batch 1"] / medians["batch 16"], 2), "tokens": 16,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=16)
    args = parser.parse_args()
    devices.prepare()
    machine = measure.machine(("torch", "transformers", "peft")) | {"threads": torch.get_num_threads()}
    result = {"machine": machine, "precision": "float32", "decoding": decoding(args)}
    whisper = backbones.load("whisper-tiny.en")
    result["epochs"] = [
        cached_epochs("ast-base (random weights)", random_encoder(), (12,), args),
        cached_epochs("whisper-tiny.en", whisper, (2, 3, 4), args),
    ]
    print(measure.save("speed_captions", result).read_text())


if __name__ == "__main__":
    main()
