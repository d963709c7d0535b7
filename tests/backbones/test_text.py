"""Language models: prompts in two chat templates, what the loss is taken of, LoRA in peft's format."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from ossicle.backbones import prompt, text
from ossicle.backbones.text import Lora, language_model
from ossicle.errors import AdapterError, CheckpointError, UnknownNameError, UsageError, WeightsError
from tests import tiny

ASKED = "Describe the following audio clip [audio]"
LORA = Lora(rank=3, alpha=6.0)


def written(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids))


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "before", "after", "end"),
    [
        (
            tiny.CHATML, "<|start|>user\nDescribe the following audio clip",
            "<|end|>\n<|start|>assistant\n", "<|end|>",
        ),
        (
            tiny.LLAMA3, "<|begin|><|start|>user<|head|>\n\nDescribe the following audio clip",
            "<|turn|><|start|>assistant<|head|>\n\n", "<|turn|>",
        ),
    ],
    ids=["chatml", "llama3"],
)  # fmt: skip
def test_chat_templates(template, before, after, end):
    """The text in front of the sound, behind it, and the token that ends the assistant's turn."""
    tokenizer = tiny.tokenizer(template)
    found = prompt.prompt(tokenizer, ASKED, chat=True)
    assert written(tokenizer, found.before) == before
    assert written(tokenizer, found.after) == after
    assert written(tokenizer, [found.end]) == end


@pytest.mark.parametrize("template", [tiny.CHATML, tiny.LLAMA3], ids=["chatml", "llama3"])
def test_the_loss_is_taken_of_the_caption_and_its_end_only(template):
    """Padding is told by place, not by the pad token, which is the end token here."""
    tokenizer = tiny.tokenizer(template)
    end = prompt.prompt(tokenizer, ASKED, chat=True).end
    ids = prompt.targets(tokenizer, end, ["a dog", "rain"])
    assert written(tokenizer, ids[0]) == "a dog" + written(tokenizer, [end])
    assert ids[1].tolist() == [*tokenizer("rain")["input_ids"], end, -100]


def test_a_special_token_in_a_caption_is_only_letters():
    tokenizer = tiny.tokenizer()
    ids = prompt.targets(tokenizer, tokenizer.eos_token_id, ["a <|end|> b"])[0].tolist()
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id


def test_plain_prompts():
    tokenizer = tiny.tokenizer(None)
    found = prompt.prompt(tokenizer, ASKED, chat=False)
    assert written(tokenizer, found.before) == "Describe the following audio clip"
    assert written(tokenizer, found.after) == "\n" and found.end == tokenizer.eos_token_id


def test_prompts_that_cannot_be():
    with pytest.raises(UsageError, match=r"has 0 times \[audio\]; write it once"):
        prompt.prompt(tiny.tokenizer(), "Describe", chat=True)
    with pytest.raises(UsageError, match=r"no chat template; set task\.prompt_form='plain'"):
        prompt.prompt(tiny.tokenizer(None), ASKED, chat=True)
    endless = tiny.tokenizer(None)
    endless.eos_token = None
    with pytest.raises(UsageError, match="no end token"):
        prompt.prompt(endless, ASKED, chat=False)


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.numerics
def test_logits_of_the_last_places_are_those_of_the_whole():
    language = tiny.language()
    ids = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    whole = language.model(input_ids=ids).logits
    kept = language.logits(language.embed(ids), torch.ones(2, 5), keep=2)
    torch.testing.assert_close(kept, whole[:, -2:], atol=1e-4, rtol=0)


@pytest.mark.numerics
def test_only_the_lora_trains_and_it_starts_silent():
    language = tiny.language()
    ids = torch.tensor([[1, 2, 3]])
    before = language.model(input_ids=ids).logits
    language.add_lora(LORA)
    torch.testing.assert_close(language.model(input_ids=ids).logits, before)
    names = [name for name, p in language.named_parameters() if p.requires_grad]
    assert names and all(".lora_" in name and ("q_proj" in name or "k_proj" in name) for name in names)
    wide, kv = 32, 16
    assert sum(v.numel() for v in language.saved().values()) == 2 * 3 * ((wide + wide) + (wide + kv))


