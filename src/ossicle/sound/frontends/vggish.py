"""The log-mel that VGGish hears with."""

from ossicle.sound.frontends.framing import FRONTEND_VERSION, check_length
from ossicle.sound.frontends.kaldi import HOP, RATE_HZ, WINDOW
from ossicle.sound.frontends.yamnet import PATCH, Magnitudes

FLOOR = 1e-2


class VggishMel(Magnitudes):
    """VGGish's log-mel: YAMNet's bands, as ln(x + 0.01), for whole examples of 96 frames without overlap.

    What is left after the last whole example is dropped, as in the original (harritaylor/torchvggish,
    `vggish_input.py`). A clip that does not fill one, 15,600 samples, goes on in silence until it does.
    """

    floor = FLOOR

    def frames(self, samples: int) -> int:
        """Frames that `samples` at 16 kHz give: those of whole examples.

        Raises:
            AudioError: if the clip is shorter than one window.
        """
        own = 1 + (check_length(samples, WINDOW, RATE_HZ) - WINDOW) // HOP
        return PATCH * max(1, own // PATCH)

    def settings(self) -> dict[str, object]:
        """Everything that changes the numbers, for cache keys and saved recipes."""
        return {"kind": "vggish", "version": FRONTEND_VERSION}
