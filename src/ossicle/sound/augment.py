"""Random changes to waveforms and spectrograms for training; nothing here runs at prediction.

Each change is a draw from an explicit `torch.Generator` and a pure function of what was drawn. The generator may live
on the CPU while the tensors live elsewhere: draws are made where the generator is, so a seed gives the same ones on
every device.
"""

import numpy as np
import torch
from torch import Tensor

from ossicle.errors import UsageError


def spec_augment(
    features: Tensor,
    generator: torch.Generator,
    *,
    time: int,
    freq: int,
    time_masks: int = 1,
    freq_masks: int = 1,
    fill: float | None = 0.0,
) -> Tensor:
    """Blank out random stretches of time and bands of frequency, other ones in each row (SpecAugment, 1904.08779).

    Args:
        features: (batch, frames, mels) float.
        generator: source of the draws.
        time: a stretch has a length drawn evenly from [0, time) frames.
        freq: a band has a width drawn evenly from [0, freq) mels.
        time_masks: stretches per row.
        freq_masks: bands per row.
        fill: the value in masked places; 0 is the training data's mean once features are normalised, None is each
            row's own mean.

    Returns:
        (batch, frames, mels), a new tensor.

    Raises:
        UsageError: if the shape is another one or a size is negative.
    """
    if features.ndim != 3:
        raise UsageError(f"features came as {tuple(features.shape)}; wanted (batch, frames, mels)")
    batch, frames, mels = features.shape
    in_time = draw_masks(batch, frames, generator, widest=time, masks=time_masks).to(features.device)
    in_freq = draw_masks(batch, mels, generator, widest=freq, masks=freq_masks).to(features.device)
    masked = in_time[:, :, None] | in_freq[:, None, :]
    if fill is None:
        return torch.where(masked, features.mean(dim=(1, 2), keepdim=True), features)
    return features.masked_fill(masked, fill)


def draw_masks(batch: int, size: int, generator: torch.Generator, *, widest: int, masks: int) -> Tensor:
    """Draw `masks` stretches per row, each of a length in [0, widest) at an even place.

    Returns:
        (batch, size) bool on the generator's device, True where masked.

    Raises:
        UsageError: if `widest` or `masks` is negative.
    """
    if widest < 0 or masks < 0:
        raise UsageError(f"masks came as {masks} of up to {widest}; wanted numbers of 0 or more")
    draws = torch.rand(2, batch, masks, 1, generator=generator, device=generator.device)
    lengths = (draws[0] * min(widest, size)).floor()
    starts = (draws[1] * (size - lengths + 1)).floor().clamp(max=size)
    place = torch.arange(size, device=generator.device)
    return ((place >= starts) & (place < starts + lengths)).any(1)


def time_warp(features: Tensor, generator: torch.Generator, *, most: int) -> Tensor:
    """Move one moment of each row earlier or later by up to `most` frames and stretch what is before and after it.

    SpecAugment's time warping (1904.08779, section 2), with straight lines between neighbouring frames.

    Args:
        features: (batch, frames, mels) float.
        generator: source of the draws.
        most: furthest move; rows of hardly more than twice as many frames stay as they are.

    Returns:
        (batch, frames, mels), a new tensor.

    Raises:
        UsageError: if `most` is negative.
    """
    if most < 0:
        raise UsageError(f"time warp came as {most} frames; wanted a number of 0 or more")
    batch, frames, _ = features.shape
    room = frames - 2 * most - 2  # moments that stay inside wherever they go
    if room < 1:
        return features.clone()
    draws = torch.rand(2, batch, 1, generator=generator, device=generator.device).to(features.device)
    moment = most + 1 + (draws[0] * room).floor().clamp(max=room - 1)
    target = moment - most + (draws[1] * (2 * most + 1)).floor().clamp(max=2 * most)
    place = torch.arange(frames, device=features.device)
    before = place * moment / target
    after = moment + (place - target) * (frames - 1 - moment) / (frames - 1 - target)
    source = torch.where(place < target, before, after).clamp(0, frames - 1)
    low = source.floor()
    share = (source - low)[:, :, None].to(features.dtype)
    rows = torch.arange(batch, device=features.device)[:, None]
    return torch.lerp(features[rows, low.long()], features[rows, source.ceil().long()], share)


def noise(features: Tensor, generator: torch.Generator, *, height: float) -> Tensor:
    """Add even noise from 0 up to a height that is drawn for each row from [0, `height`), as AST's code does with 0.1.

    Args:
        features: (batch, frames, mels) float.
        generator: source of the draws.
        height: largest.

    Returns:
        (batch, frames, mels), a new tensor.

    Raises:
        UsageError: if `height` is negative.
    """
    if height < 0:
        raise UsageError(f"noise came as {height}; wanted a number of 0 or more")
    heights = height * torch.rand(len(features), 1, 1, generator=generator, device=generator.device)
    added = heights * torch.rand(features.shape, generator=generator, device=generator.device)
    return features + added.to(features.device, features.dtype)


