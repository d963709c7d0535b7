"""Attentive pooling, and tuning on pairs before the head, beside the fitted probe with usual pooling.

    python benchmarks/quality_pooling.py --data esc50:PATH words:PATH digits:PATH [--kind pairs] [--encoder mn04]

Pooling: SimPool (arXiv 2309.06891) and the queries of efficient probing (arXiv 2506.10178) learn with a linear head on
cached tokens; `trained` is the accuracy of that head, `accuracy` of one fitted to the pooled vectors. Their settings
are the best on fold 1, learnt from 8 clips a class of folds 2 and 3; words and digits take the same ones. Controls: the
fitted head with `usual` pooling, with `mean+max`, with `whitened` features; a `trained head` and a `tuned head` on the
usual ones.

Pairs: SetFit's recipe (arXiv 2209.11055). The adapter learns that clips of one class are alike and of two are not, for
all pairs in batches of eight classes by four clips, then a head is fitted; `labels` is usual training as long.
`with frozen` fits the head on the frozen encoder's features beside the tuned ones.
ESC-50 is tested on fold 4, learnt from folds 1 to 3. A row is written when it ends and never run twice.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

import measure
from attentive import BATCH, Mean, Pooled, Queries, SimPool
from ossicle import adapters, backbones
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Clip
from ossicle.data import Dataset, open_data
from ossicle.data.clips import load_waves
from ossicle.data.splits import per_class
from ossicle.tasks import features, fitted
from ossicle.tasks.features import FeatureStore
from ossicle.tasks.fitted import Fitted

RESULT = measure.RESULTS / "quality_pooling.json"
ENCODERS = ("mn04", "whisper-tiny.en")
ADAPTERS = {"mn04": "full()", "whisper-tiny.en": "lora(rank=8)+norm()"}
NAMES = {"words": "speech-commands", "digits": "fsdd"}
LONG, SQUEEZE = 100, 5  # of more tokens than this, the means of so many neighbours: for Whisper's, a row each 0.1 s
TOGETHER = 4  # clips of one class side by side in a batch of pairs
WARMUP = 0.1
DECAY = 0.01
TEMPERATURE = 0.1  # of the contrastive loss
HEAD_LR = 1e-3
# "usual" starts as the fitted probe: even attention, values as they are, the fitted head. "fresh" starts from nothing.
GRID = [
    {"start": start, "lr": lr, "epochs": epochs}
    for start, rates in (("usual", (3e-4, 1e-3)), ("fresh", (1e-3, 3e-3)))
    for lr in rates
    for epochs in (5, 20)
]
# Controls without a pooling of their own: a head from nothing, and the fitted one trained on.
STARTS = {"trained head": ("fresh",), "tuned head": ("usual",)}
# Tried on the best of the grid: SimPool's exponent for this kind of network, other numbers of queries, a lower rate,
# and the settings of the probes of the other quality benchmarks.
MORE = {
    "trained head": {name: [{"lr": 2e-3, "epochs": 30, "batch": 8, "decay": 0.1}] for name in ENCODERS},
    "simpool": {"mn04": [{"gamma": 2.0}], "whisper-tiny.en": [{"gamma": 1.25}, {"lr": 1e-4}]},
    "queries": {
        "mn04": [{"queries": 8}, {"queries": 32}],
        "whisper-tiny.en": [{"queries": 8}, {"queries": 32}, {"lr": 1e-4}],
    },
}
PAIR_LR = {"mn04": 1e-4, "whisper-tiny.en": 1e-3}  # the usual ones of every weight and of adapters
PAIR_DRAWS = {
    "mn04": {"cosine": 1, "contrastive": 1},
    "whisper-tiny.en": {"cosine": 3, "contrastive": 1, "labels": 1},
}
PAIR_EPOCHS = 4
Array = np.ndarray[Any, Any]
Job = dict[str, Any]


def descend(
    groups: list[Job], batches: Sequence[list[int]], loss: Callable[[list[int]], Tensor], decay: float = DECAY
) -> None:
    """AdamW over batches of rows, the rate rising first and then along a cosine to 0, as the library's loop has it."""
    optimizer = torch.optim.AdamW(groups, weight_decay=decay)
    warm = int(len(batches) * WARMUP)

    def factor(step: int) -> float:
        done = (step - warm) / max(1, len(batches) - warm)
        return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for rows in batches:
        optimizer.zero_grad()
        loss(rows).backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        schedule.step()


def shuffled(count: int, epochs: int, seed: int, batch: int = BATCH) -> list[list[int]]:
    """Batches of rows in random order."""
    generator = torch.Generator().manual_seed(seed)
    order = [torch.randperm(count, generator=generator).tolist() for _ in range(epochs)]
    return [rows[first : first + batch] for rows in order for first in range(0, count, batch)]


