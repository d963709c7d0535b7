"""Several encoders under one head: each hears at its own rate, alone, and from its own cache."""

from functools import partial
from pathlib import Path

import pytest
import torch
from tests import tiny

from ossicle import adapters
from ossicle.adapters import store
from ossicle.backbones import Joined
from ossicle.backbones.encoder import Encoder
from ossicle.contracts import Clip
from ossicle.data.clips import load_waves
from ossicle.errors import AdapterError, DataError, UsageError
from ossicle.sound import augment
from ossicle.sound.frontends import FRONTENDS
from ossicle.tasks import features
from ossicle.tasks.classify import Augment, Classifier
from ossicle.tasks.features import FeatureStore, TokenStore
from ossicle.training.evaluate import cut, predict_rows

LABELS = ["cat", "dog", "owl"]
RATES_HZ = {"tiny-whisper": 16_000, "tiny-mobile": 32_000, "tiny-ast": 24_000}


def clips(folder: Path, seconds: tuple[float, ...] = (0.9, 0.9, 0.9), rate_hz: int = 44_100) -> list[Clip]:
    return [
        Clip(tiny.write_tone(folder / f"{i}.wav", 300 * (i + 1), s, seed=i, rate_hz=rate_hz), labels=(LABELS[i % 3],))
        for i, s in enumerate(seconds)
    ]


def parts() -> list[Encoder]:
    """Encoders of three families at three rates."""
    far = tiny.encoder("ast")
    far.frontend = FRONTENDS["epic"]()
    return [tiny.encoder("whisper"), tiny.tagger(), far]


def classifier(*encoders: Encoder, spec: str | tuple[str, ...] = "probe()", **options) -> Classifier:
    texts = [spec] * len(encoders) if isinstance(spec, str) else spec
    for encoder, text in zip(encoders, texts, strict=True):
        adapters.inject(encoder, adapters.parse(text), seed=1)
    torch.manual_seed(0)
    return Classifier(Joined(encoders) if len(encoders) > 1 else encoders[0], LABELS, **options)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alone(encoder: Encoder, clip: Clip, layers: tuple[int, ...]) -> torch.Tensor:
    """What one encoder makes of one clip, without any of the code above it."""
    (wave,) = load_waves([clip], encoder.rate_hz)
    return features.pool(encoder(wave[None], layers=layers), layers, encoder.usual_pooling)


def stores(task: Classifier, root: Path) -> list[FeatureStore]:
    for ear in task.listener.ears:
        ear.store = ear.feature_store(root=root)
    return [ear.store for ear in task.listener.ears]


# --- what the head hears ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_logits_are_the_head_of_all_pooled_features_in_order(tmp_path):
    task, given = classifier(*parts(), spec=("lora(rank=2)", "probe()", "probe()")), clips(tmp_path)
    assert {e.name: e.rate_hz for e in task.encoder.encoders} == RATES_HZ
    for clip in given:
        heard = [alone(ear.encoder, clip, ear.layers) for ear in task.listener.ears]
        assert [vector.shape[1] for vector in heard] == task.listener.widths
        wanted = task.head(torch.cat(heard, dim=1))
        torch.testing.assert_close(task.logits(task.collate([clip], None)), wanted)
    batch = task.collate(given, None)
    for ear, part in zip(task.listener.ears, batch.parts, strict=True):  # no part hears all clips alike
        assert ear.vector(part, task.augment).std(0).max() > 1e-3
    lengths = [part.waves.shape[1] for part in batch.parts]
    assert lengths == [round(0.9 * rate) for rate in RATES_HZ.values()]
    assert all(part.clips == given for part in batch.parts)


