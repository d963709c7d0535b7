"""SPICE (Anderson et al. 2016) through its official jar, which needs Java and the CoreNLP 3.6 files beside it."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ossicle.backbones.weights import home
from ossicle.errors import DataError

JAR = "spice-1.0.jar"
NEEDED = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
TIMEOUT_S = 3600


def folder(given: Path | None = None) -> Path:
    """The folder with the jar and, in its `lib`, CoreNLP: given, `OSSICLE_SPICE`, or `spice` in the cache.

    Raises:
        DataError: naming what is absent and where to get it.
    """
    named = given or (Path(os.environ["OSSICLE_SPICE"]) if "OSSICLE_SPICE" in os.environ else None)
    place = named or home() / "spice"
    absent = [name for name in (JAR, *(f"lib/{n}" for n in NEEDED)) if not (place / name).is_file()]
    if absent:
        raise DataError(
            f"{place} has no {', '.join(absent)}; copy the folder spice of pycocoevalcap there and put the jars of"
            " stanford-corenlp-full-2015-12-09.zip (nlp.stanford.edu/software) into its lib, or point OSSICLE_SPICE at"
            " such a folder"
        )
    return place


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]], *, place: Path | None = None) -> list[float]:
    """SPICE F-score of each candidate, 0 to 1; the corpus score is their mean.

    Args:
        candidates: captions.
        references: captions of each.
        place: see `folder`.

    Raises:
        DataError: if Java or the files are absent, or the jar fails.
    """
    where = folder(place)
    java = shutil.which("java")
    if java is None:
        raise DataError("SPICE needs Java; install a runtime of 8 to 14 (later ones lack its JavaScript engine)")
    items = [
        {"image_id": i, "test": text, "refs": list(others)}
        for i, (text, others) in enumerate(zip(candidates, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        given, out = Path(scratch) / "in.json", Path(scratch) / "out.json"
        given.write_text(json.dumps(items), encoding="utf-8")
        cache = Path(scratch) / "cache"
        cache.mkdir()
        command = [java, "-Xmx8G", "-jar", str((where / JAR).resolve()), str(given)]
        command += ["-cache", str(cache), "-out", str(out), "-subset", "-silent"]
        try:
            subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
            scored = {row["image_id"]: row["scores"]["All"]["f"] for row in json.loads(out.read_text(encoding="utf-8"))}
        except subprocess.CalledProcessError as error:
            last = (error.stderr or "").strip().splitlines()
            raise DataError(f"SPICE's jar failed: {last[-1] if last else error.returncode}") from None
        except (OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            raise DataError(f"SPICE gave no scores: {error}") from None
    return [float(scored[i]) for i in range(len(items))]
