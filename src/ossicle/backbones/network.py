"""Which hosts answer, and files over https that go on where they stopped.

Only https is allowed, and plain http to this machine itself. `HF_HUB_OFFLINE` keeps from every host.
"""

import http.client
import ipaddress
import json
import logging
import os
import re
import threading
import time
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ossicle import __version__
from ossicle.errors import WeightsError

PROBE_SECONDS = 3.0
STALL_SECONDS = 30.0
TRIES = 5
LATER = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another one a moment later
CHUNK = 1 << 20
log = logging.getLogger(__name__)


def offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids to ask any host."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def hub_reachable() -> bool:
    """Whether the Hugging Face hub answers; see `reachable`."""
    from huggingface_hub import constants

    return reachable(constants.ENDPOINT)


def reachable(address: str) -> bool:
    """Whether the host of an address answers within three seconds; asked once a process, never when `offline`."""
    parts = urlsplit(address)
    return not offline() and _answers(f"{parts.scheme}://{parts.netloc}/")


@cache
def _answers(root: str) -> bool:
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(root, method="HEAD"), timeout=PROBE_SECONDS):
                answers.append(True)
        except urllib.error.HTTPError:  # it said no, so it is there
            answers.append(True)
        except (OSError, ValueError, http.client.HTTPException):
            pass

    probe = threading.Thread(target=ask, daemon=True)  # a name look-up has no timeout of its own
    probe.start()
    probe.join(PROBE_SECONDS)
    return bool(answers)


def download(address: str, target: Path) -> None:
    """Fetch a file, going on with what an interrupted try left if it is still the same file there.

    The half lies beside `target` as `.part`, with `.part.json` that knows its address, size and the server's mark of
    its version. Without such a mark, or from a server that knows no ranges, the file is fetched from its start.

    Args:
        address: https, or http to this machine.
        target: where the whole file is put.

    Raises:
        WeightsError: another scheme, no such file, a web page instead of a file, or a connection that breaks again
            and again.
    """
    _check(address)
    fetch = _Fetch(address, target)
    fault = ""
    for number in range(TRIES):
        if fault:
            log.info("%s: %s; trying again", address, fault)
            time.sleep(max(min(0.3 * 2**number, 5.0), fetch.wait))
        fault = fetch.once()
        if not fault:
            fetch.finish()
            return
    raise WeightsError(f"{address}: {fault}, {TRIES} times; the same command goes on where this one stopped")


def _check(address: str) -> None:
    if urlsplit(address).scheme != "https" and not _own(address):
        raise WeightsError(f"{address} is not https; give an address that begins with https://")


def _own(address: str) -> bool:
    """Whether an address is http to this machine itself."""
    parts = urlsplit(address)
    if parts.scheme != "http" or not parts.hostname:
        return False
    try:
        return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return False


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects that stay on https."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        if urlsplit(newurl).scheme != "https" and not (_own(newurl) and _own(req.full_url)):
            raise WeightsError(f"{req.full_url} redirects to {newurl}, which is not https; fetch the file by hand")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Fetch:
    """One file on its way.

    Args:
        address: where from.
        target: where to.
    """

    def __init__(self, address: str, target: Path) -> None:
        self.address = address
        self.target = target
        self.part = target.with_name(f"{target.name}.part")
        self.notes = target.with_name(f"{target.name}.part.json")
        self.wait = 0.0  # seconds the server asks for
        self.opener = urllib.request.build_opener(_Redirects)

    def once(self) -> str:
        """One try; what went wrong that may go well the next time, or ""."""
        have, known = self._left()
        if have and have == known.get("size"):
            return ""
        headers = {"Accept-Encoding": "identity", "User-Agent": f"ossicle/{__version__}"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": known["mark"]}
        try:
            answer = self.opener.open(urllib.request.Request(self.address, headers=headers), timeout=STALL_SECONDS)
        except urllib.error.HTTPError as error:
            return self._refused(error)
        except (OSError, http.client.HTTPException) as error:
            return f"no connection ({getattr(error, 'reason', error)})"
        with answer:
            return self._take(answer, have, known)

    def finish(self) -> None:
        """Give the whole file its name."""
        self.part.replace(self.target)
        self.notes.unlink(missing_ok=True)

    def _left(self) -> tuple[int, dict[str, Any]]:
        """Bytes of an earlier try that can be gone on with, and its notes."""
        try:
            known = json.loads(self.notes.read_text(encoding="utf-8"))
            same = known["address"] == self.address and bool(known["mark"])
            have = self.part.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            return 0, {}
        return (have, known) if same and have <= (known.get("size") or have) else (0, {})

    def _refused(self, error: urllib.error.HTTPError) -> str:
        error.close()
        if error.code == 416:
            self.notes.unlink(missing_ok=True)
            return "it has changed since the last try"
        if error.code in LATER:
            asked = error.headers.get("Retry-After", "")
            self.wait = min(float(asked), STALL_SECONDS) if asked.isdigit() else 0.0
            return f"the server answers {error.code} {error.reason}"
        raise WeightsError(f"{self.address}: the server answers {error.code} {error.reason}; fetch the file by hand")

    def _take(self, answer: Any, have: int, known: dict[str, Any]) -> str:
        if "html" in answer.headers.get("Content-Type", ""):
            raise WeightsError(f"{self.address} answers with a web page, wanted a file; is this network open?")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status == 206:
            if not (span and int(span[1]) == have and int(span[2]) == (known.get("size") or int(span[2]))):
                self.notes.unlink(missing_ok=True)
                return "it sends another piece than was asked for"
            size: int | None = int(span[2])
        else:  # the whole file: no ranges there, or another version
            length = answer.headers.get("Content-Length", "")
            have, size = 0, int(length) if length.isdigit() else None
        tag, date = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
        mark = date if not tag or tag.startswith("W/") else tag  # a weak tag may stand for other bytes
        self.target.parent.mkdir(parents=True, exist_ok=True)
        with self.part.open("ab" if have else "wb") as file:
            notes = {"address": self.address, "mark": mark, "size": size}
            self.notes.write_text(json.dumps(notes), encoding="utf-8")
            fault = _pour(answer, file)
            come = file.tell()
        if not fault and size is not None and come != size:
            fault = f"it ends after {come:,} of {size:,} bytes"
        return fault


def _pour(answer: Any, file: Any) -> str:
    """Copy what comes; why it stopped early, or ""."""
    while True:
        try:
            piece = answer.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            return f"the connection broke after {file.tell():,} bytes ({type(error).__name__})"
        if not piece:
            return ""
        file.write(piece)
