"""Model arguments: directories, Hub ids against a local server with the Hub's routes, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from jang_tools.errors import IoError
from jang_tools.hub import locate_model, resolve_model

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
COMMIT = hashlib.sha1(b"main").hexdigest()
TAGGED = hashlib.sha1(b"v1").hexdigest()
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model-00001-of-00001.safetensors": b"weights",
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"hello",
    "tokenizer.model": b"\x00",
    "modeling_custom.py": b"raise SystemExit('code from a model directory')",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"the weights again",
    "onnx/model.safetensors": b"another format",
    "README.md": b"text",
}
WANTED = {
    "config.json",
    "model-00001-of-00001.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "chat_template.jinja",
    "tokenizer.model",
}


@dataclass
class Hub:
    """A server on the loopback interface; ``requests`` are the paths asked for."""

    endpoint: str
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))


class Handler(BaseHTTPRequestHandler):
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
        revisions = {"main": COMMIT, "v1": TAGGED, COMMIT: COMMIT, TAGGED: TAGGED}
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
        data = self.hub.files[name]
        headers = {"ETag": f'"{oid(data)}"', "X-Repo-Commit": commit}
        self._send(200, data, headers, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    handler = type("BoundHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield handler.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


SCRIPT = """
import json, sys
from jang_tools.errors import JangError
from jang_tools.hub import locate_model
try:
    found = locate_model(sys.argv[1])
    print(json.dumps({"path": str(found.path), "name": found.name, "revision": found.revision}))
except JangError as error:
    print(json.dumps({"error": str(error), "hint": error.hint}))
"""


def locate(text: str, cache: Path, endpoint: str, **environment: str) -> dict[str, str]:
    """`locate_model` in a process of its own, as huggingface_hub reads its settings at import."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, text],
        env={**inherited, "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def files_in(directory: str) -> set[str]:
    return {str(file.relative_to(directory)) for file in Path(directory).rglob("*")}


def test_a_directory_is_itself_and_named_without_its_path(tmp_path: Path) -> None:
    directory = tmp_path / "org" / "model"
    directory.mkdir(parents=True)
    assert resolve_model(directory) == directory
    assert locate_model(str(directory)).name == "model"
    assert locate_model(directory).revision == ""


def test_a_directory_counts_before_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("org/model") == Path("org/model")


@pytest.mark.parametrize(
    "text",
    ["missing", "./missing/model", "/missing", "a/b/c", "~/model", "org/", "@x", "org/a..b", " ",
     "org/model@", "org/model name", "https://host/org/model", "-x/y"],
)  # fmt: skip
def test_anything_else_is_no_such_directory(text: str) -> None:
    with pytest.raises(IoError, match="no such directory") as caught:
        resolve_model(text)
    assert caught.value.hint


def test_a_file_is_not_a_model_directory(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(IoError, match="a file, where a model directory is expected"):
        resolve_model(file)


def test_a_hub_model_is_fetched_without_code(tmp_path: Path, hub: Hub) -> None:
    found = locate("org/model", tmp_path, hub.endpoint)
    assert found["name"] == "org/model"
    assert found["revision"] == COMMIT
    assert files_in(found["path"]) == WANTED
    assert Path(found["path"], "model-00001-of-00001.safetensors").read_bytes() == b"weights"
    assert Path(found["path"]).is_relative_to(tmp_path)
    asked = {request.rpartition("/")[2] for request in hub.requests}
    assert not asked & {"modeling_custom.py", "pytorch_model.bin", "README.md"}


def test_a_revision_is_honoured_and_the_cache_used_offline(tmp_path: Path, hub: Hub) -> None:
    found = locate("org/model@v1", tmp_path, hub.endpoint)
    assert found["revision"] == TAGGED
    before = len(hub.requests)
    again = locate("org/model@v1", tmp_path, hub.endpoint, HF_HUB_OFFLINE="1")
    assert again == found
    assert len(hub.requests) == before


def test_a_token_opens_a_private_model(tmp_path: Path, hub: Hub) -> None:
    refused = locate("org/private", tmp_path, hub.endpoint)
    assert "the Hub shows no such model" in refused["error"]
    assert "HF_TOKEN" in refused["hint"]
    found = locate("org/private", tmp_path, hub.endpoint, HF_TOKEN="good")
    assert files_in(found["path"]) == WANTED
    assert "good" in hub.tokens


def test_a_hub_model_converts_and_records_where_it_came_from(tmp_path: Path, hub: Hub) -> None:
    hub.files = {file.name: file.read_bytes() for file in DEMO.iterdir() if file.is_file()}
    output = tmp_path / "out"
    arguments = ["convert", "--model", "org/model@v1", "--method", "rtn", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "jang_tools.cli.main", *arguments],
        env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Done \N{HEAVY CHECK MARK}"
    source = json.loads((output / "jang_config.json").read_text("utf-8"))["source_model"]
    assert source["name"] == "org/model"
    assert source["revision"] == TAGGED


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("org/absent", "no such directory, and the Hub shows no such model", "spelling"),
        ("org/model@v9", "org/model: the Hub knows no revision 'v9'", "branch"),
        ("org/gated", "org/gated: access is restricted on the Hub", "HF_TOKEN"),
        ("org/broken", "org/broken: the Hub answers with HTTP 400", "later"),
    ],
)
def test_refusals_of_the_hub_are_one_line_with_a_hint(
    tmp_path: Path, hub: Hub, text: str, error: str, hint: str
) -> None:
    answer = locate(text, tmp_path, hub.endpoint)
    assert error in answer["error"]
    assert hint in answer["hint"]
    assert "\n" not in answer["error"] + answer["hint"]


def test_offline_without_a_copy_says_so(tmp_path: Path, hub: Hub) -> None:
    answer = locate("org/model", tmp_path, hub.endpoint, HF_HUB_OFFLINE="1")
    assert "not complete in the Hub cache while offline" in answer["error"]
    assert "HF_HUB_OFFLINE" in answer["hint"]
    assert hub.requests == []


def test_an_unreachable_hub_says_so(tmp_path: Path) -> None:
    answer = locate("org/model", tmp_path, "http://127.0.0.1:9")  # the discard port: refused
    assert "the Hub cannot be reached" in answer["error"]
    assert "HF_ENDPOINT" in answer["hint"]
