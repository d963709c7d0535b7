"""Tags as text and the embeddings of their tokens, against strings and places written out by hand."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from tests.conftest import pulled
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import BartConfig, BartForConditionalGeneration, BartTokenizer, PreTrainedTokenizerFast

from ossicle.backbones.tags import names as classes
from ossicle.errors import UsageError
from ossicle.tasks import conditioning

NAMES = ["Speech", "Dog", "Bee, wasp, etc.", "Child speech, kid speaking", "Motor vehicle (road)", "Silence"]
# Each piece is one token. As in GPT-2's byte pairs, "." is one token, " ." another, and ",." a third.
INSIDE = [" .", " Speech", " Dog", " Bee", " was", " Child", " speech", " kid", " speaking", " Motor", " vehicle"]
PIECES = [*INSIDE, " Silence", " barks", " loudly", ",.", "and", "Dog", "Bee", "Child", "Motor", "Spe", "ech", "Sil"]


@cache
def tokenizer(begin: str = "<s>"):
    """BART's tokenizer over a small vocabulary of byte pairs; with another `begin`, special ids are no 0, 1 and 2."""
    merges = list[tuple[str, str]]()
    for piece in [*PIECES, "ence", "A"]:
        signs = piece.replace(" ", "Ġ")
        merges += [(signs[:n], signs[n]) for n in range(1, len(signs)) if (signs[:n], signs[n]) not in merges]
    special = ["<s>", "<pad>", "</s>", "<unk>"] if begin == "<s>" else []
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = special + signs + [a + b for a, b in merges]
    return BartTokenizer({token: n for n, token in enumerate(tokens)}, merges, bos_token=begin, cls_token=begin)


# Name: rows of scores, what is read, the row of each token; then the same as the paper's code has it, if it differs.
# The first token is <s>, the last </s>.
TABLES = {
    "one row": (
        [[0.9, 0.1, 0.0, 0.0, 0.0, 0.0]],
        "Speech.",  # Spe ech .
        [-1, 0, 0, -1, -1],
    ),
    "two rows": (
        [[0.6, 0.5, 0.0, 0.0, 0.0, 0.0], [0.3, 0.4, 0.2, 0.0, 0.0, 0.1]],
        "Speech. Dog.",  # Spe ech . _Dog .
        [-1, 0, 0, -1, 1, -1, -1],
    ),
    "the same tag again": (
        [[0.0, 0.5, 0.0, 0.0, 0.0, 0.0], [0.0, 0.9, 0.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.1, 0.1, 0.1, 0.1]],
        "Dog. Dog. Dog.",
        [-1, 0, -1, 1, -1, 2, -1, -1],
    ),
    "a bee": (
        [[0.1, 0.1, 0.8, 0.0, 0.0, 0.0]],
        "Bee, wasp.",  # Bee , _was p .
        [-1, 0, 0, 0, 0, -1, -1],
        "Bee, wasp, .",  # Bee , _was p , _.
        [-1, 0, 0, 0, 0, 0, 0, -1],
    ),
    "a bee first": (
        [[0.0, 0.0, 0.7, 0.0, 0.0, 0.0], [0.7, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.7, 0.0, 0.0, 0.0, 0.0]],
        "Bee, wasp. Speech. Dog.",
        [-1, 0, 0, 0, 0, -1, 1, -1, 2, -1, -1],
        "Bee, wasp, . Speech. Dog.",
        [-1, 0, 0, 0, 0, 0, 0, 0, -1, 1, -1, -1],
    ),
    "a bee between": (
        [[0.0, 0.7, 0.0, 0.0, 0.0, 0.0], [0.2, 0.3, 0.4, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.9]],
        "Dog. Bee, wasp. Silence.",
        [-1, 0, -1, 1, 1, 1, 1, -1, 2, -1, -1],
        "Dog. Bee, wasp, . Silence.",
        [-1, 0, -1, 1, 1, 1, 1, 1, 1, 1, -1, -1],
    ),
    "two bees": (
        [[0.0, 0.0, 0.7, 0.0, 0.0, 0.0], [0.0, 0.0, 0.2, 0.0, 0.0, 0.1], [0.7, 0.0, 0.0, 0.0, 0.0, 0.0]],
        "Bee, wasp. Bee, wasp. Speech.",
        [-1, 0, 0, 0, 0, -1, 1, 1, 1, 1, -1, 2, -1, -1],
        "Bee, wasp, . Bee, wasp, . Speech.",
        [-1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1],
    ),
    "brackets": (
        [[0.0, 0.0, 0.0, 0.0, 0.5, 0.0], [0.5, 0.0, 0.0, 0.0, 0.4, 0.0]],
        "Motor vehicle. Speech.",  # Motor _vehicle . _Speech .
        [-1, 0, 0, -1, 1, -1, -1],
    ),
    "a comma": (
        [[0.0, 0.0, 0.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.5, 0.0]],
        "Child speech, kid speaking. Motor vehicle.",  # Child _speech , _kid _speaking . _Motor _vehicle .
        [-1, 0, 0, 0, 0, 0, -1, 1, 1, -1, -1],
    ),
    "ties and small scores": (
        [[0.2, 0.2, 0.0, 0.0, 0.0, 0.2], [0.001, 0.0, 0.0, 0.0, 0.0, 0.002]],
        "Speech. Silence.",
        [-1, 0, 0, -1, 1, -1, -1],
    ),
}


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize("begin", ["<s>", "<begin>"])
@pytest.mark.parametrize("table", TABLES)
def test_ten_tables(table, begin, parity):
    scores, *golden = TABLES[table]
    text, rows = golden[-2:] if parity else golden[:2]
    read = tokenizer(begin)
    special, separator = conditioning.special_ids(read), conditioning.separator_id(read)
    assert (special == {0, 1, 2}) == (begin == "<s>") and len(special) == 3
    drawn = conditioning.draw(torch.tensor(scores))
    assert conditioning.sentence([conditioning.clean(NAMES[i], parity) for i in drawn.tolist()]) == text
    ids = read(text)["input_ids"]
    assert conditioning.places(ids, special, separator) == rows
    padded = read(text, padding="max_length", max_length=20)["input_ids"]
    assert conditioning.places(padded, special, separator) == rows + [-1] * (20 - len(rows))
    if not parity:
        assert conditioning.places(ids, special, separator, rows=len(scores)) == rows


