"""An importance matrix in either form: weights are positive and of the model's size.

The document is that of gguf_fuzz.py or, with "entries" [[name, calls, values, payload]], the older
form with "dataset" and "tail" behind them.
"""

from __future__ import annotations

import struct
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["jang_tools"]):
    from jang_tools.errors import FormatError, IoError, UnsupportedError
    from jang_tools.foreign.imatrix import read_imatrix

from gguf_fuzz import gguf_bytes, listed, packed, whole
from harness import MESSAGE, Scratch, check_error, check_text, document, fill, run
from reference_model import write_reference

SCRATCH = Scratch()
REFERENCE = write_reference(SCRATCH)
WORDS = """
    blk.0.attn_q.weight.in_sum2 blk.0.attn_q.weight.counts blk.0.ffn_down.weight token_embd.weight
    output.weight imatrix general.type imatrix.datasets imatrix.chunk_count .in_sum2 .counts
"""


def legacy_bytes(value: dict[str, Any]) -> bytes:
    entries = value["entries"]
    data = packed("i", value.get("count") or len(entries))
    for name, calls, count, payload in (listed(entry, 4) for entry in entries):
        text = str(name).encode("utf-8", "surrogatepass")
        data += struct.pack("<i", len(text)) + text + packed("i", calls) + packed("i", count)
        data += fill(payload, 4 * min(max(whole(count), 0), 4096))
    if "dataset" in value:
        text = str(value["dataset"]).encode("utf-8", "surrogatepass")
        data += struct.pack("<ii", 7, len(text)) + text
    return data + bytes(min(max(whole(value.get("tail", 0)), 0), 64))


def one_input(data: bytes) -> None:
    value = document(data)
    if isinstance(value, dict):
        older = isinstance(value.get("entries"), list)
        data = legacy_bytes(value) if older else gguf_bytes(value)
    path = SCRATCH.folder("imatrix") / "model.imatrix"
    path.write_bytes(data)
    try:
        found = read_imatrix(path, REFERENCE)
    except (FormatError, UnsupportedError, IoError) as error:
        check_error(error)
        return
    for module, weights in found.weights.items():
        columns = REFERENCE.tensors[f"{module}.weight"][-1]
        assert weights.dtype == np.float32 and weights.shape == (columns,), module
        assert np.isfinite(weights).all() and (weights > 0).all(), module
    for warning in found.warnings:
        check_text(warning)
        assert len(warning) <= MESSAGE


if __name__ == "__main__":
    run(one_input, WORDS.split())
