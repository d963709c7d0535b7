"""The training loop: one file, read top to bottom, for every task."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ossicle import terminal
from ossicle.adapters import store
from ossicle.contracts import Batch, Clip, Learner, Task
from ossicle.devices import resolve
from ossicle.errors import CheckpointError, DataError, Interrupted, UsageError
from ossicle.files import write_atomic
from ossicle.training import checkpoint
from ossicle.training.evaluate import bound, evaluate
from ossicle.training.optim import Settings, optimizer, schedule

METRICS = "metrics.jsonl"
LESS_IS_BETTER = frozenset({"log_loss"})


class Trainee(nn.Module):
    """A task's parts as one module, so that accelerate can place and wrap them.

    Args:
        task: whose loss is the forward.
    """

    def __init__(self, task: Learner) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(task.parts())
        self._loss = task.loss

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        return self._loss(batch)


def fit(
    task: Learner,
    train: Sequence[Clip],
    val: Sequence[Clip],
    settings: Settings,
    out: Path,
    *,
    window_s: float | None = None,
    last: int = 0,
    resume: bool = False,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Train a task; `out` gets the weights, `last.ckpt` to go on from, and a line per epoch in metrics.jsonl.

    Args:
        task: what is trained; it ends with the kept weights. With validation clips it must be a Task.
        train: training clips.
        val: clips that choose the best epoch; may be empty, then the last epoch is kept.
        settings: how.
        out: folder, made if needed.
        window_s: longer validation clips are scored in windows of this length.
        last: the epoch after which to stop, on the schedule of all of them; 0 is the last one.
        resume: go on from `last.ckpt`; the result equals that of a run that was never stopped.
        quiet: no progress bar.

    Returns:
        The lines of metrics.jsonl.

    Raises:
        UsageError: if nothing is trainable or there is no training clip.
        DataError: if no training clip can be read.
        CheckpointError: if weights cannot be written; what was saved before stays.
        Interrupted: on Ctrl-C, after saving.
    """
    if not train:
        raise UsageError("no training clips; check the data and its splits")
    run = _Run(task, len(train), settings, out, resume=resume)
    train, val = bound(train, window_s), bound(val, window_s)
    with _stop_on_interrupt() as stop, terminal.progress(quiet) as bar:
        while run.epoch < (last or settings.epochs) and not run.waited:
            epoch, began = run.epoch, time.perf_counter()
            job = bar.add_task(f"epoch {epoch + 1}/{settings.epochs}", total=run.per_epoch, completed=run.step)
            for batch in _batches(task, train, settings, epoch, first=run.step):
                run.advance(batch)
                bar.update(job, advance=1)
                if stop.is_set():
                    run.stop()
            run.end_epoch(val, window_s, time.perf_counter() - began)
            bar.update(job, description=f"epoch {epoch + 1}/{settings.epochs} {run.summary()}")
    run.finish()
    return run.history