@torch.no_grad()
def test_neighbours_never_change_a_row(tmp_path):
    """The neighbours are longer, so that the row is padded for every encoder."""
    task, given = classifier(*parts()), clips(tmp_path, (0.5, 1.7, 1.1))
    together = task.logits(task.collate(given, None))
    for row, clip in zip(together, given, strict=True):
        torch.testing.assert_close(task.logits(task.collate([clip], None))[0], row, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_one_tagger_after_another_keeps_its_own_mask(tmp_path):
    """Mean and maximum of a short row must not see the padding of either encoder."""
    task, given = classifier(tiny.tagger(), tiny.encoder("whisper"), pooling="mean+max"), clips(tmp_path, (0.5, 2.0))
    together = task.logits(task.collate(given, None))
    torch.testing.assert_close(task.logits(task.collate(given[:1], None))[0], together[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_a_clip_that_one_encoder_cannot_take_is_left_out_of_all(tmp_path, cached, order):
    """AST needs 16 frames for a patch; Whisper hears 0.1 s well."""
    task, given = classifier(*[tiny.encoder("whisper"), tiny.encoder("ast")][::order]), clips(tmp_path, (0.9, 0.1, 0.9))
    if cached:
        stores(task, tmp_path / "cache")
    assert [row.error for row in predict_rows(classifier(tiny.encoder("whisper")), given, batch=3, precision="float32")]
    batch = task.collate(given, None)
    assert [[c.path.name for c in part.clips] for part in batch.parts] == [["0.wav", "2.wav"]] * 2
    assert len(task.logits(batch)) == 2 and batch.targets.argmax(1).tolist() == [0, 2]
    assert list(task.unreadable) == [str(given[1].path)]
    rows = predict_rows(task, given, batch=3, precision="float32")
    assert [row.error is None for row in rows] == [True, False, True]
    assert "longer clips or windows" in rows[1].error
    torch.testing.assert_close(task.logits(batch), task.logits(task.collate([given[0], given[2]], None)))
    with pytest.raises(DataError, match="no clip of this batch can be read"):
        task.collate(given[1:2], None)


# --- random changes --------------------------------------------------------------------------------------------------


def test_a_shift_is_of_as_many_seconds_for_every_encoder():
    rates = [8_000, 16_000, 24_000, 32_000, 44_100]
    at = {}
    for rate in rates:
        waves = torch.zeros(64, 2 * rate)
        waves[:, rate] = 1
        at[rate] = (augment.shift(waves, generator(3), max_seconds=0.4, rate_hz=rate).argmax(1) - rate) / rate
    for rate in rates[1:]:
        assert (at[rate] - at[8_000]).abs().max() <= 1 / 8_000
    assert at[8_000].min() < -0.3 and at[8_000].max() > 0.3 and len(set(at[8_000].tolist())) > 50


def test_shifts_reach_both_ends_and_are_even():
    waves = torch.arange(5.0).expand(20_000, 5)
    moved = augment.shift(waves, generator(), max_seconds=2, rate_hz=1)[:, 0].long()
    counts = torch.bincount(moved, minlength=5)
    assert counts.min() > 3_700 and counts.max() < 4_300


@pytest.mark.parametrize("changes", [Augment(shift_s=0.3), Augment(gain_db=6.0), Augment(shift_s=0.3, gain_db=6.0)])
def test_shift_and_gain_are_the_same_for_all_parts(tmp_path, changes):
    """Undone by what is known of one encoder's part, the others' parts are as they were."""
    task, given = classifier(*parts(), augment=changes), clips(tmp_path, (0.9,) * 5)
    plain, changed = task.collate(given, None), task.collate(given, generator(5))
    seed = changed.seed
    assert seed is not None and [part.seed for part in changed.parts] == [seed] * 3
    for ear, before, after in zip(task.listener.ears, plain.parts, changed.parts, strict=True):
        wanted = changes.waves(before.waves, generator(seed), ear.encoder.rate_hz)
        assert torch.equal(after.waves, wanted) and not torch.equal(after.waves, before.waves)
    loud = [
        part.waves.abs().mean(1) / p.waves.abs().mean(1) for part, p in zip(changed.parts, plain.parts, strict=True)
    ]
    for other in loud[1:]:
        torch.testing.assert_close(other, loud[0], atol=1e-3, rtol=1e-3)
    assert (loud[0].std() > 0.05) == (changes.gain_db > 0)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_all_parts_are_mixed_with_the_same_partner_by_the_same_share(tmp_path, share):
    task = classifier(*parts(), augment=Augment(mixup=0.5, mixup_share=share))
    given = clips(tmp_path, (0.9, 0.6, 0.9, 0.8, 0.7, 0.9))
    plain, mixed = task.collate(given, None), task.collate(given, generator(2))
    assert all(part.lengths is None for part in mixed.parts)
    for before, after in zip(plain.parts, mixed.parts, strict=True):
        rows = before.waves
        found = torch.linalg.lstsq(rows.T.double(), after.waves.T.double()).solution.T  # (mixed, of which)
        assert ((found.abs() > 1e-3).sum(1) <= 2).all() and torch.allclose(found.sum(1), torch.ones(6).double())
        shares = found @ plain.targets.double()
        torch.testing.assert_close(shares.float(), mixed.targets, atol=1e-3, rtol=0)
    assert not torch.equal(mixed.targets, plain.targets)


def test_spec_augment_changes_every_part_and_only_in_training(tmp_path):
    changes = Augment(time_mask=20, freq_mask=20, time_masks=2)
    task, given = classifier(*parts(), augment=changes), clips(tmp_path)
    plain, changed = task.collate(given, None), task.collate(given, generator(1))
    for ear, before, after in zip(task.listener.ears, plain.parts, changed.parts, strict=True):
        assert torch.equal(before.waves, after.waves)
        assert not torch.allclose(ear.vector(before, changes), ear.vector(after, changes))
        assert torch.equal(ear.vector(after, changes), ear.vector(after, changes))


@pytest.mark.parametrize("encoders", [lambda: [tiny.tagger()], lambda: [tiny.encoder("whisper"), tiny.tagger()]])
def test_tokens_of_a_tagger_cannot_be_dropped(encoders):
    with pytest.raises(
        UsageError, match=r"task\.augment\.drop_tokens .* but tiny-mobile is convolutional and has none; set it to 0"
    ):
        classifier(*encoders(), augment=Augment(drop_tokens=0.2))


def test_layers_are_of_one_encoder():
    with pytest.raises(UsageError, match=r"task\.layers=\[1\] is of one encoder, tiny-whisper\+tiny-ast has several"):
        classifier(tiny.encoder("whisper"), tiny.encoder("ast"), layers=[1])


# --- caches ----------------------------------------------------------------------------------------------------------


def test_adding_an_encoder_never_computes_the_others_anew(tmp_path):
    given, root = clips(tmp_path), tmp_path / "cache"
    for encoders, computed in (
        ([tiny.encoder("whisper")], [3]),
        ([tiny.encoder("whisper"), tiny.tagger()], [0, 3]),
        ([tiny.tagger(), tiny.encoder("whisper")], [0, 0]),
        (parts(), [0, 0, 3]),
        ([tiny.tagger(seed=1), tiny.encoder("whisper")], [3, 0]),
    ):
        task = classifier(*encoders)
        plain = task.logits(task.collate(given, None))
        kept = stores(task, root)
        torch.testing.assert_close(task.logits(task.collate(given, None)), plain, atol=1e-4, rtol=1e-4)
        assert [one.computed for one in kept] == computed


def test_only_the_adapted_encoder_is_run(tmp_path, monkeypatch):
    task, given = classifier(tiny.tagger(), tiny.encoder("whisper"), spec=("probe()", "lora(rank=2)")), clips(tmp_path)
    frozen, adapted = task.listener.ears
    frozen.store = frozen.feature_store(root=tmp_path / "cache")
    plain = task.logits(task.collate(given, None))
    assert frozen.store.computed == 3
    monkeypatch.setattr(type(frozen.encoder.stem), "forward", lambda *given: pytest.fail("the frozen one was run"))
    for seed in range(3):
        batch = task.collate(given, generator(seed))
        assert batch.features is not None and batch.others[0].waves is not None
        torch.testing.assert_close(task.logits(batch), plain)
    task.loss(batch).backward()
    grads = {name: p.grad is not None for name, p in task.encoder.named_parameters() if p.requires_grad}
    assert grads and all(grads.values()) and all(name.startswith("parts.1.") for name in grads)
    assert frozen.store.computed == 3


def cached(task: Classifier, root: Path, changes: Augment) -> None:
    """Tokens below the top block of the transformer; the tagger hears waveforms."""
    for ear in task.listener.ears:
        if ear.encoder.depth:
            change = partial(changes.waves, rate_hz=ear.encoder.rate_hz)
            ear.tokens = TokenStore(ear.encoder, 2, change, [changes], root=root)


@pytest.mark.parametrize("order", [1, -1])
def test_cached_tokens_and_waveforms_are_mixed_alike(tmp_path, order):
    """Targets are mixed, so every part must be; else one encoder hears a clip under another's label."""
    changes = Augment(token_mixup=0.5)
    encoders, texts = [tiny.encoder("whisper"), tiny.tagger()], ("lora(rank=2,blocks=top:1)", "probe()")
    task = classifier(*encoders[::order], spec=texts[::order], augment=changes)
    given = clips(tmp_path, (0.9,) * 4)
    cached(task, tmp_path / "cache", changes)
    mixed = task.collate(given, generator(4))
    task.augment = Augment()
    plain = task.collate(given, generator(4))
    assert not torch.equal(mixed.targets, plain.targets)
    for before, after in zip(plain.parts, mixed.parts, strict=True):
        rows = [part.waves if part.waves is not None else part.tokens for part in (before, after)]
        one, two = (part.flatten(1).double() for part in rows)
        found = torch.linalg.lstsq(one.T, two.T).solution.T
        torch.testing.assert_close((found @ plain.targets.double()).float(), mixed.targets, atol=1e-3, rtol=0)


def test_cached_tokens_of_one_part_give_the_loss_of_waveforms(tmp_path):
    encoder, texts = tiny.encoder("whisper"), ("lora(rank=2,blocks=top:1)", "probe()")
    encoder.usual_layers = (2, 3)
    task, given = classifier(encoder, tiny.tagger(), spec=texts), clips(tmp_path, (0.9, 0.5, 0.7))
    plain = task.loss(task.collate(given, None))
    cached(task, tmp_path / "cache", Augment())
    torch.testing.assert_close(task.loss(task.collate(given, generator())), plain, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("window_s", [0.7, 0.3, 0.1, 10 / 3])
def test_a_window_is_not_cut_again_for_the_rounding_of_its_start(tmp_path, window_s):
    task = classifier(tiny.encoder("whisper"), window_s=window_s)
    for start in (0.0, 0.1, 0.7, 123.4):
        for window in cut(Clip(tmp_path / "x.wav", start=start, end=start + 40 * window_s), window_s):
            assert task.listener._crop(window, generator(1)) == window
    whole = Clip(tmp_path / "x.wav", start=1.0, end=1.0 + 2 * window_s)
    found = task.listener._crop(whole, generator())
    assert found.end - found.start == pytest.approx(window_s) and 1.0 <= found.start <= 1.0 + window_s


# --- what is saved ---------------------------------------------------------------------------------------------------


def test_saved_keys_carry_the_encoders_name_and_fit_only_it(tmp_path):
    spec = ("lora(rank=2)", "probe()", "norm()")
    task = classifier(*parts(), spec=spec)
    with torch.no_grad():
        for p in task.encoder.parameters():
            if p.requires_grad:
                p.normal_(generator=generator())
    saved = store.collect(task.parts())
    fronts = {"/".join(key.split("/")[:2]) for key in saved if key.startswith("backbone/")}
    assert fronts == {"backbone/tiny-whisper", "backbone/tiny-ast"}
    given = clips(tmp_path)
    rows = task.predict(task.collate(given, None))
    again = classifier(*parts(), spec=spec)
    store.restore(again.parts(), saved)
    assert again.predict(again.collate(given, None)) == rows
    own = {key: v for key, v in adapters.trainable(again.encoder, "default").items()}
    assert len(own) == sum(len(adapters.trainable(part, "default")) for part in again.encoder.encoders)
    other = classifier(*parts(), spec=("lora(rank=2)", "probe()", "probe()"))
    with pytest.raises(AdapterError, match=r"unknown \['tiny-ast/"):
        store.restore(other.parts(), saved)
