"""One training step of whisper-tiny.en on 5 s clips, batch 16: adapters beside full fine-tuning, same run.

    python benchmarks/speed_train_step.py

Sounds are noise: the time of a step does not depend on what is heard. Cached variants train the upper two blocks on
tokens that were computed before.
"""

from collections.abc import Callable

import torch

import measure
from ossicle import adapters, backbones, devices
from ossicle.backbones import Encoder
from ossicle.contracts import TokenGrid
from ossicle.tasks import features

BATCH, SAMPLES, CLASSES = 16, 80_000, 50
FULL = "full()"
WAVES = {
    "full fine-tuning": FULL,
    "lora, all blocks": "lora(rank=8,alpha=8,targets=qkvo)+norm()",
    "bottleneck, all blocks": "bottleneck(sites=both,rank=32)+norm()",
    "lora, upper two blocks": "lora(rank=8,alpha=8,targets=qkvo,blocks=top:2)+norm()",
}
CACHED = {
    "lora, upper two blocks, cached below": "lora(rank=8,alpha=8,targets=qkvo,blocks=top:2)+norm()",
    "bottleneck, upper two blocks, cached below": "bottleneck(sites=both,rank=32,blocks=top:2)+norm()",
}


def step(encoder: Encoder, encode: Callable[[], object]) -> Callable[[], None]:
    """Forward, loss, backward, update."""
    head = torch.nn.Linear(encoder.dim, CLASSES)
    targets = torch.randint(CLASSES, (BATCH,))
    optimizer = torch.optim.AdamW([*[p for p in encoder.parameters() if p.requires_grad], *head.parameters()], lr=1e-5)

    def run() -> None:
        encoded = encode()
        pooled = features.pool(encoded, (encoder.depth,), "mean")  # type: ignore[arg-type]
        torch.nn.functional.cross_entropy(head(pooled), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def main() -> None:
    devices.prepare()
    torch.manual_seed(0)
    waves = torch.randn(BATCH, SAMPLES) * 0.1
    candidates: dict[str, Callable[[], object]] = {}
    for name, text in WAVES.items():
        encoder = backbones.load("whisper-tiny.en")
        adapters.inject(encoder, adapters.parse(text))
        layers = (encoder.depth,)
        candidates[name] = step(encoder, lambda e=encoder, n=layers: e(waves, layers=n))  # type: ignore[misc]
    for name, text in CACHED.items():
        encoder = backbones.load("whisper-tiny.en")
        adapters.inject(encoder, adapters.parse(text))
        with torch.no_grad():
            tokens, _, _ = encoder.lower(encoder.listen(waves)[0], None, 2)
        grid = TokenGrid(freq=1, time=tokens.shape[1])
        candidates[name] = step(
            encoder,
            lambda e=encoder, x=tokens, g=grid: e.upper(x, g, None, number=2, layers=(e.depth,)),  # type: ignore[misc]
        )
    medians = measure.interleaved_medians(candidates, rounds=5)
    per_clip = {name: round(ms / BATCH, 2) for name, ms in medians.items()}
    share = {name: round(ms / medians["full fine-tuning"], 3) for name, ms in medians.items()}
    for name, value in share.items():
        print(f"{name}: {per_clip[name]} ms a clip, {value} of full fine-tuning")
    result = {"batch": BATCH, "seconds_of_sound": SAMPLES / 16_000, "ms_per_clip": per_clip, "share_of_full": share}
    machine = measure.machine(("torch",)) | {"threads": torch.get_num_threads()}
    measure.save("speed_train_step", {"machine": machine, **result})


if __name__ == "__main__":
    main()
