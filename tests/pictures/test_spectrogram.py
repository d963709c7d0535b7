"""The picture of what a front end heard: tones lie at the ticks in kHz, clicks at those in seconds."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from matplotlib import image
from tests import tiny

from ossicle.errors import UsageError
from ossicle.pictures import spectrogram
from ossicle.pictures.spectrogram import Spectrogram
from ossicle.sound.frontends import FRONTENDS


def drawn(heard: Spectrogram, seconds: float) -> np.ndarray:
    """(rows, columns) brightness, the lowest band in the last row; -1 where nothing is drawn."""
    pixels = image.imread(io.BytesIO(spectrogram.png(heard, seconds)))
    return np.where(pixels[..., 3] > 0, pixels[..., :3].sum(axis=2), -1.0)


def through(kind: str, wave: torch.Tensor) -> Spectrogram:
    front = FRONTENDS[kind]()
    power = front(wave[None])[0][0, :, : front.bands].numpy()
    return Spectrogram(power, front.peaks_hz().numpy(), front.hop_s, front.first_s)


@pytest.mark.parametrize("kind", FRONTENDS)
def test_tones_lie_at_the_ticks_of_their_frequencies(kind: str) -> None:
    rate = FRONTENDS[kind]().rate_hz
    time = torch.arange(rate * 2) / rate
    ticks = {label: share for label, share in spectrogram.ticks_khz(FRONTENDS[kind]().peaks_hz())}
    assert {"0.5", "1", "2", "4"} <= ticks.keys() and ("8" in ticks) == (rate > 16_000)
    for label in set(ticks) - {"0.1", "0.5"}:
        tone = 0.5 * torch.sin(2 * torch.pi * 1000 * float(label) * time)
        rows = drawn(through(kind, tone), 2.0)[:, 200:500].mean(axis=1)
        from_bottom = 1 - (int(rows.argmax()) + 0.5) / len(rows)
        assert abs(from_bottom - ticks[label]) < 0.02, (kind, label)


@pytest.mark.parametrize("kind", FRONTENDS)
@pytest.mark.parametrize("seconds", [0.3, 1.5])
def test_a_click_lies_at_its_second_though_front_ends_cut_and_go_on_in_silence(kind: str, seconds: float) -> None:
    rate = FRONTENDS[kind]().rate_hz
    wave = torch.zeros(round(rate * seconds))
    wave[round(0.2 * rate)] = 0.9
    columns = drawn(through(kind, wave), seconds).mean(axis=0)
    brightest = np.flatnonzero(columns == columns.max())
    assert abs((brightest.mean() + 0.5) / len(columns) * seconds - 0.2) <= 0.011, kind


def test_what_a_front_end_leaves_out_is_not_drawn() -> None:
    """VGGish drops what fills no example: of 1.8 s it hears 0.96."""
    shown = drawn(through("vggish", 0.1 * torch.randn(28_800, generator=torch.Generator().manual_seed(0))), 1.8)
    heard = np.flatnonzero((shown >= 0).all(axis=0))
    assert heard[0] == 0 and 0.96 < (heard[-1] + 1) / shown.shape[1] * 1.8 < 1.01
    assert (shown[:, heard[-1] + 1 :] == -1).all()


def test_a_long_sound_is_drawn_by_means_and_what_is_not_finite_is_left_out() -> None:
    power = np.zeros((7200, 4))
    power[:3600] = [[0.0, 2.0, 0.0, 2.0]] * 3600
    power[::2] *= 0.5
    power[5000:5040] = np.nan
    power[0, 0] = -np.inf
    shown = drawn(Spectrogram(power, [100.0, 200.0, 300.0, 400.0], 0.01), 72.0)
    assert shown.shape == (192, 720)
    assert shown[-1, 100] < shown[-60, 100] == shown[0, 100] and shown[0, 500] == shown[-1, 500]
    assert np.unique(shown[:, 1:350], axis=1).shape[1] == 1  # ten frames each, so their mean
    assert (shown[:, 501:503] == -1).all() and (shown[:, 505:] >= 0).all()


def test_an_encoder_listens_through_its_own_front_end() -> None:
    encoder = tiny.encoder("whisper")
    heard = spectrogram.listen(encoder, tiny.waves(1, seconds=0.5)[0])
    assert np.shape(heard.power) == (50, len(np.asarray(heard.peaks_hz))) and heard.hop_s == 0.01
    assert heard.peaks_hz == pytest.approx(encoder.frontend.peaks_hz().numpy())


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (0.2, ["0", "0.05", "0.1", "0.15", "0.2"]), (0.013, ["0", "0.005", "0.01"]),
        (1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (5.0, ["0", "1", "2", "3", "4", "5"]), (5.99, ["0", "1", "2", "3", "4", "5"]), (6.0, ["0", "2", "4", "6"]),
        (600.0, ["0", "200", "400", "600"]), (36_000.0, ["0", "10000", "20000", "30000"]),
    ],
)  # fmt: skip
def test_seconds_are_round_few_and_in_their_places(seconds: float, labels: list[str]) -> None:
    ticks = spectrogram.ticks_s(seconds)
    assert [label for label, _ in ticks] == labels
    assert [share for _, share in ticks] == pytest.approx([float(label) / seconds for label in labels])


def test_other_shapes_are_refused() -> None:
    for power, peaks in ((np.zeros(4), [1.0]), (np.full((4, 4), np.nan), [1.0] * 4), (np.zeros((4, 4)), [1.0] * 3)):
        with pytest.raises(UsageError, match=r"features \(4,.*frequencies came; wanted are \(frames, bands\)"):
            spectrogram.png(Spectrogram(power, peaks, 0.01), 1.0)
    for seconds, hop_s in ((0.0, 0.01), (float("nan"), 0.01), (1.0, 0.0)):
        with pytest.raises(UsageError, match="positive lengths"):
            spectrogram.png(Spectrogram(np.zeros((4, 4)), [1.0] * 4, hop_s), seconds)


def test_threads_draw_the_same_picture() -> None:
    heard = Spectrogram(np.arange(6400.0).reshape(100, 64), np.arange(64.0), 0.01)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: spectrogram.png(heard, 1.0), range(8)))) == 1
