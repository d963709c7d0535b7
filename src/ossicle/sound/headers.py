"""How much sound a file's header promises and how much is there: wav, RF64, W64, AIFF, AU and CAF.

A recorder writes the lengths when it is stopped. One that was killed leaves zeros or other numbers in their place,
though all its sound is there; so do programs that write to a pipe. Such a file is read behind a header that is right.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ossicle.sound.fronts import Front

MAX_HEADER = 1 << 20
MAX_CHUNKS = 1000
WRAP = 1 << 32
# Beyond this no length in 64 bits is meant.
ABSURD = 1 << 40
# Bytes of a sample, or of a packet of 64 where the header counts these.
AIFC_BYTES = {b"ima4": 34} | dict.fromkeys((b"ulaw", b"ULAW", b"alaw", b"ALAW"), 1)
AIFC_WHOLE = (b"NONE", b"twos", b"sowt", b"raw ", b"in24", b"in32", b"42ni", b"fl32", b"FL32", b"fl64", b"FL64")
CAF_SIMPLE = (b"lpcm", b"ulaw", b"alaw")
# What libsndfile reads behind an ID3 tag once that is out of its way; what is no mp3 either is for PyAV.
OWN = (b"fLaC", b"OggS", b"RIFF", b"RF64", b"FORM")
# How every flac begins, with the head of its first block.
FLAC = b'fLaC\0\0\0"'
# Tags that some programs put behind everything else.
TAGS = (b"TAG", b"ID3", b"APETAGEX")


@dataclass(frozen=True)
class Layout:
    """How a kind of file lays out its chunks: where they begin, how long names are, how their sizes are written."""

    first: int
    name: int
    size: str
    counts_itself: bool = False
    pad: int = 1

    @property
    def head(self) -> int:
        """Bytes in front of a chunk's content."""
        return self.name + struct.calcsize(self.size)


RIFF = Layout(12, 4, "<I", pad=2)
W64 = Layout(40, 16, "<q", counts_itself=True, pad=8)
AIFF = Layout(12, 4, ">I", pad=2)
CAF = Layout(8, 4, ">q")


@dataclass(frozen=True)
class Header:
    """Where a file's sound begins and how long its header says it is.

    Args:
        at: the first byte of the sound.
        declared: bytes of sound that the header promises; below 0 where it says that it does not know.
        present: bytes from there to the file's end.
        unit: bytes of one sample of all channels, or of one block.
        layout: of the chunks that may follow; None where none may.
        rebuild: a header that promises so many bytes; None if that cannot be.
        wraps: whether lengths have 32 bits, so that those of very long files begin again at 0.
        pace: bytes of sound in a second; 0 where it is not known.
    """

    at: int
    declared: int
    present: int
    unit: int
    layout: Layout | None
    rebuild: Callable[[int], bytes | None]
    wraps: bool = True
    pace: int = 0


def read(file: BinaryIO, size: int) -> Header | None:
    """The header of a file of one of `KINDS`; None for all others, and where it holds no sound.

    Args:
        file: open for reading.
        size: its bytes.
    """
    file.seek(0)
    look = KINDS.get(file.read(4))
    try:
        header = look(file, size) if look is not None else None
    except (struct.error, IndexError, ValueError):  # cut off or damaged: the decoder will say so
        return None
    return header if header is not None and header.present > 0 and header.unit > 0 else None


def after_tags(file: BinaryIO) -> tuple[int, bool]:
    """The first byte behind the ID3v2 tags in front of a file, 0 where there is none, and whether mp3 may follow.

    Tags do not always say rightly where they end; the beginning of a flac cannot be mistaken.
    """
    at = 0
    while True:
        file.seek(at)
        tag = file.read(10)
        if len(tag) < 10 or not tag.startswith(b"ID3"):
            if at == 0 or tag.startswith(OWN):
                return at, at == 0
            file.seek(0)
            found = -1 if tag[:1] == b"\xff" else file.read(MAX_HEADER).find(FLAC)
            return (at, True) if found < 0 else (found, False)
        footer = 10 if tag[5] & 0x10 else 0
        at += 10 + footer + sum((byte & 0x7F) << 7 * (3 - k) for k, byte in enumerate(tag[6:10]))


def front(file: BinaryIO, header: Header) -> Front | None:
    """A right header for a file whose own one is not; None where that promises what is there, or more."""
    length, told = _true_length(file, header), _told(header)
    if length is None and header.layout is CAF and promised(header) > 1:
        length, told = header.present, ""  # libsndfile refuses it; of other kinds it reads what is there
    if length is None:
        return None
    length -= length % header.unit
    head = header.rebuild(length) if length else None
    return None if head is None else Front(head, header.at, header.at + length, told)


def promised(header: Header) -> float:
    """How many times as much sound the header promises as is there; 1.0 where nothing is missing."""
    if unknown(header.declared) or header.declared <= header.present:
        return 1.0
    return header.declared / header.present


def unknown(size: int) -> bool:
    """Whether a size is one that programs write where they do not know it: near 2 GiB or 4 GiB, or beyond all."""
    return size < 0 or 0x7FFF0000 <= size <= 0x80000100 or 0xFFFF0000 <= size <= 0xFFFFFFFF or size >= ABSURD


def _told(header: Header) -> str:
    if unknown(header.declared):
        return "its header does not say how long it is"
    if header.declared == 0:
        return "its header says that it is empty"
    said = f"{header.declared / header.pace:.2f} s" if header.pace else f"{header.declared:,} bytes"
    return f"its header says {said}"


def _true_length(file: BinaryIO, header: Header) -> int | None:
    """Bytes of sound that are there, where the header says something else that is too little."""
    declared, present = header.declared, header.present
    if unknown(declared) and not 0 <= declared <= present:
        return present
    if declared >= present:
        return None
    if header.wraps and not unknown(declared) and present - declared >= WRAP:
        return declared + (present - declared) // WRAP * WRAP
    # A header that was written now and then says some of it; a little more behind the sound may be anything, unless
    # the header says as much as it can.
    rest = header.at + declared + (declared % 2 if header.layout in (RIFF, AIFF) else 0)
    size = header.at + present
    most = 0 if header.wraps and unknown(declared) else declared
    more = size - rest > most and not _follows(file, header.layout, rest, size) and _sounds(file, rest)
    return present if more else None