def test_embeddings_of_a_bee_in_both_modes():
    read = tokenizer()
    special, separator = conditioning.special_ids(read), conditioning.separator_id(read)
    bee, speech, dog, none = [1.0, -1.0], [2.0, -2.0], [3.0, -3.0], [0.0, 0.0]
    vectors = torch.tensor([bee, speech, dog])
    text, other = TABLES["a bee first"][1], TABLES["a bee first"][3]
    ours = conditioning.aligned(vectors, conditioning.places(read(text)["input_ids"], special, separator))
    assert ours.tolist() == [none, *[bee] * 4, none, speech, none, dog, none, none]
    theirs = conditioning.aligned(vectors, conditioning.places(read(other)["input_ids"], special, separator))
    assert theirs.tolist() == [none, *[bee] * 6, bee, none, speech, none, none]
    one = conditioning.aligned(vectors[2:], conditioning.places(read(text)["input_ids"], special, separator))
    assert one.tolist() == [none, *[dog] * 4, none, dog, none, dog, none, none]


def test_only_the_blank_away_would_not_be_enough():
    """ ",." is one token too, in GPT-2's byte pairs as here."""
    read = tokenizer()
    special, separator = conditioning.special_ids(read), conditioning.separator_id(read)
    ids = read(conditioning.sentence(["Bee, wasp,", "Speech"]))["input_ids"]
    with pytest.raises(UsageError, match="2 tags were read as 1: .*rename such classes"):
        conditioning.places(ids, special, separator, rows=2)
    assert conditioning.places(ids, special, separator) == [-1, 0, 0, 0, 0, 0, 0, -1, -1]


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("Bee, wasp, etc.", "Bee, wasp", "Bee, wasp, "),
        ("Fire engine, fire truck (siren)", "Fire engine, fire truck", "Fire engine, fire truck"),
        ("Roaring cats (lions, tigers)", "Roaring cats", "Roaring cats"),
        ("Hi-hat", "Hi-hat", "Hi-hat"),
        (" St. Bernard! ", "St Bernard", " St. Bernard! "),
        ("Tone (3.5 kHz)", "Tone", "Tone"),
        ("Tone of 3.5 kHz.", "Tone of 3 point 5 kHz", "Tone of 3.5 kHz."),
        ("engine(idle)", "engine", "engin"),
        ("(unknown)", "unknown", "(unknown"),
        ("C++", "C++", "C++"),
        ("पानी", "पानी", "पानी"),
    ],
)
def test_names(name, ours, theirs):
    assert conditioning.clean(name) == ours
    assert conditioning.clean(name, parity=True) == theirs


@pytest.mark.parametrize("name", ["", "...", " (.) "])
def test_a_name_without_text(name):
    with pytest.raises(UsageError, match="has no text"):
        conditioning.clean(name)


