"""What the demo does with a captioner's rows; with real weights in `tests/share/test_zoo.py`."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from tests import tiny
from torch import nn

from ossicle.cli.demo import captioned
from ossicle.contracts import Batch, Clip, Prediction
from ossicle.errors import AudioError
from ossicle.predict.report import Item
from ossicle.sound import audio


class Writer:
    """Captions a clip by its file's name, from one tag."""

    kind = "caption-llm"

    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}

    def parts(self) -> dict[str, nn.Module]:
        return {"mapper": nn.Linear(1, 1)}

    def collate(self, clips: Sequence[Clip], generator: torch.Generator | None) -> Batch:
        for clip in clips:
            audio.load(clip.path, 16_000)
            if clip.path.stem == "odd":
                raise AudioError(f"{clip.path}: too short for words")
        return Batch(clips)

    def predict(self, batch: Batch) -> list[Prediction]:
        return [
            Prediction(str(c.path), caption=f"a {c.path.stem}", tags=[(c.path.stem, 0.5, 0.1, 0.2)])
            for c in batch.clips
        ]


def test_an_item_gets_the_caption_and_the_tags_of_its_row_and_nothing_else_changes(tmp_path: Path, capfd) -> None:
    sounds = [tiny.write_tone(tmp_path / f"{name}.wav", 440, 0.3) for name in ("bee", "odd", "cow")]
    rows = [Prediction(str(path), label="hen", score=0.75, scores={"hen": 0.75}) for path in sounds]
    bad = Item(Prediction(str(tmp_path / "gone.wav"), error="not there"))
    recipe = SimpleNamespace(task=SimpleNamespace(window_s=10.0), data=SimpleNamespace(channel=0))
    loaded = SimpleNamespace(task=Writer(), recipe=recipe)
    told: list[str] = []
    bee, odd, cow, gone = captioned([*map(Item, rows), bad], loaded, told.append)
    assert (bee.row.caption, bee.row.tags) == ("a bee", [("bee", 0.5, 0.1, 0.2)])
    assert (cow.row.caption, cow.row.tags) == ("a cow", [("cow", 0.5, 0.1, 0.2)])
    assert (bee.row.label, bee.row.scores, bee.row.path) == ("hen", {"hen": 0.75}, str(sounds[0]))
    assert odd == Item(rows[1]) and gone == bad
    assert "odd.wav has no caption: " in (said := capfd.readouterr().err) and "too short for words" in said