def _chunks(file: BinaryIO, layout: Layout, at: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte of the content and declared bytes of each chunk."""
    for _ in range(MAX_CHUNKS):
        if at + layout.head > size:
            return
        file.seek(at)
        head = file.read(layout.head)
        (count,) = struct.unpack(layout.size, head[layout.name :])
        count -= layout.head if layout.counts_itself else 0
        yield head[: layout.name], at + layout.head, count
        at += layout.head + max(0, count)
        at += -at % layout.pad


def _follows(file: BinaryIO, layout: Layout | None, at: int, size: int) -> bool:
    """Whether what is there from a byte on are tags or chunks, one after the other up to the file's end."""
    file.seek(at)
    if file.read(8).startswith(TAGS):
        return True
    end = at
    for name, start, count in _chunks(file, layout, at, size) if layout is not None else ():
        if not all(32 <= byte < 127 for byte in name[:4]) or not 0 <= count <= size - start:
            return False
        end = start + count
    return at < end and size - end < 8


def _sounds(file: BinaryIO, at: int) -> bool:
    """Whether anything but zeros comes from a byte on."""
    file.seek(at)
    while piece := file.read(1 << 20):
        if piece.strip(b"\0"):
            return True
    return False


def _content(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(min(count, MAX_HEADER))


def _riff(file: BinaryIO, size: int) -> Header | None:
    """wav, RF64 and BW64."""
    form, long = b"", -1
    file.seek(8)
    if file.read(4) != b"WAVE":
        return None
    for name, at, count in _chunks(file, RIFF, RIFF.first, size):
        if name == b"ds64":
            (long,) = struct.unpack("<q", _content(file, at, 16)[8:16])
        elif name == b"fmt ":
            form = _content(file, at, count)
        elif name == b"data":
            declared = long if long > 0 and count == WRAP - 1 else count
            return _wave(form, at, declared, size, RIFF, wraps=long < 0)
    return None


def _w64(file: BinaryIO, size: int) -> Header | None:
    """Sony's wave64."""
    form = b""
    for name, at, count in _chunks(file, W64, W64.first, size):
        if name[:4] == b"fmt ":
            form = _content(file, at, count)
        elif name[:4] == b"data":
            return _wave(form, at, max(0, count) if count > -W64.head - 1 else count, size, W64, wraps=False)
    return None


def _wave(form: bytes, at: int, declared: int, size: int, layout: Layout, wraps: bool) -> Header:
    pace, unit = struct.unpack("<IH", form[8:14])

    def rebuild(length: int) -> bytes:
        body = b"fmt " + struct.pack("<I", len(form)) + form + b"\0" * (len(form) % 2)
        whole = 4 + len(body) + 8 + length
        if whole < WRAP - 1:
            return b"RIFF" + struct.pack("<I", whole) + b"WAVE" + body + b"data" + struct.pack("<I", length)
        sizes = struct.pack("<IqqqI", 28, whole + 36, length, length // unit, 0)
        return b"RF64\xff\xff\xff\xffWAVEds64" + sizes + body + b"data\xff\xff\xff\xff"

    return Header(at, declared, size - at, unit, layout, rebuild, wraps, pace)


def _aiff(file: BinaryIO, size: int) -> Header | None:
    """AIFF, and AIFC where a sample has its own bytes."""
    file.seek(8)
    kind, comm = file.read(4), b""
    if kind not in (b"AIFF", b"AIFC"):
        return None
    for name, at, count in _chunks(file, AIFF, AIFF.first, size):
        if name == b"COMM":
            comm = _content(file, at, count)
        elif name == b"SSND":
            break
    else:
        return None
    channels, frames, bits = struct.unpack(">hIh", comm[:8])
    coding = comm[18:22] or b"NONE"
    width = AIFC_BYTES.get(coding, (bits + 7) // 8 if coding in AIFC_WHOLE else 0)
    (skipped,) = struct.unpack(">I", _content(file, at, 4))
    first, unit = at + 8 + skipped, width * channels
    declared = count if unknown(count) else max(0, count - 8 - skipped)
    if frames == 0:  # not even counted: as long as its chunk says, if that is there
        size, declared = (first + declared if 0 < declared <= size - first else size), 0

    def rebuild(length: int) -> bytes | None:
        form = comm[:2] + struct.pack(">I", length // unit) + comm[6:]
        body = b"COMM" + struct.pack(">I", len(form)) + form + b"\0" * (len(form) % 2)
        body += b"SSND" + struct.pack(">III", length + 8, 0, 0)
        whole = 4 + len(body) + length
        return b"FORM" + struct.pack(">I", whole) + kind + body if whole < WRAP - 1 else None

    return Header(first, declared, size - first, unit, AIFF, rebuild)


def _au(file: BinaryIO, size: int) -> Header | None:
    """Sun's and NeXT's; nothing may follow the sound."""
    file.seek(0)
    head = file.read(24)
    order = ">" if head.startswith(b".snd") else "<"
    at, declared = struct.unpack(f"{order}II", head[4:12])
    file.seek(0)
    own = file.read(min(at, MAX_HEADER))

    def rebuild(length: int) -> bytes:
        return own[:8] + struct.pack(f"{order}I", min(length, WRAP - 1)) + own[12:]

    return Header(at, declared, size - at, 1, None, rebuild)


def _caf(file: BinaryIO, size: int) -> Header | None:
    """Apple's, where a sample has its own bytes."""
    coding, unit = b"", 0
    for name, at, count in _chunks(file, CAF, CAF.first, size):
        if name == b"desc":
            desc = _content(file, at, 32)
            coding, unit = desc[8:12], struct.unpack(">I", desc[16:20])[0]
        elif name == b"data" and coding in CAF_SIMPLE and at <= MAX_HEADER:
            own = _content(file, 0, at + 4)  # the sound follows a count of edits

            def rebuild(length: int, own: bytes = own) -> bytes:
                return own[:-12] + struct.pack(">q", length + 4) + own[-4:]

            declared = count if count < 0 else max(0, count - 4)
            return Header(at + 4, declared, size - at - 4, unit, CAF, rebuild, wraps=False)
    return None


KINDS: dict[bytes, Callable[[BinaryIO, int], Header | None]] = {
    b"RIFF": _riff,
    b"RF64": _riff,
    b"BW64": _riff,
    b"riff": _w64,
    b"FORM": _aiff,
    b".snd": _au,
    b"dns.": _au,
    b"caff": _caf,
}