@pytest.mark.parametrize("listed", ["yamnet", "audioset"])
def test_every_class_in_gpt2s_byte_pairs(listed):
    """The tokens of a row read as its tag, first in the text and later; in the code all but the bee's do."""
    read = BartTokenizer.from_pretrained(pulled("gpt2-bpe"))
    special, separator = conditioning.special_ids(read), conditioning.separator_id(read)
    for name in classes(listed):
        tags = [conditioning.clean(name), "Speech", conditioning.clean(name), "Dog"]
        ids = read(conditioning.sentence(tags))["input_ids"]
        rows = conditioning.places(ids, special, separator, rows=4)
        said = [read.decode([i for i, at in zip(ids, rows, strict=True) if at == row]).strip() for row in range(4)]
        assert said == tags
        theirs = conditioning.sentence([conditioning.clean(name, parity=True), "Dog"])
        counted = max(conditioning.places(read(theirs)["input_ids"], special, separator)) + 1
        assert counted == (1 if name == "Bee, wasp, etc." else 2)


def test_no_tags():
    assert conditioning.sentence([]) == ""
    read = tokenizer()
    assert conditioning.places(read("")["input_ids"], {0, 1, 2}, 3, rows=0) == [-1, -1]
    assert conditioning.aligned(torch.zeros(0, 4), [-1, -1]).tolist() == [[0.0] * 4] * 2
    assert conditioning.aligned(torch.zeros(0, 4), []).shape == (0, 4)


def test_tags_without_an_embedding_are_told():
    with pytest.raises(UsageError, match="tag 3 has no embedding, there are 2; fit them"):
        conditioning.aligned(torch.zeros(2, 4), [-1, 0, -1, 1, -1, 2, -1])


def test_draws_are_in_proportion_to_scores_that_sum_to_anything():
    scores = torch.tensor([[0.02, 0.06, 0.0]]).expand(40_000, -1)
    drawn = conditioning.draw(scores, torch.Generator().manual_seed(3))
    shares = drawn.bincount(minlength=3) / len(drawn)
    assert shares[2] == 0
    assert shares[1] == pytest.approx(0.75, abs=0.01)  # over four standard deviations
    again = conditioning.draw(scores, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, again) and not torch.equal(drawn, conditioning.draw(scores, torch.Generator()))


