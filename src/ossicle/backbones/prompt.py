"""Prompts and captions as token ids: what a language model reads around the sound, and what it learns to write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ossicle.errors import UsageError

# Some templates write today's date, with which a captioner would read another prompt every day.
FIXED = {"date_string": "26 Jul 2024"}


@dataclass(frozen=True)
class Prompt:
    """What the language model reads around the sound.

    Args:
        before: token ids in front of the sound.
        after: token ids between the sound and the caption.
        end: the token that ends a caption.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    end: int


PLACEHOLDER = "[audio]"


def prompt(tokenizer: Any, text: str, *, chat: bool) -> Prompt:
    """Token ids of a prompt with a place for the sound.

    Args:
        tokenizer: of the language model.
        text: has "[audio]" once.
        chat: in the tokenizer's chat template, as a user's turn; else as plain text, a line of its own.

    Raises:
        UsageError: if the text has no single "[audio]", or the tokenizer no chat template or end token.
    """
    if text.count(PLACEHOLDER) != 1:
        raise UsageError(f"the prompt {text!r} has {text.count(PLACEHOLDER)} times {PLACEHOLDER}; write it once")
    if chat and not tokenizer.chat_template:
        raise UsageError("this language model has no chat template; set task.prompt_form='plain'")
    if not chat:
        return _plain(tokenizer, text)
    turn = [{"role": "user", "content": text}]
    given = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, **FIXED)
    before, _, after = given.rpartition(PLACEHOLDER)
    said = [*turn, {"role": "assistant", "content": PLACEHOLDER}]
    rest = tokenizer.apply_chat_template(said, tokenize=False, **FIXED).rpartition(PLACEHOLDER)[2]
    ids = _ids(tokenizer, rest)
    end = ids[0] if ids and ids[0] in tokenizer.all_special_ids else tokenizer.eos_token_id
    return Prompt(_ids(tokenizer, before.rstrip(" ")), _ids(tokenizer, after), _end(end))


def _plain(tokenizer: Any, text: str) -> Prompt:
    before, _, after = text.partition(PLACEHOLDER)
    ids = list(tokenizer(before.rstrip(" "))["input_ids"])
    while ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        ids.pop()
    return Prompt(tuple(ids), _ids(tokenizer, f"{after}\n"), _end(tokenizer.eos_token_id))


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _said(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Ids of what a person wrote: a special token in it is only letters."""
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _end(token: int | None) -> int:
    if token is None:
        raise UsageError("this language model has no end token; give one whose tokenizer has an eos_token")
    return token


def targets(tokenizer: Any, end: int, captions: Sequence[str]) -> Tensor:
    """(batch, longest) ids of each caption and the end token, -100 after them: what the loss is taken of."""
    rows = [[*_said(tokenizer, text), end] for text in captions]
    longest = max(map(len, rows))
    return torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
