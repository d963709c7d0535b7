"""Convolutional encoders: the published scores and embeddings, rows and neighbours, adapters, strict loading."""

import json
import re
from pathlib import Path

import pytest
import soundfile
import soxr
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ossicle import backbones
from ossicle.adapters import inject, load_state, parse, remove, trainable
from ossicle.backbones import Encoder, efficientat, keys, panns, tags
from ossicle.contracts import Encoded
from ossicle.errors import AdapterError, UsageError, WeightsError
from ossicle.sound.frontends.panns import panns_filters, panns_window
from tests import tiny
from tests.conftest import pulled

pytestmark = pytest.mark.numerics
EPS = torch.finfo(torch.float32).eps
State = dict[str, Tensor]
kinds = pytest.mark.parametrize("kind", tiny.CONVOLUTIONAL)


def golden(shared: Path, name: str) -> tuple[State, dict[str, str]]:
    path = shared / "goldens" / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


def decoded(shared: Path, meta: dict[str, str], rate_hz: int) -> tuple[Tensor, Tensor]:
    """The clips, and their lengths, of a golden as its metadata says, without the cut to [-1, 1] of `audio.load`."""
    waves = []
    for name in json.loads(meta["files"]):
        samples, rate = soundfile.read(shared / "data" / "esc50" / "audio" / name, dtype="float32")
        waves.append(torch.from_numpy(soxr.resample(samples, rate, rate_hz, quality="HQ")))
    return nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor([len(wave) for wave in waves])


def embeddings(encoded: Encoded) -> Tensor:
    return torch.stack([row[real].mean(dim=0) for row, real in zip(encoded.tokens, encoded.mask, strict=True)])


def within(state: State, front: str) -> State:
    return {key.removeprefix(front): value.clone() for key, value in state.items() if key.startswith(front)}


def logits(scores: Tensor) -> Tensor:
    return scores.double().clamp(1e-7, 1 - 1e-7).logit()


@pytest.fixture(scope="module")
def mn04() -> Encoder:
    return backbones.from_checkpoint("mn04", pulled("mn04"))


def test_mn04s_network_alone(mn04: Encoder, shared: Path) -> None:
    stored, _ = golden(shared, "efficientat_mn04")
    with torch.no_grad():
        encoded = mn04.encode(stored["net/in/mel"][0].transpose(1, 2))
        given = mn04.tags.head(encoded.tokens.mean(dim=1))[0]  # type: ignore[union-attr]
    assert (encoded.grid.freq, encoded.grid.time) == (4, 10)
    assert (encoded.tokens.mean(dim=1)[0] - stored["net/out/embedding"]).abs().max() < 1e-4
    assert (given - stored["net/out/logits"]).abs().max() < 1e-4


def test_mn04_from_sound_to_scores(mn04: Encoder, shared: Path) -> None:
    stored, meta = golden(shared, "efficientat_mn04")
    waves, lengths = decoded(shared, meta, 32_000)
    with torch.no_grad():
        encoded = mn04(waves, lengths)
        short = mn04.scores(mn04(waves[-1:, :40_000]))
    assert (embeddings(encoded) - stored["out/embedding"]).abs().max() < 2e-3
    assert (mn04.scores(encoded)[:, 0] - stored["out/scores"]).abs().max() < 2e-3
    assert (short[0, 0] - stored["short/out/scores"]).abs().max() < 2e-3


def test_mn04_names_sounds(mn04: Encoder, shared: Path) -> None:
    _, meta = golden(shared, "efficientat_mn04")
    with torch.no_grad():
        scores = mn04.scores(mn04(*decoded(shared, meta, 32_000)))[:, 0]
    names = [mn04.tags.labels[int(best)] for best in scores.argmax(dim=1)]  # type: ignore[union-attr]
    wanted = dict(zip(json.loads(meta["categories"]), names, strict=True))
    told = [wanted[name] for name in ("sneezing", "crow", "door_wood_knock", "fireworks")]
    assert told == ["Sneeze", "Crow", "Knock", "Fireworks"]