def test_draws_are_those_of_the_code():
    scores = torch.rand(10, 521, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    theirs = torch.multinomial(scores, 1)[:, 0]
    assert torch.equal(conditioning.draw(scores, torch.Generator().manual_seed(5)), theirs)


@pytest.mark.parametrize("fault", [[0.0, 0.0], [float("nan"), 0.5], [float("inf"), 0.5], [-2.0, 3.0]])
@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_scores_that_say_nothing(fault, generator):
    with pytest.raises(UsageError, match="row 1 of the tag scores"):
        conditioning.draw(torch.tensor([[0.5, 0.5], fault]), generator)


def test_unlike_numbers_of_tags_and_embeddings():
    ten = [f"t{n}" for n in range(10)]
    vectors = torch.arange(9.0)[:, None]
    same, rows = conditioning.fit_rows(ten[:9], vectors)
    assert same == ten[:9] and torch.equal(rows, vectors)
    fewer, rows = conditioning.fit_rows(ten, vectors)  # YAMNet pads 9.5 s to ten rows, VGGish cuts them to nine
    assert fewer == ten[:9] and torch.equal(rows, vectors)
    all_ten, rows = conditioning.fit_rows(ten, vectors[3:4])
    assert all_ten == ten and rows.tolist() == [[3.0]] * 10


@pytest.mark.parametrize(
    ("tags", "rows", "wanted"),
    [
        (23, 3, [0] * 10 + [1] * 10 + [2] * 3),
        (30, 3, [0] * 10 + [1] * 10 + [2] * 10),
        (31, 3, [0] * 10 + [1] * 10 + [2] * 11),  # one tag too many gets the last
        (11, 2, [0] * 10 + [1]),
        (10, 2, [0] * 10),  # a last chunk of less than a tag
    ],
)
def test_several_chunks_of_ten_seconds(tags, rows, wanted):
    names, found = conditioning.fit_rows(["t"] * tags, torch.arange(float(rows))[:, None])
    assert len(names) == tags and found[:, 0].tolist() == wanted


@pytest.mark.parametrize(("tags", "rows"), [(10, 8), (8, 10), (32, 3), (19, 3), (10, 0), (0, 1), (5, 2)])
def test_tags_and_embeddings_of_two_sounds(tags, rows):
    with pytest.raises(UsageError, match=f"{tags} tags and {rows} embeddings are not of one sound"):
        conditioning.fit_rows(["t"] * tags, torch.zeros(rows, 2))


def token(read, *tokens: str) -> list[int]:
    return read.convert_tokens_to_ids(list(tokens))


def test_labels_padded_with_the_padding_token():
    read = tokenizer()
    found, mask = conditioning.labels(read, ["A Dog barks", "A Dog barks loudly. A Dog barks"], 8, True)
    short = token(read, "<s>", "A", "ĠDog", "Ġbarks", "</s>")
    long = token(read, "<s>", "A", "ĠDog", "Ġbarks", "Ġloudly", ".", "Ġ", "A")  # its end token is lost
    assert found.tolist() == [[*short, 1, 1, 1], long]
    assert mask.tolist() == [[True] * 5 + [False] * 3, [True] * 8]
    whole, _ = conditioning.labels(read, ["A Dog barks"], loss_on_padding=True)
    assert whole.tolist() == [[*short, *[1] * 59]]


def test_labels_that_leave_padding_out():
    read = tokenizer()
    found, mask = conditioning.labels(read, ["A Dog barks", "A Dog barks loudly. A Dog barks"])
    assert found.shape == (2, 11)  # the longest, not 64
    assert found[0].tolist() == token(read, "<s>", "A", "ĠDog", "Ġbarks", "</s>") + [-100] * 6
    assert found[1].tolist()[-3:] == token(read, "ĠDog", "Ġbarks", "</s>")
    assert mask[0].tolist() == [True] * 5 + [False] * 6 and mask[1].all()
    assert conditioning.labels(read, [])[0].shape == (0, 0)


def test_an_end_token_that_is_also_padding_stays():
    """By its id it would be left out of the loss, and captions would never end."""
    read = BartTokenizer(tokenizer().get_vocab(), [], pad_token="</s>")
    found, mask = conditioning.labels(read, ["A", "AAA"])
    assert found[0].tolist() == [0, *token(read, "A"), 2, -100, -100] and mask[0].tolist() == [True] * 3 + [False] * 2


def test_a_tokenizer_without_an_end():
    read = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"A": 0, "</s>": 1}, [])), eos_token="</s>")
    with pytest.raises(UsageError, match="no end token behind a text.*such as BART or T5"):
        conditioning.labels(read, ["A"])
    bare = SimpleNamespace(eos_token_id=2, pad_token_id=None)
    unpadded = type("Read", (), {"__call__": lambda self, texts, **told: {"input_ids": [[4, 2]]}, **vars(bare)})()
    assert conditioning.labels(unpadded, ["A"])[0].tolist() == [[4, 2]]
    with pytest.raises(UsageError, match="no padding token to learn"):
        conditioning.labels(unpadded, ["A"], loss_on_padding=True)


@pytest.mark.numerics
@pytest.mark.parametrize("on_padding", [True, False])
def test_transformers_takes_the_mean_over_the_same_places(on_padding):
    read = tokenizer()
    config = BartConfig(
        vocab_size=len(read), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config).eval()
    found, mask = conditioning.labels(read, ["A Dog barks", "A Dog barks loudly"], 16, on_padding)
    text = read(["Dog.", "Speech."], return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**text, labels=found)
    each = cross_entropy(out.logits.flatten(0, 1), found.where(found >= 0, 0).flatten(), reduction="none")
    counted = torch.ones(32) if on_padding else mask.flatten().float()
    assert len(counted) == len(each)
    assert float(out.loss) == pytest.approx(float((each * counted).sum() / counted.sum()), abs=1e-5)


def test_sentence_pieces_have_a_separator_too():
    """As in T5: no begin token, padding 0, end 1."""
    pieces = ["<pad>", "</s>", "<unk>", "▁and", ".", "▁Speech", "▁Dog", "▁"]
    made = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    read = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    assert conditioning.separator_id(read) == 4 and conditioning.special_ids(read) == {0, 1}
    ids = [*read("Speech. Dog.")["input_ids"], 1, 0]
    assert conditioning.places(ids, {0, 1}, 4, rows=2) == [0, -1, 1, -1, -1, -1]


def test_a_tokenizer_of_whole_words_has_no_separator():
    made = Tokenizer(models.WordLevel({"<unk>": 0, "and": 1}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    read = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    with pytest.raises(UsageError, match=r"reads 'and\. ' as \['and', '<unk>'\], without a token '\.'"):
        conditioning.separator_id(read)
