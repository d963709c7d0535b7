"""Front ends against float64, transformers, kaldi-native-fbank and stored BEATs features; batching; wrong use.

Every tolerance of features is that of `tests/sound/exact.py`, which follows from the arithmetic.
"""

import os
import warnings
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file
from tests.sound import exact
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from ossicle.errors import AudioError, UsageError
from ossicle.sound.audio import load
from ossicle.sound.frontends import FRONTENDS, NORMS, KaldiFbank, MagnitudeMel, WhisperLogMel, panns

pytestmark = pytest.mark.numerics
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


# ours, theirs, and the error of their mel triangles
PEERS = {
    "ast_hf": (FRONTENDS["ast_hf"], transformers_ast, 0.0),
    "kaldi hanning": (lambda: plain_kaldi("hanning"), kaldi("hanning"), exact.FLOAT32_TRIANGLES),
    "kaldi povey": (lambda: plain_kaldi("povey"), kaldi("povey"), exact.FLOAT32_TRIANGLES),
    "epic": (MagnitudeMel, transformers_magnitude, 0.0),
    "whisper": (WhisperLogMel, transformers_whisper, 0.0),
    "whisper numpy": (WhisperLogMel, transformers_whisper_numpy, 0.0),
}
IN_FLOAT32 = ("kaldi hanning", "kaldi povey", "whisper")  # the other peers compute in float64
FEW = 4.0
# the fewest samples, and how a clip with one less is told of
SIXTEEN = (400, r"399 samples \(0\.0249 s at 16 kHz.*0\.025 s")
LEAST = {
    "efficientat": (800, r"799 samples \(0\.0250 s at 32 kHz.*0\.025 s"),
    "epic": (240, r"239 samples \(0\.0100 s at 24 kHz.*0\.01 s"),
    "panns": (1024, r"1023 samples \(0\.0320 s at 32 kHz.*0\.032 s"),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", FRONTENDS)
def test_equals_float64(name, clip):
    front, wave = FRONTENDS[name](), CLIPS[clip]()
    assert exact.of(front, wave).share(front(wave[None])[0][0]) < 1


FAULTS = {
    "one sample late": lambda wave: wave.roll(1),
    "sixteen bits": lambda wave: (wave * 2**15).round() / 2**15,
    "products of eleven bits": lambda wave: (wave.view(torch.int32) & -(1 << 13)).view(torch.float32),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FRONTENDS)
def test_small_faults_are_seen(name, fault):
    front, wave = FRONTENDS[name](), sine_and_noise()
    assert exact.of(front, wave).share(front(FAULTS[fault](wave)[None])[0][0]) > 10


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("peer", PEERS)
def test_equals_the_peer(peer, clip):
    """Both are as near to float64 as float32 may be; where the peer computes in float32 too, we are no worse."""
    ours, theirs, triangles = PEERS[peer]
    front, wave = ours(), CLIPS[clip]()
    features, frames = front(wave[None])
    expected = theirs(wave)
    assert int(frames) == len(expected)
    assert exact.of(front, wave, triangles=triangles).share(expected) < 1
    plain = exact.of(front, wave)
    assert plain.share(features[0]) < 1
    assert peer not in IN_FLOAT32 or plain.rms(features[0]) < FEW * plain.rms(expected)


def test_beats_equals_the_stored_features():
    golden = load_file(needed(SHARED / "goldens" / "beats_encoder.safetensors"))
    features, _ = FRONTENDS["beats"]()(golden["in/wav_i16"].float() / 32768)
    worst = float((features - golden["out/fbank"]).abs().max())
    assert worst < 1e-3  # as the goldens ask


def stored(name: str) -> dict[str, torch.Tensor]:
    return load_file(needed(SHARED / "goldens" / f"{name}.safetensors"))


@pytest.mark.parametrize("sound", ["long", "short", "noise"])
def test_yamnet_equals_the_stored_features(sound):
    """Short ones end in silence, long ones in what fills the last patch."""
    golden = stored("yamnet")
    wave = golden[f"front/{sound}/in/wav_i16"].float() / 32768
    features, frames = FRONTENDS["yamnet"]()(wave[None])
    assert features[0].shape == golden[f"front/{sound}/out/log_mel"].shape and int(frames) == features.shape[1]
    assert (features[0] - golden[f"front/{sound}/out/log_mel"]).abs().max() < 1e-3  # as the goldens ask
    if sound == "long":
        assert (features[0, -96:] - golden["front/long/out/patch_last"]).abs().max() < 1e-3
        assert (len(features[0]) - 96) // 48 + 1 == int(golden["front/long/out/n_patches"])
    if sound == "noise":  # what the quantised model computes for itself
        assert (features[0] - golden["front/noise/out/tflite_log_mel"]).abs().mean() < 0.01


def test_vggish_equals_the_stored_examples():
    golden = stored("vggish")
    wave = golden["front/in/wav_i16"].float() / 32768
    features, frames = FRONTENDS["vggish"]()(wave[None])
    examples = features[0].unflatten(0, (-1, 96))
    assert (examples - golden["front/out/examples"][:, 0]).abs().max() < 1e-3  # as the goldens ask
    assert int(frames) == 192
    assert torch.equal(FRONTENDS["vggish"]()(wave[None, :31_199])[0], features)  # the rest is dropped


@pytest.mark.parametrize(("samples", "examples"), [(400, 1), (15_600, 1), (30_959, 1), (30_960, 2), (160_000, 10)])
def test_vggish_hears_whole_examples(samples, examples):
    assert FRONTENDS["vggish"]().frames(samples) == 96 * examples


def test_panns_equals_the_stored_features_and_keeps_the_samples():
    golden = stored("panns_wavegram_logmel")
    wave = golden["in/wav_i16"].float() / 32768
    features, _ = FRONTENDS["panns"]()(wave[None])
    assert (features[0, :, :64] - golden["net/out/logmel_extractor"][0, 0]).abs().max() < 1e-2  # as the goldens ask
    assert torch.equal(features[0, :-1, 64:].flatten(), wave)
    filters, window = panns.panns_filters(), panns.panns_window()
    assert list(filters.shape) == golden["const/out/melW_shape"].tolist()
    for got, name in ((filters.sum(0), "melW_band_sums"), (filters.sum(1), "melW_bin_sums")):
        torch.testing.assert_close(got, golden[f"const/out/{name}"], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(window.float(), golden["const/out/conv_real_row0"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("samples", "frames"), [(1024, 33), (10_240, 33), (10_241, 35), (320_000, 1001)])
def test_panns_clips_go_on_to_whole_pairs_of_frames(samples, frames):
    assert FRONTENDS["panns"]().frames(samples) == frames


def test_efficientat_equals_the_stored_features():
    """From the decoder's own samples: `audio.load` cuts what lies outside of [-1, 1]."""
    golden, folder = stored("efficientat_mn04"), SHARED / "data" / "esc50" / "audio"
    for number, name in enumerate(("1-100032-A-0.opus", "1-26143-A-21.opus")):
        samples, rate = soundfile.read(needed(folder / name), dtype="float32")
        wave = torch.from_numpy(soxr.resample(samples, rate, 32_000, quality="HQ"))
        features, _ = FRONTENDS["efficientat"]()(wave[None])
        assert (features[0].T - golden[f"front/{number}/out/mel"]).abs().max() < 1e-3  # as the goldens ask


def test_mean_subtraction_keeps_a_quiet_sound_on_a_large_offset():
    """Each frame's own mean is removed anyway, but only after the samples lost bits to the offset."""
    wave = 0.9 + 1e-5 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    wanted = exact.of(FRONTENDS["ast"](), wave)
    first, never = (wanted.share(FRONTENDS[name]()(wave[None])[0][0]) for name in ("ast", "ast_hf"))
    assert first < 1 < never


@pytest.mark.parametrize("name", FRONTENDS)
class TestEveryFrontEnd:
    def test_neighbours_never_change_a_row(self, name):
        front = FRONTENDS[name]()
        waves = torch.randn(5, 20_000, generator=torch.Generator().manual_seed(1)) * 0.1
        least = LEAST.get(name, SIXTEEN)[0]
        lengths = torch.tensor([20_000, least + 1, 16_000, least, 20_000])
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
        """Eleven bits of a product would be hundreds of times too few: see the faults above."""
        wave = sine_and_noise()[:50_000]
        setting = torch.backends.mkldnn.matmul.fp32_precision
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        try:
            reduced = FRONTENDS[name]()(wave[None])[0][0]
        finally:
            torch.backends.mkldnn.matmul.fp32_precision = setting
        assert exact.of(FRONTENDS[name](), wave).share(reduced) < 1

    def test_a_clip_shorter_than_a_window_is_told_in_seconds(self, name):
        least, told = LEAST.get(name, SIXTEEN)
        assert FRONTENDS[name]().fewest == least
        with pytest.raises(AudioError, match=told):
            FRONTENDS[name]()(torch.zeros(1, least - 1))

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
        assert (on_gpu.cpu() - front(waves, lengths)[0]).abs().max() < 1e-3  # as the goldens ask
        assert frames.tolist() == [front.frames(n) for n in lengths.tolist()]


@pytest.mark.parametrize("seconds, frames", [(1, 98), (4, 398), (5, 498), (10, 998), (30, 2998)])
def test_kaldi_frame_counts(seconds, frames):
    assert KaldiFbank().frames(seconds * 16_000) == frames


@pytest.mark.parametrize("target", [50, 1024])
def test_target_frames_pads_before_normalising_or_cuts(target):
    mean, std = NORMS["esc50"]
    front, wave = FRONTENDS["ast"](mean=mean, std=std, target_frames=target), sine_and_noise()[:80_000]
    fixed, frames = front(wave[None])
    assert fixed.shape == (1, target, 128)
    assert int(frames) == target
    assert exact.of(front, wave).share(fixed[0]) < 1
    torch.testing.assert_close(fixed[:, 498:], torch.full_like(fixed[:, 498:], -mean / (2 * std)))


@pytest.mark.parametrize("target", [50, 400])
def test_magnitudes_are_cut_or_go_on_with_the_last_frame(target):
    front, wave = MagnitudeMel(target_frames=target), sine_and_noise()[:24_000]
    fixed, frames = front(wave[None])
    assert (int(frames), fixed.shape) == (target, (1, target, 128))
    assert exact.of(front, wave).share(fixed[0]) < 1
    assert (fixed[:, 201:] == fixed[:, 200:201]).all()
    assert MagnitudeMel(target_frames=target).settings() != MagnitudeMel().settings()


def test_long_clips_are_the_sum_of_their_blocks():
    front, wave = FRONTENDS["ast_hf"](), sine_and_noise()
    wanted = exact.of(front, wave)
    assert wanted.share(front(wave[None])[0][0]) < 1
    assert wanted.cut(600).share(front(wave[None, 600 * 160 :])[0][0]) < 1


@pytest.mark.parametrize("arguments", [{"window": "hamming"}, {"mels": 0}, {"std": 0.0}, {"target_frames": 0}])
def test_wrong_settings_name_the_value(arguments):
    with pytest.raises(UsageError, match=str(next(iter(arguments.values())))):
        KaldiFbank(**arguments)


@pytest.mark.parametrize("kind", FRONTENDS)
def test_a_tone_is_loudest_in_the_band_that_peaks_there(kind):
    """Bands of 1 kHz and more, which are wider than a bin of the FFT: a tone belongs to one."""
    front = FRONTENDS[kind]()
    peaks = front.peaks_hz()
    columns = front.bands or front.mels
    assert len(peaks) == columns and bool((peaks.diff() > 0).all()) and peaks[0] > 0 and peaks[-1] < front.rate_hz / 2
    time = torch.arange(front.rate_hz, dtype=torch.float64) / front.rate_hz
    for band in range(int((peaks < 1000).sum()), columns, 5):
        tone = (0.5 * torch.sin(2 * torch.pi * peaks[band] * time)).float()
        heard = front(tone[None])[0][0, 20:80, :columns].mean(0)  # away from both ends
        assert int(heard.argmax()) == band, (kind, float(peaks[band]))


@pytest.mark.parametrize("kind", FRONTENDS)
def test_a_click_is_loudest_in_the_frame_whose_middle_is_nearest(kind):
    front = FRONTENDS[kind]()
    for at_s in (0.2, 0.5503, 0.8):
        wave = torch.zeros(1, front.rate_hz)
        wave[0, round(at_s * front.rate_hz)] = 0.9
        loudness = front(wave)[0][0, :, : front.bands or front.mels].mean(1)
        middle_s = front.first_s + front.hop_s * int(loudness.argmax())
        assert abs(middle_s - at_s) <= 0.51 * front.hop_s, (kind, at_s, middle_s)
