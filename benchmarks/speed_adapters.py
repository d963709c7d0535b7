"""One training step of AST-base size on 5 s clips: every method beside full fine-tuning and beside peft's LoRA.

    python benchmarks/speed_adapters.py

Weights are random: the time of a step does not depend on what they are. Times are interleaved medians in one process;
memory is the peak above the loaded model in a process of its own. peft wraps transformers' ASTModel and runs twice: as
it comes, and with the matrix setting that Ossicle makes (`devices.prepare`). Both train q and v at rank 16 in float32.
"""

import argparse
import json
import multiprocessing
import resource
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

import measure
from ossicle import adapters, backbones, devices
from ossicle.backbones import Encoder
from ossicle.contracts import TokenGrid
from ossicle.tasks import features

SAMPLES, CLASSES, BACKBONE = 80_000, 50, "ast-base"
LORA = "lora(rank=16,alpha=16,targets=qv)"
OURS = {
    "full fine-tuning": "full()",
    "lora": LORA,
    "lora, top 3": "lora(rank=16,alpha=16,targets=qv,blocks=top:3)",
    "bottleneck pf": "bottleneck(sites=attn)",
    "bottleneck houlsby": "bottleneck(sites=both)",
    "convpass": "convpass()",
    "hydra": "hydra()",
    "look-aside": "lookaside()",
    "prompts, deep": "prompts(tokens=25,deep=true)",
    "prefix": "prefix(tokens=24)",
    "bitfit": "bitfit()",
}
CACHED = "lora, top 3, cached below"
PEFT, PEFT_SWITCHED = "peft lora, as it comes", "peft lora, with ossicle's matrix setting"
NAMES = [*OURS, CACHED, PEFT, PEFT_SWITCHED]


def random_encoder() -> Encoder:
    """AST-base with random weights."""
    torch.manual_seed(0)
    chosen = backbones.spec(BACKBONE)
    encoder = chosen.make(BACKBONE, chosen.sizes)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.02)
    return backbones.freeze(encoder)


def our_step(text: str, batch: int, cached: int = 0) -> Callable[[], None]:
    """Forward, loss, backward, update with an adapter of ours, from front-end frames."""
    encoder = random_encoder()
    adapters.inject(encoder, adapters.parse(text))
    frames, _ = encoder.listen(torch.randn(batch, SAMPLES) * 0.1)
    layers = (encoder.depth,)
    if not cached:
        return _stepper(lambda: features.pool(encoder.encode(frames, layers=layers), layers, "mean"), encoder, batch)
    with torch.no_grad():
        tokens, grid, _ = encoder.lower(frames, None, cached)
    known: TokenGrid = grid
    return _stepper(
        lambda: features.pool(encoder.upper(tokens, known, None, number=cached, layers=layers), layers, "mean"),
        encoder, batch,
    )  # fmt: skip


def peft_step(batch: int) -> Callable[[], None]:
    """The same with peft's LoRA on transformers' ASTModel, on frames of the same shape."""
    import peft
    import transformers

    torch.manual_seed(0)
    model = transformers.ASTModel(transformers.ASTConfig(max_length=498))
    config = peft.LoraConfig(r=16, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    wrapped = peft.get_peft_model(model, config)
    frames = torch.randn(batch, 498, 128)
    return _stepper(lambda: wrapped(frames).last_hidden_state.mean(dim=1), wrapped, batch)


def _stepper(encode: Callable[[], Tensor], model: nn.Module, batch: int) -> Callable[[], None]:
    head = nn.Linear(768, CLASSES)
    targets = torch.randint(CLASSES, (batch,))
    trained: Iterable[Tensor] = [*(p for p in model.parameters() if p.requires_grad), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def run() -> None:
        nn.functional.cross_entropy(head(encode()), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def made(name: str, batch: int) -> Callable[[], None]:
    """The step of a name, in its own matrix setting."""
    if name in (PEFT, PEFT_SWITCHED):
        step = peft_step(batch)
    else:
        step = our_step(OURS["lora, top 3"], batch, 9) if name == CACHED else our_step(OURS[name], batch)

    def run() -> None:
        torch.set_float32_matmul_precision("highest")
        if name != PEFT:
            devices.prepare()
        step()

    return run


def memory(name: str, batch: int) -> float:
    """Peak memory of three steps above the loaded model, in GB."""
    warnings.filterwarnings("ignore")
    step = made(name, batch)
    before = _rss()
    for _ in range(3):
        step()
    return round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e9, 2)


def _rss() -> int:
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    peaks = {}
    for name in NAMES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks[name] = pool.apply(memory, (name, args.batch))
        print(name, peaks[name], "GB", flush=True)
    medians = measure.interleaved_medians({n: made(n, args.batch) for n in NAMES}, rounds=args.rounds)
    full, lora = "full fine-tuning", "lora"
    rows = [
        {
            "method": name, "ms_per_step": round(medians[name]), "peak_gb_above_model": peaks[name],
            "of_full_time": round(medians[name] / medians[full], 3),
            "of_full_memory": round(peaks[name] / peaks[full], 3),
            "of_lora_time": round(medians[name] / medians[lora], 3),
        }
        for name in NAMES
    ]  # fmt: skip
    against = {name: round(medians[lora] / medians[name], 3) for name in (PEFT, PEFT_SWITCHED)}
    machine = measure.machine(("torch", "transformers", "peft")) | {"threads": torch.get_num_threads()}
    result = {"batch": args.batch, "seconds_of_sound": SAMPLES / 16_000, "precision": "float32", "rows": rows}
    measure.save("speed_adapters", {"machine": machine, **result, "our_lora_over_peft": against})
    print(json.dumps(rows, indent=1), against)


if __name__ == "__main__":
    main()
