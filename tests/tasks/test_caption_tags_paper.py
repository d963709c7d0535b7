"""Tags and embeddings for BART as in the paper: counts, logits, labels and generated ids beside transformers' own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from ossicle.backbones import Joined, seq2seq
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.seq2seq import EncoderDecoder
from ossicle.contracts import Clip
from ossicle.data import Dataset
from ossicle.data.clips import load_waves
from ossicle.errors import AdapterError, UsageError
from ossicle.recipe import backbone, build, config
from ossicle.recipe.caption_tags import TagsPlan
from ossicle.tasks import conditioning, decode
from ossicle.tasks.caption_tags import NUMBERS, TagCaptioner
from ossicle.tasks.decode import Decoding
from ossicle.tasks.embeddings import Embeddings
from ossicle.training.evaluate import predict_rows

SAID = ["a dog barks while a man is speaking", "rain falls on a roof and the wind blows", "a car goes past"]
KINDS = {"yamnet": "yamnet", "vggish": "vggish", "panns-wavegram-cnn14": "panns", "whisper-tiny.en": "whisper"}
PAPER = Decoding(beams=4, max_tokens=19, min_tokens=4, no_repeat=3)


def load(name: str, seed: int = 0, **options) -> Encoder:
    made = tiny.tagger(seed) if name == "mn04" else tiny.encoder(KINDS[name], seed)
    made.name = name
    return made


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch, tmp_path):
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(backbone.backbones, "load", load)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    """Of 2.5, 3.4 and 4.3 seconds."""
    folder = tmp_path_factory.mktemp("tones")
    return [
        Clip(
            tiny.write_tone(folder / f"{n}.wav", 300 * (n + 1), 2.5 + 0.9 * n, seed=n), name=f"{n}.wav", split=str(n),
            captions=(text,),
        )
        for n, text in enumerate(SAID)
    ]  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    return seq2seq.tokenizer_of(seq2seq.byte_pairs([*SAID, "speech", "music", "dog"], 320))


def bart(forced: bool = False, seed: int = 0) -> EncoderDecoder:
    """A BART of two layers each with large random weights, so that what it writes depends on what it reads."""
    read = tokenizer()
    torch.manual_seed(seed)
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(read), d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=1024,
            init_std=0.4, pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
            forced_eos_token_id=2,
        )
    )  # fmt: skip
    model.generation_config.forced_bos_token_id = 0 if forced else None
    return EncoderDecoder(model, read, "tiny-bart", "tiny-bart")


def t5(seed: int = 0) -> EncoderDecoder:
    """A T5 of two layers over pieces of words."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), (".", -1.0), ("▁", -3.0), ("▁and", -2.0), ("▁a", -2.0)]
    made = Tokenizer(models.Unigram(pieces + [(chr(n), -5.0) for n in range(33, 127) if chr(n) != "."], unk_id=2))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    read = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(read), d_model=24, d_kv=6, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
            initializer_factor=3.0,
        )
    )  # fmt: skip
    return EncoderDecoder(model, read, "tiny-t5", "tiny-t5")


def captioner(language: EncoderDecoder, names: str = "yamnet+vggish", join="add", **options) -> TagCaptioner:
    parts = [load(name) for name in names.split("+")]
    others = parts[1:] or parts
    torch.manual_seed(1)
    more = Embeddings(others, language.width, join)
    nn.init.normal_(more.map.weight, std=0.3)
    nn.init.normal_(more.map.bias, std=0.3)
    numbers = nn.Linear(NUMBERS, language.width)
    encoder = Joined(parts) if len(parts) > 1 else parts[0]
    return TagCaptioner(encoder, language, numbers, reads="sequence", embeddings=more, **options)


