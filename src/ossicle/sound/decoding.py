"""One sound file's bytes to mono samples at its own rate, with every fault told in one line.

wav, flac, ogg, opus, mp3 and their kin are read by libsndfile; every other container by PyAV, which is optional.
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from ossicle.errors import AudioError

MIN_RATE_HZ, MAX_RATE_HZ = 100, 10_000_000
MARGIN_S = 0.05
# An mp3 frame borrows bits from the frames before it, so the first ones after a seek come out wrong.
MP3_MARGIN_S = 0.5
# More samples in a byte than the emptiest flac holds: its header does not know the length, or lies.
MAX_FRAMES_PER_BYTE = 8192
# libsndfile's codes for: unrecognised, unsupported encoding, unimplemented.
OTHER_KIND_CODES = (1, 4, 18)
OGG_PAGE, OGG_PAGE_BYTES, VORBIS_BLOCK = re.compile(rb"OggS\0"), 65_307, 8192
# A wav that was streamed has a number like this where its size should be.
WAV_SIZE_UNKNOWN = 0x7FFF0000

Samples = npt.NDArray[np.float32]
# Bit rates of MPEG-1 and of MPEG-2 and 2.5 layer III frames, by their index (ISO 11172-3, 13818-3).
MPEG1_KILOBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MPEG2_KILOBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
# What libsndfile says of a damaged mp3, and what it means of a file that could be opened.
REASONS = {
    "File does not exist or is not a regular file (possibly a pipe?)": "no sound can be found in it",
    "Unspecified internal error": "its frames cannot be decoded",
}


@dataclass(frozen=True)
class Info:
    """What a sound file says of itself.

    Args:
        duration_s: seconds.
        rate_hz: samples per second.
        channels: number of channels.
        frames: samples per channel; an estimate, good to 0.1 s, in containers that do not count them.
    """

    duration_s: float
    rate_hz: int
    channels: int
    frames: int


@dataclass(frozen=True)
class Decoded:
    """A stretch of a file with its margins: (samples,) mono at `rate`, from source sample `first` on."""

    mono: Samples
    rate: int
    first: int
    declared_s: float | None


def probe(path: Path) -> Info:
    """Read length, rate and channels without decoding.

    Raises:
        AudioError: if the file is missing, unreadable, empty or no sound.
    """
    with _open(path) as file:
        if file is None:
            return _probe_container(path)
        return Info(file.frames / file.samplerate, file.samplerate, file.channels, file.frames)


def decode(path: Path, rate_hz: int, start: float, end: float | None, channel: int = 0) -> Decoded:
    """Decode seconds `start` to `end` (None: the end of the file) with margins that suit resampling to `rate_hz`.

    Raises:
        AudioError: if the file is missing, unreadable, empty, damaged or no sound, or lacks the channel.
    """
    with _open(path) as file:
        if file is None:
            return _decode_container(path, rate_hz, start, end, channel)
        return _decode_file(path, file, rate_hz, start, end, channel)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A `soundfile.SoundFile`, or None if the file is for PyAV."""
    head, size, mtime_ns = _head(path)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_sound_file(path, head, size, mtime_ns))
        except soundfile.LibsndfileError as error:
            if error.code not in OTHER_KIND_CODES:
                raise AudioError(f"{path}: damaged or cut off ({_line(error)}); copy or encode it again") from None
            if _is_text(head):
                raise AudioError(
                    f"{path}: is text, not sound (it starts with {head[:20]!r}); give a sound file"
                ) from None
            yield None
            return
        if file.frames > size * MAX_FRAMES_PER_BYTE:
            yield None
            return
        if file.frames == 0:
            raise AudioError(f"{path}: has a header but no samples; leave it out or record it again")
        _check_rate(path, file.samplerate)
        yield file


@contextmanager
def _sound_file(path: Path, head: bytes, size: int, mtime_ns: int) -> Iterator[Any]:
    """What libsndfile makes of a file, of an mp3 without its length with that put in front."""
    front = _front_of_mp3(path, head, size, mtime_ns)
    with ExitStack() as stack:
        name = str(path) if os.name == "nt" else os.fsencode(path)
        source = name if front is None else _Fronted(stack.enter_context(open(path, "rb")), size, *front)
        yield stack.enter_context(soundfile.SoundFile(source))


def _head(path: Path) -> tuple[bytes, int, int]:
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
        raise AudioError(f"{path}: cannot be read ({_line(error)}); check its permissions") from None
    if state.st_size == 0:
        raise AudioError(f"{path}: is empty (0 bytes); copy it again or leave it out")
    return head, state.st_size, state.st_mtime_ns


