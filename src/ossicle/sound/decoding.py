"""One sound file's bytes to mono samples at its own rate, with every fault told in one line.

wav, flac, ogg, opus, mp3 and their kin are read by libsndfile; what it refuses by PyAV, which is optional. A header
that is wrong about the sound behind it is put right on the way; that is told in the log, which the command line shows.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import soundfile

from ossicle.errors import AudioError
from ossicle.sound import containers, headers, mpeg
from ossicle.sound.decoded import MARGIN_S, MPEG_MARGIN_S, Decoded, Info, Samples, check_rate, line, mono, stretch
from ossicle.sound.fronts import Front, Fronted

# More samples in a byte than the emptiest flac holds: its header does not know the length, or lies.
MAX_FRAMES_PER_BYTE = 8192
# libsndfile's codes for: unrecognised, unsupported encoding, unimplemented.
OTHER_KIND_CODES = (1, 4, 18)
OGG_PAGE, OGG_PAGE_BYTES, VORBIS_BLOCK = re.compile(rb"OggS\0"), 65_307, 8192
OGG_OWN = (b"\x01vorbis", b"OpusHead")
# soundfile seeks after every read, and in this coding of AIFF libsndfile cannot.
UNREAD = "DWVW"
# What libsndfile says of a file that it would read by its name alone, such as any bytes that are called x.au.
RAW = "RAW"
GSM_FRAME, GSM_SIGN = 33, 0xD
SKIPPED_FRAMES = 1 << 20

# The first bytes of a file, its size and when it was changed, in nanoseconds.
State = tuple[bytes, int, int]

log = logging.getLogger(__name__)


def probe(path: Path) -> Info:
    """Read length, rate and channels without decoding.

    Raises:
        AudioError: if the file is missing, unreadable, empty or no sound.
    """
    with _open(path, *_head(path)) as file:
        if file is None:
            return containers.probe(path)
        return Info(file.frames / file.samplerate, file.samplerate, file.channels, file.frames)


def decode(path: Path, rate_hz: int, start: float, end: float | None, channel: int = 0) -> Decoded:
    """Decode seconds `start` to `end` (None: the end of the file) with margins that suit resampling to `rate_hz`.

    Raises:
        AudioError: if the file is missing, unreadable, empty, damaged or no sound, or lacks the channel.
    """
    state = _head(path)
    with _open(path, *state) as file:
        if file is None:
            return containers.decode(path, rate_hz, start, end, channel)
        return _decode_file(path, state, file, rate_hz, start, end, channel)


@contextmanager
def _open(path: Path, head: bytes, size: int, mtime_ns: int) -> Iterator[Any]:
    """A `soundfile.SoundFile`, or None if the file is for PyAV."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_sound_file(path, head, size, mtime_ns))
        except soundfile.LibsndfileError as error:
            _check_other(path, error, head, size, mtime_ns)
            yield None
            return
        if file.format == RAW and not _is_gsm(file, head):
            raise _headerless(path)
        if file.frames > size * MAX_FRAMES_PER_BYTE:
            if containers.installed():
                _tell(f"{path}: its header does not say how long it is; read to its end")
            yield None
            return
        if file.frames == 0:
            raise AudioError(f"{path}: has a header but no samples; leave it out or record it again")
        if file.subtype.startswith(UNREAD):
            raise AudioError(f"{path}: is in {UNREAD}, which nothing here can decode; encode it again as flac or wav")
        check_rate(path, file.samplerate)
        yield file


def _check_other(path: Path, error: Any, head: bytes, size: int, mtime_ns: int) -> None:
    """What libsndfile refuses is for PyAV, if it is no text and not damaged."""
    if _is_text(head):
        raise AudioError(f"{path}: is text, not sound (it starts with {head[:20]!r}); give a sound file")
    raw = path.suffix.lower() == f".{RAW.lower()}"
    other = not _is_own(head) and containers.reads(path, size, mtime_ns)
    if (error.code in OTHER_KIND_CODES and not raw) or other:
        return
    if raw:
        raise _headerless(path)
    more = "" if containers.installed() else ', or pip install "ossicle[containers]", which reads more codings'
    raise AudioError(f"{path}: damaged or cut off ({line(error)}); copy or encode it again{more}")


@contextmanager
def _sound_file(path: Path, head: bytes, size: int, mtime_ns: int) -> Iterator[Any]:
    """What libsndfile makes of a file, behind a right header where its own is wrong."""
    front, _ = _seen(path, head, size, mtime_ns)
    if front is None and path.suffix.lower() == f".{RAW.lower()}":
        front = Front(b"", 0)  # of a file with this name soundfile wants to be told what is in it
    with ExitStack() as stack:
        name = str(path) if os.name == "nt" else os.fsencode(path)
        source = name if front is None else Fronted(stack.enter_context(open(path, "rb")), size, front)
        file = stack.enter_context(soundfile.SoundFile(source))
        if front is not None and front.told:
            _tell(f"{path}: {front.told}; read to its end at {file.frames / file.samplerate:.2f} s")
        yield file