def by_hand(task: TagCaptioner, clip: Clip) -> torch.Tensor:
    """(tokens, width) that BART reads, tag by tag: SPEC 2.2 and 2.3 for a tagger with VGGish or PANNs."""
    (wave,) = load_waves([clip], 16_000)
    tagger, (embedder,) = task.tracker.tagger, task.embeddings.embedders
    best = tagger.scores(tagger(wave[None]))[0, ::2].argmax(dim=1)
    (heard,) = load_waves([clip], embedder.encoder.rate_hz)
    if embedder.kind == "panns":
        encoded = embedder.encoder(torch.nn.functional.pad(heard, (0, 320_000 - len(heard)))[None])
        pooled = encoded.tokens.mean(dim=1) + encoded.tokens.amax(dim=1)
        first, _, _ = embedder.encoder.tags.head
        rows = first(pooled).relu().expand(len(best), -1)
    else:
        rows = embedder.encoder(heard[None]).tokens[0]
        best = best[: len(rows)]
    tags = [conditioning.clean(task.tracker.names[n]) for n in best]
    read = task.language.tokenizer
    table, linear = task.language.model.get_input_embeddings().weight, task.embeddings.map
    found, row = [], 0
    for token in read(". ".join(tags) + ".")["input_ids"]:
        silent = token in (read.bos_token_id, read.eos_token_id) or read.decode([token]) == "."
        found.append(table[token] + linear.bias + (0 if silent else linear.weight @ rows[row]))
        row += read.decode([token]) == "."
    return torch.stack(found)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("names", ["yamnet+vggish", "yamnet+panns-wavegram-cnn14"])
