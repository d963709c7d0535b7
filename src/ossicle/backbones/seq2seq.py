"""Encoder-decoders of transformers that are spoken to in embeddings: BART, T5, or a small one trained from nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ossicle.backbones import weights
from ossicle.backbones.text import Given, LanguageModel, folder_of, line
from ossicle.errors import AdapterError, UsageError, WeightsError

Whole = Annotated[int, Field(ge=1)]
Learns = Literal["whole", "frozen-decoder", "nothing"]
# Of a decoder's layer, what a frozen decoder does not train: norms, cross-attention and embeddings still do (SPEC 2.3).
FROZEN = (".self_attn.", ".fc1.", ".fc2.", ".SelfAttention.", ".DenseReluDense.")


@dataclass(frozen=True)
class Sizes:
    """An encoder-decoder of BART's architecture (Lewis et al. 2020) with random weights.

    Its norms stand in front, as mBART's do (Liu et al. 2020), with which a model from random start learns sooner.

    Args:
        width: of tokens.
        layers: of encoder and decoder each.
        heads: of attention.
        inner: width between a layer's two maps.
        vocabulary: byte pairs, learnt from the captions and the tagger's names; special tokens among them.
        places: longest text.
        dropout: in training, of what each attention and each pair of maps adds.
    """

    width: Whole = 256
    layers: Whole = 3
    heads: Whole = 4
    inner: Whole = 1024
    vocabulary: Annotated[int, Field(ge=300)] = 4000
    places: Whole = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} cannot be shared by {self.heads} heads; give a width that is a multiple of them"
            )


class EncoderDecoder(LanguageModel):
    """An encoder-decoder with its tokenizer, in the terms of a causal model: it reads what is given and writes.

    Args:
        model: of transformers.
        tokenizer: its own.
        name: as it is known to `ossicle models`, on the hub, or by its folder.
        digest: SHA-256 of its weights.
        learns: whole, all but what makes its decoder a language model, or nothing but a LoRA.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, digest: str = "", learns: Learns = "whole") -> None:
        super().__init__(model, tokenizer, name, digest)
        model.generation_config = _bare(model.generation_config)
        self.learnt = frozenset(
            key for key, _ in model.named_parameters()
            if learns == "whole" or (learns == "frozen-decoder" and not _decoding(key))
        )  # fmt: skip
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(key in self.learnt)
        self.begin: int | None = None  # the token that every text was taught to begin with, where it is not forced

    def train(self, mode: bool = True) -> "EncoderDecoder":
        """Its own dropout is on where its own weights train."""
        super().train(mode)
        if self.learnt:
            self.model.train(mode)
        return self

    @property
    def lent(self) -> bool:
        """Whether none of its own weights train."""
        return bool(self.wrapped) or not self.learnt

    @property
    def starts(self) -> list[int]:
        """The tokens that every text begins with, unseen; BART's has two."""
        config, own = self.model.config, self.model.generation_config
        forced = getattr(own, "forced_bos_token_id", None)
        forced = self.begin if forced is None else forced
        return [int(config.decoder_start_token_id)] + ([] if forced is None else [int(forced)])

    @property
    def longest(self) -> int | None:
        """No bound on both together; each has its own places."""
        return None

    @property
    def reads(self) -> int | None:
        """Tokens that it has places for; a model that counts distances, such as T5, reads any number."""
        found = getattr(self.model.config, "max_position_embeddings", None)
        return None if found is None else int(found)

    @property
    def writes(self) -> int | None:
        """As many, but for those that every text begins with."""
        return None if self.reads is None else self.reads - len(self.starts) + 1

    def base_parameters(self) -> int:
        """All of it, as its own weights are those that train."""
        return int(self.model.num_parameters())

    def embed(self, ids: Tensor) -> Tensor:
        """(…) token ids to (…, width), scaled as its encoder does."""
        inner = self.model.get_encoder()
        scale = getattr(inner.embed_tokens, "embed_scale", getattr(inner, "embed_scale", 1.0))
        rows = super().embed(ids)
        return rows if hasattr(inner.embed_tokens, "embed_scale") else rows * scale

    def score(self, given: Given, ids: Tensor) -> Tensor:
        """(batch, tokens) float32 log-probability of each caption token; of what stands at -100 it means nothing.

        Raises:
            UsageError: if a caption has more tokens than it can write.
        """
        known, starts = ids.clamp(min=0), self.starts
        if self.writes is not None and ids.shape[1] > self.writes:
            raise UsageError(
                f"a caption of {ids.shape[1]} tokens came, {self.name} writes {self.writes} at the most; shorten or"
                " leave out such captions, or give a model with more places (task.small.places)"
            )
        first = torch.tensor(starts, device=ids.device).expand(len(ids), -1)
        out = self.model(
            inputs_embeds=given.embedded, attention_mask=given.real.long(),
            decoder_input_ids=torch.cat([first, known[:, :-1]], dim=1), use_cache=False,
        )  # fmt: skip
        logits = out.logits[:, len(starts) - 1 :].float()
        found: Tensor = logits.log_softmax(dim=-1).gather(2, known[..., None])[..., 0]
        return found

    def score_padded(self, given: Given, labels: Tensor) -> Tensor:
        """(batch, places) float32 log-probability of each label, of padding too; labels are the text's own tokens.

        The decoder sees no padding: the mask of its places is that of the labels, as in the paper's code (SPEC 2.4).
        """
        first = torch.full_like(labels[:, :1], self.starts[0])
        out = self.model(
            inputs_embeds=given.embedded, attention_mask=given.real.long(),
            decoder_input_ids=torch.cat([first, labels[:, :-1]], dim=1),
            decoder_attention_mask=(labels != self.tokenizer.pad_token_id).long(), use_cache=False,
        )  # fmt: skip
        found: Tensor = out.logits.float().log_softmax(dim=-1).gather(2, labels[..., None])[..., 0]
        return found

    def generate(self, given: Given, settings: Any) -> Any:
        """What transformers' `generate` gives, without the tokens that every text begins with."""
        starts = self.starts
        settings.decoder_start_token_id = starts[0]
        settings.forced_bos_token_id = starts[1] if len(starts) > 1 else None
        settings.forced_eos_token_id = getattr(self.model.generation_config, "forced_eos_token_id", None)
        settings.max_new_tokens += len(starts) - 1
        settings.min_new_tokens += len(starts) - 1
        made = super().generate(given, settings)
        made.sequences = made.sequences[:, len(starts) :]
        if made.logits:
            made.logits = made.logits[len(starts) - 1 :]
        return made

    def saved(self) -> dict[str, Tensor]:
        """What trains: its LoRA, or its own weights."""
        if self.lent:
            return super().saved()
        return {key: value for key, value in self.model.named_parameters() if key in self.learnt}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Fill it from what `saved` gave.

        Raises:
            AdapterError: if names or shapes differ.
        """
        if self.lent:
            super().restore(state)
            return
        own = self.saved()
        wrong = [
            k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape
        ]
        if wrong:
            raise AdapterError(
                f"the saved weights are not of {self.name}: {len(wrong)} differ, such as {sorted(wrong)[0]}"
            )
        with torch.no_grad():
            for key, value in state.items():
                own[key].copy_(value)


def _bare(own: Any) -> Any:
    """A model's settings of generation without those of its own task, such as a summary's shortest length.

    `generate` falls back on them wherever the recipe says nothing.
    """
    from transformers import GenerationConfig

    kept = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
    return GenerationConfig(**{key: getattr(own, key, None) for key in kept})


def _decoding(key: str) -> bool:
    return "decoder." in key and any(part in key for part in FROZEN)


def is_one(name: str) -> bool:
    """Whether a language model reads by an encoder of its own; raises WeightsError if it cannot be had."""
    from transformers import AutoConfig

    folder = folder_of(name)
    try:
        return bool(AutoConfig.from_pretrained(folder, local_files_only=True).is_encoder_decoder)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{name} is no language model that transformers can load: {line(error)}") from None


def encoder_decoder(name: str, *, learns: Learns = "whole", fresh: int | None = None) -> EncoderDecoder:
    """Load a trained one.

    Args:
        name: of `ossicle models`, a folder in transformers' format, or a repository on the hub.
        learns: see `EncoderDecoder`.
        fresh: seed of random weights in place of its own.

    Raises:
        WeightsError: if it cannot be had or is none.
    """
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig, logging

    logging.disable_progress_bar()
    folder = folder_of(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if fresh is None:
            model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        else:
            with torch.random.fork_rng():
                torch.manual_seed(fresh)
                model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
            if (folder / "generation_config.json").is_file():  # which tokens begin a text
                model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise WeightsError(f"{name} is no encoder-decoder that transformers can load: {line(error)}") from None
    shown = Path(name).name if Path(name).exists() else name
    return EncoderDecoder(model, tokenizer, shown, "" if fresh is not None else weights.digest(folder), learns)


def small(sizes: Sizes, tokenizer: Any, seed: int = 0) -> EncoderDecoder:
    """One with random weights over a tokenizer of its own; see `byte_pairs`."""
    from transformers import MBartConfig, MBartForConditionalGeneration

    config = MBartConfig(
        vocab_size=len(tokenizer), d_model=sizes.width, max_position_embeddings=sizes.places,
        encoder_layers=sizes.layers, decoder_layers=sizes.layers, encoder_ffn_dim=sizes.inner,
        decoder_ffn_dim=sizes.inner, encoder_attention_heads=sizes.heads, decoder_attention_heads=sizes.heads,
        dropout=sizes.dropout, attention_dropout=0.0, activation_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MBartForConditionalGeneration(config)
        # BART's deviation of 0.02 suits a width of 1024. At a quarter of that the attention to what is read begins so
        # faint that hundreds of steps pass before anything is read at all.
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "shared" not in name and "embed" not in name:
                nn.init.xavier_uniform_(parameter)
    return EncoderDecoder(model, tokenizer, "a small BART")


SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def byte_pairs(texts: Sequence[str], size: int) -> str:
    """A byte-pair vocabulary of lower-case text, as the JSON text of a tokenizers file.

    Args:
        texts: to learn it from.
        size: tokens at the most.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    # A full stop is a token of its own, so that tags can be told apart (`tasks.conditioning`).
    split = pre_tokenizers.Split(".", "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )  # fmt: skip
    made.train_from_iterator(texts, trainer)
    ends = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return str(made.to_str())


def tokenizer_of(text: str) -> Any:
    """The tokenizer of what `byte_pairs` gave."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    begin, pad, end, unknown = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text), bos_token=begin, pad_token=pad, eos_token=end, unk_token=unknown,
        cls_token=begin, sep_token=end,
    )  # fmt: skip
