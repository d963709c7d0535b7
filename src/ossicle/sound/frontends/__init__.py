"""Waveforms to log-mel frames, in torch, on the device the waveforms are on.

They differ in rate, window, scale and mean removal, as the models they belong to were trained; `FRONTENDS` has them by
name.
Constants are kept out of the state dict and in float32, whatever dtype the model around them is cast to.
"""

from collections.abc import Callable
from functools import partial

from ossicle.sound.frontends.efficientat import EfficientAtMel
from ossicle.sound.frontends.kaldi import BEATS_NORM, NORMS, KaldiFbank
from ossicle.sound.frontends.magnitude import MagnitudeMel
from ossicle.sound.frontends.panns import PannsMel
from ossicle.sound.frontends.vggish import VggishMel
from ossicle.sound.frontends.whisper import WhisperLogMel
from ossicle.sound.frontends.yamnet import YamnetMel

FrontEnd = EfficientAtMel | KaldiFbank | MagnitudeMel | PannsMel | VggishMel | WhisperLogMel | YamnetMel

FRONTENDS: dict[str, Callable[..., FrontEnd]] = {
    "ast": partial(KaldiFbank, subtract_mean=True),
    "ast_hf": KaldiFbank,
    "beats": partial(KaldiFbank, window="povey", scale=2.0**15, mean=BEATS_NORM[0], std=BEATS_NORM[1]),
    "efficientat": EfficientAtMel,
    "epic": MagnitudeMel,
    "panns": PannsMel,
    "vggish": VggishMel,
    "whisper": WhisperLogMel,
    "yamnet": YamnetMel,
}

__all__ = [
    "FRONTENDS", "NORMS", "EfficientAtMel", "FrontEnd", "KaldiFbank", "MagnitudeMel", "PannsMel", "VggishMel",
    "WhisperLogMel", "YamnetMel",
]  # fmt: skip
