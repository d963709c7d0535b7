import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tests import tiny

from ossicle.contracts import Batch, Clip, Prediction
from ossicle.errors import CheckpointError, UsageError
from ossicle.predict.journal import Journal
from ossicle.predict.predictor import Predictor, Summary, predict_to_file
from ossicle.predict.results import FORMATS, from_json
from ossicle.tasks.classify import Classifier
from ossicle.training.loop import Interrupted

LABELS = ["cat", "dog", "owl"]
# Float32 logits of a tiny encoder, three blocks of 24 channels, move a probability by a quarter of their own error at
# most; and probabilities are rounded to six digits.
ROUNDING = 3 * 24 * torch.finfo(torch.float32).eps / 4 + 2e-6


def classifier(kind: str = "whisper", seed: int = 0) -> Classifier:
    """A classifier that was never trained."""
    torch.manual_seed(seed)
    return Classifier(tiny.encoder(kind), LABELS)


def predictor(window_s: float = 1.0, hop_s: float | None = None, batch: int = 4, seed: int = 0) -> Predictor:
    return Predictor(classifier(seed=seed), "tiny", window_s, hop_s, batch)


def tones(folder: Path, seconds: Sequence[float]) -> list[Path]:
    return [tiny.write_tone(folder / f"{i:02}.wav", 200 + 90 * i, s, seed=i) for i, s in enumerate(seconds)]


def rows_of(made: Predictor, paths: Sequence[Path]) -> list[Prediction]:
    return [row for _, rows in made.files(paths) for row in rows]


def assert_same(left: Sequence[Prediction], right: Sequence[Prediction]) -> None:
    assert [replace(r, score=None, scores={}) for r in left] == [replace(r, score=None, scores={}) for r in right]
    for one, other in zip(left, right, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=ROUNDING)
        assert one.score == pytest.approx(other.score, abs=ROUNDING)


