"""How a language model writes: greedy, beam, nucleus; log-probabilities; the best of several by consensus."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ossicle.backbones.text import Given, LanguageModel
from ossicle.errors import UnknownNameError, UsageError
from ossicle.metrics.caption.sbert import Sentences

Whole = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
SENTENCES = "all-minilm-l6-v2"


@dataclass(frozen=True)
class Decoding:
    """How captions are written.

    Args:
        method: greedy, beam, nucleus (Holtzman et al. 2020) or contrastive (Su et al. 2022).
        beams: of beam search.
        top_p: nucleus: the likeliest tokens that together have this probability.
        temperature: nucleus: above 1 flatter, below 1 sharper.
        top_k: contrastive: tokens compared.
        penalty: contrastive: weight of the likeness to what was written.
        max_tokens: longest caption.
        min_tokens: shortest caption.
        no_repeat: no sequence of that many tokens comes twice; 0 is off.
        length_penalty: beam: above 0 favours longer captions.
        repetition_penalty: above 1 disfavours tokens that were used.
        candidates: captions written of each sound.
        rerank: which of them is the caption: the likeliest; or the one most like the others (minimum Bayes risk), by
            consensus with the cosine of sentence embeddings as the gain, by words with the F1 of sequences of one to
            three words, which needs no model.
    """

    method: Literal["greedy", "beam", "nucleus", "contrastive"] = "beam"
    beams: Whole = 4
    top_p: Share = 0.9
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_k: Whole = 4
    penalty: Annotated[float, Field(ge=0, le=1)] = 0.6
    max_tokens: Whole = 48
    min_tokens: Annotated[int, Field(ge=0)] = 2
    no_repeat: Annotated[int, Field(ge=0)] = 0
    length_penalty: float = 1.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    candidates: Whole = 1
    rerank: Literal["likelihood", "consensus", "words"] = "likelihood"


def _greedy(how: Decoding) -> dict[str, Any]:
    if how.candidates > 1:
        raise UsageError(f"greedy decoding writes 1 caption but {how.candidates} were asked for; use beam or nucleus")
    return {"do_sample": False, "num_beams": 1}


def _beam(how: Decoding) -> dict[str, Any]:
    beams = max(how.beams, how.candidates)
    if beams == 1:
        return _greedy(how)
    return {"do_sample": False, "num_beams": beams, "length_penalty": how.length_penalty, "early_stopping": True}


def _nucleus(how: Decoding) -> dict[str, Any]:
    return {"do_sample": True, "top_p": how.top_p, "top_k": 0, "temperature": how.temperature}


def _contrastive(how: Decoding) -> dict[str, Any]:
    import transformers
    from transformers.generation import utils

    modes = getattr(utils, "GENERATION_MODES_MAPPING", {})
    if "/" in str(modes.get(utils.GenerationMode.CONTRASTIVE_SEARCH, "")):
        raise UsageError(
            f"transformers {transformers.__version__} has no contrastive search of its own; use beam or nucleus"
        )
    return {"top_k": how.top_k, "penalty_alpha": how.penalty}


METHODS: dict[str, Callable[[Decoding], dict[str, Any]]] = {
    "greedy": _greedy,
    "beam": _beam,
    "nucleus": _nucleus,
    "contrastive": _contrastive,
}


# Settings that mean something to one method only.
OWN: dict[str, tuple[str, ...]] = {
    "beam": ("beams", "length_penalty"),
    "nucleus": ("top_p", "temperature"),
    "contrastive": ("top_k", "penalty"),
}


@dataclass(frozen=True)
class Written:
    """One caption.

    Args:
        text: without special tokens.
        log_prob: natural logarithm of its probability, end token included, whatever the decoding favoured.
        tokens: that it has, end token included.
    """

    text: str
    log_prob: float
    tokens: int


def check(how: Decoding) -> None:
    """See that a method is to be had as it is set.

    Raises:
        UnknownNameError: for another method.
        UsageError: if this transformers lacks it, or it cannot write several captions.
    """
    if how.method not in METHODS:
        raise UnknownNameError("decoding", how.method, METHODS)
    METHODS[how.method](how)


def check_length(language: LanguageModel, how: Decoding) -> None:
    """See that a language model has places for the longest caption that is asked for.

    Raises:
        UsageError: if it has not.
    """
    if language.writes is not None and how.max_tokens >= language.writes:
        raise UsageError(
            f"task.decoding.max_tokens={how.max_tokens} came, but {language.name} writes {language.writes - 1} tokens"
            " and an end token at the most; lower it"
        )


@torch.no_grad()
def write(language: LanguageModel, given: Given, end: int, how: Decoding) -> list[list[Written]]:
    """Captions of what a language model reads.

    Args:
        language: the model.
        given: embedded prompts with the sound in them.
        end: token that ends a caption.
        how: see `Decoding`.

    Returns:
        For each row its captions, the best first; two that read the same are one.

    Raises:
        UsageError: if the method is not to be had, or cannot write several captions.
    """
    check(how)
    count, places = given.embedded.shape[:2]
    if language.longest and places + how.max_tokens > language.longest:
        raise UsageError(
            f"{places} places of prompt and {how.max_tokens} of caption are more than the {language.longest} of "
            f"{language.name}; lower task.decoding.max_tokens"
        )
    step = 1 if how.method == "nucleus" else count  # alone, so that neighbours never change what is drawn
    check_length(language, how)
    found: list[list[Written]] = []
    for first in range(0, count, step):
        told = _written(language, given.rows(slice(first, first + step)), end, how)
        found += [told[i : i + how.candidates] for i in range(0, len(told), how.candidates)]
    return [_distinct(RERANKS[how.rerank](row)) for row in found]


def _distinct(row: Sequence[Written]) -> list[Written]:
    """Of those that read the same the first."""
    found: dict[str, Written] = {}
    for one in row:
        found.setdefault(one.text, one)
    return list(found.values())


def _written(language: LanguageModel, given: Given, end: int, how: Decoding) -> list[Written]:
    """As many captions of each row as are asked for, row by row, as they came."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that penalties do not see the prompt, which is meant
        made = language.generate(given, _settings(how, end))
    texts = [_text(language, row, end) for row in made.sequences]
    known = _known(made.sequences, made.logits, end) if made.logits else log_probs(language, given, made.sequences, end)
    return [Written(t, p, n) for t, (p, n) in zip(texts, known, strict=True)]


