"""Multiple choice and programs: readers, prompts, scores, and the process that runs programs."""

from __future__ import annotations

import gzip
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jang_tools
from jang_tools.chat import ChatTemplate
from jang_tools.errors import ArgumentError, FormatError, IoError
from jang_tools.evaluate import evaluate
from jang_tools.evaluation import humaneval, sandbox
from jang_tools.evaluation.choice_files import Question, Questions, read_arc, read_mmlu
from jang_tools.evaluation.humaneval import Problem, extract_code, read_problems
from jang_tools.evaluation.multiple_choice import (
    answer_all,
    arc_prompts,
    choose_items,
    mmlu_prompts,
)
from jang_tools.evaluation.sandbox import run_candidate
from jang_tools.model import load_model
from jang_tools.tokenizer import Tokenizer
from tiny_tokenizers import byte_level

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"

MMLU_HEADER = "question,A,B,C,D,answer\n"
GOOD_ROW = '"Which animal, of these, barks?","the dog","the cow","the eel","the owl",0\n'


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- MMLU files --------------------------------------------------------------------------------


def test_mmlu_rows_without_header_and_with_letters(tmp_path: Path) -> None:
    rows = "What is two and two?,3,4,5,6,B\nWhat is red?,a colour,a tree,a day,a river,A\n"
    found = read_mmlu(write(tmp_path / "simple_sums_test.csv", rows))
    assert found.malformed == 0
    assert found.items[0] == Question(
        "What is two and two?", ("3", "4", "5", "6"), 1, "simple sums"
    )
    assert found.items[1].answer == 0


def test_mmlu_rows_below_a_header_have_an_index(tmp_path: Path) -> None:
    text = MMLU_HEADER + GOOD_ROW + '"Over\ntwo lines, ""quoted""","a","b","c","d",3\n'
    found = read_mmlu(write(tmp_path / "animals_test.csv", text))
    assert found.malformed == 0
    assert [item.answer for item in found.items] == [0, 3]
    assert found.items[1].text == 'Over\ntwo lines, "quoted"'


@pytest.mark.parametrize(
    "row",
    [
        '"He said "no" and left","a","b","c","d",1\n',  # quotes that are not escaped
        '"It ends with a "quote"","a","b","c","d",1\n',
        "too,few,fields,A\n",
        "a,b,c,d,e,f,A\n",
        "Question,a,b,c,d,E\n",
        "Question,a,b,c,d,4\n",
        "Question,a,,c,d,A\n",
        ",a,b,c,d,A\n",
        '"never closed,a,b,c,d,A\n',
    ],
)
def test_malformed_rows_are_counted_and_spoil_no_other(tmp_path: Path, row: str) -> None:
    found = read_mmlu(write(tmp_path / "x_test.csv", MMLU_HEADER + GOOD_ROW + row + GOOD_ROW))
    assert found.malformed == 1
    assert len(found.items) == 2


def test_mmlu_folders_with_development_questions(tmp_path: Path) -> None:
    for subject in ("birds", "fish"):
        write(tmp_path / "test" / f"{subject}_test.csv", GOOD_ROW * 3)
        write(tmp_path / "dev" / f"{subject}_dev.csv", GOOD_ROW * 5)
        write(tmp_path / "val" / f"{subject}_val.csv", GOOD_ROW)
    found = read_mmlu(tmp_path)
    assert len(found.items) == 6
    assert {name: len(rows) for name, rows in found.examples.items()} == {"birds": 5, "fish": 5}
    flat = tmp_path / "flat"
    write(flat / "birds_test.csv", GOOD_ROW)
    write(flat / "birds_dev.csv", GOOD_ROW * 2)
    write(flat / "birds_val.csv", GOOD_ROW)
    found = read_mmlu(flat)
    assert (len(found.items), len(found.examples["birds"])) == (1, 2)


