"""What a run needs to go on exactly where it stopped."""

from pathlib import Path
from typing import Any

import torch

from ossicle.errors import CheckpointError
from ossicle.files import write_atomic

LAST = "last.ckpt"
KEYS = {"tensors", "optimizer", "schedule", "grads", "epoch", "step", "unread", "loss_sum", "best", "history"}


def save(folder: Path, state: dict[str, Any]) -> None:
    """Keep the state of a run.

    Raises:
        CheckpointError: if it cannot be written; an earlier state stays.
    """
    write_atomic(folder / LAST, lambda part: torch.save(state, part))


def load(folder: Path) -> dict[str, Any]:
    """Read the state of a run.

    Raises:
        CheckpointError: if it is absent or broken.
    """
    path = folder / LAST
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise CheckpointError(f"nothing to resume: {path} does not exist; train without --resume first") from None
    except Exception as err:
        raise CheckpointError(
            f"cannot read {path}: {' '.join(str(err).split())}; train again without --resume"
        ) from err
    if not isinstance(state, dict) or not state.keys() >= KEYS:
        raise CheckpointError(f"{path} is not the state of a training run; train again without --resume")
    return state
