"""What an encoder-decoder reads of a sound: its tags as one line of text, and the embedding each token stands for.

The paper is "Automated audio captioning by fine-tuning BART with AudioSet tags" (Gontier, Serizel, Cerisara 2021),
sections 2.2 (text) and 2.3 (audio), with its code, felixgontier/dcase2021aac. A tagger gives one row of scores for
about a second of sound; a row gives one tag, a tag one to six tokens, and all its tokens get the embedding of its row.
Where the code does other things than the paper says, `parity` does as the code.

Full stops are counted to know which tag a token belongs to. A name after which no token "." comes, such as "Bee, wasp,"
(byte pairs read ",." as one token), shifts all embeddings after it by a row, without a word. So names are cleaned, and
`places` counts again.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from ossicle.errors import UsageError

LENGTH = 64  # tokens of a caption in the paper's code
CHUNK = 10  # rows of tags that one PANNs embedding of 10 s stands for
IGNORED = -100  # what torch's cross-entropy leaves out
EDGES = " \t\r\n.,;:!?'\"/&-"
BRACKET = re.compile(r"\s*\(.*", re.DOTALL)
POINT = re.compile(r"(?<=\d)\.(?=\d)")


def clean(name: str, parity: bool = False) -> str:
    """A class's name as it stands in the text.

    "etc." and what is in brackets go, then commas and blanks at the edges, and every full stop: "Bee, wasp, etc." is
    "Bee, wasp". The code leaves "Bee, wasp, ", whose full stop is another token (" ."), so that it is not counted; with
    the blank alone gone it would be ",.", with the same fault.

    Args:
        name: as in the list of classes.
        parity: as the code has it.

    Raises:
        UsageError: if nothing is left that could be read.
    """
    kept = name.replace("etc.", "")
    if parity:
        return kept[: kept.index("(") - 1] if "(" in kept else kept
    for text in (BRACKET.sub("", kept), kept.replace("(", " ").replace(")", " ")):
        read = POINT.sub(" point ", text).replace(".", "").strip(EDGES)
        if read:
            return read
    raise UsageError(f"the class {name!r} has no text that a caption could be written from; give it a name")


def sentence(names: Sequence[str]) -> str:
    """Tags as the encoder reads them: "Speech. Dog. Speech."; nothing for no tags.

    Args:
        names: one a row of scores, cleaned.
    """
    return ". ".join(names) + "." if names else ""


def draw(scores: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One class a row: drawn in training and validation, the best at evaluation (sections 2.2 and 3.5).

    Args:
        scores: (rows, classes) probabilities of each class by itself; they need not sum to 1.
        generator: draws in proportion to the scores; None takes the highest.

    Returns:
        (rows,) int64.

    Raises:
        UsageError: if a row has no score to go by.
    """
    good = scores.isfinite().all(dim=1) & (scores >= 0).all(dim=1) & (scores > 0).any(dim=1)
    if not good.all():
        row = int((~good).nonzero()[0])
        raise UsageError(f"row {row} of the tag scores is not of probabilities above 0; score this sound again")
    if generator is None:
        return scores.argmax(dim=1)
    weights = scores.to(generator.device, torch.float32)
    return torch.multinomial(weights, 1, generator=generator)[:, 0].to(scores.device)


def separator_id(tokenizer: Any) -> int:
    """The token of the full stop that parts two tags, found as in the code: the one after "and" in "and. ".

    Raises:
        UsageError: if the tokenizer has none, as one of whole words.
    """
    ids = tokenizer.encode("and. ", add_special_tokens=False)
    for token in ids:
        if tokenizer.decode([token]).strip() == ".":
            return int(token)
    raise UsageError(
        f"the tokenizer reads 'and. ' as {tokenizer.convert_ids_to_tokens(ids)}, without a token '.' that could part"
        " tags; give a language model of byte pairs or sentence pieces, such as BART or T5"
    )


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that stand for no text: begin, end and padding (0, 2 and 1 in BART). The mask and the unknown do."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id")
    return frozenset(i for i in (getattr(tokenizer, name) for name in names) if i is not None)


def places(ids: Sequence[int], special: Collection[int], separator: int, rows: int | None = None) -> list[int]:
    """For each token the row of its tag, or -1 where it has none: separators and special tokens (section 2.3).

    Args:
        ids: tokens of one `sentence`, with begin, end and padding.
        special: see `special_ids`.
        separator: see `separator_id`; each one ends a tag.
        rows: how many tags there are; None counts nothing again, as the code.

    Raises:
        UsageError: if the text has another number of separators than tags, so that embeddings would be shifted.
    """
    found, row = list[int](), 0
    for token in ids:
        if token in special:
            found.append(-1)
        elif token == separator:
            found.append(-1)
            row += 1
        else:
            found.append(row)
    if rows is not None and row != rows:
        raise UsageError(
            f"{rows} tags were read as {row}: for this tokenizer a name has a full stop inside, or its last sign and"
            " the full stop are one token; rename such classes, with a letter at their end"
        )
    return found