def side_by_side(wanted: Array, epochs: int, seed: int) -> list[list[int]]:
    """Batches in which `TOGETHER` clips of a class are together, every clip once an epoch."""
    random, made = np.random.default_rng(seed), []
    for _ in range(epochs):
        own = [random.permutation(np.flatnonzero(wanted == n)) for n in np.unique(wanted)]
        parts = [rows[n : n + TOGETHER].tolist() for rows in own for n in range(0, len(rows), TOGETHER)]
        parts = [parts[n] for n in random.permutation(len(parts))]
        step = BATCH // TOGETHER
        made += [sum(parts[n : n + step], []) for n in range(0, len(parts), step)]
    return made


def cosine(x: Tensor, same: Tensor) -> Tensor:
    """Squared distance of the cosine of each pair to 1 or 0; pairs of one class weigh as much as all others."""
    off = (x @ x.T - same.float()).square()
    return (off[same].mean() + off[~same & ~torch.eye(len(x), dtype=torch.bool)].mean()) / 2


def contrastive(x: Tensor, same: Tensor) -> Tensor:
    """Supervised contrastive (arXiv 2004.11362): minus the log share of a clip's own class among all others."""
    itself = torch.eye(len(x), dtype=torch.bool)
    logs = (x @ x.T / TEMPERATURE).masked_fill(itself, -torch.inf).log_softmax(dim=1)
    counts = same.sum(dim=1)
    return -(logs.masked_fill(~same, 0).sum(dim=1)[counts > 0] / counts[counts > 0]).mean()


PAIRS = {"cosine": cosine, "contrastive": contrastive}


def squeezed(tokens: Tensor) -> Tensor:
    """(tokens, width) to the means of `SQUEEZE` neighbours."""
    return torch.stack([part.float().mean(dim=0) for part in tokens.split(SQUEEZE)]).half()


class Parts:
    """The clips of one job, with what is known of them.

    Args:
        dataset: all clips.
        job: data, clips, fold, seed.
        encoder: frozen.
    """

    def __init__(self, dataset: Dataset, job: Job, encoder: Encoder) -> None:
        if job["data"] == "esc50":
            train = {"4": ("1", "2", "3"), "1": ("2", "3")}[job["fold"]]
            test = [c for c in dataset.clips if c.split == job["fold"]]
        else:
            train, test = ("train",), [c for c in dataset.clips if c.split == "test"][::3]
        self.train = per_class([c for c in dataset.clips if c.split in train], job["clips"], job["seed"])
        self.test, self.encoder, self.seed = test, encoder, job["seed"]
        self.labels = sorted({c.labels[0] for c in self.train})
        self.wanted = np.array([self.labels.index(c.labels[0]) for c in self.train])
        self.truth = np.array([self.labels.index(c.labels[0]) for c in self.test])

    def get(self, clips: Sequence[Clip], kind: str) -> list[Tensor]:
        """Cached features or tokens of clips."""
        store = FeatureStore(self.encoder, self.encoder.usual_layers, kind, memory_bytes=0)
        found = [value for value in store.get(clips) if isinstance(value, Tensor)]
        return [squeezed(value) if kind == features.SEQUENCE and len(value) > LONG else value for value in found]

    def usual(self) -> tuple[Array, Array]:
        """Features of training and test clips by the encoder's usual pooling."""
        learn, test = (torch.stack(self.get(c, self.encoder.usual_pooling)).numpy() for c in (self.train, self.test))
        return learn, test

    def fit(self, learn: Array) -> Fitted:
        """The fitted head of features."""
        groups = [c.group or str(c.path) for c in self.train]
        return fitted.fit([learn], np.eye(len(self.labels))[self.wanted], groups, seed=self.seed)

    def score(self, head: Fitted, test: Array) -> float:
        """Accuracy of a fitted head on features of the test clips."""
        return self.right(((test - head.mean) / head.std) @ head.weight.T + head.bias)

    def right(self, logits: Array) -> float:
        """The share of test clips whose best class is theirs."""
        return round(float((logits.argmax(axis=1) == self.truth).mean()), 4)


def whitened(learn: Array, test: Array) -> tuple[Array, Array]:
    """Features whose directions of much spread are damped: by the root of their variance plus the mean of all."""
    mean, std = learn.mean(axis=0), np.maximum(learn.std(axis=0), 1e-5)
    learn, test = (learn - mean) / std, (test - mean) / std
    values, vectors = np.linalg.eigh(learn.T @ learn / len(learn))
    damp = (vectors / np.sqrt(np.maximum(values, 0) + values.mean())) @ vectors.T
    return learn @ damp, test @ damp