def mixup(
    waves: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    alpha: float,
    beta: float | None = None,
    rows: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Mix each clip with another of the batch, and their labels alike (waveform mixup as AST, 2104.01778).

    Args:
        waves: (batch, samples) float in [-1, 1], all of one length.
        targets: (batch, classes) float, one-hot or multi-label.
        generator: source of the draws.
        alpha: first parameter of the Beta distribution of a clip's own share; AST uses 10.
        beta: second parameter; None means the same as `alpha`.
        rows: share of the clips that are mixed, each by a draw of its own.

    Returns:
        (batch, samples) mixed waves and (batch, classes) soft targets.

    Raises:
        UsageError: if the shapes do not fit or a parameter is not positive.
    """
    if waves.ndim != 2 or targets.ndim != 2 or len(waves) != len(targets) or not targets.is_floating_point():
        raise UsageError(
            f"waves came as {tuple(waves.shape)} and targets as {tuple(targets.shape)} {targets.dtype}; wanted "
            "(batch, samples) and (batch, classes) of floats; make class numbers one-hot first"
        )
    partner, share = draw_mixup(len(waves), generator, alpha=alpha, beta=alpha if beta is None else beta)
    if rows < 1:
        alone = torch.rand(len(waves), generator=generator, device=generator.device) >= rows
        share = share.masked_fill(alone, 1.0)
    return mix_rows(waves, partner, share), mix_rows(targets, partner, share)


def draw_mixup(batch: int, generator: torch.Generator, *, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """Draw a partner for each row and the row's own share.

    Returns:
        (batch,) int64 partners and (batch,) float32 shares in [0, 1], on the generator's device.

    Raises:
        UsageError: if a parameter is not positive.
    """
    if alpha <= 0 or beta <= 0:
        raise UsageError(f"mixup came with Beta({alpha}, {beta}); wanted two numbers above 0")
    device = generator.device
    partner = torch.randperm(batch, generator=generator, device=device)
    # torch draws no Beta from a generator, so one of its numbers seeds numpy's.
    seed = int(torch.randint(2**62, (1,), generator=generator, device=device))
    share = np.random.default_rng(seed).beta(alpha, beta, batch).astype(np.float32)
    return partner, torch.from_numpy(share).to(device)


def mix_rows(rows: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Mix (batch, width) rows: share * rows + (1 - share) * rows[partner]."""
    own = share.to(rows.device, rows.dtype)[:, None]
    return own * rows + (1 - own) * rows[partner.to(rows.device)]


def gain(waves: Tensor, generator: torch.Generator, *, low_db: float, high_db: float) -> Tensor:
    """Make each clip louder or softer by a number of decibels drawn evenly from [low_db, high_db); nothing is clipped.

    Args:
        waves: (batch, samples) float.
        generator: source of the draws.
        low_db: least gain.
        high_db: greatest gain.

    Returns:
        (batch, samples), a new tensor.

    Raises:
        UsageError: if `low_db` is above `high_db`.
    """
    if low_db > high_db:
        raise UsageError(f"gain came as {low_db} to {high_db} dB; wanted the lower number first")
    draws = torch.rand(len(waves), 1, generator=generator, device=generator.device)
    factors = 10.0 ** ((low_db + draws * (high_db - low_db)) / 20.0)
    return waves * factors.to(waves.device, waves.dtype)


def shift(waves: Tensor, generator: torch.Generator, *, max_seconds: float, rate_hz: int) -> Tensor:
    """Roll each clip around its end by a time drawn evenly from [-max_seconds, max_seconds].

    The same moves frames: (batch, frames, mels) at a rate of 1 by up to so many frames.

    Args:
        waves: (batch, samples) float, all of one length, or (batch, frames, mels).
        generator: source of the draws.
        max_seconds: furthest shift either way.
        rate_hz: samples per second.

    Returns:
        A new tensor of the same shape.

    Raises:
        UsageError: if `max_seconds` or `rate_hz` is negative.
    """
    if max_seconds < 0 or rate_hz < 0:
        raise UsageError(f"shift came as {max_seconds} s at {rate_hz} Hz; wanted numbers of 0 or more")
    most = round(max_seconds * rate_hz)
    draws = torch.rand(len(waves), generator=generator, device=generator.device, dtype=torch.float64)
    return roll_rows(waves, (draws * (2 * most + 1)).long() - most)  # of one seed the same time at every rate


def roll_rows(waves: Tensor, offsets: Tensor) -> Tensor:
    """Roll each of (batch, samples, ...) rows later by its own (batch,) int64 offset."""
    samples = waves.shape[1]
    source = torch.arange(samples, device=waves.device) - offsets.to(waves.device)[:, None]
    return waves[torch.arange(len(waves), device=waves.device)[:, None], source.remainder(samples)]
