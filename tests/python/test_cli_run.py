"""jang run: one shot, conversation, limits, interruption; text on stdout and nothing else there."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jang_tools import load
from jang_tools.cli import run as run_command
from jang_tools.cli.main import cli
from jang_tools.cli.session import Session
from jang_tools.generate import generate
from jang_tools.model import Model
from jang_tools.tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
PROMPT = "Once upon a time there was a"
TEMPLATE = (
    "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def jang(*arguments: str | Path, input: str | bytes | None = None) -> Result:
    return CliRunner().invoke(
        cli, ["run", *(str(argument) for argument in arguments)], input=input, prog_name="jang"
    )


@pytest.fixture(scope="module")
def demo() -> tuple[Model, Tokenizer]:
    return load(DEMO)


@pytest.fixture
def chatty(tmp_path: Path) -> Path:
    """The demo model with a chat template."""
    directory = tmp_path / "chatty"
    shutil.copytree(DEMO, directory)
    (directory / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return directory


# --- one shot ----------------------------------------------------------------------------------


def test_stdout_is_the_text_and_stderr_the_rest(demo: tuple[Model, Tokenizer]) -> None:
    done = jang("--model", DEMO, "--prompt", PROMPT, "--max-tokens", "30")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == generate(*demo, PROMPT, max_tokens=30) + "\n"
    lines = done.stderr.splitlines()
    assert lines[0] == "loading (mmap)"
    assert lines[1].startswith("unquantized, 13.6 MB, loaded in ")
    assert lines[-1].startswith("prompt: ")
    assert lines[-1].count("tok/s") == 2


def test_quiet_leaves_the_text_alone() -> None:
    done = jang("--model", DEMO, "--prompt", PROMPT, "--max-tokens", "3", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")


def test_json_is_one_document(demo: tuple[Model, Tokenizer]) -> None:
    done = jang("--model", DEMO, "--prompt", PROMPT, "--max-tokens", "12", "--json")
    found = json.loads(done.stdout)
    assert found["schema"] == "jang.run/1"
    assert found["text"] == demo[1].decode(found["tokens"])
    assert len(found["tokens"]) == found["generation_tokens"] == 12
    assert found["finish_reason"] == "length"
    assert found["prompt_tokens"] == len(demo[1].encode(PROMPT))
    for name in ("prompt_tps", "generation_tps", "load_seconds"):
        assert found[name] > 0


def test_a_prompt_from_stdin(demo: tuple[Model, Tokenizer]) -> None:
    done = jang("--model", DEMO, "--prompt", "-", "--max-tokens", "5", input=PROMPT)
    assert done.stdout == generate(*demo, PROMPT, max_tokens=5) + "\n"
    broken = jang("--model", DEMO, "--prompt", "-", input=b"\xff")
    assert broken.exit_code == 1
    assert "stdin: the prompt is not valid UTF-8" in broken.stderr
    empty = jang("--model", DEMO, "--prompt", "-", input=b"")
    assert empty.exit_code == 1
    assert "the prompt is empty" in empty.stderr


def test_sampling_options_reach_the_sampler() -> None:
    def text(*options: str) -> str:
        done = jang("--model", DEMO, "--prompt", PROMPT, "--max-tokens", "25", *options)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    greedy = text()
    assert text("--temp", "1", "--seed", "5") == text("--temperature", "1", "--seed", "5")
    assert text("--temp", "1", "--seed", "5") != text("--temp", "1", "--seed", "6")
    assert text("--temp", "1", "--top-k", "1") == greedy
    assert text("--temp", "1", "--top-p", "0.000001") == greedy
    assert text("--temp", "1", "--min-p", "1") == greedy
    assert text("--repetition-penalty", "3") != greedy
    stop = greedy[12:15]
    assert text("--stop", "\0never", "--stop", stop) == greedy[: greedy.index(stop)] + "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temp", "-1"], "temperature"),
        (["--top-p", "0"], "top_p"),
        (["--stop", ""], "stop"),
        (["--context", "5000"], "--context 5000 exceeds the model's limit of 1024"),
        (["--context", "3"], "context holds 3"),
        (["--prompt", "\udcff"], "not valid UTF-8 at character 1"),
        (["--temp", "nan"], "temperature"),
        (["--system", "x"], "--system needs a chat template, and this model has none"),
    ],
)
def test_unusable_options_are_one_line(options: list[str], message: str) -> None:
    done = jang("--model", DEMO, "--prompt", PROMPT, "--quiet", *options)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_a_full_context_ends_with_length(demo: tuple[Model, Tokenizer]) -> None:
    count = len(demo[1].encode(PROMPT))
    options = ("--model", DEMO, "--prompt", PROMPT, "--context", str(count + 4))
    assert json.loads(jang(*options, "--json").stdout)["finish_reason"] == "length"
    done = jang(*options)
    assert "stopped at the limit of tokens" in done.stderr
    assert f"generation: {4} tokens" in done.stderr


def test_without_a_tokenizer_the_reason_is_given(tmp_path: Path) -> None:
    directory = tmp_path / "bare"
    shutil.copytree(DEMO, directory, ignore=shutil.ignore_patterns("tokenizer*"))
    done = jang("--model", directory, "--prompt", "x", "--quiet")
    assert done.exit_code == 1
    assert "tokenizer.json: no such file" in done.stderr


# --- memory ------------------------------------------------------------------------------------


def test_weights_larger_than_memory_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from jang_tools import memory

    monkeypatch.setattr(memory, "total_memory", lambda: 1_000_000)
    done = jang("--model", DEMO, "--prompt", PROMPT, "--max-tokens", "1", "--quiet")
    assert done.exit_code == 0
    assert "warning: the weights take 13.6 MB, the memory holds 1.0 MB" in done.stderr


def test_the_context_shrinks_to_free_memory_with_a_notice(
    monkeypatch: pytest.MonkeyPatch, demo: tuple[Model, Tokenizer]
) -> None:
    from jang_tools import memory

    core = demo[0].core
    room = core.weight_bytes + core.kv_bytes(512)
    monkeypatch.setattr(memory, "available_memory", lambda: room)
    done = jang("--model", DEMO, "--prompt", PROMPT, "--max-tokens", "1")
    assert "context: 512 of the model's 1024 tokens" in done.stderr
    asked = jang("--model", DEMO, "--prompt", PROMPT, "--max-tokens", "1", "--context", "700")
    assert asked.exit_code == 0
    assert "warning: a full context of 700 tokens takes" in asked.stderr
    fits = jang("--model", DEMO, "--prompt", PROMPT, "--max-tokens", "1", "--context", "500")
    assert "context" not in fits.stderr


def test_memory_of_this_machine_is_a_number_or_unknown() -> None:
    from jang_tools.memory import available_memory, total_memory

    total, available = total_memory(), available_memory()
    assert total is None or total > 10**7
    assert available is None or available > 0
    if sys.platform == "linux":
        assert total is not None
        assert available is not None


# --- conversations -----------------------------------------------------------------------------


def test_lines_are_answered_one_by_one(demo: tuple[Model, Tokenizer]) -> None:
    done = jang("--model", DEMO, "--max-tokens", "6", input=f"{PROMPT}\n\n  \nThe sea was\n")
    expected = [generate(*demo, text, max_tokens=6) for text in (PROMPT, "The sea was")]
    assert done.exit_code == 0
    assert done.stdout == "".join(f"{text}\n" for text in expected)
    assert done.stderr.count("generation: ") == 2


def test_broken_bytes_at_the_prompt_do_not_end_the_session() -> None:
    command = [sys.executable, "-m", "jang_tools.cli.main", "run", "--model", str(DEMO)]
    done = subprocess.run(
        [*command, "--max-tokens", "3"], input=b"a\xff\nThe\n", capture_output=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr.count(b"generation: ") == 2


def test_a_chat_goes_through_the_template_and_remembers(chatty: Path) -> None:
    model, tokenizer = load(chatty)
    done = jang(
        *("--model", chatty, "--system", "Be kind.", "--max-tokens", "8", "--quiet"),
        input="Hello.\nWho are you?\n",
    )
    first = generate(model, tokenizer, "System: Be kind.\nUser: Hello.\nAssistant:", max_tokens=8)
    second = generate(
        model,
        tokenizer,
        f"System: Be kind.\nUser: Hello.\nAssistant: {first}\nUser: Who are you?\nAssistant:",
        max_tokens=8,
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{first}\n{second}\n"


def test_raw_bypasses_the_template(chatty: Path, demo: tuple[Model, Tokenizer]) -> None:
    plain = generate(*demo, PROMPT, max_tokens=6)
    arguments = ("--model", chatty, "--prompt", PROMPT, "--max-tokens", "6", "--quiet")
    assert jang(*arguments, "--raw").stdout == plain + "\n"
    assert jang(*arguments).stdout != plain + "\n"
    refused = jang(*arguments, "--raw", "--system", "x")
    assert refused.exit_code == 1
    assert "--raw leaves it out" in refused.stderr


def test_a_template_that_refuses_the_system_prompt_gets_a_hint(chatty: Path) -> None:
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    (chatty / "chat_template.jinja").write_text(refusal + TEMPLATE, encoding="utf-8")
    done = jang("--model", chatty, "--system", "x", "--prompt", "y", "--quiet")
    assert done.exit_code == 1
    assert "chat template: No system" in done.stderr
    assert "hint: this template may take no system prompt" in done.stderr


def test_a_turn_that_does_not_fit_does_not_end_the_chat(chatty: Path) -> None:
    done = jang(
        *("--model", chatty, "--context", "40", "--max-tokens", "4", "--quiet"),
        input="Hi.\n" + "long " * 200 + "\nHi again.\n",
    )
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) >= 2
    assert done.stderr.count("error: ") == 1
    assert "the context holds 40" in done.stderr


def session(model: Model, tokenizer: Tokenizer, chat: bool, **options: Any) -> Session:
    return Session(model, tokenizer, chat=chat, system=None, options={"max_tokens": 6, **options})


def test_a_reused_cache_gives_the_answers_of_a_fresh_one(chatty: Path) -> None:
    model, tokenizer = load(chatty)
    turns = ["Hello.", "Who are you?", "Where is the sea?"]
    kept = session(model, tokenizer, chat=True)
    answers = ["".join(step.text for step in kept.answer(turn)) for turn in turns]
    said: list[dict[str, str]] = []
    for turn, answer in zip(turns, answers, strict=True):
        said.append({"role": "user", "content": turn})
        prompt = tokenizer.apply_chat_template(said)
        assert generate(model, tokenizer, prompt, max_tokens=6) == answer
        said.append({"role": "assistant", "content": answer})
    plain = session(model, tokenizer, chat=False)
    for text in (PROMPT, PROMPT + " king", PROMPT, "The"):
        steps = list(plain.answer(text))
        assert "".join(s.text for s in steps) == generate(model, tokenizer, text, max_tokens=6)


def test_a_stopped_answer_stays_in_the_conversation(chatty: Path) -> None:
    model, tokenizer = load(chatty)
    talk = session(model, tokenizer, chat=True, max_tokens=50)
    steps = talk.answer("Hello.")
    heard = next(steps).text + next(steps).text
    steps.close()
    follow = "".join(step.text for step in talk.answer("Go on."))
    prompt = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": heard},
            {"role": "user", "content": "Go on."},
        ]
    )
    assert follow == generate(model, tokenizer, prompt, max_tokens=50)


# --- interruption ------------------------------------------------------------------------------


# `jang` with answers that never end by themselves, so that only the signal can end them.
ENDLESS = """
from jang_tools.cli import main, session

