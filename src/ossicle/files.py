"""Files that are either the old one or the new one, never half of one."""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from ossicle.errors import CheckpointError


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write through a temporary neighbour and rename it; on any failure the old file stays.

    Args:
        path: the file to make or replace.
        write: called with the temporary path.

    Raises:
        CheckpointError: if it cannot be written, such as on a full disk.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        os.replace(part, path)
    except Exception as err:  # writers of other libraries raise their own kinds on a full disk
        kept = "the earlier file is intact" if path.exists() else "nothing was written"
        reason = " ".join(str(err).split())
        raise CheckpointError(
            f"cannot write {path}: {reason}; {kept}; free some space or choose another folder"
        ) from err
    finally:
        with contextlib.suppress(OSError):  # such as where a parent is a file
            part.unlink(missing_ok=True)