POOLINGS: dict[str, Callable[[int, Job], nn.Module]] = {
    "trained head": lambda width, setting: Mean(),
    "tuned head": lambda width, setting: Mean(),
    "simpool": lambda width, setting: SimPool(width, setting.get("gamma", 1.0), setting["start"]),
    "queries": lambda width, setting: Queries(width, setting.get("queries", 16), setting["start"]),
}


def pooled(job: Job, parts: Parts) -> Job:
    """One row of a pooling: trained with its head, then under a fitted one."""
    learn, test = parts.usual()
    if job["method"] == "mean+max":
        found = ([t.float() for t in parts.get(c, "tokens")] for c in (parts.train, parts.test))
        learn, test = (np.stack([torch.cat([t.mean(0), t.amax(0)]).numpy() for t in own]) for own in found)
    if job["method"] == "whitened":
        learn, test = whitened(learn, test)
    head = parts.fit(learn)
    if job["method"] not in POOLINGS:
        return {"accuracy": parts.score(head, test), "strength": head.strength}
    kind = parts.encoder.usual_pooling if job["method"] in STARTS else "tokens"
    tokens, others = ([t.view(-1, t.shape[-1]) for t in parts.get(c, kind)] for c in (parts.train, parts.test))
    torch.manual_seed(job["seed"])
    setting, wanted = job["setting"], torch.from_numpy(parts.wanted)
    model = Pooled(POOLINGS[job["method"]](learn.shape[1], setting), head, setting["start"])
    batches = shuffled(len(tokens), setting["epochs"], job["seed"], setting.get("batch", BATCH))
    groups, decay = [{"params": list(model.parameters()), "lr": setting["lr"]}], setting.get("decay", DECAY)
    descend(groups, batches, lambda rows: F.cross_entropy(model([tokens[n] for n in rows]), wanted[rows]), decay)
    own, new = (model.all(rows) for rows in (tokens, others))
    with torch.no_grad():
        trained = parts.right(model.linear(new * model.scale).numpy())
    head = parts.fit(own.numpy())
    return {"accuracy": parts.score(head, new.numpy()), "strength": head.strength, "trained": trained}


def paired(job: Job, parts: Parts) -> Job:
    """One row of an adapter that is tuned, on pairs or on labels, before a head is fitted to its features."""
    encoder, setting = parts.encoder, job["setting"]
    frozen = parts.usual()
    head = parts.fit(frozen[0])
    adapters.inject(encoder, adapters.parse(ADAPTERS[encoder.name]), seed=job["seed"])
    try:
        hear = Hearing(encoder, parts.train, head)
        wanted = torch.from_numpy(parts.wanted)
        linear = nn.Linear(len(head.mean), len(parts.labels))
        groups = [{"params": [p for p in encoder.parameters() if p.requires_grad], "lr": setting["lr"]}]
        batches = side_by_side(parts.wanted, setting["epochs"], job["seed"])
        if job["method"] == "labels":
            linear.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})
            groups.append({"params": list(linear.parameters()), "lr": HEAD_LR})
            batches = shuffled(len(wanted), setting["epochs"], job["seed"])

        def loss(rows: list[int]) -> Tensor:
            x, own = hear(rows), wanted[rows]
            if job["method"] == "labels":
                return F.cross_entropy(linear(x), own)
            same = (own[:, None] == own) & ~torch.eye(len(own), dtype=torch.bool)
            return PAIRS[job["method"]](F.normalize(x, dim=1), same)

        descend(groups, batches, loss)
        learn, test = hear.all(), Hearing(encoder, parts.test, head).all()
    finally:
        adapters.remove(encoder, "default")
    found = parts.fit(learn)
    both = parts.fit(np.concatenate([frozen[0], learn], axis=1))
    row = {"accuracy": parts.score(found, test), "strength": found.strength}
    row["with frozen"] = parts.score(both, np.concatenate([frozen[1], test], axis=1))
    if job["method"] == "labels":
        row["trained"] = parts.right(linear(torch.from_numpy(test)).detach().numpy())
    return row


class Hearing:
    """Clips through the front end once, and from there to pooled features as the fitted head has them.

    Args:
        encoder: with its adapter.
        clips: whose waveforms are read.
        head: fitted to the frozen encoder's features.
    """

    def __init__(self, encoder: Encoder, clips: Sequence[Clip], head: Fitted) -> None:
        waves = load_waves(clips, encoder.rate_hz, fewest=encoder.fewest)
        self.frames = [encoder.listen(wave[None])[0][0] for wave in waves if isinstance(wave, Tensor)]
        self.encoder = encoder
        self.mean, self.std = (torch.from_numpy(v).float() for v in (head.mean, head.std))

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """(rows, width) features."""
        own = [self.frames[n] for n in rows]
        lengths = torch.tensor([len(frames) for frames in own])
        frames, known = nn.utils.rnn.pad_sequence(own, batch_first=True), lengths.min() < lengths.max()
        encoded = self.encoder.encode(frames, lengths if known else None, layers=self.encoder.usual_layers)
        return (features.pool(encoded, self.encoder.usual_layers, self.encoder.usual_pooling) - self.mean) / self.std

    @torch.no_grad()
    def all(self) -> Array:
        """Of every clip, in order."""
        found = [self(range(n, min(n + BATCH, len(self.frames)))) for n in range(0, len(self.frames), BATCH)]
        return torch.cat(found).numpy()