def test_dropout_is_the_loras_alone():
    language = tiny.language()
    language.model.model.layers[0].self_attn.attention_dropout = 0.5
    language.add_lora(Lora(rank=3, dropout=0.5))
    language.train()
    assert not language.model.training and language.training
    dropouts = [m for path, m in language.named_modules() if path.endswith("lora_dropout.default")]
    assert dropouts and all(m.training for m in dropouts)
    assert not any(m.training for m in language.eval().modules())


def randomise(language, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in language.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1, generator=generator)


@pytest.mark.numerics
def test_lora_is_saved_in_pefts_format(tmp_path):
    language = tiny.language()
    language.add_lora(LORA)
    randomise(language)
    language.save(tmp_path / "llm")
    ids = torch.tensor([[1, 2, 3]])
    told = language.model(input_ids=ids).logits
    with pytest.warns():
        theirs = peft.PeftModel.from_pretrained(tiny.language().model, str(tmp_path / "llm"))
    torch.testing.assert_close(theirs(input_ids=ids).logits, told, atol=1e-4, rtol=0)
    ours = tiny.language()
    ours.load_lora(tmp_path / "llm")
    torch.testing.assert_close(ours.model(input_ids=ids).logits, told, atol=1e-4, rtol=0)
    config = json.loads((tmp_path / "llm" / text.CONFIG).read_text())
    assert config["base_model_name_or_path"] == "tiny-llama" and (config["r"], config["lora_alpha"]) == (3, 6)
    assert str(tmp_path) not in (tmp_path / "llm" / text.CONFIG).read_text()


def test_a_lora_that_does_not_fit(tmp_path):
    language = tiny.language()
    with pytest.raises(AdapterError, match=r"LoRA targets query do not fit tiny-llama.*it has .*q_proj"):
        language.add_lora(Lora(targets=("query",)))
    language.add_lora(LORA)
    language.save(tmp_path / "llm")
    with pytest.raises(AdapterError, match=r"another language model than tiny-llama.*shape \(3, 32\) came, \(3, 48\)"):
        tiny.language(width=48).load_lora(tmp_path / "llm")
    (tmp_path / "llm" / text.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tiny.language().load_lora(tmp_path / "llm")


def test_without_a_lora_nothing_is_saved(tmp_path):
    language = tiny.language()
    assert language.saved() == {}
    language.save(tmp_path / "llm")
    assert not (tmp_path / "llm").exists()


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_transformers(tmp_path):
    language = tiny.language()
    language.model.save_pretrained(tmp_path / "mine")
    language.tokenizer.save_pretrained(tmp_path / "mine")
    loaded = language_model(str(tmp_path / "mine"))
    assert loaded.name == "mine" and loaded.sizes() == language.sizes() and len(loaded.digest) == 64
    assert loaded.sample() == language.sample()
    weights = load_file(tmp_path / "mine" / "model.safetensors")
    assert loaded.base_parameters() == language.base_parameters() >= sum(w.numel() for w in weights.values())


def test_models_that_cannot_be_loaded(tmp_path, monkeypatch):
    with pytest.raises(UnknownNameError, match="did you mean 'smollm2-135m-instruct'"):
        language_model("smollm2-135m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"no causal language model|no weights"):
        language_model(str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="there is no folder some/model, and the hub did not give it"):
        language_model("some/model")
    with pytest.raises(UsageError, match="4-bit base needs a CUDA GPU"):
        language_model("smollm2-135m-instruct", bits=4)


def test_a_sample_of_weights_tells_models_apart_in_any_precision():
    language = tiny.language()
    assert language.sizes() == [len(tiny.tokenizer()), 32, 2] == tiny.language(seed=1).sizes()
    known = language.sample()
    coarse = tiny.language()
    table = coarse.model.get_input_embeddings().weight
    step = float(table.abs().max()) / 8  # four bits
    table.data = (table / step).round() * step
    assert text.alike(known, coarse.sample()) > 0.95 and text.alike(known, tiny.language(seed=1).sample()) < 0.5


def test_the_papers_count_on_llama_3_8b():
    """Rank 16 on query and key of 32 layers with grouped keys; no weights are needed to count."""
    config = LlamaConfig(
        vocab_size=128, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8,
    )  # fmt: skip
    with torch.device("meta"):
        language = text.LanguageModel(LlamaForCausalLM(config), tiny.tokenizer(), "llama-3-8b")
        language.add_lora(Lora())
    assert sum(p.numel() for p in language.parameters() if p.requires_grad) == 6_815_744
