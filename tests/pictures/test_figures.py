"""Figures: attention sums and places are right, pages name their points, wrong wishes are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import tiny

from ossicle.adapters import inject, parse, trainable
from ossicle.errors import UsageError
from ossicle.pictures import figures
from ossicle.pictures.figures import Point
from ossicle.sound.frontends import WhisperLogMel

PNG = b"\x89PNG"


def shaken(kind: str, text: str):
    encoder = tiny.encoder(kind)
    inject(encoder, parse(text))
    torch.manual_seed(0)
    with torch.no_grad():
        for value in trainable(encoder, "default").values():
            value.add_(torch.randn_like(value) * 0.3)
    return encoder


@pytest.mark.numerics
@pytest.mark.parametrize(
    ("kind", "text", "extra"),
    [
        ("whisper", "lora(rank=2)", 0),
        ("ast", "lora(rank=2)", 2),
        ("dinov2", "bottleneck(rank=2)+prompts(tokens=3)", 4),
        ("ast", "prefix(tokens=4)", 2),
    ],
)
def test_attention_is_what_the_block_computes(kind: str, text: str, extra: int) -> None:
    encoder = shaken(kind, text)
    wave = tiny.waves(1, seconds=1.0)[0]
    frozen, frames = figures.attention(encoder, wave, 1, [0.1, 0.9], adapted=False)
    adapted, _ = figures.attention(encoder, wave, 1, [0.1, 0.9], adapted=True)
    assert frozen.shape == adapted.shape and frozen.shape[0] == 2
    assert not np.allclose(frozen, adapted)
    sums = frozen.sum(axis=(1, 2))
    assert (sums <= 1 + 1e-4).all() and ((sums < 0.999).all() if kind != "whisper" else np.allclose(sums, 1, atol=1e-4))
    assert frames.ndim == 2
    # by hand: the frozen block's own attention, class and distillation tokens left out
    with torch.no_grad():
        encoded = encoder(wave[None], layers=(1,), adapter=(None,))
        block = encoder.blocks[1]
        attn = getattr(block.attn, "base", block.attn)
        norm = getattr(block.norm1, "base", block.norm1)
        x = norm(encoded.hidden[1])
        q, k = (getattr(p, "base", p)(x) for p in (attn.q_proj, attn.k_proj))
        heads = [t.unflatten(-1, (3, 8)).transpose(1, 2) for t in (q, k)]
        weights = (heads[0] @ heads[1].transpose(-1, -2) / 8**0.5).softmax(-1).mean(1)[0]
    grid = encoded.grid
    first = weights[grid.extra :, grid.extra :].view(grid.freq, grid.time, grid.freq, grid.time)
    column = int(0.1 / 1.0 * grid.time)
    assert np.allclose(frozen[0], first[:, column].mean(0).numpy(), atol=1e-5)


@pytest.mark.numerics
@pytest.mark.parametrize("kind", ["whisper", "ast"])
@pytest.mark.parametrize("text", ["lora(rank=2)", "prefix(tokens=4)"])
def test_weights_are_those_that_mix_the_values(kind: str, text: str) -> None:
    encoder = shaken(kind, text)
    attn = getattr(encoder.blocks[1].attn, "base", encoder.blocks[1].attn)
    seen = []
    attn.register_forward_hook(lambda _, given, made: seen.append((*given, made)))
    with torch.no_grad():
        encoder(tiny.waves(2, seconds=1.0), torch.tensor([16_000, 9_000]))
        x, context, made = seen[0]
        mixed = (attn.weights(x, context) @ attn.project(x, context)[2]).transpose(1, 2).reshape(x.shape)
        torch.testing.assert_close(attn.out_proj(mixed, context), made, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("block", "at"), [(3, [0.1]), (-1, [0.1]), (0, [1.5]), (0, [])])
def test_blocks_and_moments_must_exist(block: int, at: list[float]) -> None:
    with pytest.raises(UsageError, match=r"has blocks|s that are heard"):
        figures.attention(tiny.encoder("whisper"), tiny.waves(1, seconds=1.0)[0], block, at, adapted=False)


def test_moments_are_those_of_a_fixed_number_of_frames() -> None:
    encoder, wave = tiny.encoder("ast"), tiny.waves(1, seconds=1.0)[0]
    assert figures.heard_s(encoder, wave) == 1.0
    encoder.frontend.target_frames = 50
    assert figures.heard_s(encoder, wave) == 0.5
    with pytest.raises(UsageError, match=r"0\.7 s is outside the 0\.50 s"):
        figures.attention(encoder, wave, 0, [0.7], adapted=False)


def test_attention_is_drawn(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).random((2, 4, 6)) / 24
    peaks = WhisperLogMel().peaks_hz().numpy()
    rows = {"frozen": maps, "adapted": maps}
    figures.attention_maps(rows, np.ones((60, 80)), peaks, 1.0, [0.1, 0.9], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    figures.attention_maps(rows, np.ones((60, 80)), peaks, 1.0, [0.1, 0.9], tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text.count("<!-- frequency (kHz) -->") == 2 and "mel band" not in text


def test_tokens_keep_neighbours_and_name_every_point(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    vectors = np.concatenate([generator.normal(c, 0.1, (10, 8)) for c in (0.0, 5.0)])
    places = figures.embed(vectors)
    middle = [places[:10].mean(0), places[10:].mean(0)]
    assert all(
        np.linalg.norm(p - middle[i // 10]) < np.linalg.norm(p - middle[1 - i // 10]) for i, p in enumerate(places)
    )
    assert np.array_equal(places, figures.embed(vectors))
    labels = ["a & b"] * 10 + ["wren"] * 10
    names = [f"{i}.wav" for i in range(20)]
    figures.tokens({"frozen": places, "adapted": places}, labels, names, tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text()
    assert page.count(": wren</title>") == 20 and "<title>3.wav: a &amp; b</title>" in page
    with pytest.raises(UsageError, match="at least 4"):
        figures.embed(vectors[:3])


def test_labels_are_drawn_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matplotlib hides "_background_noise_" of Speech Commands from a legend, and takes dollars for mathematics."""
    drawn = []
    written = figures.save
    monkeypatch.setattr(figures, "save", lambda figure, *rest: (drawn.append(figure), written(figure, *rest)))
    labels = ["$x_{$", "[bird]", "_background_noise_", "a$_b$c"]
    figures.tokens({"frozen": np.eye(4)[:, :2]}, labels, labels, tmp_path / "t.png")
    figures.scaling([Point(label, 10**n, 0.9) for n, label in enumerate(labels)], tmp_path / "s.png")
    legend = drawn[0].axes[-1].get_legend().get_texts()
    assert [text.get_text() for text in legend] == labels
    named = [text for text in drawn[1].axes[0].texts if text.get_text() in labels]
    assert len(named) == len(labels) and not any(text.get_parse_math() for text in [*legend, *named])


