"""A mapper that first learns to name words: it gets better at it, and moves nothing else."""

from pathlib import Path

import pytest
import torch
from tests import tiny

from ossicle.contracts import Clip
from ossicle.tasks.caption_llm import Captioner
from ossicle.tasks.mapper import Mapper
from ossicle.tasks.naming import Naming, Words
from ossicle.training.loop import fit
from ossicle.training.optim import Settings

TONES = {"qq": 300.0, "zz": 2500.0}


@pytest.fixture
def clips(tmp_path) -> list[Clip]:
    return [
        Clip(tiny.write_tone(tmp_path / f"{word}{i}.wav", hz + 10 * i, 0.5, seed=i), captions=(f"ab {word}",))
        for i in range(6)
        for word, hz in TONES.items()
    ]


@pytest.fixture
def task() -> Captioner:
    encoder, language = tiny.encoder("whisper"), tiny.language()
    torch.manual_seed(0)
    mapper = Mapper(encoder.dim, language.width, pooling="stride", tokens=2)
    return Captioner(encoder, language, mapper)


def recall(naming: Naming, clips: list[Clip]) -> float:
    """Share of the words of clips that are among as many likeliest ones as they have."""
    made = naming.collate(clips, None)
    with torch.no_grad():
        logits = naming.words(naming.task.mapper(*naming.task.heard(made)))
    pairs = [(wanted, row.topk(int(wanted.sum())).indices) for row, wanted in zip(logits, made.targets, strict=True)]
    return float(sum(wanted[best].sum() for wanted, best in pairs) / sum(wanted.sum() for wanted, _ in pairs))


def test_words_are_those_that_tell_clips_apart(task, clips):
    naming = Naming(task, clips)
    letters = {task.language.tokenizer.decode([token]) for token in naming.index}
    assert letters <= {"q", "z"}
    wide = Naming(task, [*clips, *(Clip(c.path, captions=("cd",)) for c in clips * 3)])
    assert {task.language.tokenizer.decode([token]) for token in wide.index} == {"a", "b", "q", "z"}


def test_the_mapper_learns_to_name_and_nothing_else_moves(task, clips, tmp_path):
    naming = Naming(task, [*clips, *(Clip(c.path, captions=("efg",)) for c in clips * 2)])
    before = recall(naming, clips)
    frozen = {k: v.clone() for k, v in task.language.state_dict().items()}
    settings = Settings(epochs=25, batch=4, lr=3e-3, precision="float32", keep="last")
    history = fit(naming, clips, [], settings, Path(tmp_path) / "out", quiet=True)
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert recall(naming, clips) > max(before, 0.9)
    assert all(torch.equal(v, frozen[k]) for k, v in task.language.state_dict().items())


def test_a_word_counts_where_one_soft_token_is_like_it():
    embeddings = torch.eye(4)
    words = Words(embeddings, torch.full((4,), 0.2))
    alone = words(embeddings[None, :1])
    assert alone[0].argmax() == 0
    with_others = words(embeddings[None, [0, 1]])
    assert with_others[0, :2].min() > with_others[0, 2:].max()
    assert torch.allclose(words(3 * embeddings[None, :1] - 2 * embeddings.mean(0)), alone)
