"""The captioner: one soft token in its place, loss of captions only, what trains, what captions must be."""

from dataclasses import replace

import pytest
import torch
from tests import tiny

from ossicle import adapters
from ossicle.backbones.text import Lora
from ossicle.contracts import Batch, Clip
from ossicle.errors import DataError, UsageError
from ossicle.tasks.caption_llm import Captioner
from ossicle.tasks.captions import check_captions
from ossicle.tasks.decode import Decoding
from ossicle.tasks.features import sequence
from ossicle.tasks.listen import SoundAugment
from ossicle.tasks.mapper import Mapper

SHORT = Decoding(method="greedy", max_tokens=5)
SAID = ("a low tone", "a high tone", "a tone in between")


def captioner(kind: str = "whisper", spec: str = "probe()", pooling="mean", tokens=1, **options) -> Captioner:
    encoder, language = tiny.encoder(kind), tiny.language(template=options.pop("template", tiny.CHATML))
    adapters.inject(encoder, adapters.parse(spec))
    language.add_lora(Lora(rank=2))
    torch.manual_seed(0)
    layers = options.setdefault("layers", (2, 3))
    mapper = Mapper(encoder.dim * len(layers), language.width, pooling=pooling, tokens=tokens)
    return Captioner(encoder, language, mapper, decoding=SHORT, **options)


@pytest.fixture
def clips(tmp_path) -> list[Clip]:
    return [
        Clip(
            tiny.write_tone(tmp_path / f"{i}.wav", 300.0 * (i + 1), 0.5 + 0.2 * i, seed=i), captions=(text, text + "!")
        )
        for i, text in enumerate(SAID)
    ]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the prompt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [tiny.CHATML, tiny.LLAMA3], ids=["chatml", "llama3"])
@pytest.mark.parametrize(("pooling", "tokens"), [("mean", 1), ("stride", 3), ("attention", 2)])
def test_soft_tokens_stand_in_the_prompts_place(clips, template, pooling, tokens):
    task = captioner(template=template, pooling=pooling, tokens=tokens)
    batch = task.collate(clips, None)
    prefix = task.prefix(batch)
    front, back = len(task.prompt.before), len(task.prompt.after)
    assert prefix.shape == (3, front + tokens + back, task.language.width)
    table = task.language.model.get_input_embeddings().weight
    assert torch.equal(prefix[1, :front], table[list(task.prompt.before)])
    assert torch.equal(prefix[1, -back:], table[list(task.prompt.after)])
    torch.testing.assert_close(prefix[:, front : front + tokens], task.mapper(*task.heard(batch)))