def test_mmlu_as_json_lines(tmp_path: Path) -> None:
    rows = [
        {"question": "Q", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "high_jump"},
        {"question": "Q", "choices": ["a", "b"], "answer": "B"},
        {"question": "Q", "choices": ["a", "b"], "answer": 2},
        {"question": "Q", "choices": ["a"], "answer": 0},
        {"question": "Q", "choices": ["a", 5], "answer": 0},
        ["no", "object"],
    ]
    text = "\n".join(map(json.dumps, rows)) + "\nnot json\n\n"
    found = read_mmlu(write(tmp_path / "all.jsonl", text))
    assert [(item.answer, item.subject) for item in found.items] == [(2, "high jump"), (1, "all")]
    assert found.malformed == 5


def test_files_that_hold_nothing_are_errors(tmp_path: Path) -> None:
    with pytest.raises(IoError, match="no such file"):
        read_mmlu(tmp_path / "absent")
    with pytest.raises(ArgumentError, match="no files of questions"):
        read_mmlu(tmp_path)
    with pytest.raises(FormatError, match="1 rows are malformed"):
        read_mmlu(write(tmp_path / "x_test.csv", "a,b\n"))


# --- ARC files ---------------------------------------------------------------------------------


def test_arc_in_both_layouts(tmp_path: Path) -> None:
    nested = {
        "id": "1",
        "question": {
            "stem": "What melts?",
            "choices": [{"text": "ice", "label": "A"}, {"text": "sand", "label": "B"}],
        },
        "answerKey": "A",
    }
    flat = {
        "question": "What floats?",
        "choices": {"text": ["iron", "cork", "lead"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    }
    wrong: list[Any] = [
        {**flat, "answerKey": "0"},
        {**flat, "answerKey": "B"},
        {**flat, "choices": {"text": ["a", "b"], "label": ["A"]}},
        {**nested, "question": {"stem": "", "choices": []}},
        {**nested, "answerKey": None},
        {},
    ]
    text = "\n".join(map(json.dumps, [nested, flat, *wrong]))
    found = read_arc(write(tmp_path / "ARC-Test.jsonl", text))
    assert [(item.text, item.options, item.answer) for item in found.items] == [
        ("What melts?", ("ice", "sand"), 0),
        ("What floats?", ("iron", "cork", "lead"), 1),
    ]
    assert found.malformed == len(wrong)


# --- prompts -----------------------------------------------------------------------------------

ITEM = Question("Which of these barks?", ("the dog", "the cow"), 0, "animals")


def questions(items: list[Question], examples: list[Question] | None = None) -> Questions:
    return Questions(items, 0, "0", {"animals": examples} if examples else {})


def text_of(tokenizer: Tokenizer, ids: Any) -> str:
    return tokenizer.decode(ids.tolist(), skip_special_tokens=False)


def test_mmlu_prompts_ask_for_the_letter() -> None:
    tokenizer = Tokenizer.load(DEMO)
    (prompt,) = mmlu_prompts(questions([ITEM], [ITEM] * 7), tokenizer, 1024).items
    context = text_of(tokenizer, prompt.context)
    block = "Which of these barks?\nA. the dog\nB. the cow\nAnswer:"
    head = "The following are multiple choice questions (with answers) about animals."
    assert context == "\n\n".join([head, *[f"{block} A"] * 5, block])
    assert [text_of(tokenizer, ids) for ids in prompt.continuations] == [" A", " B"]
    assert prompt.answer == 0


def test_mmlu_questions_that_do_not_fit_get_fewer_examples() -> None:
    tokenizer = Tokenizer.load(DEMO)
    data = questions([ITEM], [ITEM] * 5)
    whole = mmlu_prompts(data, tokenizer, 1024).items[0].context
    fewer = mmlu_prompts(data, tokenizer, len(whole) - 1).items[0].context
    assert len(fewer) < len(whole)
    assert text_of(tokenizer, fewer).count("Answer:") == 5
    none = mmlu_prompts(data, tokenizer, 10)
    assert (none.items, none.too_long) == ([], 1)


def test_chat_models_are_asked_through_their_template() -> None:
    template = ChatTemplate(
        {"default": "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|>"},
        file="t",
        special_tokens={},
    )
    tokenizer = Tokenizer(byte_level(), chat_template=template)
    prompts = mmlu_prompts(questions([ITEM], [ITEM]), tokenizer, 1024)
    context = text_of(tokenizer, prompts.items[0].context)
    assert context.startswith(
        "<|user|>Which of these barks?\nA. the dog\nB. the cow\n\nAnswer with"
    )
    assert context.endswith("<|assistant|>")
    assert [text_of(tokenizer, ids) for ids in prompts.items[0].continuations] == ["A", "B"]
    assert prompts.style.startswith("chat template")


def test_arc_prompts_end_with_the_options_text() -> None:
    tokenizer = Tokenizer.load(DEMO)
    item = Question("Which?", ("the dog", "the dogs", "größer"), 1)
    (prompt,) = arc_prompts(questions([item]), tokenizer, 1024).items
    wholes = [text_of(tokenizer, np.append(prompt.context, ids)) for ids in prompt.continuations]
    assert wholes == [f"Question: Which?\nAnswer: {option}" for option in item.options]
    assert all(len(ids) > 0 for ids in prompt.continuations)
    assert prompt.lengths == [7, 8, 8]


def test_a_limit_takes_items_evenly() -> None:
    assert choose_items(list(range(100)), 5) == [0, 25, 50, 74, 99]
    assert choose_items([1, 2, 3], 9) == [1, 2, 3]
    assert choose_items([1, 2, 3], None) == [1, 2, 3]


def test_answers_are_the_likeliest_by_the_models_logits() -> None:
    tokenizer, model = Tokenizer.load(DEMO), load_model(DEMO, "exact")
    items = [
        Question(text, ("the sea", "a very long story about the sea", "Xq"), 0)
        for text in ("Where do ships sail?", "What is told at night?", "The captain looked at")
    ]
    prompts = arc_prompts(questions(items), tokenizer, 1024).items
    done: list[int] = []
    found = answer_all(model, prompts, done.append)
    assert done == [1, 2, 3]
    for i, prompt in enumerate(prompts):
        sums = []
        for ids in prompt.continuations:
            logits = model(np.append(prompt.context, ids)).astype(np.float64)
            logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
            rows = np.arange(len(prompt.context) - 1, len(prompt.context) + len(ids) - 1)
            sums.append(logits[rows, ids].sum())
        assert found.plain[i] == np.argmax(sums)
        assert found.per_byte[i] == np.argmax(np.array(sums) / prompt.lengths)


# --- tasks in an evaluation --------------------------------------------------------------------


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "demo-2M"
    jang_tools.convert(DEMO, folder, profile="2M", method="rtn")
    return folder


def write_tasks(folder: Path, count: int = 24) -> None:
    words = ["ship", "captain", "river", "house", "mother", "soldier", "garden", "horse", "door"]
    rows = []
    for i in range(count):
        options = [words[(i * 5 + j * 3 + i // 7) % len(words)] for j in range(4)]
        rows.append(f"Which word is number {i}?,{','.join(options)},{'ABCD'[i % 4]}\n")
    write(folder / "mmlu" / "words_test.csv", "".join(rows) + "broken row\n")
    arc = []
    for i in range(count):
        texts = [f"the {words[(i + j) % len(words)]}" for j in range(4)]
        row = {"question": f"Item {i}?", "choices": {"text": texts, "label": list("ABCD")}}
        arc.append(json.dumps({**row, "answerKey": "ABCD"[i % 4]}))
    write(folder / "arc" / "arc.jsonl", "\n".join(arc))


def test_tasks_are_scored_for_reference_and_models(tmp_path: Path, coarse: Path) -> None:
    write_tasks(tmp_path)
    seen: list[tuple[str, int, int, str]] = []
    found = evaluate(
        DEMO,
        [DEMO, coarse],
        text=None,
        tasks={"mmlu": tmp_path / "mmlu", "arc": tmp_path / "arc"},
        progress=lambda *now: seen.append(now),
    )
    assert found.text is None and found.models == [] and found.pairs == []
    mmlu, arc = found.tasks
    assert (mmlu.items, mmlu.malformed, mmlu.too_long) == (24, 1, 0)
    for task in found.tasks:
        same, other = task.models
        assert same.accuracy == task.reference.accuracy
        assert (same.flips, same.p_value) == (0, 1)
        assert other.flips is not None and other.flips > 0
        assert other.p_value is not None and 0 < other.p_value <= 1
        assert task.reference.accuracy is not None
        p = task.reference.accuracy
        assert task.reference.se == pytest.approx(math.sqrt(p * (1 - p) / 24))
        (pair,) = task.pairs
        assert other.accuracy is not None
        gained = (pair.only_first - pair.only_second) / 24
        assert gained == pytest.approx(p - other.accuracy)
    assert mmlu.reference.per_byte is None
    assert arc.reference.per_byte is not None
    assert ("mmlu, demo-2M", 24, 24, "items") in seen
    document = found.to_json()
    assert document["text"] is None
    assert document["tasks"][0]["reference"]["accuracy"] == mmlu.reference.accuracy
    limited = evaluate(DEMO, DEMO, text=None, tasks={"arc": tmp_path / "arc"}, task_limit=7)
    assert limited.tasks[0].items == 7


# --- programs ----------------------------------------------------------------------------------

PROBLEM = Problem(
    "Own/0",
    'import math\n\n\ndef twice(x):\n    """Twice x."""\n',
    "twice",
    "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(-1) == -2\n",
)


def test_problems_are_read_and_malformed_rows_counted(tmp_path: Path) -> None:
    row = {"task_id": "Own/0", "prompt": "p", "entry_point": "f", "test": "t"}
    rows = [row, {**row, "entry_point": "not a name"}, {**row, "test": 5}, [1]]
    text = "\n".join(map(json.dumps, rows)) + "\n{\n"
    write(tmp_path / "a.jsonl", text)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    for path in (tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path):
        found = read_problems(path)
        assert (len(found.items), found.malformed) == (1, 4)
    with pytest.raises(FormatError, match="no problem"):
        read_problems(write(tmp_path / "c.jsonl", "{}"))
    (tmp_path / "d.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(FormatError, match=r"d\.jsonl\.gz"):
        read_problems(tmp_path / "d.jsonl.gz")


@pytest.mark.parametrize(
    ("answer", "passed"),
    [
        ("```python\ndef twice(x):\n    return 2 * x\n```\nDone.", True),
        ("Sure:\n```\ndef twice(x):\n    return math.floor(2 * x)\n```", True),
        ("    return x + x\n", True),
        ("```python\ndef twice(x):\n    return x ** 2\n```", False),
        ("I cannot do that.", False),
        ("", False),
    ],
)
def test_code_is_taken_from_answers_and_checked(answer: str, passed: bool) -> None:
    assert humaneval.check(PROBLEM, extract_code(PROBLEM, answer)).passed is passed


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("x = 1", ""),
        ("assert False", "AssertionError"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "ended before its tests did"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("x = bytearray(1 << 31)", "MemoryError"),
        ("import os; os._exit(0)", "ended by a limit or a signal"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", ""),
        ("print('x' * 10**7)", ""),
    ],
)
def test_what_programs_do_is_named(program: str, error: str) -> None:
    found = run_candidate(program, memory=1 << 29)
    if "SIGSEGV" in program:
        # The first process of a process namespace gets no signals from itself that it has no
        # handler for: either the program died of it or it ran on.
        assert found.passed or found.error == "ended by a limit or a signal"
        return
    assert found.error == error
    assert found.passed is (error == "")


def test_endless_programs_are_stopped() -> None:
    start = time.monotonic()
    found = run_candidate("while True: pass", seconds=1)
    assert (found.passed, found.error) == (False, "ran longer than 1 s")
    slept = run_candidate("import time; time.sleep(60)", seconds=1)
    assert slept.error == "ran longer than 1 s"
    assert time.monotonic() - start < 30


def test_programs_see_neither_environment_nor_site_packages_nor_our_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET_OF_OURS", "x")
    for program in (
        "import os; assert 'A_SECRET_OF_OURS' not in os.environ",
        "import os; assert os.listdir('.') == []",
        "import importlib.util; assert importlib.util.find_spec('numpy') is None",
        "import os; assert 'jang-candidate-' in os.getcwd()",
        "open('big', 'wb').write(b'x' * 100)",
    ):
        assert run_candidate(program).passed, program
    assert not run_candidate("open('big', 'wb').write(b'x' * (1 << 22))").passed


def test_isolated_programs_reach_no_network() -> None:
    connect = (
        "import socket\ns = socket.socket()\ns.settimeout(2)\n"
        "try:\n    s.connect(('{host}', {port}))\n"
        "except OSError:\n    pass\nelse:\n    raise RuntimeError('connected')\n"
    )
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        host, port = server.getsockname()
        found = run_candidate(connect.format(host=host, port=port))
    if not found.isolated:
        pytest.skip("this system gives ordinary users no namespaces")
    assert found.passed


def test_nothing_outlives_a_program(tmp_path: Path) -> None:
    """The child that a program leaves behind holds a lock; afterwards it is free."""
    import fcntl

    if not run_candidate("x = 1").isolated:
        pytest.skip("without process namespaces nobody can wait for the end of grandchildren")

    program = (
        "import fcntl, os, time\n"
        "ready, told = os.pipe()\n"
        "if os.fork() == 0:\n"
        f"    lock = open({str(tmp_path / 'lock')!r}, 'w')\n"
        "    fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "    os.write(told, b'x')\n"
        "    time.sleep(600)\n"
        "os.read(ready, 1)\n"
    )
    for last in ("", "while True: pass\n"):
        found = run_candidate(program + last, seconds=3)
        # Ordinary users cannot start a process at all; the superuser's limits do not count that.
        assert found.passed or found.error in ("BlockingIOError", "ran longer than 3 s")
        with (tmp_path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_humaneval_needs_permission_and_writes_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**vars_of(PROBLEM), "task_id": f"Own/{i}"} for i in range(3)]
    file = write(tmp_path / "own.jsonl", "\n".join(map(json.dumps, rows)))
    tasks = {"humaneval": file}
    with pytest.raises(ArgumentError, match="must be allowed") as caught:
        evaluate(DEMO, DEMO, text=None, tasks=tasks)
    assert "--allow-code-execution" in caught.value.hint

    monkeypatch.setattr(humaneval, "MAX_TOKENS", 12)

    def never(*_: object) -> sandbox.Outcome:
        raise AssertionError("no program may run")

    with monkeypatch.context() as forbidden:
        forbidden.setattr(humaneval, "run_candidate", never)
        found = evaluate(DEMO, DEMO, text=None, tasks=tasks, samples=tmp_path / "out.jsonl")
    task = found.tasks[0]
    assert task.reference.accuracy is None and task.models[0].flips is None
    assert task.notes == ["programs were written down and not run: accuracy is not known"]
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["task_id"] for row in written] == ["Own/0", "Own/1", "Own/2"] * 2
    assert "passed" not in written[0]

    found = evaluate(DEMO, DEMO, text=None, tasks=tasks, task_limit=2, allow_code_execution=True)
    assert found.tasks[0].reference.accuracy == 0  # it writes prose
    assert found.tasks[0].items == 2

    def solve(*_: object) -> str:
        return PROBLEM.prompt + "    return 2 * x\n"

    monkeypatch.setattr(humaneval, "complete", solve)
    found = evaluate(DEMO, DEMO, text=None, tasks=tasks, allow_code_execution=True)
    assert found.tasks[0].models[0].accuracy == 1
    assert found.tasks[0].models[0].flips == 0
    assert found.tasks[0].metric == "pass@1, greedy"


def vars_of(problem: Problem) -> dict[str, str]:
    return {name: getattr(problem, name) for name in ("task_id", "prompt", "entry_point", "test")}


def test_base_models_stop_after_the_function() -> None:
    model, tokenizer = load_model(DEMO), Tokenizer.load(DEMO)
    program = humaneval.complete(model, tokenizer, PROBLEM)
    assert program.startswith(PROBLEM.prompt)
    assert not any(stop in program[len(PROBLEM.prompt) :] for stop in humaneval.STOPS)
