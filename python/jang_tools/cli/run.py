"""`jang run`: a chat or a completion, streamed to stdout; all else on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from jang_tools.cli.options import fetch, output_options, precision_option, threads_option
from jang_tools.cli.ui import Ui, format_size, print_error
from jang_tools.errors import ArgumentError, FormatError, JangError

if TYPE_CHECKING:
    from jang_tools.cli.session import Session
    from jang_tools.generate import GenerationResponse
    from jang_tools.model import KvType, Model
    from jang_tools.tokenizer import Tokenizer

COMPLETION_TOKENS = 512
_CONTEXT_STEP = 256


@click.command("run")
@click.option("--model", required=True, metavar="MODEL", help="Directory or Hub id of the model.")
@click.option(
    "--prompt",
    metavar="TEXT",
    help="Answer this and leave; `-` reads stdin [default: ask at `> `].",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    help=f"Tokens to generate at most [default: {COMPLETION_TOKENS}; in a chat until the end].",
)
@click.option(
    "--temp",
    "--temperature",
    "temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="0 takes the most likely token, more draws at random.",
)
@click.option(
    "--top-k",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Draw from the K most likely; 0: off.",
)
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    show_default=True,
    help="Draw from the smallest set with this probability; 1: off.",
)
@click.option(
    "--min-p",
    type=float,
    default=0.0,
    show_default=True,
    help="Drop tokens below this share of the most likely one's probability; 0: off.",
)
@click.option(
    "--repetition-penalty",
    type=float,
    default=1.0,
    show_default=True,
    help="Divide the logits of recent tokens by this; 1: off.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    help="Of the random draws.",
)
@click.option(
    "--stop", multiple=True, metavar="TEXT", help="End the answer before this text; repeatable."
)
@click.option("--system", metavar="TEXT", help="System prompt of a chat.")
@click.option("--raw", is_flag=True, help="Complete the prompt as it is, without a chat template.")
@click.option(
    "--context",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens that prompt and answer may take together [default: the model's limit, less where"
    " memory is short].",
)
@click.option(
    "--kv-type",
    type=click.Choice(["auto", "f32", "f16", "bf16", "q8", "q4"]),
    default="auto",
    show_default=True,
    help="How keys and values of the context are kept: smaller types hold longer contexts.",
)
@precision_option
@threads_option
@output_options
def command(
    ui: Ui,
    model: str,
    prompt: str | None,
    max_tokens: int | None,
    system: str | None,
    raw: bool,
    context: int | None,
    kv_type: KvType,
    precision: Literal["fast", "exact"],
    threads: int | None,
    stop: tuple[str, ...],
    **sampling: Any,
) -> None:
    """Generate text: a chat or a completion.

    Without --prompt, asks at `> `: Ctrl-C stops an answer, Ctrl-D leaves. A model with a chat
    template chats; one without completes what is typed. Only generated text goes to stdout.
    """
    if ui.json and prompt is None:
        raise click.UsageError("--json needs --prompt")
    text = _read_stdin() if prompt == "-" else prompt
    network, tokenizer = _load(ui, model, precision, threads, kv_type)
    chat = tokenizer.chat_template is not None and not raw
    if system is not None and not chat:
        reason = "--raw leaves it out" if raw else "this model has none"
        raise ArgumentError(f"--system needs a chat template, and {reason}", code="argument")
    if max_tokens is None and not (chat and text is None):
        max_tokens = COMPLETION_TOKENS

    from jang_tools.cli.session import Session

    session = Session(
        network,
        tokenizer,
        chat=chat,
        system=system,
        options={
            "max_tokens": max_tokens,
            "stop": stop,
            "context": _choose_context(ui, network, context),
            **sampling,
        },
    )
    if text is None:
        _converse(ui, session)
        return
    steps = _show(ui, _explained(session.answer(text), system))
    ui.document(
        {
            "schema": "jang.run/1",
            "text": "".join(step.text for step in steps),
            "tokens": [step.token for step in steps],
            "finish_reason": steps[-1].finish_reason,
            "prompt_tokens": steps[-1].prompt_tokens,
            "prompt_tps": steps[-1].prompt_tps,
            "generation_tokens": steps[-1].generation_tokens,
            "generation_tps": steps[-1].generation_tps,
            "load_seconds": network.load_seconds,
        }
    )


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"stdin: the prompt is not valid UTF-8: {error}") from error


def _load(
    ui: Ui,
    model: str,
    precision: Literal["fast", "exact"],
    threads: int | None,
    kv_type: KvType,
) -> tuple[Model, Tokenizer]:
    ui.note("loading (mmap)")
    path = fetch(ui, model)
    start = time.perf_counter()
    from jang_tools.model import load_model
    from jang_tools.tokenizer import Tokenizer

    imported = time.perf_counter()
    network = load_model(path, precision, threads, kv_type, lambda size: _say_widened(ui, size))
    mapped = time.perf_counter()
    tokenizer = Tokenizer.load(path)
    read = time.perf_counter()
    size = network.core.weight_bytes
    ui.note(
        f"{_describe(path, network.core.format)}, {format_size(size)},"
        f" loaded in {1e3 * network.load_seconds:.1f} ms"
        f" (imports {1e3 * (imported - start):.0f} ms, tokenizer {1e3 * (read - mapped):.0f} ms)"
    )
    from jang_tools.memory import total_memory

    memory = total_memory()
    if memory is not None and size > memory:
        ui.warn(
            f"the weights take {format_size(size)}, the memory holds {format_size(memory)}:"
            " each token reads from disk"
        )
    return network, tokenizer


def _say_widened(ui: Ui, size: int) -> None:
    from jang_tools.memory import available_memory

    ui.note(f"FP8 weights are computed as float32: {format_size(size)} of memory for their values")
    available = available_memory()
    if available is not None and size > available:
        ui.warn(
            f"about {format_size(available)} of memory are free; a converted model needs no more"
            " than its files (jang convert)"
        )


def _describe(path: Path, form: str) -> str:
    """The profile of a JANG directory, or what else the weights are."""
    from jang_tools.json_file import read_json_object

    if form == "jang":
        record = read_json_object(path / "jang_config.json").get("quantization")
        profile = record.get("profile") if isinstance(record, dict) else None
        return str(profile) if profile else "JANG"
    if form == "mlx":
        pair = read_json_object(path / "config.json").get("quantization")
        bits = pair.get("bits") if isinstance(pair, dict) else None
        return f"MLX {bits}-bit" if bits else "MLX"
    settings = read_json_object(path / "config.json").get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return {"fp8": "FP8", "mxfp4": "MXFP4"}.get(str(method), "unquantized")


def _choose_context(ui: Ui, model: Model, wanted: int | None) -> int:
    """``wanted`` within the model's limit, or that limit shrunk to what the memory can hold."""
    from jang_tools.memory import available_memory

    limit = model.max_positions
    if wanted is not None and wanted > limit:
        raise ArgumentError(
            f"--context {wanted} exceeds the model's limit of {limit}", code="argument"
        )
    available = available_memory()
    if available is None:
        return wanted or limit
    # Weights are read from the page cache at each token, so they have a claim on memory too.
    budget = max(available - model.core.weight_bytes, available // 8)
    context = wanted or limit
    needed = model.core.kv_bytes(context)
    if needed <= budget:
        return context
    if wanted is not None:
        ui.warn(
            f"a full context of {wanted} tokens takes {format_size(needed)};"
            f" about {format_size(budget)} of memory are free for it"
        )
        return wanted
    fits = max(limit * budget // needed // _CONTEXT_STEP, 1) * _CONTEXT_STEP
    context = min(fits, limit)
    ui.note(
        f"context: {context} of the model's {limit} tokens, as"
        f" {format_size(budget)} of memory are free for it; --context N overrides"
    )
    return context


def _explained(
    steps: Generator[GenerationResponse, None, None], system: str | None
) -> Generator[GenerationResponse, None, None]:
    """Passes steps on; a template that refuses a conversation with a system prompt gets a hint."""
    try:
        yield from steps
    except FormatError as error:
        if system is not None and error.code == "chat_template":
            error.hint = "this template may take no system prompt: try without --system"
        raise


def _show(ui: Ui, steps: Generator[GenerationResponse, None, None]) -> list[GenerationResponse]:
    """Writes the text as it comes, then the rates; returns the steps."""
    shown: list[GenerationResponse] = []
    try:
        with closing(steps):  # at once, so that a stopped answer is part of the conversation
            for step in steps:
                shown.append(step)
                if not ui.json:
                    sys.stdout.write(step.text)
                    sys.stdout.flush()
    finally:
        if shown and not ui.json:
            sys.stdout.write("\n")
            sys.stdout.flush()
    last = shown[-1]
    if last.finish_reason == "length":
        ui.note("stopped at the limit of tokens")
    ui.note(
        f"prompt: {last.prompt_tokens} tokens, {last.prompt_tps:.1f} tok/s;"
        f" generation: {last.generation_tokens} tokens, {last.generation_tps:.1f} tok/s"
    )
    return shown


def _converse(ui: Ui, session: Session) -> None:
    ask = _line_reader()
    interrupted: str | None = None
    while True:
        asked = False
        try:
            if interrupted is not None:  # said here, where a second Ctrl-C is caught as well
                click.echo(interrupted, err=True)
                interrupted = None
            line = ask()
            asked = True
            if line is None:
                return
            if line.strip():
                _show(ui, session.answer(line))
        except KeyboardInterrupt:  # drops what was typed, or ends the answer; Ctrl-D leaves
            interrupted = "stopped" if asked and not ui.quiet else ""
        except JangError as error:
            # A turn that cannot be answered, such as one too long, ends neither chat nor session.
            print_error(str(error), error.hint)


def _line_reader() -> Callable[[], str | None]:
    """Reads one line at a `> `; None at the end. On a terminal with line editing and history."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):  # a Python built without it still reads lines
            import readline  # noqa: F401  input() edits lines once it is imported

        def ask() -> str | None:
            try:
                return input("> ")
            except EOFError:
                click.echo(err=True)
                return None

        return ask

    def read() -> str | None:
        if sys.stdin.isatty():
            click.echo("> ", err=True, nl=False)
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None

    return read
