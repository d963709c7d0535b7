"""Sound files to waveforms: find, probe, load, cut into windows.

A stretch of a file gives the numbers that the same stretch of the whole file has: it is decoded and resampled with a
margin on both sides that is then cut off, so windows of a long recording have no clicks at their edges.
"""

import fnmatch
import glob
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr
import torch

from ossicle.errors import AudioError, DataError, UsageError
from ossicle.sound import decoding
from ossicle.sound.decoded import Decoded, Samples
from ossicle.sound.decoded import Info as Info

DECODE_VERSION = "3"

SUFFIXES = (
    *(".wav", ".wave", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".sph", ".gsm"),
    *(".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".wv", ".tta", ".ac3"),
    *(".m4a", ".m4b", ".mp4", ".aac", ".webm", ".mka", ".wma", ".amr", ".3gp"),
)

MAX_PEAK = 16.0
TOLERANCE_S = 0.1
# A rest shorter than this says little and is below what some front ends take.
SHORTEST_REST_S = 0.5


def probe(path: str | Path) -> Info:
    """Read length, rate and channels without decoding.

    Raises:
        AudioError: if the file is missing, unreadable, empty or no sound.
    """
    return decoding.probe(Path(path))


def load(
    path: str | Path, rate_hz: int, *, start: float = 0.0, end: float | None = None, channel: int = 0
) -> torch.Tensor:
    """Decode a file, or a stretch of it, to mono at `rate_hz`.

    soxr resamples at its HQ setting, and what overshoots is clipped to [-1, 1].

    Args:
        path: the sound file.
        rate_hz: samples per second wanted.
        start: first second wanted.
        end: second after the last one wanted, at most 0.1 s after the sound's end; None means all there is.
        channel: 0 averages all, 1 is the first; a sound with only one gives it whichever is wanted.

    Returns:
        (samples,) float32 in [-1, 1]; sample 0 is sample round(start * rate_hz) of the whole file.

    Raises:
        AudioError: if the file is missing, empty, cut off, no sound or not finite, or the stretch or the channel is not
            in it.
        UsageError: if `rate_hz` is not positive or `channel` is negative.
    """
    path = Path(path)
    if rate_hz <= 0:
        raise UsageError(f"rate_hz came as {rate_hz}; wanted samples per second above 0")
    if channel < 0:
        raise UsageError(f"channel came as {channel}; wanted 1 for the first, or 0 for the mean of all")
    if not (0.0 <= start < math.inf and (end is None or start < end < math.inf)):
        raise AudioError(f"{path}: seconds {start} to {end} were asked for; start must be 0 or more and before end")
    try:
        decoded = decoding.decode(path, rate_hz, start, end, channel)
        _check_reach(path, decoded, start, end)
        return torch.from_numpy(_resample(path, decoded, rate_hz, start, end))
    except MemoryError:
        raise AudioError(f"{path}: too long to fit in memory at once; ask for a stretch with start and end") from None


def find(paths: Sequence[str | Path], passed: list[str] | None = None) -> list[Path]:
    """List sound files named one by one, in folders (searched deeply, sorted, hidden ones left out) or by globs.

    A file named by itself is taken whatever its suffix is; in folders and globs only `SUFFIXES` count. Links are
    followed as if their target lay in their place.

    Args:
        paths: files, folders and globs.
        passed: gets a line for everything that was passed over, as `walk` says it.

    Raises:
        DataError: if a path does not exist or holds no sound.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_dir():
            matches = _in_folder(path, passed)
        elif path.exists():
            matches = [path]
        else:
            hits = _hits(str(given), passed)
            if not hits:
                raise DataError(f"{given}: no such file, folder or glob; check the spelling and the working folder")
            matches = [p for hit in hits for p in (_in_folder(hit, passed) if hit.is_dir() else _sounds([hit]))]
        if not matches:
            raise DataError(f"{given}: no sound files in it; wanted one of {' '.join(SUFFIXES)}")
        found.update(dict.fromkeys(matches))
    if passed is not None:
        passed[:] = dict.fromkeys(passed)
    return list(found)


def walk(folder: Path, passed: list[str] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Each folder at and below one, with the names of its files; hidden folders and files are left out.

    Args:
        folder: where to begin. Links to folders are followed, except for one that leads back to a folder it lies in.
        passed: gets a line for each link that leads back or nowhere, and each folder that cannot be read.
    """
    told: list[str] = [] if passed is None else passed

    def refused(error: OSError) -> None:
        told.append(f"{error.filename} cannot be read ({error.strerror}) and is passed over; check its permissions")

    for parent, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        back = [name for name in folders if leads_back(here / name)]
        told += [f"{here / name} is a link back to a folder that it lies in and is passed over" for name in back]
        folders[:] = [name for name in folders if name not in back]
        names = sorted(name for name in names if not name.startswith("."))
        # a sound that is not there is told where it is read, with its own row
        told += [
            f"{here / name} is a link to what is not there and is passed over"
            for name in names
            if Path(name).suffix.lower() not in SUFFIXES and (here / name).is_symlink() and not (here / name).exists()
        ]
        yield here, names


def leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in, so that following it has no end."""
    if not folder.is_symlink():
        return False
    real, parents = os.path.realpath(folder), Path(os.path.abspath(folder)).parents
    # where links were followed, the way to a folder is another than the folders above its real place
    on_the_way = real in {os.path.realpath(parent) for parent in parents}
    return on_the_way or Path(os.path.realpath(folder.parent)).is_relative_to(real)


def windows(duration_s: float, window_s: float, hop_s: float) -> list[tuple[float, float]]:
    """Cover a whole file with windows of one length, and a shorter one at the end for what is left over.

    Args:
        duration_s: seconds to cover.
        window_s: seconds of a window; a file no longer than this gives one window of its own length.
        hop_s: seconds from one start to the next, at most `window_s` so that nothing is left out.

    Returns:
        (start, end) in seconds; starts are multiples of `hop_s` and the last end is `duration_s`.

    Raises:
        UsageError: if a length is not positive or the hop is longer than the window.
    """
    if not (0 < duration_s < math.inf and 0 < hop_s <= window_s):
        raise UsageError(
            f"windows of {window_s} s every {hop_s} s over {duration_s} s; wanted lengths above 0 and hop <= window"
        )
    tiny = 1e-6
    if duration_s <= window_s + tiny:
        return [(0.0, duration_s)]
    count = int((duration_s - window_s + tiny) / hop_s) + 1
    spans = [(k * hop_s, min(k * hop_s + window_s, duration_s)) for k in range(count)]
    if spans[-1][1] < duration_s - tiny:
        spans.append((count * hop_s, duration_s))
    return spans


def rested(spans: list[tuple[float, float]], window_s: float) -> list[tuple[float, float]]:
    """The same windows, the last one begun earlier where it would be a rest of less than half a second."""
    start, end = spans[-1]
    if start > 0:
        start = min(start, math.floor((end - min(SHORTEST_REST_S, window_s)) * 1000) / 1000)
    return [*spans[:-1], (start, end)]


def content_hash(path: str | Path) -> str:
    """The blake2b digest, 32 hexadecimal digits, of a file's bytes.

    Raises:
        AudioError: if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def _in_folder(folder: Path, passed: list[str] | None) -> list[Path]:
    """Sound files below a folder, sorted, without hidden files and folders."""
    return sorted(_sounds([parent / name for parent, names in walk(folder, passed) for name in names]))


def _hits(pattern: str, passed: list[str] | None) -> list[Path]:
    """Files and folders that a glob names, sorted; `walk` looks for a **, as links that lead back have no end."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return [Path(hit) for hit in sorted(glob.glob(pattern))]
    plain = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    base, wanted = Path(*parts[:plain]), parts[plain:]
    places = [place for parent, names in walk(base, passed) for place in (parent, *(parent / name for name in names))]
    return sorted(place for place in places if _matches(place.relative_to(base).parts, wanted))


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the parts of a path are those of a glob, where ** stands for any number of folders."""
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_matches(parts[k:], wanted[1:]) for k in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatch(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])