def test_a_page_may_be_written_in_capitals(tmp_path: Path) -> None:
    figures.scaling([Point("full", 10**6, 0.9)], tmp_path / "s.HTML")
    assert "<svg" in (tmp_path / "s.HTML").read_text()


def test_scaling_joins_a_series_and_names_single_points(tmp_path: Path) -> None:
    points = [Point("r8", 8000, 0.7, "lora"), Point("r2", 2000, 0.6, "lora"), Point("full", 10**6, 0.9)]
    figures.scaling(points, tmp_path / "s.html")
    page = (tmp_path / "s.html").read_text()
    assert "<title>r2: 2,000 parameters, 60.0 %</title>" in page and "full: 1,000,000 parameters" in page
    figures.scaling(points, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(PNG)
    with pytest.raises(UsageError, match="nothing to draw"):
        figures.scaling([], tmp_path / "s.png")


def test_other_suffixes_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end it with one of .*\.html"):
        figures.check(tmp_path / "a.bmp")


def test_scaling_reads_results(tmp_path: Path) -> None:
    from ossicle.cli.plot import _points
    from ossicle.errors import DataError

    cell = {"row": "lora RR 64", "column": "esc50", "parameters": 5, "ours": {"mean": 50.0}}
    absent = cell | {"ours": None}
    (tmp_path / "a.json").write_text(json.dumps({"cells": [cell, absent]}))
    assert _points(tmp_path / "a.json") == [Point("lora RR 64", 5, 0.5, "lora, esc50")]
    row = {"preset": "lora", "adapter_parameters": 7, "accuracy": 0.25}
    (tmp_path / "b.json").write_text(json.dumps({"rows": [row]}))
    assert _points(tmp_path / "b.json") == [Point("lora", 7, 0.25)]
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(DataError, match="is no result"):
        _points(tmp_path / "c.json")
