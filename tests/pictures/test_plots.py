import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from ossicle.errors import DataError, UsageError
from ossicle.pictures import plots


def metrics(path: Path, epochs: int, **scores: float) -> Path:
    rows = [{"epoch": n, "step": 38 * n, "train_loss": 2.0 / n, "lr": 1e-3, **scores} for n in range(1, epochs + 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shape(path: Path) -> tuple[int, ...]:
    return image.imread(path).shape


def test_training_curve_has_a_second_panel_for_scores(tmp_path: Path) -> None:
    plots.training_curve(metrics(tmp_path / "a.jsonl", 5), tmp_path / "a.png")
    full = metrics(tmp_path / "b.jsonl", 5, val_loss=1.0, val_accuracy=0.5, val_f1_macro=0.4)
    plots.training_curve(full, tmp_path / "b.png")
    assert shape(tmp_path / "b.png")[1] > 1.5 * shape(tmp_path / "a.png")[1]


def test_training_curve_of_a_running_or_diverged_run(tmp_path: Path) -> None:
    path = metrics(tmp_path / "a.jsonl", 1, val_accuracy=float("nan"), val_loss=float("inf"))
    path.write_text(path.read_text() + '{"epoch": 2, "val_accuracy": null}\n{"note": "warm-up"}\n{"epoch": 3, "tra')
    plots.training_curve(path, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 0


def test_training_curve_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(DataError, match="not there"):
        plots.training_curve(path, tmp_path / "a.png")
    path.write_text("")
    with pytest.raises(DataError, match="no line with an epoch"):
        plots.training_curve(path, tmp_path / "a.png")
    path.write_text('oops\n{"epoch": 1}\n')
    with pytest.raises(DataError, match="line 1 is not a json object"):
        plots.training_curve(path, tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.gif"):
        plots.training_curve(metrics(path, 2), tmp_path / "a.gif")
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("classes", [1, 2, 13, 50, 61])
def test_confusion_matrix_of_any_size(tmp_path: Path, classes: int) -> None:
    matrix = np.eye(classes, dtype=np.int64) * 8
    plots.confusion_matrix(matrix, [f"a fairly long label {n}" for n in range(classes)], tmp_path / "c.png")
    height, width, _ = shape(tmp_path / "c.png")
    assert 300 < height < 4000
    assert 300 < width < 4000


def test_labels_are_text_whatever_they_hold(tmp_path: Path) -> None:
    labels = ["$x^", "_under{", "日本", "x" * 300, "\\frac"]
    plots.confusion_matrix(np.zeros((5, 5), dtype=np.int64), labels, tmp_path / "c.png")
    assert shape(tmp_path / "c.png")[1] < 2000


def test_confusion_matrix_wants_one_label_per_class(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\(2, 2\) does not go with 3 labels"):
        plots.confusion_matrix(np.zeros((2, 2), dtype=np.int64), ["a", "b", "c"], tmp_path / "c.png")


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys; import numpy as np; from ossicle.pictures import plots, spectrogram as s; "
        "s.png(s.Spectrogram(np.eye(4), np.arange(4), 1), 4); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
