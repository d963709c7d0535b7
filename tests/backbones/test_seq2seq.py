"""Encoder-decoders: a byte-pair vocabulary of its own, scores, what is written, what trains and is saved."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from ossicle.backbones import seq2seq
from ossicle.backbones.prompt import targets
from ossicle.backbones.seq2seq import EncoderDecoder, Sizes
from ossicle.backbones.text import Given, Lora
from ossicle.errors import AdapterError, UnknownNameError, UsageError, WeightsError
from ossicle.tasks import conditioning, decode
from ossicle.tasks.decode import Decoding
from tests import tiny

SIZES = Sizes(width=16, layers=2, heads=2, inner=24, vocabulary=320, places=40, dropout=0.1)
SAID = ["A dog barks.", "Rain falls on a roof, then a dog barks twice.", "Someone's 2 cars pass by"]
READ = ["dog. bark. animal.", "rain.", "rain on surface. dog. vehicle. speech."]


# What makes a caption follow what is read, and each word its place.
LOUD = ("encoder_attn", "EncDecAttention", "positions", "relative_attention_bias")


def tokenizer():
    return seq2seq.tokenizer_of(seq2seq.byte_pairs([*SAID, *READ], SIZES.vocabulary))


def small(seed: int = 0) -> EncoderDecoder:
    """Of random weights that are large enough for what is read to change what is written."""
    made = seq2seq.small(SIZES, tokenizer(), seed)
    return spread(made, seed)


def spread(made: EncoderDecoder, seed: int = 0) -> EncoderDecoder:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            parameter.normal_(std=0.3, generator=generator)
            if any(part in name for part in LOUD):
                parameter.mul_(5)
            if "norm" in name:
                parameter.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
    return made.eval()


def bart(seed: int = 0, learns: seq2seq.Learns = "whole", generation: dict | None = None) -> EncoderDecoder:
    """As BART is published: its own forced first token, and embeddings scaled by the square root of their width."""
    read = tokenizer()
    config = BartConfig(
        vocab_size=len(read), d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=40,
        scale_embedding=True, pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    model = BartForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id = 0
    for key, value in (generation or {}).items():
        setattr(model.generation_config, key, value)
    return spread(EncoderDecoder(model, read, "tiny-bart", learns=learns), seed)


def t5() -> EncoderDecoder:
    read = tokenizer()
    config = T5Config(
        vocab_size=len(read), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=1,
        pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return spread(EncoderDecoder(T5ForConditionalGeneration(config), read, "tiny-t5"))


MAKERS = {"small": small, "bart": bart, "t5": t5}


def given(language: EncoderDecoder, texts: list[str] = READ) -> Given:
    told = language.tokenizer(texts, padding=True, return_tensors="pt")
    return Given(language.embed(told["input_ids"]), told["attention_mask"].bool())


def said(language: EncoderDecoder, texts: list[str] = SAID) -> torch.Tensor:
    return targets(language.tokenizer, language.tokenizer.eos_token_id, texts)


# --- its own vocabulary ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*SAID, *READ, "Ätzend: 3.5 dB — été", "a.b..c"])
def test_text_comes_back_from_its_tokens_in_small_letters(text):
    read = tokenizer()
    ids = read(text)["input_ids"]
    assert (ids[0], ids[-1]) == (read.bos_token_id, read.eos_token_id) and read.unk_token_id not in ids
    assert read.decode(ids, skip_special_tokens=True) == text.lower()


def test_a_full_stop_is_always_a_token_of_its_own():
    """Also where "bee, wasp,." and "dog.dog." are the commonest texts, so that a pair with it would pay most."""
    often = ["bee, wasp,. dog.dog. x. 3.5 " * 20] * 50
    read = seq2seq.tokenizer_of(seq2seq.byte_pairs(often, 400))
    stop = conditioning.separator_id(read)
    assert [token for token in read.get_vocab() if "." in token] == ["."]
    ids = read("bee, wasp,. dog.dog. x.", add_special_tokens=False)["input_ids"]
    assert ids.count(stop) == 4
    assert conditioning.places(ids, conditioning.special_ids(read), stop, 4)[-1] == -1


def test_a_vocabulary_has_its_size_and_every_byte():
    read = tokenizer()
    assert len(read) == SIZES.vocabulary
    assert len(seq2seq.tokenizer_of(seq2seq.byte_pairs(["a"], 5000))) == len(seq2seq.SPECIAL) + 256


def test_the_same_texts_give_the_same_vocabulary_in_every_process():
    """Training goes on only with the vocabulary it began with; word counts in hash tables must not decide on ties."""
    code = f"from ossicle.backbones import seq2seq; print(hash(seq2seq.byte_pairs({[*SAID, *READ]!r}, 320)))"
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={**os.environ, "PYTHONHASHSEED": "0"}).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert told[0] == told[1] and told[0].strip()


def test_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="width 30 cannot be shared by 4 heads; give a width that is a multiple"):
        Sizes(width=30, heads=4)


def test_a_seed_gives_the_same_weights_and_leaves_torchs_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (seq2seq.small(SIZES, tokenizer(), seed).saved() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


# --- scores and captions ---------------------------------------------------------------------------------------------


@pytest.mark.numerics
@pytest.mark.parametrize("kind", ["small", "t5"])
def test_scores_are_transformers_own_cross_entropy(kind):
    language = MAKERS[kind]()
    ids, read = said(language), given(language)
    ours = language.score(read, ids)
    real = ids != -100
    theirs = language.model(inputs_embeds=read.embedded, attention_mask=read.real.long(), labels=ids).loss
    torch.testing.assert_close(-(ours * real).sum() / real.sum(), theirs, atol=1e-4, rtol=0)


@pytest.mark.numerics
def test_scores_after_a_forced_first_token_are_those_of_labels_that_begin_with_it():
    language = bart()
    ids, read = said(language), given(language)
    assert language.starts == [2, 0]
    labels = torch.cat([torch.zeros(len(ids), 1, dtype=torch.long), ids], dim=1)
    logits = language.model(inputs_embeds=read.embedded, attention_mask=read.real.long(), labels=labels).logits
    real = ids != -100
    wanted = torch.nn.functional.cross_entropy(logits[:, 1:][real], ids[real])
    torch.testing.assert_close(-language.score(read, ids)[real].mean(), wanted, atol=1e-4, rtol=0)


@pytest.mark.numerics
@pytest.mark.parametrize("kind", MAKERS)
def test_reading_embeddings_is_reading_their_tokens(kind):
    """BART may scale its embeddings by the square root of their width, T5 does not."""
    language = MAKERS[kind]()
    told = language.tokenizer(READ, padding=True, return_tensors="pt")
    mask = told["attention_mask"]
    encoder = language.model.get_encoder()
    wanted = encoder(input_ids=told["input_ids"], attention_mask=mask).last_hidden_state
    read = given(language)
    found = encoder(inputs_embeds=read.embedded, attention_mask=read.real.long()).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_what_is_written_is_transformers_own_without_the_tokens_every_text_begins_with(kind, method):
    language = MAKERS[kind]()
    how = Decoding(method=method, max_tokens=9, beams=3)
    end = language.tokenizer.eos_token_id
    told = language.tokenizer(READ, padding=True, return_tensors="pt")
    starts = language.starts
    theirs = language.model.generate(
        **told, do_sample=False, num_beams=1 if method == "greedy" else 3, max_new_tokens=9 + len(starts) - 1,
        min_new_tokens=2 + len(starts) - 1, eos_token_id=end, pad_token_id=end, early_stopping=True,
        length_penalty=1.0,
    )  # fmt: skip
    made = language.generate(given(language), decode._settings(how, end)).sequences
    for row, wanted in zip(made.tolist(), theirs[:, len(starts) :].tolist(), strict=True):
        assert row[: len(wanted)] == wanted[: len(row)]
    assert made.shape[1] > 0 and theirs[0, : len(starts)].tolist() == starts


@pytest.mark.parametrize("how", [Decoding("greedy", max_tokens=12), Decoding(max_tokens=12, beams=3)], ids=["g", "b"])
def test_what_a_model_was_set_to_for_its_own_task_has_no_say(how, caplog):
    """Published summarisers bring a shortest length, suppressed tokens and more, which nobody asked for here."""
    own = {"min_length": 11, "suppress_tokens": [214, 64], "exponential_decay_length_penalty": (1, 5.0)}
    language, plain = bart(generation=own), bart()
    end = plain.tokenizer.eos_token_id
    assert decode.write(language, given(language), end, how) == decode.write(plain, given(plain), end, how)
    assert "min_length" not in caplog.text


@pytest.mark.parametrize("kind", MAKERS)
def test_captions_differ_with_what_is_read(kind):
    language = MAKERS[kind]()
    rows = decode.write(language, given(language), language.tokenizer.eos_token_id, Decoding("greedy", max_tokens=12))
    assert len({row[0].text for row in rows}) > 1


@pytest.mark.numerics
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_neighbours_never_change_a_caption(kind, method):
    language = MAKERS[kind]()
    how, end = Decoding(method=method, beams=3, max_tokens=8), language.tokenizer.eos_token_id
    together = decode.write(language, given(language), end, how)
    for text, [row] in zip(READ, together, strict=True):
        [[alone]] = decode.write(language, given(language, [text]), end, how)
        assert (alone.text, alone.tokens) == (row.text, row.tokens)
        assert alone.log_prob == pytest.approx(row.log_prob, abs=1e-3)


def test_more_than_it_has_places_for():
    language = small()
    assert (language.reads, language.writes, language.longest) == (40, 40, None) and bart().writes == 39
    assert t5().reads is None and t5().writes is None and tiny.language().writes is None
    end = language.tokenizer.eos_token_id
    with pytest.raises(UsageError, match=r"max_tokens=40 came, but a small BART writes 39 tokens and an end token"):
        decode.write(language, given(language), end, Decoding(max_tokens=40))
    decode.write(language, given(language), end, Decoding(max_tokens=39, min_tokens=39, beams=2))
    with pytest.raises(UsageError, match=r"caption of 51 tokens came, a small BART writes 40 .*task\.small\.places"):
        language.score(given(language, READ[:1]), said(language, ["€$ " * 10])[:, :51])


# --- what trains and is saved ----------------------------------------------------------------------------------------


def test_all_of_it_trains_and_comes_back():
    one, other = small(), small(seed=1)
    assert not one.lent and sum(v.numel() for v in one.saved().values()) == one.base_parameters()
    other.restore({key: value.detach().clone() for key, value in one.saved().items()})
    assert torch.equal(other.score(given(one), said(one)), one.score(given(one), said(one)))
    with pytest.raises(AdapterError, match=r"saved weights are not of a small BART: 1 differ"):
        other.restore({key: value for key, value in list(one.saved().items())[1:]})


def test_a_frozen_decoder_trains_norms_cross_attention_and_embeddings():
    language = bart(learns="frozen-decoder")
    frozen = {name for name, p in language.model.named_parameters() if not p.requires_grad}
    parts = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2")
    assert frozen == {
        f"model.decoder.layers.{n}.{part}.{what}" for n in range(2) for part in parts for what in ("weight", "bias")
    }
    assert language.saved().keys() == {name for name, p in language.model.named_parameters() if p.requires_grad}


def test_dropout_is_on_in_training_only_where_its_own_weights_train():
    inner = torch.nn.Module.modules
    assert all(m.training for m in inner(small().train().model))
    assert not any(m.training for m in inner(bart(learns="nothing").train().model))
    assert not any(m.training for m in inner(small().train().eval().model))


@pytest.mark.numerics
def test_a_lora_on_it_is_all_that_is_saved(tmp_path):
    language = bart(learns="nothing")
    before = language.score(given(language), said(language))
    language.add_lora(Lora(rank=2))
    torch.testing.assert_close(language.score(given(language), said(language)), before)
    assert language.lent and all(".lora_" in key for key in language.saved())
    with torch.no_grad():
        for value in language.saved().values():
            value.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    told = language.score(given(language), said(language))
    assert not torch.allclose(told, before, atol=1e-3)
    language.save(tmp_path / "llm")
    other = bart(learns="nothing")
    other.load_lora(tmp_path / "llm")
    torch.testing.assert_close(other.score(given(other), said(other)), told, atol=1e-4, rtol=0)


def test_a_folder_of_transformers(tmp_path):
    language = bart()
    language.model.save_pretrained(tmp_path / "mine")
    language.tokenizer.save_pretrained(tmp_path / "mine")
    assert seq2seq.is_one(str(tmp_path / "mine"))
    loaded = seq2seq.encoder_decoder(str(tmp_path / "mine"))
    assert loaded.name == "mine" and loaded.starts == [2, 0] and len(loaded.digest) == 64
    (tmp_path / "mine" / "generation_config.json").unlink()  # as in older releases, where the config says it
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config | {"forced_bos_token_id": 0}))
    assert seq2seq.encoder_decoder(str(tmp_path / "mine")).starts == [2, 0]
    ids = said(language)
    torch.testing.assert_close(loaded.score(given(loaded), ids), language.score(given(language), ids))
    causal = tiny.language()
    causal.model.save_pretrained(tmp_path / "causal")
    causal.tokenizer.save_pretrained(tmp_path / "causal")
    assert not seq2seq.is_one(str(tmp_path / "causal"))
    with pytest.raises(WeightsError, match="is no encoder-decoder that transformers can load"):
        seq2seq.encoder_decoder(str(tmp_path / "causal"))


def test_what_is_not_there(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'smollm2-135m-instruct'"):
        seq2seq.is_one("smollm2-135m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"no language model|no weights"):
        seq2seq.is_one(str(tmp_path / "empty"))