@pytest.mark.numerics
@pytest.mark.parametrize("template", [tiny.CHATML, tiny.LLAMA3], ids=["chatml", "llama3"])
def test_the_loss_is_the_mean_over_caption_and_end_tokens(clips, template):
    """By hand with transformers' own labels: -100 on prompt, sound and padding."""
    task = captioner(template=template)
    batch = task.collate(clips, None)
    prefix = task.prefix(batch)
    known = batch.targets.clamp(min=0)
    embedded = torch.cat([prefix, task.language.embed(known)], dim=1)
    labels = torch.cat([torch.full(prefix.shape[:2], -100), batch.targets], dim=1)
    mask = torch.cat([torch.ones(prefix.shape[:2]), (batch.targets != -100).float()], dim=1)
    theirs = task.language.model(inputs_embeds=embedded, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(task.loss(batch), theirs)


@pytest.mark.numerics
def test_neighbours_change_neither_loss_nor_captions(clips):
    task = captioner()
    whole = task.collate(clips, None)
    rows = [task.predict(task.collate([clip], None))[0] for clip in clips]
    assert [r.caption for r in task.predict(whole)] == [r.caption for r in rows]
    sums = [task.loss(task.collate([c], None)) * (len(c.captions[0]) + 1) for c in clips]
    wanted = sum(sums) / sum(len(c.captions[0]) + 1 for c in clips)
    torch.testing.assert_close(task.loss(whole), wanted, atol=1e-4, rtol=0)


def test_a_row_says_how_likely_each_candidate_is(clips):
    task = captioner()
    task.decoding = replace(SHORT, method="beam", beams=4, candidates=3)
    row = task.predict(task.collate(clips[:1], None))[0]
    assert row.caption == next(iter(row.scores)) and len(row.scores) == 3
    assert all(value < 0 for value in row.scores.values()) and 0 < row.score < 1 and row.label is None


# --- what trains -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["probe()", "lora(rank=2)"])
def test_mapper_lora_and_adapter_move_and_nothing_else(clips, spec):
    task = captioner(spec=spec)
    parts = torch.nn.ModuleDict(task.parts())
    before = {name: p.clone() for name, p in parts.named_parameters()}
    moving = [p for p in parts.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(moving, lr=0.01)
    losses = []
    for step in range(12):
        loss = task.loss(task.collate(clips, generator(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    moved = {name for name, p in parts.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in parts.named_parameters() if p.requires_grad}
    assert any(name.startswith("backbone") for name in moved) == (spec != "probe()")
    assert losses[-1] < 0.9 * losses[0]


def test_one_of_the_references_is_drawn(clips):
    task = captioner()
    drawn = {tuple(task.collate(clips[:1], generator(seed)).targets[0].tolist()) for seed in range(20)}
    assert len(drawn) == 2
    assert tuple(task.collate(clips[:1], None).targets[0].tolist()) in drawn


def test_sound_changes_in_training_only(clips):
    task = captioner(augment=SoundAugment(gain_db=6.0, time_mask=4))
    plain, first, again, other = (task.collate(clips, g) for g in (None, generator(), generator(), generator(1)))
    assert torch.equal(first.waves, again.waves) and first.seed == again.seed
    assert not torch.equal(first.waves, plain.waves) and not torch.equal(first.waves, other.waves)


@pytest.mark.numerics
@pytest.mark.parametrize("kind", ["whisper", "ast"])
def test_cached_tokens_give_the_same_loss(tmp_path, clips, kind):
    task = captioner(kind, squeeze=3)
    usable = clips if kind == "whisper" else [clips[0], replace(clips[0], captions=clips[1].captions)]
    wanted = task.loss(task.collate(usable, None))
    (ear,) = task.listener.ears
    ear.store = ear.feature_store(root=tmp_path / "cache")
    batch = task.collate(usable, None)
    assert batch.waves is None and batch.tokens is not None
    torch.testing.assert_close(task.loss(batch), wanted, rtol=1e-3, atol=1e-3)
    assert ear.store.computed == len(set(usable))
    task.collate(usable, None)
    assert ear.store.computed == len(set(usable))


@pytest.mark.parametrize("kind", ["whisper", "ast", "dinov2"])
def test_sequences_run_in_time_and_are_squeezed_in_time(kind):
    encoder = tiny.encoder(kind)
    encoded = encoder(tiny.waves(2, 0.8), layers=(3,))
    whole, mask = sequence(encoded, (3,))
    grid = encoded.grid
    assert mask is None and whole.shape == (2, grid.freq * grid.time, encoder.dim)
    rows = encoded.hidden[3][:, grid.extra :]
    for time in range(grid.time):
        for freq in range(grid.freq):
            at = freq * grid.time + time if grid.order == "freq" else time * grid.freq + freq
            assert torch.equal(whole[:, time * grid.freq + freq], rows[:, at])
    squeezed, _ = sequence(encoded, (3,), squeeze=2)
    steps = whole.view(2, grid.time, grid.freq, -1)
    torch.testing.assert_close(squeezed[:, : grid.freq], steps[:, :2].mean(1))
    last = steps[:, 2 * ((grid.time - 1) // 2) :].mean(1)
    torch.testing.assert_close(squeezed[:, -grid.freq :], last)


def test_prompts_between_the_joined_layers_are_left_out():
    encoder = tiny.encoder("whisper")
    adapters.inject(encoder, adapters.parse("prompts(tokens=4,deep=true)"))
    encoded = encoder(tiny.waves(2, 0.8), layers=(0, 3))
    whole, _ = sequence(encoded, (0, 3))
    assert whole.shape == (2, encoded.grid.time, 2 * encoder.dim)
    assert torch.equal(whole[..., : encoder.dim], encoded.hidden[0])


# --- wrong inputs ----------------------------------------------------------------------------------------------------


def test_clips_without_captions(clips):
    bare = replace(clips[0], captions=(), name="bare.wav")
    with pytest.raises(DataError, match=r"1 of 3 clips have no caption: bare\.wav; add a caption column"):
        check_captions([bare, *clips[1:]], "en")
    with pytest.raises(DataError, match=r"1 of 1 clips have no caption"):
        check_captions([replace(clips[0], captions=("  ",))], "en")
    task = captioner()
    with pytest.raises(DataError, match=r"no caption to learn from: bare\.wav"):
        task.loss(task.collate([bare], None))
    assert task.predict(task.collate([bare], None))[0].caption is not None


@pytest.mark.parametrize(
    "said",
    ["un chien aboie dans la rue", "ein Hund bellt vor dem Haus", "一只狗在叫", "собака лает во дворе"],
)
def test_captions_that_are_not_english(clips, said):
    strange = [replace(clip, captions=(said,)) for clip in clips]
    with pytest.raises(DataError, match=r"3 of 3 captions do not look English.*task\.language='any'"):
        check_captions(strange, "en")
    check_captions(strange, "any")
    check_captions([*clips, *clips, strange[0]], "en")


def test_real_captions_pass_for_english(shared):
    for name in ("audiocaps_test.csv", "clotho_val.csv"):
        from ossicle.data.captions import references

        known = references(shared / "data" / "captions" / name)
        check_captions([Clip(None, captions=tuple(texts)) for texts in known.values()], "en")


def test_scores_need_captions(clips):
    task = captioner()
    rows = task.predict(task.collate(clips, None))
    scores = task.score(clips, rows)
    assert {"cider_d", "rouge_l", "bleu_4"} <= scores.keys()
    with pytest.raises(DataError, match="none was readable and had captions"):
        task.score([replace(clip, captions=()) for clip in clips], rows)


def test_a_layer_that_is_not_there():
    with pytest.raises(UsageError, match=r"layers 0 \(stem\) to 3 but got 9"):
        captioner(layers=(9,))


def test_a_batch_goes_to_a_device(clips):
    batch = captioner().collate(clips, None)
    assert isinstance(batch.to(torch.device("cpu")), Batch)