@torch.no_grad()
def test_bart_reads_tags_and_embeddings_as_the_paper_has_it(clips, names, forced):
    task = captioner(bart(forced), names, loss_on_padding=True)
    batch = task.collate(clips, None)
    given, model = task.given(batch), task.language.model
    wanted = [by_hand(task, clip) for clip in clips]
    assert len({len(one) for one in wanted}) > 1
    for i, one in enumerate(wanted):
        assert given.real[i].sum() == len(one) and given.real[i, : len(one)].all()
        torch.testing.assert_close(given.embedded[i, : len(one)], one, atol=1e-5, rtol=1e-4)
    # Labels: the text as the tokenizer has it, padding to 64 with its own id, and the loss over all of it.
    labels = torch.full((3, 64), 1)
    for i, text in enumerate(SAID):
        ids = task.language.tokenizer(text)["input_ids"]
        assert ids[0] == 0 and ids[-1] == 2
        labels[i, : len(ids)] = torch.tensor(ids)
    assert torch.equal(batch.targets, labels)
    out = model(
        inputs_embeds=given.embedded, attention_mask=batch.mask.long(), labels=labels,
        decoder_attention_mask=(labels != 1).long(),
    )  # fmt: skip
    scored = out.logits.log_softmax(-1).gather(2, labels[..., None])[..., 0]
    torch.testing.assert_close(task.language.score_padded(given, labels), scored, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(task.loss(batch), out.loss, atol=1e-5, rtol=1e-5)
    task.loss_on_padding = False
    plain = task.collate(clips, None)
    assert (plain.targets == -100).any() and not torch.isclose(task.loss(plain), out.loss, atol=1e-3)


@pytest.mark.parametrize("name", ["bart", "forced", "t5"])
@torch.no_grad()
def test_generated_ids_equal_those_of_transformers(clips, name):
    task = captioner({"bart": bart, "forced": lambda: bart(forced=True), "t5": t5}[name]())
    given, model, read = task.given(task.collate(clips, None)), task.language.model, task.language.tokenizer
    wanted = model.generate(
        inputs_embeds=given.embedded, attention_mask=given.real.long(), num_beams=4, max_length=20, min_length=5,
        no_repeat_ngram_size=3, early_stopping=True, do_sample=False,
    )  # fmt: skip
    forced = len(task.language.starts) - 1  # transformers counts it, we do not
    how = replace(PAPER, max_tokens=PAPER.max_tokens - forced, min_tokens=PAPER.min_tokens - forced)
    settings = decode._settings(how, task.end)
    made = task.language.generate(given, settings).sequences
    starts, end = len(task.language.starts), task.end
    for ours, theirs in zip(made.tolist(), wanted[:, starts:].tolist(), strict=True):
        ours, theirs = ([*row, end] for row in (ours, theirs))
        assert ours[: ours.index(end)] == theirs[: theirs.index(end)]
    assert task.language.starts == {"bart": [2], "forced": [2, 0], "t5": [0]}[name]
    task.decoding = how
    texts = [read.decode(row, skip_special_tokens=True).split() for row in wanted]
    assert [row.caption.split() for row in task.predict(task.collate(clips, None))] == texts
    assert len({tuple(text) for text in texts}) > 1


@torch.no_grad()
def test_t5_scores_its_captions_as_its_own_loss_does(clips):
    task = captioner(t5())
    batch = task.collate(clips, None)
    given = task.given(batch)
    out = task.language.model(
        inputs_embeds=given.embedded, attention_mask=given.real.long(), labels=batch.targets
    )  # fmt: skip
    torch.testing.assert_close(task.loss(batch), out.loss, atol=1e-5, rtol=1e-5)


def test_what_trains_of_bart_large_is_as_much_as_in_the_paper():
    """406,291,456 of BART, and a map from PANNs' 2048 numbers; 151,105,536 of its decoder are frozen."""
    sizes = BartConfig(
        vocab_size=50265, d_model=1024, encoder_layers=12, decoder_layers=12, encoder_attention_heads=16,
        decoder_attention_heads=16, encoder_ffn_dim=4096, decoder_ffn_dim=4096, max_position_embeddings=1024,
    )  # fmt: skip
    for learns, count in (("whole", 408_389_632), ("frozen-decoder", 257_284_096)):
        with torch.device("meta"):
            language = EncoderDecoder(BartForConditionalGeneration(sizes), tokenizer(), "bart", learns=learns)
            linear = nn.Linear(2048, language.width)
        trained = {id(p): p for part in (language, linear) for p in part.parameters() if p.requires_grad}
        assert sum(p.numel() for p in trained.values()) == count


QUICK = [
    "train.epochs=1", "train.batch=2", "train.precision=float32", "train.lr=0.01", "data.val=['2']",
    "task.metrics=['rouge_l']", "task.best_by=rouge_l", "task.decoding.max_tokens=8", "task.small.width=16",
    "task.small.inner=16", "task.small.layers=1", "task.small.heads=2", "task.small.vocabulary=320",
]  # fmt: skip


def recipe(*changes: str) -> config.Recipe:
    return config.read(None, [*QUICK, *changes], {"task": {"kind": "caption-tags"}})


def saved_bart(folder: Path) -> Path:
    language = bart(forced=True)
    language.model.save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("reads", ["task.reads=list", "task.reads=sequence"])
@pytest.mark.parametrize(
    ("names", "join"),
    [
        ("yamnet+panns-wavegram-cnn14", "add"), ("yamnet+vggish", "cat"), ("mn04+whisper-tiny.en", ""),
        ("vggish", "alone"), ("panns-wavegram-cnn14", "alone"), ("mn04+vggish+whisper-tiny.en", "alone"),
    ],
)  # fmt: skip
def test_every_join_trains_and_captions_the_same_when_loaded(tmp_path, clips, names, join, reads):
    made = recipe(f"backbone.name={names}", f"task.join='{join}'", reads)
    manifest = build.train(made, Dataset("tones", tuple(clips)), tmp_path / "out", quiet=True)
    one, two = (build.load(str(tmp_path / "out")).task for _ in range(2))
    fresh = TagsPlan(made, vocabulary=(tmp_path / "out" / "vocabulary.json").read_text()).task(for_training=True)
    assert not torch.equal(fresh.embeddings.map.weight, one.embeddings.map.weight)
    trained = one.embeddings.map.weight.numel() + one.embeddings.map.bias.numel()
    numbers = 0 if join == "alone" or "sequence" in reads else (NUMBERS + 1) * 16
    assert manifest["parameters"]["mapper"] == trained + numbers
    first = predict_rows(one, clips, batch=3, precision="float32")
    second = predict_rows(two, clips, batch=1, precision="float32")
    assert [row.caption for row in first] == [row.caption for row in second]
    assert all(row.error is None for row in first)
    assert all(bool(row.tags) == (names != "vggish") for row in first)
    given = one.given(one.collate(clips, None)).embedded
    with torch.no_grad():
        one.embeddings.map.weight.mul_(2)
    assert not torch.equal(one.given(one.collate(clips, None)).embedded, given)


def test_alone_reads_no_text(clips):
    made = recipe("backbone.name=yamnet+vggish", "task.join=alone", "task.reads=sequence")
    task = TagsPlan(made, seq2seq.byte_pairs(SAID, 320)).task(for_training=True)
    batch = task.collate(clips[:1], None)
    given = task.given(batch)
    (heard,) = task.embeddings.embedders[0].get(clips[:1])
    torch.testing.assert_close(given.embedded[0], task.embeddings.map(heard.rows))


def test_cat_puts_the_embeddings_behind_the_text(clips):
    made = recipe("backbone.name=yamnet+vggish", "task.join=cat", "task.reads=sequence")
    task = TagsPlan(made, seq2seq.byte_pairs(SAID, 320)).task(for_training=True)
    batch = task.collate(clips[:1], None)
    (heard,) = task.embeddings.embedders[0].get(clips[:1])
    count = len(heard.rows)
    text = task.language.tokenizer.decode(batch.ids[0, :-count])
    assert text.startswith("<s>") and text.endswith(".</s>") and text.count(".") in (count, count + 1)
    given = task.given(batch).embedded[0]
    torch.testing.assert_close(given[-count:], task.embeddings.map(heard.rows))
    torch.testing.assert_close(given[:-count], task.language.embed(batch.ids[0, :-count]))


def test_a_causal_model_reads_embeddings_in_its_prompt(clips, monkeypatch):
    monkeypatch.setattr("ossicle.recipe.caption_tags.seq2seq.is_one", lambda name: False)
    monkeypatch.setattr("ossicle.recipe.caption_tags.language_model", lambda name, **options: tiny.language())
    for join in ("add", "cat", "alone"):
        made = recipe(
            "backbone.name=mn04+vggish", f"task.join={join}", "task.llm=x", "task.learns=lora", "task.lora.rank=2"
        )  # fmt: skip
        task = TagsPlan(made).task(for_training=True)
        batch = task.collate(clips, None)
        after = len(task.prompt.after)
        assert [row[-after:].tolist() for row in batch.ids] == [list(task.prompt.after)] * 3
        (beside,) = batch.others
        counts = [len(one.rows) for (one,) in task.embeddings.get(clips)]
        real = [int(row.sum()) for row in beside.mask]
        assert real == ([int(row.sum()) for row in batch.mask] if join == "add" else counts)
        assert not (beside.mask & ~batch.mask).any()
        if join != "add":
            assert not beside.mask[:, -after:].any() and beside.mask[:, -after - 1].all()
        assert torch.isfinite(task.loss(batch)) and len(task.predict(batch)) == 3


def test_the_probability_of_a_caption_is_that_it_was_taught(clips):
    """Where labels begin with "<s>" the captions that are written do too, and none is scored without it."""
    task = captioner(bart(), loss_on_padding=True, decoding=replace(PAPER, max_tokens=30))
    assert task.language.starts == [2, 0]
    with torch.no_grad():
        for weight in task.language.parameters():
            weight.mul_(0.1 if weight.ndim > 1 else 1)
    learnt, batch = torch.optim.AdamW(task.language.parameters(), lr=0.01), task.collate(clips, None)
    for _ in range(200):
        task.loss(batch).backward()
        learnt.step()
        learnt.zero_grad()
    rows = task.predict(batch)
    assert [row.caption for row in rows] == SAID and min(row.score for row in rows) > 0.8


def test_a_lora_on_bart_is_saved_and_loaded(tmp_path, clips):
    folder = saved_bart(tmp_path / "bart")
    made = recipe(f"task.llm={folder}", "task.learns=lora", "task.lora.rank=2", "backbone.name=yamnet+vggish")
    manifest = build.train(made, Dataset("tones", tuple(clips)), tmp_path / "out", quiet=True)
    assert (tmp_path / "out" / "llm" / "adapter_config.json").is_file()
    assert manifest["parameters"]["llm_trained"] == 2 * 2 * 24 * 2 * 6  # A and B, q and k, six attentions
    one, two = (build.load(str(tmp_path / "out")).task for _ in range(2))
    assert max(float(v.abs().max()) for k, v in one.language.saved().items() if "lora_B" in k) > 0
    captions = [
        [r.caption for r in predict_rows(t, clips, batch=b, precision="float32")] for t, b in ((one, 3), (two, 1))
    ]
    assert captions[0] == captions[1]


def test_random_weights_in_the_sizes_of_a_trained_one(tmp_path):
    folder = saved_bart(tmp_path / "bart")
    trained, again = (seq2seq.encoder_decoder(str(folder)) for _ in range(2))
    fresh, same, other = (seq2seq.encoder_decoder(str(folder), fresh=seed) for seed in (3, 3, 4))
    assert trained.sizes() == fresh.sizes() and trained.starts == fresh.starts == [2, 0]
    assert trained.sample() == again.sample() and fresh.sample() == same.sample()
    assert fresh.sample() not in (trained.sample(), other.sample())
    assert len(fresh.saved()) == len(trained.saved())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["backbone.name=mn04", "task.join=add"], "one tagger; join an encoder"),
        (["backbone.name=yamnet", "task.join=cat"], r"yamnet\+vggish"),
        (["backbone.name=vggish"], "need a tagger"),
        (["backbone.name=vggish+whisper-tiny.en"], "need a tagger"),
        (["backbone.name=mn04+vggish", "task.instead=yamnet"], "task.instead=yamnet hears instead of one tagger"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_told(changes, told):
    with pytest.raises(UsageError, match=told):
        TagsPlan(recipe(*changes), seq2seq.byte_pairs(SAID, 320)).task(for_training=True)


def test_another_tagger_may_hear_but_embeddings_are_of_the_same_encoder(tmp_path, clips, monkeypatch):
    out = tmp_path / "out"
    build.train(recipe("backbone.name=mn04+vggish"), Dataset("tones", tuple(clips)), out, quiet=True)
    other = build.load(str(out), ["backbone.name=yamnet+vggish"]).task
    assert all(row.error is None and row.tags for row in predict_rows(other, clips, batch=3, precision="float32"))
    for name in ("yamnet", "mn04+whisper-tiny.en", "mn04+vggish+whisper-tiny.en"):
        with pytest.raises(AdapterError, match="reads embeddings of vggish, but"):
            build.load(str(out), [f"backbone.name={name}"])
    monkeypatch.setattr(backbone.backbones, "load", lambda name, **options: load(name, seed=3))
    with pytest.raises(AdapterError, match="other weights of vggish"):
        build.load(str(out), ["backbone.name=yamnet+vggish"])
    plain = tmp_path / "plain"
    build.train(recipe("backbone.name=mn04"), Dataset("tones", tuple(clips)), plain, quiet=True)
    with pytest.raises(AdapterError, match="reads embeddings of no encoder"):
        build.load(str(plain), ["backbone.name=mn04+vggish"])


def test_an_adapter_that_would_not_train_is_refused():
    made = recipe("backbone.name=mn04+whisper-tiny.en", "adapter.spec=whisper-tiny.en:lora(rank=2)")
    with pytest.raises(UsageError, match="would not train; leave it out"):
        TagsPlan(made, seq2seq.byte_pairs(SAID, 320)).task(for_training=True)


@torch.no_grad()
def test_what_a_model_would_write_by_itself_changes_nothing(clips):
    """BART-CNN's own settings ask for 56 tokens at least; those of the recipe hold."""
    task = captioner(bart(forced=True), decoding=PAPER)
    wanted = [row.caption for row in task.predict(task.collate(clips, None))]
    own = task.language.model.generation_config
    own.min_length, own.max_length, own.length_penalty, own.num_beams, own.no_repeat_ngram_size = 56, 142, 2.0, 7, 5
    assert [row.caption for row in task.predict(task.collate(clips, None))] == wanted


def test_captions_without_sound_have_no_embeddings(tmp_path, clips):
    bare = [replace(clip, path=Path("table 1"), text_only=True, split="3", name="t") for clip in clips[:1]]
    with pytest.raises(UsageError, match="1 captions have no sound, so no embeddings"):
        made = recipe("backbone.name=mn04+vggish")
        build.train(made, Dataset("mixed", (*clips, *bare)), tmp_path / "out", quiet=True)
