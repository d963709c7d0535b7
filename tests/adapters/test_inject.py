"""Wrong specs name the value and leave the encoder as it was; the dead initialisation is caught."""

import pytest
import torch

from ossicle.adapters import inject, load_state, merge, parse, remove, trainable
from ossicle.adapters.base import Adapted
from ossicle.errors import AdapterError, OssicleError, UnknownNameError, UsageError
from tests import tiny


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lorra(rank=2)", "did you mean 'lora'"),
        ("lora(rnk=2)", "did you mean 'rank'"),
        ("lora(rank=two)", "lora(rank=two) wants a whole number"),
        ("lora(rank=2,reduction=4)", "rank or reduction, not both"),
        ("lora(rank=-1)", "rank=-1 must be above 0"),
        ("lora(rank=2,targets=qx)", "targets=x is not known"),
        ("lora(rank=2,targets=qq)", "each once"),
        ("lora(rank=2,dropout=1.5)", "dropout=1.5"),
        ("lora(rank=2,blocks=7)", "blocks=7 but there are blocks 0 to 2"),
        ("lora(rank=2,blocks=top:9)", "blocks=top:9"),
        ("bottleneck(place=sideways)", "place=sideways"),
        ("bottleneck(sites=head)", "sites=head"),
        ("bottleneck(place=before,residual=off)", "place=before with residual=off"),
        ("bottleneck(reduction=0)", "must be above 0"),
        ("lora(rank=2)+lora(rank=4)", "two parts of"),
        ("full()+lora(rank=2)", "use it alone"),
        ("convpass(conv=2d)", "conv=2d is not known"),
        ("convpass(dropout=1)", "dropout=1.0 must be"),
        ("hydra(skip=no)", "skip=no"),
        ("lookaside(attn=sideways)", "attn=sideways"),
        ("lookaside(attn=off,mlp=off)", "adapts nothing"),
        ("lookaside(size=2)", "size=2 must be odd"),
        ("lookaside(extra=drop)", "extra=drop"),
        ("prompts(tokens=0)", "tokens=0 must be above 0"),
        ("prompts(extra=none)", "extra=none"),
        ("prefix(tokens=5)", "must be even"),
        ("prompts(tokens=2)+prompts(tokens=3,deep=true)", "two parts of"),
        ("lora(rank=2", "cannot read adapter"),
        ("lora(rank)", "option=value"),
        ("", "cannot read adapter"),
        ("pf-par+lora()", "'pf-par' is a preset and stands alone; to join it write its text, 'bottleneck("),
    ],
)
def test_wrong_specs_say_what_came_and_change_nothing(text: str, says: str) -> None:
    encoder = tiny.encoder("ast")
    keys = list(encoder.state_dict())
    with pytest.raises(UsageError, match=None) as caught:
        inject(encoder, parse(text))
    assert says in str(caught.value)
    assert list(encoder.state_dict()) == keys and not encoder.adapters
    assert not any(isinstance(m, Adapted) for m in encoder.modules())


def test_names_must_be_free_and_known() -> None:
    encoder = tiny.encoder("whisper")
    inject(encoder, parse("lora(rank=2)"))
    with pytest.raises(AdapterError, match="'default' is taken"):
        inject(encoder, parse("lora(rank=2)"))
    for name in ("train", "items", "training"):  # words of the module that will hold it
        with pytest.raises(AdapterError, match="not a plain name"):
            inject(encoder, parse("lora(rank=2)"), name=name)
    with pytest.raises(AdapterError, match="no adapter 'other'"):
        remove(encoder, "other")
    with pytest.raises(UsageError, match="adapter 'other' is not on"):
        encoder(tiny.waves(), adapter="other")
    with pytest.raises(AdapterError, match="3 adapter names for a batch of 2"):
        encoder(tiny.waves(), adapter=("default", None, None))
    with pytest.raises(AdapterError, match="full fine-tuning owns"):
        inject(encoder, parse("full()"), name="all")


def test_norms_are_found_under_a_wrapped_block() -> None:
    encoder = tiny.encoder("ast")
    inject(encoder, parse("hydra(sites=attn,skip=normed)"), name="a")
    inject(encoder, parse("hydra(sites=attn,skip=normed)"), name="b")
    inject(encoder, parse("bottleneck()"), name="c")
    tokens = {name: encoder(tiny.waves(), adapter=name).tokens for name in ("a", "b", "c", None)}
    for name in ("a", "b", "c"):
        remove(encoder, name)
    assert torch.equal(encoder(tiny.waves()).tokens, tokens[None])


def test_state_of_another_adapter_is_refused_whole() -> None:
    encoder = tiny.encoder("whisper")
    inject(encoder, parse("lora(rank=2)"))
    own = {k: v.detach().clone() for k, v in trainable(encoder, "default").items()}
    other = {k: torch.ones(4, v.shape[1]) if ".down." in k else v + 1 for k, v in own.items()}
    with pytest.raises(AdapterError, match=r"wrong shape \['blocks.0.attn.q_proj.down.weight \(4, 24\) for \(2, 24\)'"):
        load_state(encoder, "default", other)
    with pytest.raises(AdapterError, match="missing"):
        load_state(encoder, "default", {})
    assert all(torch.equal(v, own[k]) for k, v in trainable(encoder, "default").items())


def test_full_can_be_merged_into_plain_weights() -> None:
    encoder = tiny.encoder("ast")
    inject(encoder, parse("full()"))
    with torch.no_grad():
        encoder.norm.bias.add_(1)
    expected = encoder(tiny.waves()).tokens
    merge(encoder, "default")
    assert torch.equal(encoder(tiny.waves()).tokens, expected)
    assert not encoder.adapters and not any(p.requires_grad for p in encoder.parameters())


def test_the_dead_zero_initialisation_is_dead() -> None:
    """Both projections zero, as PETL_AST's classes are written: only the last bias ever learns."""
    encoder = tiny.encoder("ast")
    inject(encoder, parse("bottleneck(rank=4,init=zero,norms=false)"))
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        encoder(tiny.waves()).tokens.square().mean().backward()
        optimizer.step()
    moved = {k for k, v in trainable(encoder, "default").items() if v.any()}
    assert {key.split(".")[-2] + "." + key.split(".")[-1] for key in moved} == {"up.bias"}


def test_a_preset_stands_for_its_text_and_unknown_ones_offer_the_nearest() -> None:
    assert parse("pf-par").parts == parse("bottleneck(sites=attn)+norm()").parts
    with pytest.raises(UnknownNameError, match="did you mean 'pf-par'"):
        parse("pf-pat")
    assert issubclass(UnknownNameError, OssicleError)