finite = session.stream_generate


def endless(*arguments, cache, **options):
    while True:
        yield from finite(*arguments, cache=cache, **options)
        cache.truncate(0)


session.stream_generate = endless
main.main()
"""


def test_ctrl_c_ends_a_one_shot_with_130() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, "run", "--model", str(DEMO), "--prompt", PROMPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)  # it is generating
        process.send_signal(signal.SIGINT)
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert text.endswith(b"\n")
    assert errors.endswith(b"interrupted\n")
    assert b"Traceback" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves() -> None:
    import pty

    try:
        pid, terminal = pty.fork()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal here: {error}")
    if pid == 0:
        os.environ["TERM"] = "dumb"
        command = [sys.executable, "-c", ENDLESS, "run", "--model", str(DEMO)]
        os.execv(sys.executable, command)
    seen = b""

    def wait_for(text: bytes, times: int = 1) -> None:
        nonlocal seen
        while seen.count(text) < times:
            ready, _, _ = select.select([terminal], [], [], 60)
            assert ready, seen
            seen += os.read(terminal, 4096)

    try:
        wait_for(b"> ")
        os.write(terminal, PROMPT.encode() + b"\n")
        wait_for(PROMPT.encode() + b"\r\n ")  # the echo of the line, and the answer's first space
        os.write(terminal, b"\x03")
        wait_for(b"stopped")
        wait_for(b"> ", 2)
        prompts = seen.count(b"> ")
        os.write(terminal, b"\x03")  # at the prompt it only starts a new line
        while seen.count(b"> ") == prompts:
            if select.select([terminal], [], [], 5)[0]:
                seen += os.read(terminal, 4096)
            else:  # readline misses a signal that comes just before it waits, but not the next
                os.write(terminal, b"\x03")
        os.write(terminal, b"\x04")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"Traceback" not in seen
    assert b"Aborted" not in seen


def test_without_readline_lines_are_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "readline", None)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    answers = iter(["one"])

    def typed(prompt: str) -> str:
        assert prompt == "> "
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    ask = run_command._line_reader()
    assert ask() == "one"
    assert ask() is None
