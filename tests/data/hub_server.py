"""A server on the loopback interface with the Hub's routes, which can be slow, fail, refuse ranges
and change its files: what huggingface_hub asks of the real one, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"main").hexdigest()
TAGGED = hashlib.sha1(b"v1").hexdigest()
MOVED = hashlib.sha1(b"later main").hexdigest()
_RANGE = re.compile(r"bytes=(?P<begin>\d+)-(?P<end>\d*)")
_PIECE = 1 << 14


@dataclass
class Hub:
    """``requests``: the paths asked for; ``whole``: names of files sent whole, ``sent`` the order
    of begun and ended ones."""

    endpoint: str
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    main: str = COMMIT
    ranges: bool = True
    failures: dict[str, list[int]] = field(default_factory=dict)  # name -> answers before the file
    cut: dict[str, int] = field(default_factory=dict)  # name -> times that its body breaks off
    after_header: dict[str, list[int]] = field(default_factory=dict)  # failures from then on
    changes: dict[str, bytes] = field(default_factory=dict)  # content behind the first range
    slow: float = 0.0  # seconds for each piece of a file
    slow_names: set[str] = field(default_factory=set)  # of these alone
    whole: list[str] = field(default_factory=list)
    ended: list[tuple[str, float]] = field(default_factory=list)
    begun: list[tuple[str, float]] = field(default_factory=list)

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """That of a process which takes this for the Hub."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {**kept, "HF_ENDPOINT": self.endpoint, "HF_HUB_CACHE": str(cache), **more}


class Handler(BaseHTTPRequestHandler):
    """Answers for ``hub``."""

    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's stderr is the test's."""

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.tokens.add(token)
        if path.startswith("/api/models/org/private") and token != "good":
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        elif path.startswith("/api/models/org/gated"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        elif path.startswith("/api/models/org/broken"):
            self._send(400, b"{}", {}, body)
        elif path.startswith(("/api/models/org/model", "/api/models/org/private")):
            self._api(path, body)
        elif path.startswith(("/org/model/resolve/", "/org/private/resolve/")):
            self._file(path, body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _api(self, path: str, body: bool) -> None:
        commits = (COMMIT, TAGGED, MOVED)
        revisions = {"main": self.hub.main, "v1": TAGGED} | {commit: commit for commit in commits}
        parts = path.split("/")[5:]
        kind, revision = (parts[0], parts[1]) if len(parts) > 1 else ("revision", "main")
        if revision not in revisions:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        elif kind == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": oid(data)}
                for name, data in self.hub.files.items()
            ]
            self._send(200, json.dumps(entries).encode(), {}, body)
        else:
            info = {
                "id": "org/model",
                "sha": revisions[revision],
                "siblings": [{"rfilename": name} for name in self.hub.files],
            }
            self._send(200, json.dumps(info).encode(), {}, body)

    def _file(self, path: str, body: bool) -> None:
        _, _, _, _, commit, name = path.split("/", 5)
        if body and self.hub.failures.get(name):
            self._send(self.hub.failures[name].pop(0), b"{}", {}, body)
            return
        data = self.hub.files[name]
        headers = {"ETag": f'"{oid(data)}"', "X-Repo-Commit": commit}
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None or not self.hub.ranges:
            if body:
                self.hub.whole.append(name)
                self.hub.begun.append((name, time.monotonic()))
            self._send(200, data, headers, body, name)
            return
        begin = int(wanted["begin"])
        end = int(wanted["end"]) + 1 if wanted["end"] else len(data)
        end = min(end, len(data))
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        self._send(206, data[begin:end], headers, body)
        if name in self.hub.after_header:
            self.hub.failures[name] = self.hub.after_header[name]
        if name in self.hub.changes:
            self.hub.files[name] = self.hub.changes[name]

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], body: bool, name: str = ""
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not body:
            return
        if len(data) > _PIECE and self.hub.cut.get(name, 0) > 0:
            self.hub.cut[name] -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if name and self.hub.slow and (name in self.hub.slow_names or not self.hub.slow_names):
            for begin in range(0, len(data), _PIECE):
                self.wfile.write(data[begin : begin + _PIECE])
                time.sleep(self.hub.slow)
        else:
            self.wfile.write(data)
        if name and status == 200:
            self.hub.ended.append((name, time.monotonic()))


def oid(data: bytes) -> str:
    """The version of a file, as git names it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def directory_files(directory: Path) -> dict[str, bytes]:
    """The files of a directory by name, as ``Hub.files`` wants them."""
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    handler = type("BoundHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    handler.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
