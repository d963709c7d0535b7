"""Trainable counts equal the papers' (SPEC 1.4 and 5.2), exactly and without weights."""

import math
import re
from pathlib import Path

import pytest

from ossicle.adapters.count import count
from ossicle.adapters.presets import PRESETS
from ossicle.cli.adapters import row

EXACT = {
    "pf-par": 248_976, "pf-seq": 248_976, "ffn-par-before": 248_976, "ffn-seq-before": 248_976,
    "mhsa-seq-after": 248_976, "mhsa-seq-before": 248_976, "hou-par": 497_952, "hou-seq": 497_952,
    "hou-mixed": 497_952, "pf-par-x2": 470_304, "pf-seq-x2": 470_304, "lora": 221_184, "lora-parity": 221_184,
    "lora-q": 221_184, "lora-qk": 221_184, "lora-qkvo": 221_184, "lora-442k": 442_368,
    "spt-300": 230_400, "dpt-25": 230_400, "prefix-24": 221_184, "convpass-pf-par": 254_304,
    "convpass-pf-seq": 254_304, "convpass-hou-par": 508_608, "convpass-hou-seq": 508_608, "hydra-ffn": 479_520,
    "adapter-lora": 470_160, "adapter-dpt": 479_376, "adapter-dpt-lora": 488_592,
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


@pytest.mark.parametrize(
    ("preset", "parameters"),
    {
        "linear-e": 35_372, "loaa-attn-time-2m": 2_026_028, "loaa-mlp-freq-4m": 4_016_684,
        "loaa-attn-point-1m": 1_030_700, "loaa-mlp-both-2m": 2_026_028, "loaa-5": 4_016_684, "loaa-10": 7_997_996,
        "parallel-5": 4_016_684,
    }.items(),
)  # fmt: skip
def test_look_aside_counts_its_head(preset: str, parameters: int) -> None:
    assert row("deit-base-384", preset, PRESETS[preset])["trainable"] == parameters


def printed(count: int, figure: str) -> set[str]:
    """A count as a paper may print it, rounded or cut off, with as many places as its figure has."""
    unit = {"K": 1e3, "M": 1e6}[figure[-1]]
    places = len(figure[:-1].partition(".")[2])
    cut = math.floor(count / unit * 10**places) / 10**places
    return {f"{value:.{places}f}{figure[-1]}" for value in (count / unit, cut)}


FIGURES = [n for n, p in PRESETS.items() if re.fullmatch(r"[\d.]+[KM]", p.paper) and n != "full"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_preset_equals_its_paper_or_says_what_is_wrong_there(name: str) -> None:
    preset = PRESETS[name]
    counted = row("ast-base", name, preset)["trainable"]
    assert (preset.paper in printed(counted, preset.paper)) == (not preset.slip)


def test_the_docs_list_every_preset_with_its_count() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        line = f"| `{name}` | `{preset.text}` | {row('ast-base', name, preset)['trainable']:,} | {preset.paper}"
        assert line in page