class _Run:
    """The moving state of one training."""

    def __init__(self, task: Learner, clips: int, settings: Settings, out: Path, *, resume: bool) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        self.task, self.settings, self.out = task, settings, out
        self.per_epoch = -(-clips // settings.batch)
        AcceleratorState._reset_state(reset_partial_state=True)
        self.precision = resolve(settings.precision)
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(), mixed_precision="bf16" if self.precision == "bfloat16" else "no"
        )
        model = Trainee(task)
        if not any(p.requires_grad for p in model.parameters()):
            raise UsageError("nothing is trainable; choose an adapter or a head that trains")
        optim = optimizer(task.parts(), settings)
        self.model, self.optimizer = self.accelerator.prepare(model, optim)
        updates = -(-self.per_epoch // settings.accumulate) * settings.epochs
        self.schedule = schedule(self.optimizer, settings, updates)
        self.epoch = self.step = self.unread = 0
        self.loss_sum = 0.0
        self.history: list[dict[str, Any]] = []
        self.best: float | None = None
        out.mkdir(parents=True, exist_ok=True)
        if resume:
            self.restore(checkpoint.load(out))

    def advance(self, batch: Batch | DataError) -> None:
        """One step: forward, backward, and every `accumulate` steps an update; an unreadable batch is passed over."""
        if isinstance(batch, Batch):
            self._learn(batch)
        else:
            self.unread += 1
            if self.unread == self.per_epoch:
                raise DataError(f"no training clip can be read: {batch}") from batch
        self.step += 1
        if self.step % self.settings.accumulate and self.step < self.per_epoch:
            return
        if self.settings.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    def _learn(self, batch: Batch) -> None:
        torch.manual_seed(_seed(self.settings.seed, self.epoch, self.step))  # dropout, so that a resumed run is exact
        self.model.train()
        loss = self.model(batch.to(self.accelerator.device))
        self.accelerator.backward(loss / self.settings.accumulate)
        self.loss_sum += loss.item()

    def end_epoch(self, val: Sequence[Clip], window_s: float | None, seconds: float) -> None:
        """Score, keep the best weights, write the line and the state."""
        line: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": (self.epoch + 1) * self.per_epoch,
            "train_loss": round(self.loss_sum / (self.per_epoch - self.unread), 5),
            "lr": self.schedule.get_last_lr()[0],
            "seconds": round(seconds, 2),
        }
        if val:
            assert isinstance(self.task, Task)
            _, scores = evaluate(self.task, val, batch=self.settings.batch, precision=self.precision, window_s=window_s)
            line |= {f"val_{k}": v for k, v in scores.items() if isinstance(v, int | float)}
        self.history.append(line)
        value = line.get(f"val_{self.task.best_by}")
        better = _as_good(self.task.best_by, value, self.best)
        self.best = value if better else self.best
        if better or self.best is None or self.settings.keep != "best":  # without a score the last epoch is kept
            store.save_weights(self.out, self.task.parts())
        self.epoch, self.step, self.unread, self.loss_sum = self.epoch + 1, 0, 0, 0.0
        self.save()

    def save(self) -> None:
        """Everything needed to go on, then the readable log."""
        checkpoint.save(
            self.out,
            {
                "tensors": store.collect(self.task.parts()),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "grads": {k: p.grad for k, p in self._parameters().items() if p.grad is not None},
                "epoch": self.epoch, "step": self.step, "unread": self.unread, "loss_sum": self.loss_sum,
                "best": self.best, "history": self.history,
            },
        )  # fmt: skip
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        write_atomic(self.out / METRICS, lambda part: part.write_text(lines, encoding="utf-8"))

    def stop(self) -> NoReturn:
        """Save and end the run in the middle of an epoch."""
        self.save()
        raise Interrupted(f"stopped in epoch {self.epoch + 1} after step {self.step}; go on with --resume")

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        store.restore(self.task.parts(), state["tensors"])
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as err:
            raise CheckpointError(
                f"{self.out} was begun with other [train] settings ({err}); resume with those"
            ) from err
        self.schedule.load_state_dict(state["schedule"])
        for key, parameter in self._parameters().items():
            grad = state["grads"].get(key)
            parameter.grad = None if grad is None else grad.to(parameter.device)
        self.epoch, self.step, self.loss_sum = state["epoch"], state["step"], state["loss_sum"]
        self.unread = state["unread"]
        self.best, self.history = state["best"], state["history"]

    def finish(self) -> None:
        """Leave the task with the kept weights, in eval mode."""
        store.restore(self.task.parts(), store.read_weights(self.out))
        for module in self.task.parts().values():
            module.eval()

    @property
    def waited(self) -> bool:
        """Whether as many epochs as `patience` brought nothing better."""
        settings = self.settings
        if self.best is None or settings.keep != "best" or not settings.patience:
            return False
        return len(self.history) - best_epoch(self.history, self.task.best_by) >= settings.patience

    def summary(self) -> str:
        """The last epoch in a few words."""
        line = self.history[-1]
        shown = [k for k in ("train_loss", f"val_{self.task.best_by}") if k in line]
        return " ".join(f"{k}={line[k]:.3f}" for k in shown)

    def _parameters(self) -> dict[str, nn.Parameter]:
        parts = self.task.parts()
        return {f"{n}/{k}": p for n, m in parts.items() for k, p in m.named_parameters() if p.requires_grad}


def _as_good(name: str, value: float | None, best: float | None) -> bool:
    """Whether there is a score, and at least as good a one: of equal epochs the later one is kept."""
    if value is None or math.isnan(value):
        return False
    return best is None or (value <= best if name in LESS_IS_BETTER else value >= best)


def best_epoch(history: Sequence[dict[str, Any]], best_by: str) -> int:
    """The epoch, from 1, whose weights `keep=best` keeps; 0 if none has the score."""
    best: float | None = None
    found = 0
    for line in history:
        value = line.get(f"val_{best_by}")
        if _as_good(best_by, value, best):
            best, found = value, int(line["epoch"])
    return found


def _batches(
    task: Learner, clips: Sequence[Clip], settings: Settings, epoch: int, *, first: int
) -> Iterator[Batch | DataError]:
    """The batches of one epoch from step `first`, or why one cannot be read; the next loads while one is trained on."""
    generator = torch.Generator().manual_seed(_seed(settings.seed, epoch, -1))
    order = torch.randperm(len(clips), generator=generator).tolist()
    groups = [order[i : i + settings.batch] for i in range(0, len(order), settings.batch)]

    def load(step: int) -> Batch | DataError:
        draw = torch.Generator().manual_seed(_seed(settings.seed, epoch, step))
        try:
            return task.collate([clips[i] for i in groups[step]], draw)
        except DataError as err:
            return err

    with ThreadPoolExecutor(max_workers=1) as loader:
        ahead = loader.submit(load, first) if first < len(groups) else None
        for step in range(first, len(groups)):
            assert ahead is not None
            batch = ahead.result()
            ahead = loader.submit(load, step + 1) if step + 1 < len(groups) else None
            yield batch


def _seed(seed: int, epoch: int, step: int) -> int:
    """A seed of its own for every step of every run."""
    return (seed * 1_000_003 + epoch) * 1_000_003 + step + 1


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that a step is never cut in half; a second Ctrl-C stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