def lines(out: Path) -> list[Prediction]:
    return [from_json(json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()]


def write_bad(folder: Path) -> list[Path]:
    """Files that cannot be used, each for its own reason."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("text.wav", "empty.wav", "cut.flac", "nan.wav", "zero.wav", "folder.wav", "missing.wav")
    text, empty, cut, nan, zero, inner, missing = (folder / name for name in names)
    text.write_text("this is\na letter, not a sound")
    empty.write_bytes(b"")
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) / 10
    soundfile.write(cut, noise, 16_000)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    soundfile.write(nan, np.full(8000, np.nan, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(zero, np.zeros(0, np.float32), 16_000)
    inner.mkdir()
    return [text, empty, cut, nan, zero, inner, missing]


# --- windows, order, neighbours -------------------------------------------------------------------------------------


def test_rows_come_in_order_with_seconds_scores_and_model(tmp_path):
    paths = tones(tmp_path, [0.4, 0.9, 0.4, 1.0, 0.7])
    made = list(predictor().files(iter(paths)))
    assert [path for path, _ in made] == paths
    assert [[(r.path, r.start, r.end, r.model, r.error) for r in rows] for _, rows in made] == [
        [(str(path), 0.0, pytest.approx(s), "tiny", None)]
        for path, s in zip(paths, [0.4, 0.9, 0.4, 1.0, 0.7], strict=True)
    ]
    for _, (row,) in made:
        assert sum(row.scores.values()) == pytest.approx(1, abs=1e-5)
        assert row.label == max(row.scores, key=row.scores.__getitem__)


def test_a_long_file_is_cut_into_windows_and_a_rest(tmp_path):
    (path,) = tones(tmp_path, [3.7])
    rows = rows_of(predictor(), [path])
    assert [(r.start, r.end) for r in rows] == [(0, 1), (1, 2), (2, 3), (3, 3.7)]
    halves = rows_of(predictor(hop_s=0.5), [path])
    assert [r.start for r in halves] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert halves[-1].end == pytest.approx(3.7)
    assert_same(rows[1:2], halves[2:3])


def test_a_very_short_rest_begins_earlier_instead_of_failing(tmp_path):
    (path,) = tones(tmp_path, [2.003])
    rows = list(Predictor(classifier("ast"), "tiny", 1.0).files([path]))[0][1]
    assert [(r.start, r.end, r.error) for r in rows] == [(0, 1, None), (1, 2, None), (1.503, 2.003, None)]


@pytest.mark.numerics
@pytest.mark.parametrize("kind", ["whisper", "ast"])
def test_neighbours_never_change_a_result(tmp_path, kind):
    paths = tones(tmp_path, [0.5, 2.6, 0.5, 0.8, 1.0, 0.5003, 3.0, 0.6])
    together = rows_of(Predictor(classifier(kind), "tiny", 1.0, batch=4), paths)
    alone = [row for path in paths for row in rows_of(Predictor(classifier(kind), "tiny", 1.0, batch=1), [path])]
    assert_same(together, alone)


def test_only_equal_lengths_share_a_batch_and_batches_fill_across_files(tmp_path):
    made = predictor()
    seen: list[int] = []
    inner = made.task.predict

    def spy(batch: Batch) -> list[Prediction]:
        assert batch.lengths is None
        seen.append(len(batch.clips))
        return inner(batch)

    made.task.predict = spy  # type: ignore[method-assign]
    rows_of(made, tones(tmp_path, [1.5, 1.5, 1.0, 1.5, 1.5, 2.0, 1.0]))
    assert sorted(seen) == [4, 4, 4]


def test_lengths_that_only_decoding_tells_apart_are_predicted_one_by_one(tmp_path):
    paths = tones(tmp_path, [0.5, 0.5])
    made = predictor()
    inner = made.task.collate

    def unequal(clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        batch = inner(clips, generator)
        return replace(batch, lengths=torch.tensor([8000, 7999])) if len(clips) == 2 else batch

    expected = rows_of(predictor(batch=1), paths)
    made.task.collate = unequal  # type: ignore[method-assign]
    assert_same(rows_of(made, paths), expected)


def test_a_file_is_not_kept_waiting_for_an_odd_length(tmp_path):
    paths = tones(tmp_path, [0.77, *[0.5] * 140])
    pulled = 0

    def source():
        nonlocal pulled
        for pulled, path in enumerate(paths, 1):  # noqa: B007
            yield path

    first = next(predictor().files(source()))
    assert first[0] == paths[0]
    assert pulled < 100


# --- bad input ------------------------------------------------------------------------------------------------------


def test_bad_files_in_the_middle_become_error_rows(tmp_path):
    good = tones(tmp_path / "good", [0.5, 0.5, 1.6])
    bad = write_bad(tmp_path / "bad")
    made = dict(predictor().files([good[0], *bad, *good[1:]]))
    assert list(made) == [good[0], *bad, *good[1:]]
    for path in bad:
        (row,) = made[path]
        assert (row.path, row.start, row.end, row.label, row.scores, row.model) == (
            *(str(path), 0.0, None, None, {}, "tiny"),
        )
        assert row.error is not None and path.name in row.error and "\n" not in row.error
        assert "no clip of this batch" not in row.error
    assert "is text, not sound" in made[bad[0]][0].error
    assert_same([r for path in good for r in made[path]], rows_of(predictor(), good))


def test_only_bad_files_and_none_at_all(tmp_path):
    assert len(list(predictor().files(write_bad(tmp_path)))) == 7
    assert list(predictor().files([])) == []


def test_a_bad_stretch_costs_only_its_windows(tmp_path):
    path = tmp_path / "gap.wav"
    wave = np.random.default_rng(0).standard_normal(16_000 * 5).astype(np.float32) / 10
    wave[16_000 + 3000 : 32_000 + 3000] = np.nan
    soundfile.write(path, wave, 16_000, subtype="FLOAT")
    rows = rows_of(predictor(), [path])
    assert [(r.start, r.end) for r in rows] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert [r.error is None for r in rows] == [True, False, False, True, True]
    assert "not numbers" in rows[1].error


def test_a_long_wav_that_was_cut_off_says_so(tmp_path):
    (path,) = tones(tmp_path, [6.0])
    path.write_bytes(path.read_bytes()[: 44 + 32_000 * 3 + 16_000])
    rows = rows_of(predictor(), [path])
    assert [r.error is None for r in rows] == [True, True, True, False]
    assert "header says 6.00 s" in rows[-1].error and rows[-1].end == pytest.approx(3.5)


def test_a_clip_too_short_for_the_model_and_scores_that_are_no_numbers(tmp_path):
    paths = tones(tmp_path, [0.5, 0.01, 0.5])
    rows = rows_of(predictor(), paths)
    assert [r.error is None for r in rows] == [True, False, True]
    broken = predictor()
    torch.nn.init.constant_(broken.task.parts()["head"].linear.bias, float("nan"))
    assert all("not a number" in row.error and not row.scores for row in rows_of(broken, [paths[0]]))


@pytest.mark.parametrize("tag", [("owl", float("nan"), 0.0, 0.5), ("owl", 0.5, 0.0, float("inf"))])
def test_tags_that_are_no_numbers_are_an_error(tmp_path, monkeypatch, tag):
    (path,) = tones(tmp_path, [0.5])
    made = predictor()
    inner = made.task.predict
    monkeypatch.setattr(made.task, "predict", lambda batch: [replace(row, tags=[tag]) for row in inner(batch)])
    (row,) = rows_of(made, [path])
    assert "not a number" in row.error and row.tags == [] and row.caption is None


def test_a_file_of_one_sample_gets_no_label_though_short_clips_are_padded(tmp_path):
    paths = [*tones(tmp_path, [0.5, 0.03]), tmp_path / "one.wav", tmp_path / "one.flac"]
    soundfile.write(paths[2], np.full(1, 0.1), 16_000)
    soundfile.write(paths[3], np.full(1, 0.1), 44_100)
    padded = Predictor(Classifier(tiny.encoder("whisper"), LABELS, shortest_s=0.5), "tiny", 1.0, batch=4)
    rows = rows_of(padded, paths)
    assert [row.label is None for row in rows] == [False, False, True, True]
    assert "only 1 sample(s)" in rows[2].error and "too short to be one at 16000 Hz" in rows[3].error


@pytest.mark.parametrize("given", [(0, None), (-1, None), (float("inf"), None), (1, 2), (1, 0), (0.0004, None)])
def test_windows_that_cannot_be(given):
    with pytest.raises(UsageError, match="windows of"):
        predictor(*given)
    with pytest.raises(UsageError, match="batch of 0"):
        predictor(batch=0)


# --- outputs and journal ---------------------------------------------------------------------------------------------


def test_outputs_that_cannot_be(tmp_path):
    paths = tones(tmp_path / "in", [0.5, 0.5])
    with pytest.raises(UsageError, match=r"'\.xlsx'; choose one of \.csv .*\.parquet"):
        predict_to_file(predictor(), paths, tmp_path / "rows.xlsx")
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        predict_to_file(predictor(), paths, tmp_path / "rows.csv")
    with pytest.raises(UsageError, match="one recording"):
        predict_to_file(predictor(), paths, tmp_path / "rows.txt")
    with pytest.raises(UsageError, match="no sound files"):
        predict_to_file(predictor(), [], tmp_path / "other.csv")
    with pytest.raises(CheckpointError, match="cannot write"):
        predict_to_file(predictor(), paths, paths[0] / "rows.csv")


class Counter:
    """Notes how many files are finished and stops, as Ctrl-C would, at a number."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.seen: list[int] = []
        self.stop_at = stop_at

    def __call__(self, done: int) -> None:
        self.seen.append(done)
        if done == self.stop_at:
            raise KeyboardInterrupt


def test_a_whole_run(tmp_path):
    paths = [*tones(tmp_path / "in", [0.5, 2.0]), *write_bad(tmp_path / "in")[:2]]
    out, count = tmp_path / "new" / "rows.jsonl", Counter()
    assert predict_to_file(predictor(), [*paths, paths[0]], out, progress=count) == Summary(4, 5, 2)
    assert lines(out) == rows_of(predictor(), paths)
    assert count.seen == [0, 1, 2, 3, 4]
    assert [path.name for path in out.parent.iterdir()] == ["rows.jsonl"]


def interrupted(tmp_path: Path, after: int = 2) -> tuple[list[Path], Path, Path]:
    paths = tones(tmp_path / "in", [0.5, 1.4, 0.5, 0.7])
    out = tmp_path / "rows.jsonl"
    with pytest.raises(Interrupted, match=f"{after} of 4 files finished.*same command goes on"):
        predict_to_file(predictor(), paths, out, progress=Counter(after))
    assert not out.exists()
    return paths, out, tmp_path / "rows.jsonl.journal"


def test_a_stopped_run_goes_on_and_a_half_line_is_dropped(tmp_path):
    paths, out, journal = interrupted(tmp_path)
    whole = journal.read_bytes().splitlines(keepends=True)
    assert len(whole) == 3
    with journal.open("ab") as file:
        file.write(whole[-1][: len(whole[-1]) // 2])
    count = Counter(3)
    with pytest.raises(Interrupted):
        predict_to_file(predictor(), paths, out, progress=count)
    assert count.seen == [2, 3]
    assert journal.read_bytes().splitlines(keepends=True)[:3] == whole
    assert predict_to_file(predictor(), paths, out) == Summary(4, 5, 0)
    assert_same(lines(out), [replace(r, end=round(r.end, 3)) for r in rows_of(predictor(), paths)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "rows.jsonl"]


def test_tags_come_back_from_the_journal_and_older_journals_have_none(tmp_path):
    tags = [("Bee, wasp, etc.", 0.5, 10.0, 11.5), ("Hum", 0.25, 11.0, 20.0)]
    paths = [tmp_path / f"{n}.wav" for n in "ab"]
    given = [Prediction(str(paths[0]), 10.0, 20.0, caption="a bee", tags=tags), Prediction(str(paths[1]), 0.0, 1.0)]
    with Journal(tmp_path / "rows.csv.journal", {}) as journal:
        for path, row in zip(paths, given, strict=True):
            journal.add(path, None, [row])
    with Journal(tmp_path / "rows.csv.journal", {}) as journal:
        assert list(journal.rows(paths)) == given
    lines = journal.path.read_text().splitlines()
    journal.path.write_text("".join(re.sub(r', "tags": \[.*\]}\]', "}]", line) + "\n" for line in lines))
    assert '"tags"' not in journal.path.read_text()
    with Journal(tmp_path / "rows.csv.journal", {}) as journal:
        assert list(journal.rows(paths)) == [replace(row, tags=[]) for row in given]


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_journal_cut_off_in_its_header_begins_anew(tmp_path, cut):
    paths, out, journal = interrupted(tmp_path)
    journal.write_bytes(journal.read_bytes()[:cut])
    assert predict_to_file(predictor(), paths, out).files == 4


def test_what_follows_a_damaged_line_is_made_again(tmp_path):
    paths, out, journal = interrupted(tmp_path)
    header, first, second = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(header + b"\0" * 20 + b"\n" + second)
    count = Counter()
    assert predict_to_file(predictor(), paths, out, progress=count) == Summary(4, 5, 0)
    assert count.seen[0] == 0


def test_changed_and_unreadable_files_are_made_again(tmp_path):
    paths, out, _ = interrupted(tmp_path)
    tiny.write_tone(paths[0], 1000, 2.0)
    before = rows_of(predictor(), paths)
    count = Counter()
    assert predict_to_file(predictor(), paths, out, progress=count) == Summary(4, 6, 0)
    assert count.seen[0] == 1
    assert_same(lines(out), [replace(r, end=round(r.end, 3)) for r in before])

    missing, other = tmp_path / "later.wav", tmp_path / "other.jsonl"
    with pytest.raises(Interrupted):
        predict_to_file(predictor(), [missing, paths[0]], other, progress=Counter(1))
    tiny.write_tone(missing, 300)
    assert predict_to_file(predictor(), [missing, paths[0]], other) == Summary(2, 3, 0)


def test_a_journal_of_other_settings_is_refused(tmp_path):
    paths, out, journal = interrupted(tmp_path)
    kept = journal.read_bytes()
    with pytest.raises(UsageError, match=r"hop_s 1.0 \(now 2.0\), window_s 1.0 \(now 2.0\).*delete .*--out"):
        predict_to_file(predictor(window_s=2.0), paths, out)
    with pytest.raises(UsageError, match="weights"):
        predict_to_file(predictor(seed=1), paths, out)
    with pytest.raises(UsageError, match=r"base None \(now abc\)"):
        predict_to_file(predictor(), paths, out, extras={"base": "abc"})
    assert journal.read_bytes() == kept
    journal.write_text("dear diary\n")
    with pytest.raises(UsageError, match="is no journal"):
        predict_to_file(predictor(), paths, out)


def test_two_runs_into_one_output(tmp_path):
    paths, out = tones(tmp_path / "in", [0.5, 0.5]), tmp_path / "rows.csv"

    def second(done: int) -> None:
        if done == 1:
            with pytest.raises(UsageError, match="another run is writing"):
                predict_to_file(predictor(), paths, out)

    assert predict_to_file(predictor(), paths, out, progress=second).files == 2


def test_an_output_that_fails_to_be_written_keeps_the_journal(tmp_path, monkeypatch):
    paths, out = tones(tmp_path / "in", [0.5, 0.5]), tmp_path / "rows.csv"
    out.write_text("earlier")

    def full(rows: object, part: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, ".csv", full)
    with pytest.raises(CheckpointError, match="No space left"):
        predict_to_file(predictor(), paths, out)
    assert out.read_text() == "earlier" and (tmp_path / "rows.csv.journal").exists()
    monkeypatch.undo()
    count = Counter()
    predict_to_file(predictor(), paths, out, progress=count)
    assert count.seen == [2]


SCRIPT = """
import sys, time
from pathlib import Path
from ossicle.errors import OssicleError
from ossicle.predict.predictor import predict_to_file
from tests.predict.test_predictor import predictor
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
def slow(done):
    print(done, flush=True)
    time.sleep(0.2)
try:
    predict_to_file(predictor(), sorted(folder.iterdir()), out, progress=slow)
except OssicleError as err:
    print(type(err).__name__, err, flush=True)
    sys.exit(err.exit_code)
"""


@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_was_killed_goes_on(tmp_path, signal_sent):
    paths = tones(tmp_path / "in", [0.5, 2.3, 0.5, 0.7, 1.0, 1.0])
    out = tmp_path / "rows.jsonl"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "in"), str(out)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "2":
            assert process.poll() is None
        time.sleep(0.05)
        process.send_signal(signal_sent)
        told = process.stdout.read()
    assert process.returncode == (1 if signal_sent == signal.SIGINT else -signal.SIGKILL)
    assert ("Interrupted stopped with" in told) == (signal_sent == signal.SIGINT)
    assert not out.exists()
    count = Counter()
    predict_to_file(predictor(), paths, out, progress=count)
    assert count.seen[0] >= 2
    straight = tmp_path / "straight.jsonl"
    predict_to_file(predictor(), paths, straight)
    assert_same(lines(out), lines(straight))
    assert [asdict(row)["path"] for row in lines(out)] == sorted(row.path for row in lines(out))
