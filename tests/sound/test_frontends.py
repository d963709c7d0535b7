"""Front ends against transformers, kaldi-native-fbank and stored BEATs features; batching; wrong use.

PEERS states the greatest difference measured from each peer on two clips; the tests allow twice that.
"""

import os
import warnings
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from ossicle.errors import AudioError, UsageError
from ossicle.sound.audio import load
from ossicle.sound.frontends import FRONTENDS, NORMS, KaldiFbank, MagnitudeMel, WhisperLogMel

SHARED = Path(__file__).resolve().parents[3] / "shared"
ESC50_CLIP = SHARED / "data" / "esc50" / "audio" / "1-19872-B-36.opus"


def needed(path: Path) -> Path:
    if not path.exists():
        reason = f"{path.parent.name}/{path.name} is not in ../shared beside this checkout"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def sine_and_noise() -> torch.Tensor:
    time = torch.arange(10 * 16_000) / 16_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return 0.3 * torch.sin(2 * torch.pi * 440.0 * time) + 0.05 * noise + 0.02


CLIPS = {"sine": sine_and_noise, "esc50": lambda: load(needed(ESC50_CLIP), 16_000)}


def transformers_ast(clip: torch.Tensor) -> np.ndarray:
    with warnings.catch_warnings():  # the low mel bands are narrower than a bin, in Kaldi too
        warnings.simplefilter("ignore", UserWarning)
        extractor = ASTFeatureExtractor(max_length=KaldiFbank().frames(len(clip)))
    return extractor(clip.numpy(), sampling_rate=16_000, return_tensors="np")["input_values"][0]


def transformers_whisper(clip: torch.Tensor) -> np.ndarray:
    extractor = WhisperFeatureExtractor()
    features = extractor(clip.numpy(), sampling_rate=16_000, padding="do_not_pad", return_tensors="np")
    return features["input_features"][0].T


def transformers_whisper_numpy(clip: torch.Tensor) -> np.ndarray:
    return WhisperFeatureExtractor()._np_extract_fbank_features(clip.numpy()[None], "cpu")[0].T


def kaldi(window: str):
    def features(clip: torch.Tensor) -> np.ndarray:
        options = kaldi_native_fbank.FbankOptions()
        options.frame_opts.dither = 0
        options.frame_opts.window_type = window
        options.mel_opts.num_bins = 128
        options.use_energy = False
        fbank = kaldi_native_fbank.OnlineFbank(options)
        fbank.accept_waveform(16_000, clip.numpy())
        fbank.input_finished()
        return np.stack([np.array(fbank.get_frame(i)) for i in range(fbank.num_frames_ready)])

    return features


def transformers_magnitude(clip: torch.Tensor) -> np.ndarray:
    """EPIC-SOUNDS' recipe in transformers' words; the clip counts as 24 kHz."""
    bands = mel_filter_bank(1025, 128, 0.0, 12_000.0, 24_000, norm=None, mel_scale="htk")
    made = spectrogram(
        clip.numpy().astype(np.float64), window_function(240, "hann", frame_length=240), 240, 120, fft_length=2048,
        power=1.0, center=True, pad_mode="constant", mel_filters=bands, mel_floor=0.0, dtype=np.float64,
    )  # fmt: skip
    return np.log(made.T + 1e-6).astype(np.float32)


def plain_kaldi(window: str) -> KaldiFbank:
    return KaldiFbank(window=window, mean=0.0, std=0.5)


# ours, theirs, and the greatest difference measured on the sine and on the ESC-50 clip. Kaldi's are before
# normalisation, in natural log, both sides in float32; transformers' AST features are computed in float64.
PEERS = {
    "ast_hf": (FRONTENDS["ast_hf"], transformers_ast, {"sine": 4.7e-5, "esc50": 1.8e-5}),
    "kaldi hanning": (lambda: plain_kaldi("hanning"), kaldi("hanning"), {"sine": 5.9e-4, "esc50": 1.9e-4}),
    "kaldi povey": (lambda: plain_kaldi("povey"), kaldi("povey"), {"sine": 8.9e-4, "esc50": 3.4e-4}),
    "epic": (MagnitudeMel, transformers_magnitude, {"sine": 8.6e-6, "esc50": 8.8e-6}),
    "whisper": (WhisperLogMel, transformers_whisper, {"sine": 9.5e-6, "esc50": 2.1e-6}),
    "whisper numpy": (WhisperLogMel, transformers_whisper_numpy, {"sine": 5.9e-6, "esc50": 1.4e-6}),
}
SHORT = {"epic": (239, r"239 samples \(0\.0100 s at 24 kHz.*0\.01 s")}
ROOM = 2.0  # for other processors' float32


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("peer", PEERS)
def test_equals_the_peer(peer, clip):
    ours, theirs, measured = PEERS[peer]
    wave = CLIPS[clip]()
    features, frames = ours()(wave[None])
    expected = torch.from_numpy(theirs(wave))
    assert features.shape[1:] == expected.shape
    assert int(frames) == len(expected)
    worst = float((features[0] - expected).abs().max())
    assert worst < ROOM * measured[clip]


def test_beats_equals_the_stored_features():
    golden = load_file(needed(SHARED / "goldens" / "beats_encoder.safetensors"))
    features, _ = FRONTENDS["beats"]()(golden["in/wav_i16"].float() / 32768)
    worst = float((features - golden["out/fbank"]).abs().max())
    assert worst < 1e-3  # measured 4.2e-5


def test_mean_subtraction_only_changes_rounding():
    wave = sine_and_noise()[None]
    worst = (FRONTENDS["ast"]()(wave)[0] - FRONTENDS["ast_hf"]()(wave)[0]).abs().max()
    assert 0 < worst < 2e-4  # measured 4.9e-5: each frame's own mean is removed anyway


