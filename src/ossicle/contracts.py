"""What the parts say to each other: Clip, Batch, TokenGrid, Context, Encoded, Prediction; Backbone and Task.

Nothing here computes; every layer above imports these words and none adds its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Clip:
    """A stretch of one sound file with what is known of it.

    Args:
        path: the sound file.
        start: first second used.
        end: second after the last one used; None means the end of the file.
        labels: class names; exactly one for single-label tasks.
        captions: reference texts.
        split: the official split or fold it belongs to, as text ("train", "1").
        group: the recording it was cut from; a group is never split between training and validation.
        licence: the clip's own licence as the data set states it.
        name: the name it has in its data set (never a path of this machine).
        channel: of a file with several: 0 averages all, 1 is the first.
        text_only: there are captions but no sound; the path is a name.
    """

    path: Path
    start: float = 0.0
    end: float | None = None
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    split: str = ""
    group: str = ""
    licence: str = ""
    name: str = ""
    channel: int = 0
    text_only: bool = False


@dataclass(frozen=True)
class TokenGrid:
    """Where tokens lie in time and frequency.

    Args:
        freq: rows; 1 where tokens run in time only.
        time: columns.
        order: "freq" if the index is freq * time + t (AST), "time" if it is t * freq + f (BEATs).
        extra: tokens in front of the grid (class, distillation, prompts).
    """

    freq: int
    time: int
    order: Literal["freq", "time"] = "freq"
    extra: int = 0

    @property
    def tokens(self) -> int:
        """All tokens, extra ones included."""
        return self.extra + self.freq * self.time


@dataclass(frozen=True)
class Context:
    """What a block's parts may ask about the tokens they are given.

    Args:
        grid: the token grid before any token was dropped.
        adapter: the adapter's name, or None for the frozen model; all rows share it.
        kept: (batch, kept) int64 indices of grid tokens that were not dropped, or None.
        mask: (batch, 1, 1, tokens) bool, True where a token is real; None when all are.
    """

    grid: TokenGrid
    adapter: str | None = None
    kept: Tensor | None = None
    mask: Tensor | None = None


@dataclass
class Encoded:
    """What a backbone returns.

    Args:
        tokens: (batch, tokens, dim), after the final norm.
        grid: their layout.
        mask: (batch, tokens) bool, True where a token is real; None when all are.
        hidden: layer number to (batch, tokens, dim); 0 is the stem's output, the depth is `tokens`.
        masks: layer number to the mask of that layer, which has fewer tokens where prompts come in later.
        front: class and distillation tokens, which are the first ones.
    """

    tokens: Tensor
    grid: TokenGrid
    mask: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    masks: dict[int, Tensor | None] = field(default_factory=dict)
    front: int = 0


@dataclass
class Batch:
    """Clips as tensors.

    Args:
        clips: the rows.
        waves: (batch, samples) float32 in [-1, 1] at the backbone's rate; None when features are given.
        lengths: (batch,) int64 samples that are real, or None when all are.
        features: (batch, width) float32 pooled features from the cache, or None.
        tokens: (batch, tokens, dim) cached outputs of a lower block instead of waveforms, or None.
        mask: (batch, tokens) bool where `tokens` are real, None when all are.
        grid: of `tokens`.
        targets: what the task's collate made of labels or captions.
        seed: of the random changes made after the front end; None for none.
        others: the same clips as the further encoders of a joined backbone hear them.
        ids: (batch, tokens) int64 of text that is read beside `tokens`, or None.
        heard: what was heard of each clip, in the task's own terms.
    """

    clips: Sequence[Clip]
    waves: Tensor | None = None
    lengths: Tensor | None = None
    features: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    grid: TokenGrid | None = None
    targets: Tensor | None = None
    seed: int | None = None
    others: tuple["Batch", ...] = ()
    ids: Tensor | None = None
    heard: Sequence[Any] = ()

    @property
    def parts(self) -> tuple["Batch", ...]:
        """What each encoder hears, in order."""
        return (self, *self.others)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        tensors = {k: getattr(self, k) for k in ("waves", "lengths", "features", "tokens", "mask", "targets", "ids")}
        others = tuple(other.to(device) for other in self.others)
        return replace(self, others=others, **{k: v.to(device) for k, v in tensors.items() if v is not None})


# What was heard: name, score, and the seconds of its file where it begins and ends.
Tag = tuple[str, float, float, float]


@dataclass
class Prediction:
    """One result row; the same fields in json lines, csv, parquet and HTTP.

    Args:
        path: the file as it was given.
        start: seconds.
        end: seconds.
        label: the best class (or several joined by ";" for multi-label), or None.
        score: its probability.
        scores: class name to probability; of a tagger those of 0.01 or more, the highest first.
        caption: generated text, or None.
        error: one line saying why there is no result, or None.
        model: the name of the adapter's folder, or of the tagger.
        tags: of a caption, what was heard: name, score, start and end in seconds of the file (not of the window).
    """

    path: str
    start: float = 0.0
    end: float | None = None
    label: str | None = None
    score: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    caption: str | None = None
    error: str | None = None
    model: str = ""
    tags: list[Tag] = field(default_factory=list)


class Backbone(Protocol):
    """A frozen encoder with its own front end."""

    name: str
    dim: int
    depth: int
    rate_hz: int

    def __call__(
        self,
        waves: Tensor,
        lengths: Tensor | None = None,
        *,
        layers: Sequence[int] = (),
        adapter: str | tuple[str | None, ...] | None = None,
    ) -> Encoded:
        """Encode (batch, samples) float32 at `rate_hz`."""
        ...


class Learner(Protocol):
    """All the trainer knows of what it trains."""

    best_by: str

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        """Clips to tensors; random augmentation only where a generator is given."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """A scalar to minimise."""
        ...

    def parts(self) -> dict[str, nn.Module]:
        """Prefix in the saved file to module: backbone, head, mapper, projection."""
        ...


class Answerer(Protocol):
    """What predicts, trained or as it was published: all that predict knows of it."""

    kind: str
    unreadable: dict[str, str]

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        """Clips to tensors."""
        ...

    def predict(self, batch: Batch) -> list[Prediction]:
        """One row per clip."""
        ...

    def parts(self) -> dict[str, nn.Module]:
        """Name to module: all that computes."""
        ...


@runtime_checkable
class Task(Learner, Answerer, Protocol):
    """What trains and predicts: all that validation and the store know of it."""

    def average(self, rows: Sequence[Prediction]) -> Prediction:
        """One row for the windows of one clip."""
        ...

    def score(self, clips: Sequence[Clip], rows: Sequence[Prediction]) -> dict[str, Any]:
        """Metrics by name; `best_by` names the one that chooses the best epoch (more is better, but of log_loss)."""
        ...
