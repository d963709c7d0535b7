"""Frames of MPEG audio layer III (ISO 11172-3, 13818-3): how long an mp3 is that does not say it, or not truly."""

import struct
from typing import BinaryIO

from ossicle.sound.fronts import Front

# Bit rates of MPEG-1 and of MPEG-2 and 2.5 layer III frames, by their index.
MPEG1_KILOBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MPEG2_KILOBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
TAGS = (b"Xing", b"Info")


def front(file: BinaryIO, size: int, begin: int) -> Front | None:
    """What to put in front of an mp3's frames; None for any other file, or if it has no need.

    libsndfile guesses the length of a file that does not say it from its first frame's bit rate and stops there, so it
    can lose most of a file with a variable bit rate. Its frames are counted instead and the count is put in front as a
    Xing frame. So it is where a recorder was killed before it could write its count.

    Args:
        file: the file.
        size: its bytes.
        begin: where its tags end; of odd ones libmpg123, inside libsndfile, writes to stderr, so they are left out.
    """
    file.seek(begin)
    first = file.read(4096)
    late = next((at for at in range(len(first)) if frame_bytes(first, at)), 0) if begin else 0  # after zeros
    first, begin = first[late:], begin + late
    frame = frame_bytes(first, 0)
    if not frame:
        return None
    told = ""
    if any(tag in first[:frame] for tag in (*TAGS, b"VBRI")):
        if not _count_lies(first[:frame], size - begin):
            return Front(b"", begin) if begin else None
        told, begin = "its header does not know how many frames follow", begin + frame
    file.seek(begin)
    data = file.read()
    count, at, header = 0, 0, b""
    while at >= 0 and at + 4 <= len(data):
        step = frame_bytes(data, at)
        header = header or (data[at : at + 4] if step else b"")
        count += step > 0
        at = at + step if step else data.find(b"\xff", at + 1)
    return Front(_xing_frame(header, count), begin, told=told) if count else None


def frame_bytes(data: bytes, at: int) -> int:
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


def _count_lies(frame: bytes, present: int) -> bool:
    """Whether a Xing frame counts no frames, or promises less than half of the bytes that are there."""
    at = max(frame.find(tag) for tag in TAGS)
    if at < 0 or at + 16 > len(frame):
        return False
    flags, first, second = struct.unpack(">III", frame[at + 4 : at + 16])
    size = (second if flags & 1 else first) if flags & 2 else present
    return (flags & 1 == 1 and first == 0) or 2 * size < present


def _xing_frame(header: bytes, count: int) -> bytes:
    """A silent 64 kbit/s frame of the stream's kind that says how many frames follow."""
    first = header[1] >> 3 & 3 == 3
    plain = bytes((0xFF, header[1] | 1, (5 if first else 8) << 4 | header[2] & 0x0C, header[3]))
    mono = header[3] >> 6 == 3
    side = (17 if mono else 32) if first else (9 if mono else 17)
    size = frame_bytes(plain, 0)
    return (plain + bytes(side) + b"Xing" + struct.pack(">II", 1, count)).ljust(size, b"\0")
