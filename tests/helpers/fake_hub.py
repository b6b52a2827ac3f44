"""A Hugging Face Hub of one page on 127.0.0.1: enough of ``/resolve/`` for the real client, and ways to go wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from helpers.hub_uploads import Uploads

_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>[^?]+)")


@dataclass
class FakeHub:
    """What the server holds and does.

    Args:
        url: where it listens.
        files: (repository, commit) → name → content.
        refs: (repository, branch or tag) → commit.
        gated: repositories that need terms accepted.
        cut: file name → bytes after which every answer breaks off, or None for whole ones.
        lies: file name → what its body is instead: "endless", "drip" (one byte a second), "loop" (redirects to
            itself), "error" (500), "longer" or "shorter" than announced, "other" bytes.
        sizes: file name → the size that a HEAD request announces.
        sent: bytes of bodies sent.
        dripping: connections that bodies drip into.
        status: answer everything with this HTTP status.
        identify: send the header by which a client knows a Hub.
        requests: ``"METHOD path"`` of everything asked.
        uploads: what clients stored here.
    """

    url: str = ""
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    refs: dict[tuple[str, str], str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    lies: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    dripping: int = 0
    status: int | None = None
    identify: bool = True
    requests: list[str] = field(default_factory=list)
    uploads: Uploads = field(default_factory=Uploads)

    def add(self, repo: str, files: dict[str, bytes], *, revision: str = "main") -> str:
        """Push a commit and point the branch at it.

        Returns:
            The commit.
        """
        commit = hashlib.sha1(repr((repo, revision, sorted(files.items()))).encode()).hexdigest()
        self.files[repo, commit] = files
        self.refs[repo, revision] = commit
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        match = _RESOLVE.fullmatch(path)
        if self.status is not None:
            return self.status, {}, b""
        if match is None or not any(repo == match["repo"] for repo, _ in self.files):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        repo, revision = match["repo"], unquote(match["revision"])
        if repo in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        commit = self.refs.get((repo, revision), revision)
        if (repo, commit) not in self.files:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        content = self.files[repo, commit].get(unquote(match["file"]))
        identity = {"X-Repo-Commit": commit} if self.identify else {}
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound", **identity}, b""
        return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', **identity}, content


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._send(body=False)

        def do_GET(self) -> None:
            self._send(body=True)

        def do_POST(self) -> None:
            status, answer, (repo, files) = hub.uploads.answer(hub.url, self.path, self._body())
            if files:
                commit = hub.add(repo, files)
                answer = {"commitOid": commit, "commitUrl": f"{hub.url}/{repo}/commit/{commit}"}
            content = json.dumps(answer).encode()
            self._head(status, {"Content-Type": "application/json", "Content-Length": str(len(content))})
            self.wfile.write(content)

        def do_PUT(self) -> None:
            self._head(hub.uploads.store(self.path, self._body()), {"Content-Length": "0"})

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def log_message(self, format: str, *args: Any) -> None:
            hub.requests.append(f"{self.command} {self.path}")

        def _send(self, *, body: bool) -> None:
            status, headers, content = hub.answer(self.path)
            file = self.path.rpartition("/")[2]
            lie = hub.lies.get(file) if status == 200 else None
            if lie and (body or lie == "loop"):
                self._lie(lie, headers, content)
                return
            start = self._range_start() if status == 200 else 0
            if start:
                status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
            length = len(content) - start if body else hub.sizes.get(file, len(content))
            self._head(status, {**headers, "Content-Length": str(length)})
            end = hub.cut.get(file, len(content))
            if body:
                self.wfile.write(content[start:end])
                hub.sent += len(content[start:end])
                self.close_connection = end < len(content)

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _lie(self, lie: str, headers: dict[str, str], content: bytes) -> None:
            self.close_connection = True
            if lie == "loop":
                self._head(302, {**headers, "Location": self.path, "Content-Length": "0"})
            elif lie == "error":
                self._head(500, {"Content-Length": "0"})
            elif lie in ("endless", "drip"):
                self._head(200, headers)
                piece, pause = (bytes(2**16), 0) if lie == "endless" else (b"x", 1)
                hub.dripping += 1
                with contextlib.suppress(OSError):  # the client has gone
                    while True:
                        self.wfile.write(piece)
                        hub.sent += len(piece)
                        time.sleep(pause)
                hub.dripping -= 1
            else:
                wrong = {"longer": content + b"more", "shorter": content[:-9], "other": content[::-1]}[lie]
                self._head(200, {**headers, "Content-Length": str(len(wrong))})
                self.wfile.write(wrong)

        def _range_start(self) -> int:
            match = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            return int(match[1]) if match else 0

    return Handler


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve a fresh :class:`FakeHub` on a free port."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Stopwatch:
    """Seconds spent in a ``with`` block, without those in which the whole process stood still.

    A suspended laptop, or a machine that pauses one job for another, would else fail a test of a time limit.
    """

    _TICK, _LONGEST = 0.05, 1.0

    def __init__(self) -> None:
        self.seconds = 0.0
        self._stopped = threading.Event()

    def __enter__(self) -> Stopwatch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(self._TICK):
            now = time.monotonic()
            self.seconds += min(now - last, self._LONGEST)
            last = now


def dead_port() -> str:
    """URL of a port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """URL of a port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def use_hub(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the client at ``url``; it reads its environment only once, when imported."""
    from huggingface_hub import constants

    values = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": True,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_ETAG_TIMEOUT": constants.DEFAULT_ETAG_TIMEOUT,
    }
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    set_constants(values, monkeypatch)


def set_constants(values: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Change settings of the client, which forgets its connections."""
    from huggingface_hub import constants, file_download, utils

    for module in (constants, file_download):  # older versions copy the names
        for name in values.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, values[name])
    # the client of one test must not remember the proxies of another, or older versions that they were online
    getattr(utils, "close_session", getattr(utils, "reset_sessions", None))()


def run_cold(program: str, tmp_path: Path) -> str:
    """Output of a program in its own process, not in offline mode, with a Hub that does not answer."""
    environment = {**os.environ, "HF_ENDPOINT": dead_port(), "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout
