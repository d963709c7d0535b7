"""METEOR 1.5 through its official jar, for those who want the reference itself; `meteor` equals it without Java."""

import shutil
import subprocess
from collections.abc import Sequence

from ossicle.errors import DataError
from ossicle.metrics.caption.meteor import Meteor
from ossicle.metrics.caption.meteor_tables import JAR, folder

TIMEOUT_S = 600


def meteor_jar(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> Meteor:
    """METEOR of candidates against their references, as the jar computes it.

    Args:
        candidates: tokens of each.
        references: tokens of the references of each.

    Raises:
        DataError: if Java or METEOR's files are not here, or the jar fails.
    """
    java = shutil.which("java")
    if java is None:
        raise DataError("the METEOR jar needs Java; install a Java runtime, or use meteor, which needs none")
    command = [java, "-Xmx2G", "-jar", JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
    asked = [
        " ||| ".join(["SCORE", *(" ".join(r) for r in others), " ".join(own)]) + "\n"
        for own, others in zip(candidates, references, strict=True)
    ]
    try:
        stats = _talk(command, "".join(asked))[: len(asked)]
        scores = [float(line) for line in _talk(command, "EVAL ||| " + " ||| ".join(stats) + "\n")]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise DataError(f"METEOR's jar failed: {error}") from None
    if len(scores) != len(asked) + 1:
        raise DataError(f"METEOR's jar gave {len(scores)} scores for {len(asked)} captions")
    return Meteor(scores[-1], tuple(scores[:-1]))


def _talk(command: list[str], text: str) -> list[str]:
    """What the jar answers, line by line."""
    done = subprocess.run(
        command, cwd=folder(), input=text, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT_S,
        check=True,
    )  # fmt: skip
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