def jobs(name: str, encoder: str) -> Iterator[Job]:
    """Every row of a pooling that is wanted: the settings' first, on ESC-50's fold 1."""
    begin = {"data": name, "encoder": encoder}
    if name == "esc50":
        tried = begin | {"clips": 8, "fold": "1", "seed": 0}
        yield from (tried | {"method": method, "setting": {}} for method in ("usual", "whitened"))
        for method in POOLINGS:
            starts = STARTS.get(method, ("usual", "fresh"))
            yield from (tried | {"method": method, "setting": s} for s in GRID if s["start"] in starts)
            best = chosen(encoder, method, GRID)
            yield from (tried | {"method": method, "setting": best | s} for s in MORE.get(method, {}).get(encoder, []))
    for few, seeds in {"esc50": ((15, 3), (8, 3))}.get(name, ((15, 2),)):
        for seed in range(seeds):
            row = begin | {"clips": few, "fold": "4" if name == "esc50" else "", "seed": seed}
            yield from (row | {"method": method, "setting": {}} for method in ("usual", "mean+max", "whitened"))
            yield from (row | {"method": method, "setting": chosen(encoder, method)} for method in POOLINGS)


def pair_jobs(name: str, encoder: str) -> Iterator[Job]:
    """Every row of an adapter that is wanted."""
    begin = {"data": name, "encoder": encoder, "clips": 8, "fold": "4"}
    setting = {"lr": PAIR_LR[encoder], "epochs": PAIR_EPOCHS}
    for method, draws in PAIR_DRAWS[encoder].items():
        yield from (begin | {"seed": seed, "method": method, "setting": setting} for seed in range(draws))


def chosen(encoder: str, method: str, among: Sequence[Job] = ()) -> Job:
    """The setting that was best on fold 1, under whichever head it was better."""
    tried = [r for r in read() if r["fold"] == "1" and r["encoder"] == encoder and r["method"] == method]
    rows = [r for r in tried if not among or r["setting"] in among]
    best: Job = max(rows, key=lambda r: max(r["accuracy"], r.get("trained", 0.0)))["setting"]
    return best


def read() -> list[Job]:
    """Rows that are there already."""
    return json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []


def means(rows: list[Job]) -> list[Job]:
    """Mean accuracies of each method over its draws, without what was tried on fold 1."""
    keys = ("data", "clips", "encoder", "method")
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for row in rows:
        if row["fold"] != "1":
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    made = []
    for group, own in groups.items():
        scores = {key: [r[key] for r in own if key in r] for key in ("accuracy", "trained", "with frozen")}
        found = {key: round(float(np.mean(values)), 4) for key, values in scores.items() if values}
        made.append(dict(zip(keys, group, strict=True)) | found | {"draws": len(own)})
    return made


def keep(row: Job, threads: int) -> None:
    """Add a row to the file, which several copies of this script may write to."""
    with FileLock(Path(tempfile.gettempdir()) / f"{RESULT.stem}.lock"):
        rows = [*read(), row]
        by = ("data", "fold", "clips", "encoder", "method", "setting", "seed")
        rows.sort(key=lambda r: [str(r[key]) for key in by])
        machine = measure.machine(("torch", "scikit-learn", "soundfile", "soxr")) | {"threads": threads}
        measure.save(RESULT.stem, {"machine": machine, "what": __doc__, "means": means(rows), "rows": rows})


def main() -> None:
    """Run what is not there yet and keep each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--kind", choices=("pooling", "pairs"), default="pooling")
    parser.add_argument("--encoder", choices=ENCODERS, nargs="+", default=ENCODERS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    work, wanted = {"pooling": (pooled, jobs), "pairs": (paired, pair_jobs)}[args.kind]
    for name in args.encoder:
        encoder = backbones.load(name)
        encoder.eval()
        for text in args.data:
            data, _, path = text.partition(":")
            dataset = open_data(f"{NAMES.get(data, data)}:{path}")
            for job in wanted(data, name):
                if any(all(row.get(key) == value for key, value in job.items()) for row in read()):
                    continue
                began = time.perf_counter()
                row = {**job, **work(job, Parts(dataset, job, encoder))}
                keep({**row, "seconds": round(time.perf_counter() - began, 1)}, args.threads)
                print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