def _check_rate(path: Path, rate: int) -> None:
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise AudioError(f"{path}: its header says {rate} Hz; wanted {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)


def _line(error: Exception) -> str:
    """An error's own words on one line, without the path."""
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    line = " ".join(words.split()).rstrip(".")
    return REASONS.get(line, line)


def _stretch(rate: int, rate_hz: int, start: float, end: float | None, margin_s: float) -> tuple[int, int | None]:
    """First source sample and the one after the last, with margins.

    The first is one where a target sample lies too, so that resampling the stretch keeps the whole file's phase.
    """
    step = rate // math.gcd(rate, rate_hz)
    first = max(0, int((start - margin_s) * rate)) // step * step
    return first, None if end is None else math.ceil((end + margin_s) * rate)


def _mono(path: Path, both: Samples, channel: int) -> Samples:
    """(samples,) of (channels, samples): one channel, or the mean for 0; of a single one that, whichever is wanted."""
    if 1 < len(both) < channel:
        raise AudioError(f"{path}: has {len(both)} channels, no channel {channel}; 0 asks for their mean")
    return both.mean(axis=0) if channel == 0 else np.ascontiguousarray(both[min(channel, len(both)) - 1])


def _decode_file(path: Path, file: Any, rate_hz: int, start: float, end: float | None, channel: int) -> Decoded:
    """Read with libsndfile, all in one call: in mp3 every further call would seek and spoil a frame."""
    rate = file.samplerate
    margin_s = MP3_MARGIN_S if file.format == "MP3" else MARGIN_S
    first, last = _stretch(rate, rate_hz, start, end, margin_s)
    first, last = min(first, file.frames), file.frames if last is None else min(last, file.frames)
    at = min(first, _last_sure_seek(path)) if file.subtype == "VORBIS" else first
    try:
        file.seek(at)
        both = file.read(last - at, dtype="float32", always_2d=True)[first - at :]
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: damaged or cut off ({_line(error)}): {_readable_s(path, *_head(path)):.2f} s of "
            f"{file.frames / rate:.2f} s could be read; copy or encode it again"
        ) from None
    return Decoded(_mono(path, both.T, channel), rate, first, _declared_frames(file) / rate)


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