def _sounds(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in SUFFIXES]


def _check_reach(path: Path, decoded: Decoded, start: float, end: float | None) -> None:
    """The stretch was there and was read to its end."""
    have = (decoded.first + len(decoded.mono)) / decoded.rate
    wanted = decoded.declared_s if end is None else end
    if decoded.declared_s is not None and have < min(decoded.declared_s, wanted or math.inf) - TOLERANCE_S:
        raise AudioError(
            f"{path}: cut off or damaged: {have:.2f} s could be read but its header says {decoded.declared_s:.2f} s; "
            "copy it again, or encode what is there again"
        )
    if start >= have or (end is not None and end > have + TOLERANCE_S):
        raise AudioError(f"{path}: seconds {start} to {end} were asked for but the sound ends at {have:.2f} s")


def _resample(path: Path, decoded: Decoded, rate_hz: int, start: float, end: float | None) -> Samples:
    """Check the samples, bring them to `rate_hz` and cut the margins off: (samples,)."""
    mono, rate = decoded.mono, decoded.rate
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: holds samples that are not numbers (NaN or infinite); export it again")
    if (peak := float(np.abs(mono).max(initial=0.0))) > MAX_PEAK:
        raise AudioError(f"{path}: its float samples reach {peak:.6g}; wanted [-1, 1]: divide them by full scale")
    offset = decoded.first * rate_hz // rate
    if rate != rate_hz:
        mono = soxr.resample(mono, rate, rate_hz, quality="HQ")
    low = round(start * rate_hz) - offset
    mono = mono[low : None if end is None else round(end * rate_hz) - offset]
    if len(mono) == 0 and start == 0 and end is None:
        raise AudioError(
            f"{path}: {len(decoded.mono)} sample(s) at {rate} Hz are too short to be one at {rate_hz} Hz; leave it out"
        )
    if len(mono) == 0:
        raise AudioError(f"{path}: seconds {start} to {end} hold no sample at {rate_hz} Hz; ask for a longer stretch")
    clipped: Samples = np.clip(mono, -1.0, 1.0, dtype=np.float32)
    return clipped
