"""Model arguments: directories, Hub ids against a local server with the Hub's routes, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import COMMIT, TAGGED, Hub, directory_files, running_hub
from jang_tools.errors import IoError
from jang_tools.hub import locate_model, resolve_model

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
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


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as found:
        found.files = dict(FILES)
        yield found


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
    hub.files = directory_files(DEMO)
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
