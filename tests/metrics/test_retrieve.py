"""Retrieval scores: the golden of LAION-CLAP, a hand-made case with five captions, ties, wrong shapes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.conftest import tries

from ossicle.errors import UsageError
from ossicle.metrics.retrieve import laion_map_at_10, ranks, summary


@pytest.mark.parametrize(("prefix", "captions"), [("retrieval", 5), ("retrieval1", 1)])
def test_equals_laion_clap(shared: Path, prefix: str, captions: int) -> None:
    golden = load_file(shared / "goldens" / "laion_clap.safetensors")
    text = golden["retrieval/in/text"].numpy()[:: 5 // captions]
    similarity = text @ golden["retrieval/in/audio"].numpy().T
    scores = summary(ranks(similarity, np.repeat(np.arange(24), captions)))
    for way in ("text_to_audio", "audio_to_text"):
        for k in (1, 5, 10):
            assert scores[f"{way}_r_at_{k}"] == pytest.approx(float(golden[f"{prefix}/out/{way}_R@{k}"]))
    official = {way: float(golden[f"{prefix}/out/{way}_mAP@10"]) for way in ("text_to_audio", "audio_to_text")}
    assert scores["text_to_audio_map_at_10"] == pytest.approx(official["text_to_audio"])
    assert laion_map_at_10(similarity, captions) == pytest.approx(official["audio_to_text"])
    ordered = golden.get("retrieval/out/extra_audio_to_text_mAP@10_rank_sorted") if captions == 5 else None
    wanted = official["audio_to_text"] if ordered is None else float(ordered)
    assert scores["audio_to_text_map_at_10"] == pytest.approx(wanted)


def test_by_hand() -> None:
    """Two clips, the first with three captions, the second with one."""
    similarity = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.4], [0.6, 0.7]])
    found = ranks(similarity, [0, 0, 0, 1])
    assert found.text_to_audio.tolist() == [0, 1, 0, 0]
    assert [r.tolist() for r in found.audio_to_text] == [[0, 2, 3], [1]]
    scores = summary(found)
    assert scores["text_to_audio_r_at_1"] == 0.75 and scores["audio_to_text_r_at_1"] == 0.5
    assert scores["audio_to_text_median_rank"] == 1.5
    assert scores["audio_to_text_map_at_10"] == pytest.approx(((1 / 1 + 2 / 3 + 3 / 4) / 3 + 1 / 2) / 2)
    assert (scores["clips"], scores["captions_least"], scores["captions_most"]) == (2, 1, 3)


def test_a_system_that_scores_all_alike_finds_nothing() -> None:
    scores = summary(ranks(np.zeros((40, 20)), np.repeat(np.arange(20), 2)))
    assert scores["text_to_audio_r_at_10"] == scores["audio_to_text_r_at_10"] == 0.0
    assert scores["text_to_audio_median_rank"] == 20


@tries(40)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 5))
def test_order_of_clips_and_captions_never_matters(seed: int, clips: int, captions: int) -> None:
    generator = np.random.default_rng(seed)
    similarity = generator.integers(0, 6, (clips * captions, clips)).astype(float)
    owners = np.repeat(np.arange(clips), captions)
    expected = summary(ranks(similarity, owners))
    rows, columns = generator.permutation(len(owners)), generator.permutation(clips)
    places = np.argsort(columns)
    moved = summary(ranks(similarity[rows][:, columns], places[owners[rows]]))
    assert moved == pytest.approx(expected)
    better = similarity.copy()
    better[np.arange(len(owners)), owners] += 1
    assert all(summary(ranks(better, owners))[k] >= v for k, v in expected.items() if "_at_" in k)


@pytest.mark.parametrize(
    ("similarity", "owners", "says"),
    [
        (np.zeros((2, 2)), [0], "are wanted"),
        (np.zeros((2, 2)), [0, 0], "each of 0 to 1 is wanted at least once"),
        (np.zeros((2, 2)), [0, 2], "each of 0 to 1"),
        (np.array([[np.nan, 0.0], [0.0, 0.0]]), [0, 1], "not finite"),
    ],
)
def test_what_cannot_be_ranked_is_refused(similarity: np.ndarray, owners: list[int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ranks(similarity, owners)
