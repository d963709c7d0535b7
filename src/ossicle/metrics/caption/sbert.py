"""Sentence embeddings: SBERT similarity, fluency errors, and FENSE which is both (Zhou et al. 2022).

Scores carry the name of what computed them: only the published pair of models gives `fense`; another sentence model
gives `sbert_sim`.
"""

import hashlib
import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ossicle.backbones import weights
from ossicle.errors import WeightsError
from ossicle.files import write_atomic

FENSE_SBERT = "paraphrase-tinybert-l6-v2"
THRESHOLD, PENALTY = 0.9, 0.9
MAX_TOKENS = 64
ERRORS = ("add_tail", "repeat_event", "repeat_adv", "remove_conj", "remove_verb", "error")


@dataclass(frozen=True)
class Checker:
    """A published fluency error detector: name of its file, where it is released, and its SHA-256."""

    file: str
    address: str
    sha256: str


CHECKER = Checker(
    "echecker_clotho_audiocaps_base.ckpt",
    "https://github.com/blmoistawinde/fense/releases/download/V0.1/echecker_clotho_audiocaps_base.ckpt",
    "1a719f090af70614bbdb9f9437530b7e133c48cfa4a58d964de0d47fc974a2fa",
)


class Sentences:
    """A sentence model: mean of its last tokens, of length 1.

    Args:
        name: a text model of `ossicle models`, or a folder in the format of transformers.

    Raises:
        WeightsError: if it cannot be had.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer, logging

        logging.disable_progress_bar()
        folder = weights.fetch(name)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def embed(self, texts: Sequence[str], batch: int = 64) -> Tensor:
        """(texts, width) of length 1; equal texts are computed once, in order of length."""
        distinct = sorted(set(texts), key=len)
        rows: dict[str, Tensor] = {}
        for first in range(0, len(distinct), batch):
            some = distinct[first : first + batch]
            given = self.tokenizer(some, padding=True, truncation=True, return_tensors="pt")
            tokens = self.model(**given).last_hidden_state
            mask = given["attention_mask"][..., None].to(tokens.dtype)
            mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            rows |= dict(zip(some, nn.functional.normalize(mean, dim=1), strict=True))
        return torch.stack([rows[text] for text in texts])


def similarity(sentences: Sentences, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Cosine of each candidate with its references, mean over the references: -1 to 1."""
    flat = [text for texts in references for text in texts]
    own, others = sentences.embed(candidates), sentences.embed(flat)
    found, place = [], 0
    for row, texts in zip(own, references, strict=True):
        found.append(float((others[place : place + len(texts)] @ row).mean()))
        place += len(texts)
    return found


class Fluency(nn.Module):
    """A BERT that tells fluency errors from its first token.

    Args:
        path: a checkpoint as FENSE publishes it: model_type, num_classes, state_dict.

    Raises:
        WeightsError: if the file is not one, or its base model's settings cannot be had.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            base, classes, state = saved["model_type"], int(saved["num_classes"]), dict(saved["state_dict"])
        except Exception as error:  # whatever torch makes of a file that is no such checkpoint
            raise WeightsError(f"{path} is no fluency checkpoint of FENSE: {error}; fetch it again") from None
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
            self.encoder: Any = AutoModel.from_config(AutoConfig.from_pretrained(base))
        except OSError as error:
            raise WeightsError(f"{base}, which {path.name} stands on, cannot be had: {_line(error)}") from None
        self.clf = nn.Linear(self.encoder.config.hidden_size, classes)
        state.pop("encoder.embeddings.position_ids", None)
        self.load_state_dict(state)
        self.eval()

    @torch.no_grad()
    def errors(self, texts: Sequence[str], batch: int = 32) -> list[float]:
        """Probability that each text has an error, without its punctuation and in lower case."""
        plain = [re.sub(r"[^\w\s]", "", text).lower() for text in texts]
        found: list[float] = []
        for first in range(0, len(plain), batch):
            given = self.tokenizer(
                plain[first : first + batch], truncation=True, padding="max_length", max_length=MAX_TOKENS,
                return_tensors="pt",
            )  # fmt: skip
            logits = self.clf(self.encoder(**given).last_hidden_state[:, 0])
            found += logits.sigmoid()[:, ERRORS.index("error")].tolist()
        return found


def checker_file() -> Path:
    """The published fluency detector in the cache, fetched if it is not there.

    Raises:
        WeightsError: if it cannot be had.
    """
    path = weights.home() / "fense" / CHECKER.file
    if not path.is_file():
        try:
            with urllib.request.urlopen(CHECKER.address, timeout=10) as answer:
                data = answer.read()
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{CHECKER.file} is not in {path.parent} and cannot be fetched: {_line(error)}"
            ) from None
        if hashlib.sha256(data).hexdigest() != CHECKER.sha256:
            raise WeightsError(f"{CHECKER.file} came damaged; fetch it again")
        write_atomic(path, lambda part: part.write_bytes(data))
    return path


def penalised(similarities: Sequence[float], errors: Sequence[float]) -> list[float]:
    """FENSE: the similarity, a tenth of it where an error is likelier than 0.9."""
    return [s * (1 - PENALTY) if e > THRESHOLD else s for s, e in zip(similarities, errors, strict=True)]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