def test_yamnets_scores_agree_with_the_published_graph(shared: Path) -> None:
    """That graph rounds its weights, its DFT and its mel bands to 8 bits, so it cannot be met more closely."""
    encoder = backbones.from_checkpoint("yamnet", pulled("yamnet"))
    stored, meta = golden(shared, "yamnet")
    with torch.no_grad():
        scores = encoder.scores(encoder(*decoded(shared, meta, 16_000)))
    theirs = stored["scores/out/scores"].float()
    assert scores.shape == theirs.shape
    assert scores.mean(dim=1).argmax(dim=1).tolist() == stored["scores/out/top1_mean"].tolist()
    for ours, other in zip(logits(scores.mean(dim=1)), logits(theirs.mean(dim=1)), strict=True):
        assert torch.corrcoef(torch.stack([ours, other]))[0, 1] > 0.94


class TestPanns:
    @pytest.fixture
    def stored(self, shared: Path) -> State:
        return golden(shared, "panns_wavegram_logmel")[0]

    @pytest.fixture
    def encoder(self, stored: State, tmp_path: Path) -> Encoder:
        save_file(within(stored, "net/sd/"), tmp_path / "model.safetensors")
        return backbones.from_checkpoint("panns-wavegram-cnn14", tmp_path)

    def test_equals_the_original_code(self, encoder: Encoder, stored: State) -> None:
        with torch.no_grad():
            encoded = encoder(stored["in/wav_i16"].float()[None] / 32768)
            embedding = encoder.tags.head[:2](2 * encoded.tokens[:, 0])  # type: ignore[union-attr, index]
        assert encoded.tokens.shape == (1, 1, 20)  # of one token mean and largest value are the same
        assert (embedding - stored["net/out/embedding"]).abs().max() < 1e-3
        assert (encoder.scores(encoded)[:, 0] - stored["net/out/clipwise_output"]).abs().max() < 1e-5

    def test_inner_maps_equal_those_of_the_original_code(self, encoder: Encoder, stored: State) -> None:
        features, _ = encoder.listen(stored["in/wav_i16"].float()[None] / 32768)
        stem = encoder.stem
        with torch.no_grad():
            wave = stem.wave(features[:, :-1, 64:].flatten(1)[:, None])  # type: ignore[attr-defined]
            wavegram = stem.wavegram(wave.unflatten(1, (-1, 32)).transpose(2, 3))  # type: ignore[attr-defined]
            first = stem.maps[0]((features[..., :64] * stem.gain + stem.shift)[:, None])  # type: ignore[attr-defined]
        assert (wave - stored["net/out/pre_block3"]).abs().max() < 1e-3
        assert (wavegram - stored["net/out/pre_block4"]).abs().max() < 1e-3
        assert (first - stored["net/out/conv_block1"]).abs().max() < 1e-3

    def test_the_head_adds_mean_and_largest_value(self) -> None:
        encoder = tiny.encoder("panns")
        encoded = encoder(tiny.waves(2, seconds=3.0))
        assert encoded.tokens.shape[1] == 4
        pooled = encoded.tokens.mean(dim=1) + encoded.tokens.amax(dim=1)
        expected = encoder.tags.head(pooled).sigmoid()  # type: ignore[union-attr]
        torch.testing.assert_close(encoder.scores(encoded)[:, 0], expected, rtol=0, atol=4 * EPS)

    def test_clips_of_every_length_fit(self) -> None:
        """The original takes few lengths: its two branches round differently (its issues 29 and 59)."""
        encoder = tiny.encoder("panns")
        for samples in (1_024, 10_239, 10_240, 10_241, 16_319, 16_321, 20_479, 20_480, 20_481, 44_100, 220_500):
            encoded = encoder(torch.full((1, samples), 0.1))
            assert encoded.tokens.shape[1] == max(1, -(-samples // 640) * 2 // 32)
            assert encoded.tokens.isfinite().all()

    def test_a_file_keeps_its_front_end_and_another_one_is_refused(self, stored: State, tmp_path: Path) -> None:
        known = within(stored, "net/sd/")
        transform = torch.zeros(513, 1, 1024)
        transform[0, 0] = panns_window().float()
        constants = {
            "spectrogram_extractor.stft.conv_real.weight": transform,
            "spectrogram_extractor.stft.conv_imag.weight": torch.zeros(513, 1, 1024),
            "logmel_extractor.melW": panns_filters().float(),
        }
        file = tmp_path / "Wavegram_Logmel_Cnn14_mAP=0.439.pth"
        torch.save({"iteration": 1, "model": known | constants}, file)
        assert backbones.load("panns-wavegram-cnn14", weights_from=str(file)).dim == 20
        for name in ("spectrogram_extractor.stft.conv_real.weight", "logmel_extractor.melW"):
            for other in (constants[name].roll(1, dims=-1), constants[name][..., :32], torch.ones(3)):
                torch.save({"model": known | constants | {name: other.clone()}}, file)
                with pytest.raises(WeightsError, match=re.escape(f"{name} is of another front end")):
                    backbones.load("panns-wavegram-cnn14", weights_from=str(file))


class TestVggish:
    def test_equals_the_original_code(self, shared: Path, tmp_path: Path) -> None:
        stored, _ = golden(shared, "vggish")
        components = {"pproc.pca_means": torch.zeros(128, 1), "pproc.pca_eigen_vectors": torch.zeros(128, 128)}
        save_file(within(stored, "net/sd/") | components, tmp_path / "model.safetensors")
        encoder = backbones.from_checkpoint("vggish", tmp_path)
        frames = (stored["net/in/x"].float() / 32).reshape(1, -1, 64)
        with torch.no_grad():
            tokens = encoder.encode(frames).tokens[0]
        assert (tokens - stored["net/out/embedding_no_last_relu"]).abs().max() < 1e-4
        assert (tokens.relu() - stored["net/out/embedding"]).abs().max() < 1e-4

    def test_it_has_no_classes(self) -> None:
        encoder = tiny.encoder("vggish")
        with pytest.raises(UsageError, match="tiny-vggish has no classes of its own; take a tagger"):
            encoder.scores(encoder(tiny.waves()))

    def test_rows_for_whole_seconds(self) -> None:
        """Nine for 9.5 s, as the original has it, and one for what is shorter than an example."""
        encoder = tiny.encoder("vggish")
        assert [encoder(tiny.waves(1, seconds=s)).tokens.shape[1] for s in (0.1, 0.975, 5.0, 9.5)] == [1, 1, 5, 9]


LENGTHS = (48_000, 20_000, 48_000, 33_333, 1_100)


@kinds
def test_neighbours_never_change_a_row(kind: str) -> None:
    encoder = tiny.encoder(kind)
    waves = tiny.waves(len(LENGTHS), seconds=3.0)
    lengths = torch.tensor(LENGTHS)
    together = encoder(waves, lengths)
    assert together.mask is not None and together.mask.shape == together.tokens.shape[:2]
    loud = torch.cat([waves[:1], 9 * waves[1:].flip(0)])  # other neighbours, and other sound after the ends
    other = encoder(loud, lengths)
    assert torch.equal(other.tokens[0][other.mask[0]], together.tokens[0][together.mask[0]])  # type: ignore[index]
    shared_rows = [row for row, length in enumerate(LENGTHS) if LENGTHS.count(length) > 1]
    for row, length in enumerate(LENGTHS):
        alone = encoder(waves[row : row + 1, :length])
        assert alone.mask is None
        real = together.tokens[row][together.mask[row]]
        assert len(real) == alone.tokens.shape[1]
        if kind in ("mobile", "panns") and row not in shared_rows:  # it ran alone in the batch too
            assert torch.equal(real, alone.tokens[0])
        assert (real - alone.tokens[0]).abs().max() <= 64 * EPS * alone.tokens.abs().max()
        if encoder.tags is not None:
            mine = encoder.scores(together)[row][: encoder.scores(alone).shape[1]]
            assert (mine - encoder.scores(alone)[0]).abs().max() <= 64 * EPS


@kinds
def test_what_lies_after_a_rows_end_is_not_heard(kind: str) -> None:
    encoder = tiny.encoder(kind)
    waves = tiny.waves(2, seconds=3.0)
    noisy = waves.clone()
    noisy[1, 20_000:] = 100.0
    lengths = torch.tensor([48_000, 20_000])
    clean, other = encoder(waves, lengths), encoder(noisy, lengths)
    assert torch.equal(clean.mask, other.mask)  # type: ignore[arg-type]
    assert torch.equal(clean.tokens[1][clean.mask[1]], other.tokens[1][clean.mask[1]])  # type: ignore[index]
    if encoder.tags is not None:
        own = 1 if encoder.tags.pooled else int(clean.mask[1].sum())  # type: ignore[index]
        assert torch.equal(encoder.scores(clean)[1, :own], encoder.scores(other)[1, :own])


@kinds
def test_sounds_differ(kind: str) -> None:
    """What the tests above compare is not the same for every sound."""
    tokens = tiny.encoder(kind)(tiny.waves(2, seconds=3.0)).tokens
    assert (tokens[0] - tokens[1]).abs().max() > 0.01 * tokens.abs().max()


@pytest.mark.parametrize(
    "text", ["lora(rank=2)", "lora(rank=2)+norm()", "norm(which=last)", "bottleneck(rank=2)", "prompts(tokens=2)",
             "prefix(tokens=2)", "bitfit()", "convpass(rank=2)", "hydra(rank=2)", "lookaside(rank=2)"],
)  # fmt: skip
@kinds
def test_adapters_of_blocks_are_refused_in_one_line(kind: str, text: str) -> None:
    encoder = tiny.encoder(kind)
    with pytest.raises(AdapterError, match=rf"^'.*' sits in transformer blocks, but tiny-{kind} .* has none; .*$"):
        inject(encoder, parse(text))
    assert not encoder.adapters and not any(p.requires_grad for p in encoder.parameters())


@kinds
def test_full_trains_the_stem_and_never_the_published_head(kind: str) -> None:
    encoder = tiny.encoder(kind)
    waves = tiny.waves(2, seconds=2.0)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    first = encoder(waves).tokens
    inject(encoder, parse("full()"))
    own = trainable(encoder, "default")
    assert set(own) == {key for key in before if key.startswith("stem.")}
    assert {id(p) for p in encoder.parameters() if p.requires_grad} == {id(p) for p in own.values()}
    encoder.train()
    assert torch.equal(encoder(waves).tokens, first)  # nothing draws, and no statistics are taken
    optimizer = torch.optim.SGD(own.values(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        (encoder(waves).tokens - 1).square().mean().backward()
        optimizer.step()
    assert [key for key, value in own.items() if torch.equal(value, before[key])] == []
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items() if not k.startswith("stem."))
    trained, saved = encoder(waves).tokens, {key: value.detach().clone() for key, value in own.items()}
    remove(encoder, "default")
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert torch.equal(encoder(waves).tokens, first)
    inject(encoder, parse("full()"))
    load_state(encoder, "default", saved)
    assert torch.equal(encoder(waves).tokens, trained)


@pytest.mark.parametrize("name", ["mn04", "mn40", "panns-wavegram-cnn14", "vggish", "yamnet"])
def test_no_statistics_are_left_that_could_move(name: str) -> None:
    encoder = backbones.skeleton(name)
    assert not list(encoder.named_buffers())
    stateful = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.modules.instancenorm._InstanceNorm)
    assert [key for key, module in encoder.named_modules() if isinstance(module, stateful)] == []


@kinds
def test_tokens_cannot_be_dropped_where_there_are_no_blocks(kind: str) -> None:
    encoder = tiny.encoder(kind)
    features, _ = encoder.listen(tiny.waves())
    with pytest.raises(UsageError, match=rf"^task\.augment\.drop_tokens .* tiny-{kind} is convolutional .*$"):
        encoder.encode(features, drop=0.3, generator=torch.Generator())
    assert torch.equal(encoder.encode(features, drop=0.0).tokens, encoder.encode(features).tokens)


def with_norm(state: State, conv: str, norm: str) -> State:
    """A convolution with a bias as one with a batch norm."""
    generator = torch.Generator().manual_seed(len(conv))
    width = len(state[f"{conv}.bias"])
    made = {f"{norm}.{n}": torch.rand(width, generator=generator) for n in ("weight", "running_mean", "running_var")}
    made |= {f"{norm}.bias": state[f"{conv}.bias"], f"{norm}.num_batches_tracked": torch.tensor(3)}
    return {key: value for key, value in state.items() if key != f"{conv}.bias"} | made


def mobile_file() -> State:
    """A tiny tagger as EfficientAT saves it."""
    state = tiny.encoder("mobile").state_dict()
    named = {re.sub(r"^stem\.|^tags\.", "", key): value for key, value in state.items()}
    for key in [key for key in named if key.endswith(".0.bias") and key.startswith("features.")]:
        front = key.removesuffix(".0.bias")
        named = with_norm(named, f"{front}.0", f"{front}.1")
    rules = [(r"^head\.0", "classifier.2"), (r"^head\.2", "classifier.5"), (r"\.(fc\d)\.", r".conc_se_layers.0.\1.")]
    for pattern, new in rules:
        named = {re.sub(pattern, new, key): value for key, value in named.items()}
    return named


def plain_file(kind: str) -> State:
    """The files that keep our order: VGGish as it is published, YAMNet as it is converted."""
    state = tiny.encoder(kind).state_dict()
    return {re.sub(r"^stem\.", "", key).replace("tags.head", "classifier"): value for key, value in state.items()}


FILES = {
    "mn04": mobile_file,
    "vggish": lambda: plain_file("vggish"),
    "yamnet": lambda: plain_file("yamnet"),
}


def load_state_of(name: str, state: State, folder: Path) -> Encoder:
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors")
    return backbones.from_checkpoint(name, folder)


def file_of(name: str, shared: Path) -> State:
    if name == "panns-wavegram-cnn14":
        return within(golden(shared, "panns_wavegram_logmel")[0], "net/sd/")
    return FILES[name]()


names = pytest.mark.parametrize("name", [*FILES, "panns-wavegram-cnn14"])


def told(error: WeightsError, key: str, name: str) -> bool:
    """Whether a tensor is named, by its name in the file or by ours."""
    rules = {"panns-wavegram-cnn14": panns.RULES, "mn04": efficientat.RULES}.get(name)
    made = {key: torch.zeros(1)}
    ours = backbones.spec(name).keys(made) if rules is None else keys.rename(made, rules, ())
    return any(k in str(error) for k in (key, *ours))


@names
def test_every_single_tensor_must_be_there_and_fit(name: str, shared: Path, tmp_path: Path) -> None:
    whole = file_of(name, shared)
    load_state_of(name, whole, tmp_path)
    needed = [key for key in whole if not key.endswith("num_batches_tracked")]
    for key in needed[:: max(1, len(needed) // 25)]:
        value = whole[key]
        faults = [torch.cat([value, value[:1]]), value[None], value.flatten()[0], value[..., :1].clone()]
        for fault in [None, *(f for f in faults if f.shape != value.shape)]:
            changed = {k: v for k, v in whole.items() if k != key} | ({} if fault is None else {key: fault})
            with pytest.raises(WeightsError) as caught:
                load_state_of(name, changed, tmp_path)
            assert "\n" not in str(caught.value)
            if fault is None:
                assert told(caught.value, key, name), f"{key} in: {caught.value}"


@names
def test_an_extra_tensor_is_refused_and_named(name: str, shared: Path, tmp_path: Path) -> None:
    whole = file_of(name, shared)
    for extra in ("head.weight", "features.99.0.weight", "features.0.7.running_mean", "embeddings.9.bias"):
        with pytest.raises(WeightsError, match=re.escape(extra)):
            load_state_of(name, whole | {extra: torch.zeros(3, 3)}, tmp_path)


@names
def test_a_file_of_another_model_is_refused(name: str, shared: Path, tmp_path: Path) -> None:
    for other in [*FILES, "panns-wavegram-cnn14"]:
        if other != name:
            with pytest.raises(WeightsError, match=re.escape(name)):
                load_state_of(name, file_of(other, shared), tmp_path)


def test_batch_norms_are_folded_in(tmp_path: Path) -> None:
    """The first convolution of a tagger, against torch's own batch norm."""
    state = mobile_file()
    encoder = load_state_of("mn04", state, tmp_path)
    features, _ = encoder.listen(tiny.waves(1))
    x = features.transpose(1, 2)[:, None]
    made = nn.functional.conv2d(x, state["features.0.0.weight"], stride=2, padding=1)
    kept = [state[f"features.0.1.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
    expected = nn.functional.hardswish(nn.functional.batch_norm(made, *kept, eps=1e-3))
    got = encoder.stem.features[0](x)  # type: ignore[attr-defined]
    assert (got - expected).abs().max() <= 64 * EPS * expected.abs().max()


@pytest.mark.parametrize("rows", [50, 526, 600])
def test_classes_of_another_head_are_not_called_by_audiosets_names(rows: int, tmp_path: Path) -> None:
    state = mobile_file()
    state |= {f"classifier.5.{n}": torch.randn(rows, *state[f"classifier.5.{n}"].shape[1:]) for n in ("weight", "bias")}
    encoder = load_state_of("mn04", state, tmp_path)
    assert encoder.tags is not None and encoder.tags.labels == tuple(f"class {n}" for n in range(rows))
    assert encoder.scores(encoder(tiny.waves())).shape == (2, 1, rows)


@pytest.mark.parametrize(("name", "count", "some"), [("audioset", 527, "Meow"), ("yamnet", 521, "Meow")])
def test_class_lists_are_whole(name: str, count: int, some: str) -> None:
    listed = tags.names(name)
    assert len(listed) == len(set(listed)) == count
    assert (listed[0], some in listed) == ("Speech", True)
