"""One line per adapter: what it is and what must hold. A new adapter adds a line here."""

from collections.abc import Callable
from dataclasses import dataclass

D, L = 24, 3  # width and blocks of every tiny encoder


@dataclass(frozen=True)
class Case:
    """Args:
    text: the adapter.
    parameters: its trainable count on a tiny encoder, as a formula of the MLP width and the biases of q, k, v and out.
    rows: whether it needs a frequency axis.
    loud: why it does not start as the frozen model, or "" if it does.
    still: why some trainable tensor has no gradient at the very first step, or "".
    linear: whether it can be merged.
    inert: pattern of tensors that no gradient reaches, by mathematics.
    """

    text: str
    parameters: Callable[[int, int], int]
    loud: str = ""
    still: str = ""
    linear: bool = False
    inert: str = "^$"
    rows: bool = False


def bottleneck(rank: int, per_block: int = 1, norms: bool = True) -> int:
    """2dr + r + d for each delta, and 2d for each touched norm."""
    return L * per_block * (2 * D * rank + rank + D + (2 * D if norms else 0))


def lora(rank: int, targets: int) -> int:
    """2dr for each target."""
    return L * targets * 2 * D * rank


def lookaside(rank: int, taps: int) -> int:
    """2dr for each tap, summed over both sub-layers; no bias."""
    return L * 2 * D * rank * taps


WIDENS = "there are new tokens to attend to"
DOWN_WAITS = "the up-projection starts at zero, so the down-projection moves from the second step on"

CASES = [
    Case("lora(rank=4,targets=qv)", lambda h, b: lora(4, 2), still=DOWN_WAITS, linear=True),
    Case("lora(reduction=8,targets=qkvo,blocks=1-2)", lambda h, b: lora(3, 4) // 3 * 2, still=DOWN_WAITS, linear=True),
    Case("lora(rank=4,init=hf,targets=q)", lambda h, b: lora(4, 1), loud="both projections start random", linear=True),
    Case("bottleneck(sites=mlp,reduction=6)", lambda h, b: bottleneck(4), still=DOWN_WAITS),
    Case("bottleneck(sites=attn,reduction=6)", lambda h, b: bottleneck(4), still=DOWN_WAITS),
    Case("bottleneck(sites=both,place=after,rank=5)", lambda h, b: bottleneck(5, 2), still=DOWN_WAITS),
    Case("bottleneck(rank=4,norms=false,blocks=0)", lambda h, b: bottleneck(4, norms=False) // 3, still=DOWN_WAITS),
    Case(
        "bottleneck(sites=mlp,place=before,rank=4)", lambda h, b: bottleneck(4),
        loud="the sub-layer sees the adapter's output instead of its own input", still=DOWN_WAITS,
    ),
    Case(
        "bottleneck(sites=attn,place=before,rank=4)", lambda h, b: bottleneck(4),
        loud="the sub-layer sees the adapter's output instead of its own input", still=DOWN_WAITS,
    ),
    Case(
        "bottleneck(sites=mlp,place=after,residual=off,rank=4)", lambda h, b: bottleneck(4),
        loud="without the residual the sub-layer's output is dropped", still=DOWN_WAITS,
    ),
    Case(
        "bottleneck(sites=mlp,residual=on,rank=4)", lambda h, b: bottleneck(4),
        loud="the residual adds the LayerNormed input", still=DOWN_WAITS,
    ),
    Case(
        "bottleneck(sites=attn,rank=4)+bottleneck(sites=mlp,place=after,rank=4)+norm()",
        lambda h, b: bottleneck(4, 2) + 2 * D, still=DOWN_WAITS,
    ),
    Case(
        "bottleneck(sites=mlp,rank=4)+lora(rank=2)", lambda h, b: bottleneck(4) + lora(2, 2), still=DOWN_WAITS,
    ),
    Case(
        "bitfit()", lambda h, b: L * (b * D + h + D + 2 * D) + D, linear=True,
        inert=r"k_proj\.bias$",  # the softmax over keys does not see a shift common to all of them
    ),
    Case("convpass(rank=4)", lambda h, b: bottleneck(4) + L * (4 * 4 * 3 + 4), still=DOWN_WAITS),
    Case(
        "convpass(sites=both,place=after,rank=4,conv=grid,norms=false)",
        lambda h, b: bottleneck(4, 2, norms=False) + 2 * L * (4 * 4 * 9 + 4), still=DOWN_WAITS,
    ),
    Case(
        "convpass(sites=mlp,rank=4,conv=unused,init=hf)", lambda h, b: bottleneck(4) + L * (4 * 4 * 3 + 4),
        loud="both projections start random", inert=r"\.conv\.",  # the fault of the original code, on purpose
    ),
    Case("hydra(rank=4)", lambda h, b: bottleneck(4, 2) - L * 2 * D, still=DOWN_WAITS),
    Case("hydra(sites=attn,rank=4,blocks=1-2)", lambda h, b: (bottleneck(4, 2) - L * 2 * D) // 3 * 2, still=DOWN_WAITS),
    Case(
        "hydra(sites=attn,skip=normed,rank=4)", lambda h, b: bottleneck(4, 2) - L * 2 * D, still=DOWN_WAITS,
        loud="the second residual carries the LayerNormed token",
    ),
    Case("lookaside(attn=time,mlp=point,rank=4)", lambda h, b: lookaside(4, 4), still=DOWN_WAITS),
    Case("lookaside(attn=time,mlp=off,rank=4,size=5,extra=skip)", lambda h, b: lookaside(4, 5), still=DOWN_WAITS),
    Case("lookaside(attn=time,mlp=freq,rank=4)", lambda h, b: lookaside(4, 6), still=DOWN_WAITS, rows=True),
    Case("lookaside(attn=off,mlp=both,rank=2)", lambda h, b: lookaside(2, 9), still=DOWN_WAITS, rows=True),
    Case("prompts(tokens=5)", lambda h, b: 5 * D, loud=WIDENS),
    Case("prompts(tokens=3,deep=true)", lambda h, b: L * 3 * D, loud=WIDENS),
    Case("prompts(tokens=3,deep=true,extra=drop,blocks=top:2)", lambda h, b: 2 * 3 * D, loud=WIDENS),
    Case("prefix(tokens=6)", lambda h, b: L * 6 * D, loud=WIDENS),
    Case("prefix(tokens=4)+lora(rank=2)", lambda h, b: L * 4 * D + lora(2, 2), loud=WIDENS, still=DOWN_WAITS),
    Case(
        "bottleneck(rank=4)+prompts(tokens=2,deep=true)+lora(rank=2)",
        lambda h, b: bottleneck(4) + L * 2 * D + lora(2, 2), loud=WIDENS, still=DOWN_WAITS,
    ),
    Case(
        "lookaside(attn=time,mlp=off,rank=4)+prompts(tokens=2)", lambda h, b: lookaside(4, 3) + 2 * D,
        loud=WIDENS, still=DOWN_WAITS,
    ),
    Case("norm()", lambda h, b: 2 * D, linear=True),
    Case("norm(which=all)", lambda h, b: L * 4 * D + 2 * D, linear=True),
    Case("norm(which=blocks,blocks=1-2)", lambda h, b: 2 * 4 * D, linear=True),
]  # fmt: skip
