"""Encoders side by side: their names, their digest, what cannot be."""

import pytest

from ossicle import backbones
from ossicle.adapters.spec import share_out
from ossicle.backbones import Joined
from ossicle.errors import AdapterError, UnknownNameError, UsageError
from tests import tiny


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("mn04", ["mn04"]),
        ("mn04+whisper-tiny.en", ["mn04", "whisper-tiny.en"]),
        ("beats-iter3+", ["beats-iter3+"]),
        ("beats-iter3++mn04", ["beats-iter3+", "mn04"]),
        ("yamnet+beats-iter3+", ["yamnet", "beats-iter3+"]),
        ("whisper-tiny+whisper-tiny.en", ["whisper-tiny", "whisper-tiny.en"]),
    ],
)
def test_names_are_matched_longest_first(text: str, names: list[str]) -> None:
    assert backbones.names_of(text) == names


@pytest.mark.parametrize(
    ("text", "told"), [("mn04+wisper-tiny.en", "wisper-tiny.en"), ("mn04*yamnet", "mn04*yamnet"), ("mn04+", "mn04+")]
)
def test_a_part_that_is_none_is_named(text: str, told: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown backbone") as error:
        backbones.names_of(text)
    assert f"'{told}'" in str(error.value)


def test_joined_encoders_have_a_digest_of_all_and_no_part_twice() -> None:
    one, two = tiny.encoder("whisper"), tiny.encoder("ast")
    joined = Joined([one, two])
    assert joined.encoders == (one, two) and joined.name == "tiny-whisper+tiny-ast"
    assert len({joined.digest, Joined([two, one]).digest, Joined([one, tiny.encoder("ast", seed=1)]).digest}) == 3
    with pytest.raises(UsageError, match="names an encoder twice"):
        Joined([one, tiny.encoder("whisper", seed=1)])


BLOCKS = {"mn04": 0, "whisper-tiny.en": 4, "beats-iter3+": 12}


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("probe()", ["probe()", "probe()", "probe()"]),
        ("lora(rank=8)+norm()", ["probe()", "lora(rank=8)+norm()", "lora(rank=8)+norm()"]),
        ("full()", ["full()", "full()", "full()"]),
        ("whisper-tiny.en:lora(rank=8)+norm()", ["probe()", "lora(rank=8)+norm()", "probe()"]),
        ("mn04:full()+beats-iter3+:norm()", ["full()", "probe()", "norm()"]),
        ("whisper-tiny.en:lora(rank=2,blocks=top:1)", ["probe()", "lora(rank=2,blocks=top:1)", "probe()"]),
    ],
)
def test_adapters_sit_where_they_can_or_where_a_prefix_says(text: str, texts: list[str]) -> None:
    assert [a.text for a in share_out(text, list(BLOCKS), BLOCKS).values()] == texts


def test_prefixes_and_adapters_that_cannot_be() -> None:
    with pytest.raises(UnknownNameError, match="unknown encoder 'whisper-tny.en'; did you mean 'whisper-tiny.en'"):
        share_out("whisper-tny.en:norm()", list(BLOCKS), BLOCKS)
    with pytest.raises(AdapterError, match=r"'norm\(\)' in .* stands before the first prefix; write mn04:norm\(\)"):
        share_out("norm()+mn04:full()", list(BLOCKS), BLOCKS)
    with pytest.raises(AdapterError, match="none of mn04 has transformer blocks for 'norm"):
        share_out("norm()", ["mn04"], BLOCKS)