def _known(ids: Tensor, logits: Sequence[Tensor], end: int) -> list[tuple[float, int]]:
    """Log-probability and number of tokens of each row, from the scores it was written with."""
    steps = torch.stack(
        [step.float().log_softmax(dim=-1).gather(1, ids[:, i : i + 1]) for i, step in enumerate(logits)]
    )
    return _summed(steps[..., 0].T, _real(ids, end))


def _real(ids: Tensor, end: int) -> Tensor:
    """(rows, tokens) bool: up to the first end token, which is one of them."""
    return (ids == end).cumsum(dim=1) - (ids == end).long() == 0


def _summed(log_probs: Tensor, real: Tensor) -> list[tuple[float, int]]:
    return list(zip((log_probs * real).sum(dim=1).tolist(), real.sum(dim=1).tolist(), strict=True))


def _settings(how: Decoding, end: int) -> Any:
    from transformers import GenerationConfig

    method = METHODS[how.method](how)
    return GenerationConfig(
        max_new_tokens=how.max_tokens, min_new_tokens=how.min_tokens, no_repeat_ngram_size=how.no_repeat,
        repetition_penalty=how.repetition_penalty, num_return_sequences=how.candidates,
        eos_token_id=end, pad_token_id=end, use_cache=True, return_dict_in_generate=True,
        output_logits=method.get("num_beams", 1) == 1, **method,  # beams are scored again, they come out of order
    )  # fmt: skip


def _text(language: LanguageModel, ids: Tensor, end: int) -> str:
    own = ids.tolist()
    own = own[: own.index(end)] if end in own else own
    return " ".join(language.tokenizer.decode(own, skip_special_tokens=True).split())


def log_probs(language: LanguageModel, given: Given, ids: Tensor, end: int) -> list[tuple[float, int]]:
    """Log-probability and number of tokens of each caption after what its row reads.

    Args:
        language: the model.
        given: what is read.
        ids: (captions, tokens) as they were written, as many for each row, row by row; all after an end token is
            passed over.
        end: the end token, which counts.
    """
    real = _real(ids, end)
    kept = language.score(given.each(len(ids) // len(given.embedded)), ids.masked_fill(~real, -100))
    return _summed(kept, real)


def _likelihood(row: list[Written]) -> list[Written]:
    return sorted(row, key=lambda w: -w.log_prob / w.tokens)


def _consensus(row: list[Written]) -> list[Written]:
    vectors = _sentences().embed([w.text for w in row])
    return _by_gain(row, (vectors @ vectors.T).sum(dim=1).tolist())


def _words(row: list[Written]) -> list[Written]:
    said = [_sequences(w.text) for w in row]
    return _by_gain(row, [sum(2 * len(a & b) / max(1, len(a) + len(b)) for b in said) for a in said])


def _sequences(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}


def _by_gain(row: list[Written], gain: list[float]) -> list[Written]:
    return [w for _, w in sorted(zip(gain, row, strict=True), key=lambda pair: -pair[0])]


@cache
def _sentences() -> Sentences:
    return Sentences(SENTENCES)


RERANKS: dict[str, Callable[[list[Written]], list[Written]]] = {
    "likelihood": _likelihood,
    "consensus": _consensus,
    "words": _words,
}
