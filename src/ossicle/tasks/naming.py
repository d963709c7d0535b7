"""Before the language model is asked: the mapper alone learns to name a caption's words in the model's embeddings.

No paper of ours does this. A mapper that begins at random gives a language model nothing to read for hundreds of steps;
this takes seconds, since the language model does not run.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ossicle.contracts import Batch, Clip
from ossicle.tasks.caption_llm import Captioner

# A word that is in more captions than this share says nothing of the sound.
COMMON = 0.25
RARE = 3


class Words(nn.Module):
    """How much soft tokens are like each of some words.

    Args:
        embeddings: (words, width) of the language model.
        shares: (words,) of captions that have each word.
    """

    centre: Tensor
    embeddings: Tensor

    def __init__(self, embeddings: Tensor, shares: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", embeddings.mean(dim=0), persistent=False)
        self.register_buffer("embeddings", F.normalize(embeddings - self.centre, dim=1), persistent=False)
        self.bias = nn.Parameter(torch.logit(shares.clamp(1e-4, 0.5)))
        self.sharpness = nn.Parameter(torch.tensor(16.0))

    def forward(self, soft: Tensor) -> Tensor:
        """(batch, soft tokens, width) to (batch, words) logits: one of the soft tokens must be like the word."""
        alike = F.normalize(soft - self.centre, dim=-1) @ self.embeddings.T
        return (self.sharpness * alike).logsumexp(dim=1) - math.log(soft.shape[1]) + self.bias


class Naming:
    """Binary cross-entropy of the words of a clip's captions.

    Args:
        task: whose mapper learns; its language model is only asked for embeddings.
        clips: training clips, of whose captions the words are taken.
    """

    best_by = ""

    def __init__(self, task: Captioner, clips: Sequence[Clip]) -> None:
        self.task = task
        found = spoken(task, clips)
        kept = [t for t, n in sorted(found.items()) if RARE <= n <= max(RARE, COMMON * len(clips))]
        self.index = {token: i for i, token in enumerate(kept)}
        shares = torch.tensor([found[token] / len(clips) for token in kept])
        embeddings = task.language.embed(torch.tensor(kept, dtype=torch.long)).detach().float()
        self.words = Words(embeddings, shares)

    def parts(self) -> dict[str, nn.Module]:
        """The mapper, and what is thrown away after."""
        return {"mapper": self.task.mapper, "words": self.words}

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        """The captioner's batch with the words of all captions of each clip."""
        batch = self.task.collate(clips, generator)
        targets = torch.zeros(len(batch.clips), len(self.index))
        for row, clip in enumerate(batch.clips):
            for token in _ids(self.task, clip) & self.index.keys():
                targets[row, self.index[token]] = 1
        batch.targets = targets
        return batch

    def loss(self, batch: Batch) -> Tensor:
        """Mean over clips of the sum over words, a word by how rare it is."""
        assert batch.targets is not None
        with torch.no_grad():
            heard = self.task.heard(batch)
        logits = self.words(self.task.mapper(*heard))
        return F.binary_cross_entropy_with_logits(logits, batch.targets, reduction="sum") / len(logits)


def spoken(task: Captioner, clips: Sequence[Clip]) -> Counter[int]:
    """Tokens of captions, and in how many clips' captions each is."""
    return Counter(token for clip in clips for token in _ids(task, clip))


def _ids(task: Captioner, clip: Clip) -> set[int]:
    """Tokens of all captions of a clip, in lower case and as they are inside a sentence."""
    texts = [f" {caption.strip().lower()}" for caption in clip.captions]
    read = task.language.tokenizer
    return {token for text in texts for token in read(text, add_special_tokens=False)["input_ids"]}
