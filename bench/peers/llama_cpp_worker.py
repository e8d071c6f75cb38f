"""One model in llama.cpp, driven line by line, so that its runs can alternate with ours.

    .venv-peers/bin/python bench/peers/llama_cpp_worker.py MODEL.gguf --threads 2 [--plain]

Reads one JSON object a line on stdin, with `kind` (prefill, decode, batch), `tokens`, `depth` and
`batch`; runs that test once through the low-level API and answers {"seconds": S}. The first run of
a test warms up. Tokens are fixed, logits stay where they are: sampling and tokenizer are off the
clock. With --plain, weights stay in the layout of the file; without, llama.cpp may repack them into
the layouts that it has for this CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

import llama_cpp as api

_UBATCH = 512
_ROOM = 64  # positions beyond what a test needs


class Peer:
    """A loaded model and the contexts that its tests need."""

    def __init__(self, path: str, threads: int, plain: bool) -> None:
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = not plain
        model = api.llama_model_load_from_file(path.encode(), params)
        if model is None:
            raise SystemExit(f"{path}: llama.cpp cannot load it")
        self._model = model
        self._threads = threads
        self._context: Any = None
        self._kind: tuple[Any, ...] = ()
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def run(self, kind: str, tokens: int, depth: int, batch: int) -> float:
        """Seconds of one run; a new kind of test gets a context and a first run of its own."""
        if self._kind != (kind, tokens, depth, batch):
            self._prepare(kind, tokens, depth, batch)
            self._kind = (kind, tokens, depth, batch)
        memory = api.llama_get_memory(self._context)
        for sequence in range(batch):
            api.llama_memory_seq_rm(memory, sequence, depth, -1)
        steps = [tokens] if kind == "prefill" else [1] * tokens
        batches = []
        position = depth
        for count in steps:
            batches.append(self._batch(count, position, batch))
            position += count
        start = time.perf_counter()
        for one in batches:
            self._decode(one)
        seconds = time.perf_counter() - start
        for one in batches:
            api.llama_batch_free(one)
        return seconds

    def _prepare(self, kind: str, tokens: int, depth: int, batch: int) -> None:
        if self._context is not None:
            api.llama_free(self._context)
        params = api.llama_context_default_params()
        params.n_ctx = batch * (depth + tokens + _ROOM)
        params.n_batch = max(_UBATCH, tokens if kind == "prefill" else batch)
        params.n_ubatch = _UBATCH
        params.n_seq_max = batch
        params.n_threads = params.n_threads_batch = self._threads
        params.no_perf = True
        self._context = api.llama_init_from_model(self._model, params)
        if self._context is None:
            raise SystemExit("llama.cpp cannot make a context")
        for begin in range(0, depth, _UBATCH):
            history = self._batch(min(_UBATCH, depth - begin), begin, batch)
            self._decode(history)
            api.llama_batch_free(history)

    def _batch(self, count: int, position: int, sequences: int) -> Any:
        """``count`` tokens of each sequence from ``position`` on; logits of the last ones only."""
        batch = api.llama_batch_init(count * sequences, 0, 1)
        batch.n_tokens = count * sequences
        for sequence in range(sequences):
            for i in range(count):
                at = sequence * count + i
                batch.token[at] = (7919 * (position + i + 1) + 104729 * sequence) % self._vocabulary
                batch.pos[at] = position + i
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = i == count - 1
        return batch

    def _decode(self, batch: Any) -> None:
        failed = api.llama_decode(self._context, batch)
        if failed:
            raise SystemExit(f"llama_decode: code {failed}")
        api.llama_synchronize(self._context)


def about() -> dict[str, str]:
    """Which llama.cpp this is, and what it was compiled for."""
    return {
        "version": version("llama-cpp-python"),
        "features": api.llama_print_system_info().decode().strip(),
    }


def _quiet(_level: int, _text: bytes, _data: object) -> None:
    pass


_LOG = api.llama_log_callback(_quiet)  # kept alive as long as the library may call it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--about", action="store_true", help="print version and features")
    arguments = parser.parse_args()
    api.llama_log_set(_LOG, None)
    if arguments.about:
        print(json.dumps(about()))
        return
    peer = Peer(arguments.model, arguments.threads, arguments.plain)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": peer.run(**json.loads(line))}), flush=True)


if __name__ == "__main__":
    main()
