import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ossicle.backbones import network
from ossicle.errors import WeightsError

BODY = bytes(range(256)) * 4000


class Site(ThreadingHTTPServer):
    """A server with faults: `breaks` answers end early, `ranges` and `mark` say what it can."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.mark, self.ranges, self.breaks, self.cut = BODY, '"v1"', True, 0, 300_000
        self.status, self.kind, self.away, self.length = 200, "application/octet-stream", "", True
        self.patience = ""
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights/a%3D1.pt"

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    server: Site

    def log_message(self, *args):
        pass

    def do_HEAD(self):  # noqa: N802
        self.server.asked.append(("HEAD", None))
        self.send_error(404)

    def do_GET(self):  # noqa: N802
        site = self.server
        site.asked.append(("GET", self.headers.get("Range")))
        if site.away:
            self.send_response(302)
            self.send_header("Location", site.away)
            self.end_headers()
            return
        if site.status != 200:
            self.send_response(site.status)
            if site.patience:
                self.send_header("Retry-After", site.patience)
            self.end_headers()
            return
        begin = self._begin()
        if begin and begin >= len(site.body):
            self.send_error(416)
            return
        self._head(begin)
        piece = site.body[begin:]
        if site.breaks:
            site.breaks -= 1
            piece = piece[: site.cut]
        self.wfile.write(piece)

    def _begin(self) -> int:
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.server.mark and self.headers.get("If-Range") == self.server.mark
        return int(span[1]) if span and same and self.server.ranges else 0

    def _head(self, begin: int) -> None:
        site = self.server
        self.send_response(206 if begin else 200)
        if site.length:
            self.send_header("Content-Length", str(len(site.body) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(site.body) - 1}/{len(site.body)}")
        if site.mark:
            self.send_header("ETag", site.mark)
        self.send_header("Content-Type", site.kind)
        self.end_headers()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(network.time, "sleep", lambda seconds: None)
    server = Site()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


def ranges(site: Site) -> list[str | None]:
    return [span for verb, span in site.asked if verb == "GET"]


def test_a_file_comes_whole_and_leaves_nothing_beside(site, tmp_path):
    network.download(site.address, tmp_path / "deep" / "a.pt")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.pt"]
    assert (tmp_path / "deep" / "a.pt").read_bytes() == BODY


def test_a_connection_that_ends_early_is_gone_on_with(site, tmp_path):
    site.breaks = 2
    network.download(site.address, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == BODY
    assert ranges(site) == [None, "bytes=300000-", "bytes=600000-"]


def test_an_answer_that_ends_early_again_and_again_is_never_taken_for_whole(site, tmp_path):
    site.breaks, site.cut = 99, 0
    with pytest.raises(WeightsError, match=r"ends after 0 of 1,024,000 bytes, 5 times; the same command goes on"):
        network.download(site.address, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


def test_the_next_call_goes_on_where_a_stopped_one_ended(site, tmp_path):
    site.breaks, site.cut = 5, 100_000
    with pytest.raises(WeightsError, match="goes on where this one stopped"):
        network.download(site.address, tmp_path / "a.pt")
    assert (tmp_path / "a.pt.part").stat().st_size == 500_000
    site.asked.clear()
    network.download(site.address, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == BODY and ranges(site) == ["bytes=500000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_whole_half_is_not_fetched_again(site, tmp_path):
    (tmp_path / "a.pt.part").write_bytes(BODY)
    notes = {"address": site.address, "mark": '"v1"', "size": len(BODY)}
    (tmp_path / "a.pt.part.json").write_text(json.dumps(notes))
    network.download(site.address, tmp_path / "a.pt")
    assert site.asked == [] and (tmp_path / "a.pt").read_bytes() == BODY


@pytest.mark.parametrize("fault", ["no ranges", "no mark", "weak mark", "changed", "other address", "too long", "junk"])
def test_it_starts_anew_where_going_on_could_mix_two_files(site, tmp_path, fault):
    half = {"address": site.address, "mark": '"v1"', "size": len(BODY)}
    left = b"x" * (len(BODY) + 1 if fault == "too long" else 1000)
    site.ranges = fault != "no ranges"
    if fault in ("no mark", "weak mark"):
        site.mark = half["mark"] = "" if fault == "no mark" else 'W/"v1"'
    if fault == "weak mark":
        half["mark"] = ""  # what `download` notes of a weak one
    if fault == "changed":
        site.mark = '"v2"'
    if fault == "other address":
        half["address"] += "?other"
    (tmp_path / "a.pt.part").write_bytes(left)
    (tmp_path / "a.pt.part.json").write_text("[" if fault == "junk" else json.dumps(half))
    network.download(site.address, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == BODY
    asks_for_the_rest = fault in ("no ranges", "changed")  # the server answers with the whole then
    assert ranges(site) == (["bytes=1000-"] if asks_for_the_rest else [None])


def test_a_weak_mark_is_not_noted(site, tmp_path):
    site.mark, site.breaks, site.cut = 'W/"v1"', 5, 10
    with pytest.raises(WeightsError):
        network.download(site.address, tmp_path / "a.pt")
    assert json.loads((tmp_path / "a.pt.part.json").read_text())["mark"] == ""
    assert ranges(site) == [None] * 5


def test_a_piece_of_another_file_is_thrown_away(site, tmp_path):
    (tmp_path / "a.pt.part").write_bytes(b"x" * 1000)
    notes = {"address": site.address, "mark": '"v1"', "size": len(BODY) + 5}
    (tmp_path / "a.pt.part.json").write_text(json.dumps(notes))
    network.download(site.address, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == BODY and ranges(site) == ["bytes=1000-", None]


def test_what_lies_beyond_the_end_is_fetched_anew(site, tmp_path):
    site.body = BODY[:500]
    (tmp_path / "a.pt.part").write_bytes(b"x" * 1000)
    (tmp_path / "a.pt.part.json").write_text(json.dumps({"address": site.address, "mark": '"v1"', "size": None}))
    network.download(site.address, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == BODY[:500]


def test_a_server_that_does_not_say_how_long_it_is(site, tmp_path):
    site.length = False
    network.download(site.address, tmp_path / "a.pt")
    assert hashlib.sha256((tmp_path / "a.pt").read_bytes()).digest() == hashlib.sha256(BODY).digest()


def test_a_web_page_is_no_file(site, tmp_path):
    site.kind = "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="answers with a web page, wanted a file"):
        network.download(site.address, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 5), (429, 5)])
def test_refusals(site, tmp_path, status, tries):
    site.status = status
    with pytest.raises(WeightsError, match=f"the server answers {status}"):
        network.download(site.address, tmp_path / "a.pt")
    assert len(site.asked) == tries


def test_a_server_that_asks_for_patience_gets_it(site, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(network.time, "sleep", slept.append)
    site.status, site.patience = 429, "7"
    with pytest.raises(WeightsError, match="answers 429"):
        network.download(site.address, tmp_path / "a.pt")
    assert slept == [7.0] * 4
    site.patience = "9999"
    with pytest.raises(WeightsError):
        network.download(site.address, tmp_path / "a.pt")
    assert slept[4:] == [30.0] * 4


@pytest.mark.parametrize("address", ["http://example.org/a.pt", "ftp://127.0.0.1/a", "file:///etc/passwd", "a.pt", ""])
def test_only_https_is_allowed(tmp_path, address):
    with pytest.raises(WeightsError, match="is not https"):
        network.download(address, tmp_path / "a.pt")


@pytest.mark.parametrize("away", ["http://example.org/a.pt", "ftp://127.0.0.1/a.pt"])
def test_redirects_do_not_leave_https(site, tmp_path, away):
    site.away = away
    with pytest.raises(WeightsError, match="redirects to .*, which is not https"):
        network.download(site.address, tmp_path / "a.pt")


def test_a_host_is_asked_once_and_any_answer_counts(site):
    assert network.reachable(site.address) and network.reachable(site.address.replace("a%3D1", "b"))
    assert site.asked == [("HEAD", None)]


def test_a_host_that_is_away(site):
    address = site.address
    site.shutdown()
    site.server_close()
    assert not network.reachable(address.replace("127.0.0.1", "localhost"))


def test_offline_no_host_is_asked(site, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not network.reachable(site.address) and site.asked == []