@pytest.mark.parametrize("name", FRONTENDS)
class TestEveryFrontEnd:
    def test_neighbours_never_change_a_row(self, name):
        front = FRONTENDS[name]()
        waves = torch.randn(5, 20_000, generator=torch.Generator().manual_seed(1)) * 0.1
        lengths = torch.tensor([20_000, 401, 16_000, 400, 20_000])
        together, frames = front(waves, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone, own = front(waves[row : row + 1, :length])
            assert frames[row] == own[0] == front.frames(length)
            assert torch.equal(together[row, : own[0]], alone[0])
            assert not together[row, own[0] :].any()

    def test_numbers_do_not_depend_on_threads_autocast_or_the_modules_dtype(self, name):
        wave = sine_and_noise()[None, :50_000]
        expected = FRONTENDS[name]()(wave)[0]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            single = FRONTENDS[name]()(wave)[0]
        finally:
            torch.set_num_threads(threads)
        with torch.autocast("cpu", torch.bfloat16):
            cast = FRONTENDS[name]().to(torch.bfloat16)(wave)[0]
        assert torch.equal(single, expected)
        assert torch.equal(cast, expected)
        assert torch.get_num_threads() == threads

    def test_reduced_float32_products_do_not_reach_the_features(self, name):
        wave = sine_and_noise()[None, :50_000]
        expected = FRONTENDS[name]()(wave)[0]
        setting = torch.backends.mkldnn.matmul.fp32_precision
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        try:
            reduced = FRONTENDS[name]()(wave)[0]
        finally:
            torch.backends.mkldnn.matmul.fp32_precision = setting
        assert (reduced - expected).abs().max() < 1e-5

    def test_a_clip_shorter_than_a_window_is_told_in_seconds(self, name):
        one, told = SHORT.get(name, (399, r"399 samples \(0\.0249 s at 16 kHz.*0\.025 s"))
        with pytest.raises(AudioError, match=told):
            FRONTENDS[name]()(torch.zeros(1, one))

    def test_silence_is_finite(self, name):
        assert FRONTENDS[name]()(torch.zeros(1, 16_000))[0].isfinite().all()

    def test_wrong_waves_and_lengths_are_told(self, name):
        front = FRONTENDS[name]()
        for waves in (torch.zeros(16_000), torch.zeros(0, 16_000), torch.zeros(1, 16_000).double()):
            with pytest.raises(UsageError, match="batch, samples"):
                front(waves)
        for lengths in ([500], [500, 2000]):
            with pytest.raises(UsageError, match="lengths"):
                front(torch.zeros(2, 1000), torch.tensor(lengths))

    def test_has_no_weights_and_settings_tell_it_apart(self, name):
        front = FRONTENDS[name]()
        assert not front.state_dict()
        others = [make().settings() for other, make in FRONTENDS.items() if other != name]
        assert front.settings() not in others

    @pytest.mark.gpu
    def test_gpu_equals_cpu(self, name):
        waves = torch.stack([sine_and_noise()] * 2)
        lengths = torch.tensor([160_000, 90_000])
        front = FRONTENDS[name]()
        on_gpu, frames = front(waves.cuda(), lengths.cuda())
        assert (on_gpu.cpu() - front(waves, lengths)[0]).abs().max() < 1e-3
        assert frames.tolist() == [front.frames(n) for n in lengths.tolist()]


@pytest.mark.parametrize("seconds, frames", [(1, 98), (4, 398), (5, 498), (10, 998), (30, 2998)])
def test_kaldi_frame_counts(seconds, frames):
    assert KaldiFbank().frames(seconds * 16_000) == frames


@pytest.mark.parametrize("target", [50, 1024])
def test_target_frames_pads_before_normalising_or_cuts(target):
    mean, std = NORMS["esc50"]
    wave = sine_and_noise()[None, :80_000]
    own, _ = FRONTENDS["ast"](mean=mean, std=std)(wave)
    fixed, frames = FRONTENDS["ast"](mean=mean, std=std, target_frames=target)(wave)
    assert fixed.shape == (1, target, 128)
    assert int(frames) == target
    shared = min(target, own.shape[1])
    torch.testing.assert_close(fixed[:, :shared], own[:, :shared], atol=1e-5, rtol=0)
    if target > shared:
        torch.testing.assert_close(fixed[:, shared:], torch.full_like(fixed[:, shared:], -mean / (2 * std)))


@pytest.mark.parametrize("target", [50, 400])
def test_magnitudes_are_cut_or_go_on_with_the_last_frame(target):
    wave = sine_and_noise()[None, :24_000]
    own, _ = MagnitudeMel()(wave)
    fixed, frames = MagnitudeMel(target_frames=target)(wave)
    assert (own.shape[1], int(frames), fixed.shape) == (201, target, (1, target, 128))
    assert torch.equal(fixed[:, :201], own[:, :target])
    assert (fixed[:, 201:] == own[:, -1:]).all()
    assert MagnitudeMel(target_frames=target).settings() != MagnitudeMel().settings()


def test_long_clips_are_the_sum_of_their_blocks():
    wave = sine_and_noise()[None]
    whole, _ = FRONTENDS["ast_hf"]()(wave)
    later, _ = FRONTENDS["ast_hf"]()(wave[:, 600 * 160 :])
    torch.testing.assert_close(whole[:, 600:], later, atol=1e-4, rtol=0)


@pytest.mark.parametrize("arguments", [{"window": "hamming"}, {"mels": 0}, {"std": 0.0}, {"target_frames": 0}])
def test_wrong_settings_name_the_value(arguments):
    with pytest.raises(UsageError, match=str(next(iter(arguments.values())))):
        KaldiFbank(**arguments)
