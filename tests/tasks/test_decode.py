"""Decoding: what is written, how likely it is, and that neighbours never change it."""

from dataclasses import replace

import pytest
import torch
from tests import tiny

from ossicle.backbones import prompt
from ossicle.backbones.text import Given, LanguageModel
from ossicle.errors import UsageError
from ossicle.tasks import decode
from ossicle.tasks.decode import Decoding, Written

SHORT = Decoding(max_tokens=6)


@pytest.fixture(scope="module")
def language() -> LanguageModel:
    return tiny.language()


@pytest.fixture(scope="module")
def prefix(language) -> torch.Tensor:
    return language.embed(torch.randint(0, 200, (3, 5), generator=torch.Generator().manual_seed(0)))


def end(language) -> int:
    return language.tokenizer.eos_token_id


@pytest.mark.numerics
def test_log_probabilities_are_those_of_the_model(language, prefix):
    texts = ["a dog", "rain", "b"]
    written = prompt.targets(language.tokenizer, end(language), texts)
    written[written == -100] = end(language)  # as generation pads
    found = decode.log_probs(language, Given(prefix), written, end(language))
    for row, said, (told, tokens) in zip(prefix, texts, found, strict=True):
        ids = [*language.tokenizer(said)["input_ids"], end(language)]
        embedded = torch.cat([row, language.embed(torch.tensor(ids))])[None]
        logits = language.model(inputs_embeds=embedded).logits[0, 4:-1].log_softmax(-1)
        assert tokens == len(ids)
        assert told == pytest.approx(sum(logits[i, token].item() for i, token in enumerate(ids)), abs=1e-3)


@pytest.mark.numerics
def test_greedy_takes_the_likeliest_token_each_time(language, prefix):
    how = replace(SHORT, method="greedy", min_tokens=0)
    for row, found in zip(prefix, decode.write(language, Given(prefix), end(language), how), strict=True):
        ids: list[int] = []
        for _ in range(how.max_tokens):
            embedded = torch.cat([row, language.embed(torch.tensor(ids, dtype=torch.long))])[None]
            ids.append(int(language.model(inputs_embeds=embedded).logits[0, -1].argmax()))
            if ids[-1] == end(language):
                break
        wanted = " ".join(language.tokenizer.decode(ids, skip_special_tokens=True).split())
        assert [w.text for w in found] == [wanted]


@pytest.mark.numerics
@pytest.mark.parametrize("method", ["greedy", "nucleus"])
def test_what_was_written_is_as_likely_as_the_model_says(language, prefix, method):
    """From the scores of the writing itself, against the model asked again, token by token."""
    spied = []
    generate = language.model.generate

    def watched(**given):
        spied.append(generate(**given))
        return spied[-1]

    language.model.generate = watched
    try:
        found = decode.write(language, Given(prefix), end(language), replace(SHORT, method=method, no_repeat=2))
    finally:
        del language.model.generate
    rows = [row for made in spied for row in made.sequences]
    for start, ids, (told, *_) in zip(prefix, rows, found, strict=True):
        stop = ids.tolist().index(end(language)) + 1 if end(language) in ids else len(ids)
        wanted = language.score(Given(start[None]), ids[None, :stop]).sum().item()
        assert told.tokens == stop and told.log_prob == pytest.approx(wanted, abs=1e-3)


def test_beam_search_finds_no_worse_than_greedy_and_gives_several(language, prefix):
    several = decode.write(language, Given(prefix), end(language), replace(SHORT, beams=6, candidates=4))
    for row in several:
        each = [w.log_prob / w.tokens for w in row]
        assert 1 < len(row) <= 4 and each == sorted(each, reverse=True) and len({w.text for w in row}) == len(row)


@pytest.mark.numerics
@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_neighbours_change_nothing(language, prefix, method):
    how = replace(SHORT, method=method)
    together = decode.write(language, Given(prefix), end(language), how)
    alone = [decode.write(language, Given(row[None]), end(language), how)[0] for row in prefix]
    assert [[w.text for w in row] for row in together] == [[w.text for w in row] for row in alone]


def test_length_and_repetition(language, prefix):
    for row in decode.write(language, Given(prefix), end(language), replace(SHORT, min_tokens=6, no_repeat=1)):
        letters = [letter for letter in row[0].text if letter.isascii() and not letter.isspace()]
        assert len(letters) == len(set(letters))
    one = decode.write(language, Given(prefix), end(language), replace(SHORT, max_tokens=1, min_tokens=0))
    assert all(len(row[0].text) <= 1 for row in one)


def test_consensus_prefers_what_most_say(monkeypatch):
    """Three captions of two meanings: the one that another agrees with wins over a likelier loner."""
    vectors = {"rain falls": [1.0, 0.1], "it rains": [1.0, 0.0], "a dog": [0.0, 1.0]}

    class Fake:
        def embed(self, texts):
            return torch.nn.functional.normalize(torch.tensor([vectors[t] for t in texts]), dim=1)

    monkeypatch.setattr(decode, "_sentences", Fake)
    row = [Written("a dog", -1.0, 2), Written("it rains", -4.0, 2), Written("rain falls", -5.0, 2)]
    assert [w.text for w in decode.RERANKS["consensus"](row)][-1] == "a dog"
    assert [w.text for w in decode.RERANKS["likelihood"](row)][0] == "a dog"


def test_words_prefer_what_most_say():
    row = [Written("A cat.", -1.0, 2), Written("a dog barks loudly", -4.0, 2), Written("A dog barks", -5.0, 2),
           Written("dog barks, then rain", -6.0, 2)]  # fmt: skip
    assert [w.text for w in decode.RERANKS["words"](row)] == [
        "A dog barks", "a dog barks loudly", "dog barks, then rain", "A cat."
    ]  # fmt: skip
    nothing = [Written("", -1.0, 1), Written("!", -2.0, 1)]
    assert decode.RERANKS["words"](nothing) == nothing


def test_what_cannot_be(language, prefix):
    with pytest.raises(UsageError, match="5 places of prompt and 600 of caption are more than the 512 of tiny-llama"):
        decode.write(language, Given(prefix), end(language), replace(SHORT, max_tokens=600))
    with pytest.raises(UsageError, match="greedy decoding writes 1 caption but 3 were asked for"):
        decode.write(language, Given(prefix), end(language), replace(SHORT, method="greedy", candidates=3))
    with pytest.raises(UsageError, match=r"transformers .* has no contrastive search of its own; use beam"):
        decode.write(language, Given(prefix), end(language), replace(SHORT, method="contrastive"))