@lru_cache(maxsize=256)
def _seen(path: Path, head: bytes, size: int, mtime_ns: int) -> tuple[Front | None, float]:
    """What to put in front of a file, and how many times as much sound its header promises as is there."""
    with open(path, "rb") as file:
        begin, plain = headers.after_tags(file)
        if begin and not plain:
            return Front(b"", begin), 1.0
        if begin or mpeg.frame_bytes(head, 0):
            return mpeg.front(file, size, begin), 1.0
        header = headers.read(file, size)
        return (None, 1.0) if header is None else (headers.front(file, header), headers.promised(header))


@lru_cache(maxsize=4096)
def _tell(text: str) -> None:
    """Say something of a file that can be used, once."""
    log.warning(text)


def _head(path: Path) -> State:
    """The first bytes of a file, its size and when it was changed, in nanoseconds."""
    if path.exists() and not path.is_file():
        raise AudioError(f"{path}: is {'a folder' if path.is_dir() else 'no plain file'}; give one sound file")
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
            state = os.fstat(file.fileno())
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise AudioError(f"{path}: cannot be read ({line(error)}); check its permissions") from None
    if state.st_size == 0:
        raise AudioError(f"{path}: is empty (0 bytes); copy it again or leave it out")
    return head, state.st_size, state.st_mtime_ns


def _is_own(head: bytes) -> bool:
    """Whether a file is one that libsndfile reads if it is whole; of damaged ones PyAV would skip a part."""
    ogg = head.startswith(b"OggS") and any(name in head[:128] for name in OGG_OWN)
    return ogg or head.startswith(b"fLaC") or mpeg.frame_bytes(head, 0) > 0


def _is_gsm(file: Any, head: bytes) -> bool:
    """Whether all frames at a file's beginning bear the sign of GSM 6.10, which has no header."""
    return file.subtype == "GSM610" and all(byte >> 4 == GSM_SIGN for byte in head[::GSM_FRAME])


def _headerless(path: Path) -> AudioError:
    return AudioError(f"{path}: has no header of any sound; if it is raw samples, convert it to flac or wav")


def _is_text(head: bytes) -> bool:
    """Whether a file begins as text: no byte that text has not, and few that are not ASCII."""
    plain = all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)
    return plain and 4 * sum(byte >= 128 for byte in head) <= len(head)


def _decode_file(
    path: Path, state: State, file: Any, rate_hz: int, start: float, end: float | None, channel: int
) -> Decoded:
    """Read with libsndfile, all in one call: in mp3 every further call would seek and spoil a frame."""
    rate = file.samplerate
    margin_s = MPEG_MARGIN_S if file.subtype.startswith("MPEG") else MARGIN_S
    first, last = stretch(rate, rate_hz, start, end, margin_s)
    first, last = min(first, file.frames), file.frames if last is None else min(last, file.frames)
    at = min(first, _last_sure_seek(path)) if file.subtype == "VORBIS" else first
    try:
        _go_to(file, at)
        both: Samples = file.read(last - at, dtype="float32", always_2d=True)[first - at :]
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: damaged or cut off ({line(error)}): {_readable_s(path, *state):.2f} s of "
            f"{file.frames / rate:.2f} s could be read; copy or encode it again"
        ) from None
    declared_s = max(file.frames, int(file.frames * _seen(path, *state)[1])) / rate
    return Decoded(mono(path, both.T, channel), rate, first, declared_s)


def _go_to(file: Any, at: int) -> None:
    """Be at a sample of a file that was just opened; where a coding cannot seek, by reading what is before it."""
    if at == 0:
        return
    if file.seekable():
        file.seek(at)
        return
    while at > 0 and (got := len(file.read(min(at, SKIPPED_FRAMES), dtype="float32", always_2d=True))):
        at -= got


def _last_sure_seek(path: Path) -> int:
    """The last sample of a Vorbis file that a seek finds.

    libsndfile counts back from the end of a page, and the end of the last page is not where its last block ends, so
    seeks into that page are wrong by up to a block.
    """
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2 * OGG_PAGE_BYTES))
        tail = file.read()
    ends = [int.from_bytes(tail[at.end() + 1 : at.end() + 9], "little", signed=True) for at in OGG_PAGE.finditer(tail)]
    known = [end for end in ends if end >= 0]  # -1 where no packet ends
    return max(0, known[-2] - VORBIS_BLOCK) if len(known) > 1 else 0


@lru_cache(maxsize=256)
def _readable_s(path: Path, head: bytes, size: int, mtime_ns: int) -> float:
    """Seconds before the decoder gives up; looked for once, however many windows of the file fail."""
    with _sound_file(path, head, size, mtime_ns) as file:
        frames = 0
        try:
            while got := len(file.read(4096, dtype="float32", always_2d=True)):
                frames += got
        except soundfile.LibsndfileError:
            pass
        return float(frames / file.samplerate)
