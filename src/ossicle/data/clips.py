"""From clips to waveforms: decoding in threads, a cache in memory, one padded batch."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from ossicle.contracts import Clip
from ossicle.errors import AudioError, UsageError
from ossicle.sound import audio

Key = tuple[str, int, int, float, float | None, int, int]


class WaveCache:
    """Decoded waveforms in memory; the ones not used for longest go first. Safe to share between threads.

    Args:
        max_bytes: limit for all waveforms together; a waveform larger than this is not kept. 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise UsageError(f"a cache of {max_bytes} bytes cannot be; give 0 or more")
        self.max_bytes = max_bytes
        self.bytes = 0
        self._waves: OrderedDict[Key, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waves)

    def get(self, key: Key) -> Tensor | None:
        """The waveform (samples,) float32 under a key, or None; it is shared, so do not write into it."""
        with self._lock:
            wave = self._waves.get(key)
            if wave is not None:
                self._waves.move_to_end(key)
            return wave

    def put(self, key: Key, wave: Tensor) -> None:
        """Keep a waveform (samples,) and drop the oldest ones until all fit."""
        size = wave.numel() * wave.element_size()
        if size > self.max_bytes:
            return
        if wave.untyped_storage().nbytes() > size:
            wave = wave.clone()  # a view would keep the whole file in memory
        with self._lock:
            self._drop(key)
            while self._waves and self.bytes + size > self.max_bytes:
                self._drop(next(iter(self._waves)))
            self._waves[key] = wave
            self.bytes += size

    def _drop(self, key: Key) -> None:
        old = self._waves.pop(key, None)
        if old is not None:
            self.bytes -= old.numel() * old.element_size()


def load_waves(
    clips: Sequence[Clip],
    rate_hz: int,
    *,
    cache: WaveCache | None = None,
    shortest_s: float = 0.0,
    fewest: int = 0,
    threads: int = 2,
) -> list[Tensor | AudioError]:
    """Decode clips side by side; decoding and resampling let other threads run.

    Args:
        clips: what to decode.
        rate_hz: sampling rate wanted.
        cache: where waveforms are looked up and kept, or None.
        shortest_s: shorter clips go on in silence up to this length.
        fewest: samples that a clip must have of its own; silence makes no sound of less.
        threads: files decoded at a time.

    Returns:
        For each clip, in order, its waveform (samples,) float32, or the AudioError that says why there is none.

    Raises:
        UsageError: if threads is below 1.
    """
    if threads < 1:
        raise UsageError(f"{threads} decoding threads were asked for; give 1 or more")

    def load(clip: Clip) -> Tensor | AudioError:
        try:
            wave = _load(clip, rate_hz, cache)
            if len(wave) < fewest:
                raise AudioError(
                    f"{clip.path}: only {len(wave)} sample(s) at {rate_hz} Hz came; this encoder hears nothing shorter "
                    f"than {fewest} ({fewest / rate_hz:g} s); leave it out or use longer clips or windows"
                )
            missing = round(shortest_s * rate_hz) - len(wave)
            return F.pad(wave, (0, missing)) if missing > 0 else wave
        except AudioError as error:
            return error

    if threads == 1 or len(clips) < 2:
        return [load(clip) for clip in clips]
    with ThreadPoolExecutor(min(threads, len(clips))) as pool:
        return list(pool.map(load, clips))


def _load(clip: Clip, rate_hz: int, cache: WaveCache | None) -> Tensor:
    if cache is None:
        return audio.load(clip.path, rate_hz, start=clip.start, end=clip.end, channel=clip.channel)
    try:
        state = clip.path.stat()
    except (OSError, ValueError) as error:
        raise AudioError(f"{clip.path} cannot be read: {error}; give the path of an existing sound file") from error
    key = (str(clip.path), state.st_mtime_ns, state.st_size, clip.start, clip.end, clip.channel, rate_hz)
    wave = cache.get(key)
    if wave is None:
        wave = audio.load(clip.path, rate_hz, start=clip.start, end=clip.end, channel=clip.channel)
        cache.put(key, wave)
    return wave


def readable(clips: Sequence[Clip]) -> tuple[list[Clip], dict[str, str]]:
    """Which clips can be read, as far as the headers of their files tell; where these end too early, it is decoded.

    Returns:
        The clips that can be read, and by the names of the others why they cannot.
    """
    with ThreadPoolExecutor(4) as pool:
        pairs = list(zip(clips, pool.map(_fault, clips), strict=True))
    return [clip for clip, why in pairs if not why], {clip.name or clip.path.name: why for clip, why in pairs if why}


def _fault(clip: Clip) -> str:
    if clip.text_only:
        return ""
    try:
        reach = audio.probe(clip.path).duration_s + audio.TOLERANCE_S
        if clip.start >= reach or (clip.end is not None and clip.end > reach):
            audio.load(clip.path, 16_000, start=clip.start, end=clip.end, channel=clip.channel)
    except AudioError as error:
        return reason(clip, str(error))
    return ""


def reason(clip: Clip, text: str) -> str:
    """What an error says of a clip, without the path of this machine."""
    return text.removeprefix(f"{clip.path}: ").replace(str(clip.path), clip.name or clip.path.name)


def stack(waves: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Make one batch of waveforms.

    Args:
        waves: (samples,) float32 each, of any length.

    Returns:
        (batch, samples) float32, zeros after the shorter ones, and (batch,) int64 samples that are real,
        or None when all are equally long.

    Raises:
        UsageError: if there are none.
    """
    if not waves:
        raise UsageError("a batch of 0 waveforms was asked for; give at least one")
    sizes = [wave.shape[-1] for wave in waves]
    if len(set(sizes)) == 1:
        return torch.stack(list(waves)), None
    batch = torch.zeros(len(waves), max(sizes), dtype=waves[0].dtype)
    for row, wave in zip(batch, waves, strict=True):
        row[: wave.shape[-1]] = wave
    return batch, torch.tensor(sizes, dtype=torch.int64)
