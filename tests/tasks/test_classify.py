"""The classification task: losses, rows, head, random changes, cached tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from tests import tiny

from ossicle import adapters
from ossicle.backbones.layers import Standardize
from ossicle.contracts import Batch, Clip
from ossicle.errors import DataError, UnknownNameError, UsageError
from ossicle.tasks.classify import Augment, Classifier, Head
from ossicle.tasks.features import FeatureStore, TokenStore

LABELS = ["cat", "dog", "owl"]
NUMBER = 1  # blocks below the lowest adapter


def clips(folder: Path, seconds: tuple[float, ...] = (0.5, 0.5, 0.5)) -> list[Clip]:
    return [
        Clip(tiny.write_tone(folder / f"{i}.wav", 300 * (i + 1), s, seed=i), labels=(LABELS[i % 3],))
        for i, s in enumerate(seconds)
    ]


def classifier(kind: str = "whisper", spec: str = "lora(rank=2,blocks=top:2)", **options) -> Classifier:
    encoder = tiny.encoder(kind)
    adapters.inject(encoder, adapters.parse(spec))
    torch.manual_seed(0)
    return Classifier(encoder, LABELS, **{"layers": (encoder.depth,)} | options)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- loss and rows ---------------------------------------------------------------------------------------------------


def batch_of(rows: int = 5, several: bool = False) -> Batch:
    targets = F.one_hot(torch.arange(rows) % 3, 3).float()
    if several:
        targets[0] = torch.tensor([1.0, 0.0, 1.0])
    features = torch.randn(rows, 24, generator=generator())
    return Batch([], features=features, targets=targets)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 1.5])], ids=["equal", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_single_label_loss(weights, smoothing):
    task, batch = classifier(class_weights=weights, label_smoothing=smoothing), batch_of()
    logits = task.logits(batch)
    wanted = batch.targets * (1 - smoothing) + smoothing / 3
    by_hand = -(wanted * logits.log_softmax(1) * (1.0 if weights is None else weights)).sum(1).mean()
    torch.testing.assert_close(task.loss(batch), by_hand)
    if weights is None:
        index = batch.targets.argmax(1)
        torch.testing.assert_close(task.loss(batch), F.cross_entropy(logits, index, label_smoothing=smoothing))


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 1.5])], ids=["equal", "weighted"])
def test_multi_label_loss(weights):
    task, batch = classifier(class_weights=weights, multi_label=True), batch_of(several=True)
    p, y = task.logits(batch).sigmoid(), batch.targets
    by_hand = -(y * p.log() + (1 - y) * (1 - p).log()) * (1.0 if weights is None else weights)
    torch.testing.assert_close(task.loss(batch), by_hand.mean())


def test_one_label_with_a_sigmoid_for_each_class(tmp_path):
    task, batch = classifier(binary=True), batch_of()
    p, y = task.logits(batch).sigmoid(), batch.targets
    torch.testing.assert_close(task.loss(batch), -(y * p.log() + (1 - y) * (1 - p).log()).mean())
    given = clips(tmp_path)
    with torch.no_grad():
        task.head.linear.weight.zero_()
        task.head.linear.bias.copy_(torch.tensor([2.0, -1.0, 1.0]))
    rows = task.predict(task.collate(given, None))
    assert [row.label for row in rows] == ["cat"] * 3
    assert rows[0].scores == {"cat": 0.880797, "dog": 0.268941, "owl": 0.731059}
    assert task.score(given, rows)["accuracy"] == pytest.approx(1 / 3)
    with pytest.raises(UsageError, match="label_smoothing"):
        classifier(binary=True, label_smoothing=0.1)


def test_rows_of_one_label_and_of_several(tmp_path):
    given = clips(tmp_path)
    task = classifier()
    for clip, row in zip(given, task.predict(task.collate(given, None)), strict=True):
        assert (row.path, row.start, row.end, row.error) == (str(clip.path), 0.0, None, None)
        assert list(row.scores) == LABELS and sum(row.scores.values()) == pytest.approx(1, abs=1e-5)
        assert row.label == max(row.scores, key=row.scores.__getitem__) and row.score == row.scores[row.label]
    several = classifier(multi_label=True)
    with torch.no_grad():
        several.head.linear.weight.zero_()
        several.head.linear.bias.copy_(torch.tensor([2.0, -1.0, 1.0]))
    row = several.predict(several.collate(given, None))[0]
    assert row.label == "cat;owl" and row.scores["dog"] == pytest.approx(0.268941)
    with torch.no_grad():
        several.head.linear.bias.fill_(-1.0)
    assert several.predict(several.collate(given, None))[0].label == ""


def test_labels_that_are_not_known(tmp_path):
    task, given = classifier(), clips(tmp_path)
    with pytest.raises(UnknownNameError, match=r"label of 0\.wav 'dgo'; did you mean 'dog'"):
        task.collate([replace(given[0], labels=("dgo",))], None)
    with pytest.raises(UsageError, match="at least 2 labels but got 1"):
        Classifier(tiny.encoder("whisper"), ["cat"])
    with pytest.raises(UnknownNameError, match="head norm 'layr'; did you mean 'layer'"):
        Classifier(tiny.encoder("whisper"), LABELS, head_norm="layr")
    with pytest.raises(UnknownNameError, match="pooling 'men'; did you mean 'mean'"):
        classifier(pooling="men").logits(classifier().collate(given, None))


def test_standardised_head():
    vectors = 5 + 3 * torch.randn(50, 24, generator=generator())
    vectors[:, 0] = 7.0
    head = Head(24, 3, norm="standard")
    assert isinstance(head.norm, Standardize)
    torch.testing.assert_close(head.norm(vectors), vectors)
    head.norm.fit(vectors)
    normed = head.norm(vectors)
    torch.testing.assert_close(normed.mean(0), torch.zeros(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(normed[:, 1:].std(0), torch.ones(23))
    assert {"norm.mean", "norm.std"} < set(head.state_dict())
    assert [name for name, _ in head.named_parameters()] == ["linear.weight", "linear.bias"]
    head.norm.fit(vectors[:1])
    assert torch.isfinite(head.norm(vectors)).all()


# --- batches ---------------------------------------------------------------------------------------------------------

CHANGES = Augment(
    shift_s=0.1, gain_db=6.0, mixup=0.5, mixup_share=0.5, time_warp=3, time_mask=8, freq_mask=8, freq_masks=2,
    mask_fill="mean", noise=0.1, roll=4, drop_tokens=0.3,
)  # fmt: skip


FEATURE_CHANGES = [
    {}, {"time_warp": 3}, {"noise": 0.1}, {"roll": 4},
    {"time_mask": 8}, {"time_mask": 8, "time_masks": 3}, {"time_mask": 8, "mask_fill": "mean"},
    {"time_mask": 8, "mask_fill": 0.6}, {"freq_mask": 8}, {"freq_mask": 8, "freq_masks": 3},
]  # fmt: skip


def test_small_probabilities_keep_their_order():
    task = Classifier(tiny.encoder("whisper"), [f"c{i:02}" for i in range(50)])
    logits = torch.zeros(1, 50)
    logits[0, 40], logits[0, 45] = 30.0, 5.0
    clip = Clip(Path("x.wav"), labels=("c45",))
    row = task.row(clip, task.probabilities(logits)[0].numpy())
    assert task.score([clip], [row])["top_5"] == 1.0


@pytest.mark.parametrize(("labels", "told"), [((), "have no label"), (("a", "b"), "more than one label")])
def test_what_has_not_one_label_is_not_scored(labels, told):
    task = classifier()
    row = task.row(Clip(Path("x.wav")), np.array([0.5, 0.3, 0.2]))
    with pytest.raises(DataError, match=told):
        task.score([Clip(Path("x.wav"), labels=labels)], [row])


def test_every_change_of_features_is_made():
    frames = torch.randn(4, 60, 16, generator=generator()) + 2
    made = [Augment(**changes).features(frames, generator(1)) for changes in FEATURE_CHANGES]
    assert torch.equal(made[0], frames)
    alike = [(i, j) for i in range(len(made)) for j in range(i) if torch.equal(made[i], made[j])]
    assert alike == []


@pytest.mark.parametrize(
    "changes", [{"time_warp": 3}, {"roll": 4}, {"shift_s": 0.1}, {"time_mask": 8, "mask_fill": "mean"}]
)
def test_what_moves_a_whole_clip_sees_silence_after_a_short_one(tmp_path, changes):
    given = clips(tmp_path, (0.5, 0.3, 0.5))
    assert classifier().collate(given, generator()).lengths is not None
    assert classifier(augment=Augment(**changes)).collate(given, generator()).lengths is None


def test_only_a_share_of_the_clips_is_mixed(tmp_path):
    task = classifier(augment=Augment(mixup=0.5, mixup_share=0.0))
    assert torch.equal(task.collate(clips(tmp_path), generator()).targets, torch.eye(3))


def test_a_generator_makes_a_batch_and_its_loss(tmp_path):
    task, given = classifier(augment=CHANGES), clips(tmp_path)
    one, same, other = (task.collate(given, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.waves, same.waves) and torch.equal(one.targets, same.targets) and one.seed == same.seed
    assert torch.equal(task.loss(one), task.loss(same)) and torch.equal(task.loss(one), task.loss(one))
    assert not torch.equal(one.waves, other.waves) and one.seed != other.seed
    torch.testing.assert_close(one.targets.sum(1), torch.ones(3))


def test_without_a_generator_nothing_is_random(tmp_path):
    task, given = classifier(augment=CHANGES, window_s=0.3), clips(tmp_path)
    one, two = task.collate(given, None), task.collate(given, None)
    assert torch.equal(one.waves, two.waves) and one.seed is None and one.waves.shape == (3, 8000)
    assert torch.equal(task.logits(one), classifier().logits(two))
    assert torch.equal(one.targets, torch.eye(3))


def test_training_crops_a_window_of_long_clips_only(tmp_path):
    task = classifier(window_s=0.3)
    given = [replace(c, end=0.5) for c in clips(tmp_path)]
    drawn = [task.collate(given, generator(seed)) for seed in range(3)]
    assert {batch.waves.shape for batch in drawn} == {(3, 4800)}
    starts = {clip.start for batch in drawn for clip in batch.clips}
    assert len(starts) == 9 and all(0 <= start <= 0.2 for start in starts)


def test_unreadable_and_too_short_clips_are_left_out(tmp_path):
    given = clips(tmp_path)
    bad, short = tmp_path / "bad.wav", tiny.write_tone(tmp_path / "short.wav", 300, 0.06)
    bad.write_text("a letter")
    for kind, kept in (("whisper", 4), ("ast", 3)):
        task = classifier(kind)
        batch = task.collate([*given, Clip(bad, labels=("cat",)), Clip(short, labels=("cat",))], generator())
        assert len(batch.clips) == kept and str(bad) in task.unreadable
        assert torch.isfinite(task.loss(batch))
    assert "16" in task.unreadable[str(short)]
    with pytest.raises(DataError, match="no clip of this batch.*is text"):
        task.collate([Clip(bad, labels=("cat",))], None)


@pytest.mark.numerics
def test_cached_features_give_the_same_logits(tmp_path):
    given = clips(tmp_path, (0.5, 0.8, 0.5))
    task = classifier(spec="probe()", layers=(0, 2, 3))
    from_waves = [task.logits(task.collate([clip], None)) for clip in given]
    ear = task.listener.ears[0]
    ear.store = ear.feature_store(root=tmp_path / "cache")
    batch = task.collate(given, generator())
    assert batch.waves is None
    torch.testing.assert_close(task.logits(batch), torch.cat(from_waves), atol=1e-4, rtol=0)


@pytest.mark.numerics
def test_shorter_clips_go_on_in_silence_wherever_they_are_read(tmp_path):
    short, long = clips(tmp_path, (0.5, 0.8))
    plain, padded = classifier(spec="probe()"), classifier(spec="probe()", shortest_s=0.8)
    whole = plain.collate([long], None).waves
    wave = F.pad(plain.collate([short], None).waves, (0, whole.shape[1] - 8000))
    batch = padded.collate([short, long], None)
    assert batch.lengths is None
    torch.testing.assert_close(batch.waves, torch.cat([wave, whole]))
    padded.listener.ears[0].store = padded.listener.ears[0].feature_store(root=tmp_path / "pooled")
    torch.testing.assert_close(padded.logits(padded.collate([short], None)), plain.logits(Batch([], waves=wave)))
    tokens = TokenStore(padded.encoder, 1, lambda w, g: w, "none", shortest_s=0.8, root=tmp_path / "tokens")
    assert {len(t) for t in tokens.get([short, long], [0, 0])} == {40}


# --- cached tokens ---------------------------------------------------------------------------------------------------


def token_store(task: Classifier, root: Path) -> TokenStore:
    rate = task.encoder.rate_hz
    return TokenStore(task.encoder, NUMBER, lambda w, g: CHANGES.waves(w, g, rate), [0.1, 6.0], root=root)


@pytest.mark.numerics
@pytest.mark.parametrize("kind", ["whisper", "ast", "dinov2"])
def test_cached_tokens_give_the_same_logits(tmp_path, kind):
    given, task = clips(tmp_path), classifier(kind, layers=(1, 3))
    with torch.no_grad():
        for parameter in adapters.trainable(task.encoder, "default").values():
            parameter.normal_(std=0.3, generator=generator())
    wanted = task.logits(task.collate(given, None))
    task.listener.ears[0].tokens = token_store(task, tmp_path / "cache")
    batch = task.collate(given, generator())
    assert batch.waves is None and batch.tokens is not None
    torch.testing.assert_close(task.logits(batch), wanted, atol=2e-2, rtol=1e-2)
    task.loss(batch).backward()
    assert all(p.grad is not None for p in adapters.trainable(task.encoder, "default").values())
    assert task.collate(given, None).waves is not None


@pytest.mark.numerics
def test_versions_are_made_once_and_are_the_same_in_every_run(tmp_path):
    given, task = clips(tmp_path), classifier()
    store, again = token_store(task, tmp_path / "one"), token_store(task, tmp_path / "two")
    first = store.get(given, [0, 1, 2])
    assert store.computed == 3
    for left, right in zip(first, again.get(given[::-1], [2, 1, 0])[::-1], strict=True):
        torch.testing.assert_close(left, right, atol=2e-3, rtol=2e-3)
    warm = token_store(task, tmp_path / "one")
    assert all(torch.equal(a, b) for a, b in zip(first, warm.get(given, [0, 1, 2]), strict=True))
    assert warm.computed == 0
    assert not torch.allclose(first[1], store.get(given, [0, 0, 0])[1], atol=1e-2)


@pytest.mark.numerics
def test_cached_tokens_of_unequal_clips(tmp_path):
    given = clips(tmp_path, (0.5, 0.9, 0.7))
    task = classifier()
    task.listener.ears[0].tokens = token_store(task, tmp_path / "cache")
    together = task.collate(given, generator())
    assert together.mask is not None and together.tokens.shape[:2] == (3, 45)
    alone = torch.cat([task.logits(task.collate([clip], generator())) for clip in given])
    torch.testing.assert_close(task.logits(together), alone, atol=1e-4, rtol=0)
    patches = classifier("ast")
    patches.listener.ears[0].tokens = token_store(patches, tmp_path / "cache")
    with pytest.raises(UsageError, match=r"clips of one length; set task\.cache_versions=0"):
        patches.collate(given, generator())


def test_cached_tokens_can_be_mixed_and_bad_clips_cost_themselves(tmp_path):
    given = clips(tmp_path)
    bad = tmp_path / "bad.wav"
    bad.write_text("a letter")
    task = classifier(augment=Augment(token_mixup=0.5))
    (ear,) = task.listener.ears
    ear.tokens, ear.versions = token_store(task, tmp_path / "cache"), 2
    batch, same = (task.collate([*given, Clip(bad, labels=("cat",))], generator(3)) for _ in range(2))
    assert len(batch.clips) == 3 and torch.equal(batch.tokens, same.tokens)
    torch.testing.assert_close(batch.targets.sum(1), torch.ones(3))
    assert not torch.equal(batch.targets, torch.eye(3))


@pytest.mark.parametrize("kind", ["whisper", "ast"])
def test_a_clip_of_one_sample_is_no_sound_however_it_is_padded(tmp_path, kind):
    (long,), short = clips(tmp_path, (0.8,)), Clip(tmp_path / "one.wav", labels=("cat",))
    soundfile.write(short.path, np.full(1, 0.1), tiny.RATE_HZ)
    task = classifier(kind, spec="probe()", shortest_s=0.8)
    assert task.collate([long, short], None).clips == [long]
    assert "only 1 sample(s)" in task.unreadable[str(short.path)]
    pooled = FeatureStore(task.encoder, (3,), "mean", shortest_s=0.8, root=tmp_path / "pooled").get([long, short])
    tokens = TokenStore(task.encoder, 1, lambda w, g: w, "none", shortest_s=0.8, root=tmp_path / "tokens")
    for good, bad in (pooled, tokens.get([long, short], [0, 0])):
        assert isinstance(good, torch.Tensor) and "only 1 sample(s)" in str(bad)
