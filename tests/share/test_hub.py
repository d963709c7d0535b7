"""An adapter goes to a hub and is used from there: the verbs as a user runs them, against a hub made here."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from tests.conftest import pulled

from ossicle.errors import CheckpointError, UsageError
from ossicle.share import zoo
from ossicle.share.hub import push

COMMIT = "c0ffee" + "0" * 34
FILES = {"ossicle.json", "ossicle.safetensors", "recipe.toml", "labels.json", "README.md", "CREDITS.txt"}


class Hub(ThreadingHTTPServer):
    """As much of the hub as uploading and downloading a small model takes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        sent = {"Content-Length": str(len(body)), "Content-Type": "application/json"} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        for key, value in sent.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def say(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode())

    def do_POST(self) -> None:
        path, data = urlsplit(self.path).path, self.body()
        if self.headers.get("Authorization") != "Bearer hf_test":
            return self.say({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            given = json.loads(data)
            name = "/".join(filter(None, [given.get("organization"), given["name"]]))
            self.server.repos.setdefault(name, {})
            return self.say({"url": f"{self.server.url}/{name}"})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(data)["files"]
            ]
            return self.say({"files": files})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    self.server.repos[match[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/{match[1]}/commit/{COMMIT}"
            return self.say({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        return self.say({}, 200)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            if match[1] not in self.server.repos:
                return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
            names = [{"rfilename": name} for name in self.server.repos[match[1]]]
            return self.say({"id": match[1], "sha": COMMIT, "siblings": names, "private": False, "tags": []})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            files = self.server.repos[match[1]].items()
            return self.say([{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in files])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            data = self.server.repos[match[1]][match[2]]
            return self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)
        return self.say({}, 404)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def ossicle(hub: Hub, home: Path, *words: str, token: str = "hf_test") -> subprocess.CompletedProcess[str]:
    offline = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": token}
    code = "from ossicle.cli import main; main()"
    env = (
        os.environ | offline | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    )
    return subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, timeout=120)


def test_push_and_use_from_the_hub(hub: Hub, tmp_path: Path, whisper_weights: Path) -> None:
    pulled("yamnet")
    pushed = ossicle(hub, tmp_path, "push", "esc50-offline", "me/birds")
    assert (pushed.returncode, pushed.stderr) == (0, ""), pushed.stderr
    assert f"me/birds/commit/{COMMIT}" in pushed.stdout
    assert set(hub.repos["me/birds"]) == FILES
    folder = zoo.find("esc50-offline")
    assert hub.repos["me/birds"]["ossicle.safetensors"] == (folder / "ossicle.safetensors").read_bytes()
    wave = tmp_path / "a.wav"
    from tests import tiny

    tiny.write_tone(wave, 440.0, 2.0)
    for name in ("me/birds", "esc50-offline"):
        done = ossicle(hub, tmp_path, "predict", name, str(wave), "--out", str(tmp_path / f"{name[:2]}.jsonl"))
        assert done.returncode == 0, done.stderr
    scores = [json.loads((tmp_path / f"{name}.jsonl").read_text())["scores"] for name in ("me", "es")]
    assert scores[0] == scores[1]


def test_refusals_are_one_line(hub: Hub, tmp_path: Path) -> None:
    refused = ossicle(hub, tmp_path, "push", "esc50-offline", "me/birds", token="hf_wrong")
    assert refused.returncode == 2 and "me/birds was not uploaded" in refused.stderr and "HF_TOKEN" in refused.stderr
    absent = ossicle(hub, tmp_path, "predict", "me/fish", str(tmp_path), "--out", str(tmp_path / "x.csv"))
    assert absent.returncode in (1, 2) and "no folder 'me/fish'" in absent.stderr
    hub.repos["me/empty"] = {"README.md": b"hello"}
    empty = ossicle(hub, tmp_path, "predict", "me/empty", str(tmp_path), "--out", str(tmp_path / "x.csv"))
    assert "holds no adapter" in empty.stderr
    assert all(len(done.stderr.splitlines()) == 1 for done in (refused, absent, empty))


def test_wrong_names_and_folders_never_reach_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="write it like name/birds"):
        push(tmp_path, "birds")
    with pytest.raises(CheckpointError, match="is not an adapter folder"):
        push(tmp_path, "me/birds")
