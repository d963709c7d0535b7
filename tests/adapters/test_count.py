"""Trainable counts equal the paper's (SPEC 1.4), exactly and without weights."""

import pytest

from ossicle.adapters.count import count

EXACT = {
    "pf-par": 248_976, "pf-seq": 248_976, "ffn-par-before": 248_976, "ffn-seq-before": 248_976,
    "mhsa-seq-after": 248_976, "mhsa-seq-before": 248_976, "hou-par": 497_952, "hou-seq": 497_952,
    "hou-mixed": 497_952, "pf-par-x2": 470_304, "pf-seq-x2": 470_304, "lora": 221_184, "lora-parity": 221_184,
    "lora-q": 221_184, "lora-qk": 221_184, "lora-qkvo": 221_184, "lora-442k": 442_368,
}  # fmt: skip


@pytest.mark.parametrize(("preset", "parameters"), EXACT.items())
def test_adapters_without_head_and_final_norm(preset: str, parameters: int) -> None:
    counted = count("ast-base", preset)
    assert (counted.adapter, counted.final_norm) == (parameters, 1536)


def test_bitfit_counts_the_final_norms_bias() -> None:
    assert count("ast-base", "bitfit").total == 102_144


@pytest.mark.parametrize(("classes", "parameters"), [(10, 9_226), (50, 39_986)])
def test_linear_counts_head_and_final_norm(classes: int, parameters: int) -> None:
    assert count("ast-base", "linear").with_head(classes) == parameters


def test_full_counts_the_published_backbone() -> None:
    """AST-base with its 1214 positions; the paper's 85.3 to 85.7 M are the same with shorter position tables."""
    counted = count("ast-base", "full")
    assert counted.total == counted.backbone == 86_187_264
