"""Several encoders side by side: each hears the same clip through its own front end, at its own rate."""

import hashlib
from collections.abc import Sequence

from torch import nn

from ossicle.backbones.encoder import Encoder
from ossicle.errors import UsageError


class Joined(nn.Module):
    """Encoders that hear the same clips. What they hear is joined above them: by the head, or by the mapper.

    Args:
        encoders: at least two, each with a name of its own.

    Raises:
        UsageError: if an encoder is named twice.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        names = [encoder.name for encoder in encoders]
        if len(set(names)) < len(names):
            raise UsageError(f"'{'+'.join(names)}' names an encoder twice; each can be joined once")
        self.name = "+".join(names)
        self.parts = nn.ModuleList(encoders)

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """The encoders, in order."""
        return tuple(self.parts)  # type: ignore[arg-type]

    @property
    def active(self) -> str | None:
        """Name of the adapter in use, which every part has under the same name; None where no part has one."""
        return self.encoders[0].active

    @property
    def digest(self) -> str:
        """Of the digests of the parts."""
        return hashlib.sha256("+".join(encoder.digest for encoder in self.encoders).encode()).hexdigest()


Encoders = Encoder | Joined
