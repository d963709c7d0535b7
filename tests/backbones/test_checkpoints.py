import argparse
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ossicle.backbones import checkpoints
from ossicle.errors import WeightsError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}


@pytest.mark.parametrize("suffix", checkpoints.PICKLES)
@pytest.mark.parametrize("wrapper", [None, *checkpoints.WRAPPERS])
def test_pickles_are_unwrapped_and_flat(tmp_path, suffix, wrapper):
    path = tmp_path / f"w{suffix}"
    options = argparse.Namespace(lr=0.1)
    scores = {"score": np.float32(0.5), "best": np.arange(3.0)}
    extra = {"epoch": 3, "args": options, "metrics": scores}
    torch.save({**STATE, "epoch": 3} if wrapper is None else {**extra, wrapper: STATE}, path)
    found = checkpoints.read_checkpoint(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[k], STATE[k]) and found[k].dtype == STATE[k].dtype for k in STATE)


def test_old_pickle_names_and_formats_are_read(tmp_path):
    path = tmp_path / "old.pth"
    scalar, array = np.float64(1.5), np.arange(3.0)
    torch.save({"state_dict": STATE, "s": scalar, "a": array}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"cnumpy.core.multiarray\nscalar" in data
    path.write_bytes(data)
    assert checkpoints.read_checkpoint(path).keys() == STATE.keys()


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", checkpoints.PICKLES)
def test_a_pickle_that_runs_code_is_refused(tmp_path, zipped, suffix):
    path, trace = tmp_path / f"w{suffix}", tmp_path / "trace"
    torch.save({"model": STATE, "x": Hostile(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"wants to run (posix|nt)\.system, which is refused"):
        checkpoints.read_checkpoint(path)
    assert not trace.exists()
    path.write_bytes(pickle.dumps(Hostile(trace)))  # not written by torch at all
    with pytest.raises(WeightsError):
        checkpoints.read_checkpoint(path)
    assert not trace.exists()


def test_damaged_files_are_errors(tmp_path):
    whole = tmp_path / "w.safetensors"
    save_file(STATE, whole)
    data = whole.read_bytes()
    for cut in (0, 4, 20, len(data) - 1):
        whole.write_bytes(data[:cut])
        with pytest.raises(WeightsError, match="not a whole safetensors file"):
            checkpoints.read_checkpoint(whole)
    whole.write_bytes(struct.pack("<Q", 2**62) + data[8:])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        checkpoints.read_checkpoint(whole)
    pickled = tmp_path / "w.pt"
    torch.save(STATE, pickled)
    data = pickled.read_bytes()
    for cut in (0, 10, len(data) // 2, len(data) - 30):
        pickled.write_bytes(data[:cut])
        with pytest.raises(WeightsError, match="damaged, fetch it again"):
            checkpoints.read_checkpoint(pickled)


def test_wrong_places_are_errors(tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint at"):
        checkpoints.read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match=r"wanted model.safetensors or pytorch_model.bin"):
        checkpoints.read_checkpoint(tmp_path)
    (tmp_path / "w.npz").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"wanted one of .safetensors"):
        checkpoints.read_checkpoint(tmp_path / "w.npz")
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="holds no tensors"):
        checkpoints.read_checkpoint(tmp_path / "w.pt")
    index = tmp_path / "model.safetensors.index.json"
    for text, fault in (("{", "damaged"), ("[]", "damaged"), ('{"weight_map": {"a": "../w.pt"}}', "names ../w.pt")):
        index.write_text(text)
        with pytest.raises(WeightsError, match=fault):
            checkpoints.read_checkpoint(tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:899a8c62\nsize 4066513\n"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
@pytest.mark.parametrize(
    ("data", "told"),
    [(POINTER, "pointer of Git LFS"), (b"\n<!DOCTYPE html><html>", "web page"), (b"<html><body>no", "web page")],
)
def test_what_lies_in_the_place_of_weights_is_named(tmp_path, suffix, data, told):
    (tmp_path / f"w{suffix}").write_bytes(data)
    with pytest.raises(WeightsError, match=told):
        checkpoints.read_checkpoint(tmp_path / f"w{suffix}")


def test_a_file_that_begins_like_a_tag_by_chance_is_read(tmp_path):
    file = tmp_path / "w.safetensors"
    for size in range(1, 120):  # the first byte is that of the length of the header
        save_file({"a" * size: torch.ones(1)}, file)
        if file.read_bytes()[:1] == b"<":
            break
    else:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            rest = opened.read()
        more = (0x3C - length) % 256
        file.write_bytes(struct.pack("<Q", length + more) + rest[:length] + b" " * more + rest[length:])
    assert file.read_bytes()[:1] == b"<" and len(checkpoints.read_checkpoint(file)) == 1