def _declared_frames(file: Any) -> int:
    """Samples the header promises; libsndfile quietly lowers the number for a wav that was cut off."""
    frames = int(file.frames)
    match = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if match is None or int(match[1]) >= WAV_SIZE_UNKNOWN or int(match[2]) == 0:
        return frames
    return max(frames, frames * int(match[1]) // int(match[2]))


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


@lru_cache(maxsize=256)
def _front_of_mp3(path: Path, head: bytes, size: int, mtime_ns: int) -> tuple[bytes, int] | None:
    """What to put in front of an mp3's frames and where they begin; None for any other file, or if it has neither need.

    Tags in front are left out: of odd ones libmpg123, inside libsndfile, writes to stderr.
    libsndfile guesses the length of a file that does not say it from its first frame's bit rate and stops there, so it
    can lose most of a file with a variable bit rate. Its frames are counted instead and the count is put in front as a
    Xing frame.
    """
    if not (head.startswith(b"ID3") or (head[0] == 0xFF and len(head) > 3 and _mp3_frame(head, 0))):
        return None
    with open(path, "rb") as file:
        tagged = head.startswith(b"ID3")
        begin = 10 + sum((byte & 0x7F) << 7 * (3 - k) for k, byte in enumerate(head[6:10]))
        begin = file.seek(begin if tagged else 0)
        first = file.read(4096)
        late = next((at for at in range(len(first)) if _mp3_frame(first, at)), 0) if tagged else 0  # after zeros
        first, begin = first[late:], begin + late
        frame = _mp3_frame(first, 0)
        if not frame:
            return None
        if any(tag in first[:frame] for tag in (b"Xing", b"Info", b"VBRI")):
            return (b"", begin) if tagged else None
        data = first + file.read()
    count, at = 0, 0
    while at >= 0 and at + 4 <= len(data):
        step = _mp3_frame(data, at)
        count += step > 0
        at = at + step if step else data.find(b"\xff", at + 1)
    return _xing_frame(data[:4], count), begin


class _Fronted:
    """Bytes in front of a file of `size` bytes from byte `begin` on, read only where it is asked for."""

    def __init__(self, file: BinaryIO, size: int, front: bytes, begin: int) -> None:
        self._file, self._front, self._shift = file, front, begin - len(front)
        self._size, self._at = size - self._shift, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte of the whole."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def readinto(self, into: Any) -> int:
        """Fill what is wanted from the front, else from the file."""
        view = memoryview(into).cast("B")
        piece = self._front[self._at : self._at + len(view)]
        if not piece:
            self._file.seek(self._at + self._shift)
            piece = self._file.read(len(view))
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def _mp3_frame(data: bytes, at: int) -> int:
    """Bytes in the layer III frame that starts at a byte; 0 if none starts there."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return 0
    version, rate_index, bits_index = data[at + 1] >> 3 & 3, data[at + 2] >> 2 & 3, data[at + 2] >> 4
    if version == 1 or rate_index == 3 or bits_index in (0, 15):
        return 0
    first = version == 3
    rate = (44_100, 48_000, 32_000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    kilobits = (MPEG1_KILOBITS if first else MPEG2_KILOBITS)[bits_index]
    return (144 if first else 72) * kilobits * 1000 // rate + (data[at + 2] >> 1 & 1)


def _xing_frame(header: bytes, count: int) -> bytes:
    """A silent 64 kbit/s frame of the stream's kind that says how many frames follow."""
    first = header[1] >> 3 & 3 == 3
    plain = bytes((0xFF, header[1] | 1, (5 if first else 8) << 4 | header[2] & 0x0C, header[3]))
    mono = header[3] >> 6 == 3
    side = (17 if mono else 32) if first else (9 if mono else 17)
    size = _mp3_frame(plain, 0)
    return (plain + bytes(side) + b"Xing" + struct.pack(">II", 1, count)).ljust(size, b"\0")


def _import_av(path: Path) -> Any:
    try:
        import av
    except ImportError:
        raise AudioError(
            f"{path}: is not wav, flac, ogg, opus or mp3 with a plain header; for other containers: "
            'pip install "ossicle[containers]"'
        ) from None
    return av


@contextmanager
def _container(path: Path) -> Iterator[tuple[Any, Any]]:
    """An open PyAV container and its first audio stream."""
    av = _import_av(path)
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: has no audio track; leave it out")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError(f"{path}: is in a coding that nothing here can decode; encode it again as flac or wav")
            _check_rate(path, stream.rate or 0)
            yield container, stream
    except (av.error.FFmpegError, UnicodeError) as error:
        raise AudioError(f"{path}: cannot be decoded ({_line(error)}); encode it again as flac or wav") from None


def _declared_s(container: Any, stream: Any) -> float | None:
    """Seconds the header promises, where the container is one that counts them."""
    counted = "mp4" in container.format.name and stream.duration is not None
    return float(stream.duration * stream.time_base) if counted else None


def _probe_container(path: Path) -> Info:
    with _container(path) as (container, stream):
        seconds = _declared_s(container, stream)
        if seconds is None:  # estimates of the rest are poor: count packets, which is cheap
            packets = (packet for packet in container.demux(stream) if packet.pts is not None)
            last = max((packet.pts + (packet.duration or 0) for packet in packets), default=0)
            seconds = float((last - (stream.start_time or 0)) * stream.time_base)
        if seconds <= 0:
            raise AudioError(f"{path}: has a header but no samples; leave it out or record it again")
        return Info(seconds, stream.rate, stream.channels, round(seconds * stream.rate))


def _decode_container(path: Path, rate_hz: int, start: float, end: float | None, channel: int) -> Decoded:
    """Read with PyAV; seeks where time stamps count samples, else decodes from the beginning."""
    with _container(path) as (container, stream):
        rate = stream.rate
        first, last = _stretch(rate, rate_hz, start, end, MP3_MARGIN_S)
        origin = stream.start_time or 0
        seeks = stream.time_base == Fraction(1, rate) and first > 0
        if seeks:
            container.seek(first + origin, stream=stream)
        at, have, pieces = 0, 0, list[Samples]()
        for stamp, piece in _mono_frames(path, container, stream, channel):
            if not pieces:
                have = at = stamp - origin if seeks else 0
            pieces.append(piece)
            have += len(piece)
            if last is not None and have >= last:
                break
        mono = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        if at > first:
            raise AudioError(f"{path}: its index is damaged (seek to {first / rate:.2f} s failed); encode it again")
        return Decoded(
            mono[first - at : None if last is None else last - at], rate, first, _declared_s(container, stream)
        )


def _mono_frames(path: Path, container: Any, stream: Any, channel: int) -> Iterator[tuple[int, Samples]]:
    """Time stamp and (samples,) float32 of each decoded frame."""
    av = _import_av(path)
    to_float = av.AudioResampler(format="fltp")
    for frame in container.decode(stream):
        if frame.sample_rate != stream.rate:
            raise AudioError(f"{path}: changes its rate from {stream.rate} to {frame.sample_rate} Hz; encode it again")
        for part in to_float.resample(frame):
            yield frame.pts or 0, _mono(path, part.to_ndarray(), channel)