def aligned(vectors: Tensor, places: Sequence[int]) -> Tensor:
    """Each token's embedding of the sound; zeros where it has no place.

    The model's linear map adds its bias at those places too, as the code does.

    Args:
        vectors: (rows, width), or one row that stands for all tags, as PANNs gives it for 10 s.
        places: of `places`.

    Returns:
        (tokens, width).

    Raises:
        UsageError: if a place has no row.
    """
    at = torch.tensor(places, dtype=torch.long, device=vectors.device)
    if len(vectors) == 1:
        at = at.clamp(max=0)
    if len(at) and int(at.max()) >= len(vectors):
        raise UsageError(f"tag {int(at.max()) + 1} has no embedding, there are {len(vectors)}; fit them by `fit_rows`")
    found = vectors.new_zeros(len(at), vectors.shape[1])
    found[at >= 0] = vectors[at[at >= 0]]
    return found


def fit(tags: int, rows: int) -> bool:
    """Whether so many tags and rows of embeddings can be those of one sound; see `fit_rows`."""
    if not tags or not rows:
        return False
    return rows == 1 or tags in (rows, rows + 1) or (rows - 1) * CHUNK <= tags <= rows * CHUNK + 1


def fit_rows(names: Sequence[str], vectors: Tensor) -> tuple[list[str], Tensor]:
    """Tags and embeddings of one sound, one of each a row.

    One row is repeated. YAMNet pads the end of a sound where VGGish cuts it, so a tag more than rows is dropped. Rows
    of 10 s, as PANNs has several for a Clotho clip, are repeated ten times each; a tag too many gets the last one.

    Args:
        names: one a row of scores.
        vectors: (rows, width).

    Returns:
        The names, and (names, width).

    Raises:
        UsageError: if they differ in any other way.
    """
    tags, rows = len(names), len(vectors)
    if fit(tags, rows):
        if rows == 1:
            return list(names), vectors.expand(tags, -1)
        if tags in (rows, rows + 1):
            return list(names[:rows]), vectors
        at = torch.arange(tags, device=vectors.device).div(CHUNK, rounding_mode="floor").clamp(max=rows - 1)
        return list(names), vectors[at]
    raise UsageError(
        f"{tags} tags and {rows} embeddings are not of one sound; wanted as many, one tag more, one embedding for all,"
        f" or one for every {CHUNK} tags; compute both again from the same file"
    )


def labels(
    tokenizer: Any, captions: Sequence[str], length: int = LENGTH, loss_on_padding: bool = False
) -> tuple[Tensor, Tensor]:
    """Captions as what the decoder shall write, and where that is text.

    Captions of more than `length` tokens are cut and so lose their end token; nothing teaches that they end there.

    Args:
        tokenizer: of an encoder-decoder, which ends every text with its end token.
        captions: as they are in the data; the paper changes nothing.
        length: tokens of a caption at most.
        loss_on_padding: fill up to `length` with the padding token, as the code does, so that the loss is a mean over
            all `length` places. False fills up to the longest with -100, which losses leave out.

    Returns:
        (captions, places) int64, and a mask of bool that is False where filled up.

    Raises:
        UsageError: if the tokenizer ends no text, or has no padding token where one is wanted.
    """
    read = tokenizer(list(captions), truncation=False, padding=False)["input_ids"] if captions else []
    if any(not ids or ids[-1] != tokenizer.eos_token_id for ids in read):
        raise UsageError(
            "the tokenizer puts no end token behind a text, so captions would never end; give that of an"
            " encoder-decoder, such as BART or T5"
        )
    if loss_on_padding and tokenizer.pad_token_id is None:
        raise UsageError("the tokenizer has no padding token to learn; set loss_on_padding=False")
    width = length if loss_on_padding else min(length, max(map(len, read), default=0))
    filler = tokenizer.pad_token_id if loss_on_padding else IGNORED
    found = torch.full((len(read), width), filler, dtype=torch.long)
    mask = torch.zeros(found.shape, dtype=torch.bool)
    for row, ids in enumerate(read):
        kept = ids[:width]
        found[row, : len(kept)] = torch.tensor(kept)
        mask[row, : len(kept)] = True
    return found, mask
