"""Files that libsndfile does not read, to samples: m4a, webm and others, through PyAV, which is optional."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ossicle.errors import AudioError
from ossicle.sound.decoded import MPEG_MARGIN_S, Decoded, Info, Samples, check_rate, line, mono, stretch
from ossicle.sound.fronts import Front, Fronted

# Containers whose lengths are counted, and in which a seek lands where it says; of the others the index is poor.
COUNTED = ("mov", "flac")


def probe(path: Path) -> Info:
    """Read length, rate and channels without decoding."""
    with _container(path) as (container, stream):
        seconds = _declared_s(container, stream)
        if seconds is None:  # estimates of the rest are poor: count packets, which is cheap
            packets = (packet for packet in container.demux(stream) if packet.pts is not None)
            last = max((packet.pts + (packet.duration or 0) for packet in packets), default=0)
            seconds = float((last - (stream.start_time or 0)) * stream.time_base) or _decoded_s(path)
        if seconds <= 0:
            raise AudioError(f"{path}: has a header but no samples; leave it out or record it again")
        return Info(seconds, stream.rate, stream.channels, round(seconds * stream.rate))


def decode(path: Path, rate_hz: int, start: float, end: float | None, channel: int) -> Decoded:
    """Decode a stretch with margins; seeks where that is sure, else decodes from the beginning."""
    with _container(path) as (container, stream):
        rate = stream.rate
        first, last = stretch(rate, rate_hz, start, end, MPEG_MARGIN_S)
        origin = stream.start_time or 0
        seeks = first > 0 and _seeks(container, stream)
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
        whole = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        if at > first:
            raise AudioError(f"{path}: its index is damaged (seek to {first / rate:.2f} s failed); encode it again")
        return Decoded(
            whole[first - at : None if last is None else last - at], rate, first, _declared_s(container, stream)
        )


@lru_cache(maxsize=256)
def reads(path: Path, size: int, mtime_ns: int) -> bool:
    """Whether PyAV is there and finds sound in a file; looked at once for each state of the file."""
    try:
        with _container(path) as (container, stream):
            return next(iter(container.decode(stream)), None) is not None
    except AudioError:
        return False


def installed() -> bool:
    """Whether PyAV is there."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


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
    """An open PyAV container and its first audio stream; it is not told the name, by which it would guess."""
    av = _import_av(path)
    try:
        with open(path, "rb") as file, av.open(Fronted(file, path.stat().st_size, Front(b"", 0))) as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: has no audio track; leave it out")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError(f"{path}: is in a coding that nothing here can decode; encode it again as flac or wav")
            check_rate(path, stream.rate or 0)
            yield container, stream
    except (av.error.FFmpegError, UnicodeError, OSError) as error:
        raise AudioError(f"{path}: cannot be decoded ({line(error)}); encode it again as flac or wav") from None


def _declared_s(container: Any, stream: Any) -> float | None:
    """Seconds the header promises, where the container is one that counts them."""
    counted = container.format.name.startswith(COUNTED) and stream.duration is not None
    return float(stream.duration * stream.time_base) if counted else None


def _decoded_s(path: Path) -> float:
    """Seconds that come out, where packets have no time stamps."""
    with _container(path) as (container, stream):
        return float(sum(frame.samples for frame in container.decode(stream)) / stream.rate)


def _seeks(container: Any, stream: Any) -> bool:
    """Whether a seek lands on the sample it says; ADPCM goes on from the samples before."""
    plain = container.format.name.startswith(COUNTED) and not stream.codec_context.name.startswith("adpcm")
    return plain and stream.time_base == Fraction(1, stream.rate)


def _mono_frames(path: Path, container: Any, stream: Any, channel: int) -> Iterator[tuple[int, Samples]]:
    """Time stamp and (samples,) float32 of each decoded frame."""
    av = _import_av(path)
    to_float = av.AudioResampler(format="fltp")
    for frame in container.decode(stream):
        if frame.sample_rate != stream.rate:
            raise AudioError(f"{path}: changes its rate from {stream.rate} to {frame.sample_rate} Hz; encode it again")
        for part in to_float.resample(frame):
            yield frame.pts or 0, mono(path, part.to_ndarray(), channel)
