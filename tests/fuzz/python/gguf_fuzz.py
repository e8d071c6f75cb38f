"""A GGUF file: tensors of what opens lie in order inside it, and a model that is taken is whole.

The document: version, counts [tensors, keys] to say instead of the true ones, keys [[key, type,
value]], tensors [[name, lengths, type, change of the offset, payload]], tail in bytes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["jang_tools"]):
    from jang_tools.errors import FormatError, IoError, UnsupportedError
    from jang_tools.foreign.gguf_blocks import TYPES
    from jang_tools.foreign.gguf_file import GgufFile
    from jang_tools.foreign.gguf_model import materialize_gguf

from harness import Scratch, check_error, document, fill, run
from reference_model import check_written, write_reference

SCRATCH = Scratch()
REFERENCE = write_reference(SCRATCH)
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIifBQqd", strict=True))
STRING, ARRAY = 8, 9
WORDS = """
    general.architecture llama general.alignment general.type general.file_type llama.block_count
    llama.rope.freq_base split.count split.no tokenizer.ggml.tokens token_embd.weight
    output.weight output_norm.weight blk.0.attn_q.weight blk.0.ffn_gate_exps.weight
    rope_freqs.weight
"""
TYPE_NUMBERS = [10, 12, 14, 16, 30]


def packed(layout: str, value: Any) -> bytes:
    """A number cut to its width, so that each makes some file."""
    layout = "<" + layout
    if layout[1] in "fd":
        try:
            return struct.pack(layout, float(value))
        except (TypeError, ValueError, OverflowError):
            return struct.pack(layout, float("nan"))
    number = value if isinstance(value, int) else 0
    size = struct.calcsize(layout)
    return (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def text(value: Any) -> bytes:
    data = str(value).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def valued(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        inner, items = value if isinstance(value, list) and len(value) == 2 else (0, [])
        inner, items = whole(inner), items if isinstance(items, list) else []
        body = b"".join(valued(inner, item) for item in items) if inner != ARRAY else b""
        return packed("I", inner) + struct.pack("<Q", len(items)) + body
    return packed(SCALARS.get(kind, "I"), value)


def whole(value: Any, most: int = 1 << 40) -> int:
    return value if isinstance(value, int) and abs(value) < most else 0


def listed(value: Any, length: int) -> list[Any]:
    """``value`` as a list of that length."""
    return [*(value if isinstance(value, list) else []), *[0] * length][:length]


def gguf_bytes(value: dict[str, Any]) -> bytes:
    keys = value.get("keys") if isinstance(value.get("keys"), list) else []
    tensors = value.get("tensors") if isinstance(value.get("tensors"), list) else []
    counts = listed(value.get("counts"), 2)
    head = b"GGUF" + packed("I", value.get("version", 3))
    head += packed("Q", counts[0] or len(tensors)) + packed("Q", counts[1] or len(keys))
    alignment = 32
    for key, kind, item in (listed(key, 3) for key in keys):
        head += text(key) + packed("I", kind) + valued(whole(kind), item)
        if key == "general.alignment" and 0 < whole(item) < 1 << 16:
            alignment = item
    body, end = b"", 0
    for name, lengths, kind, change, payload in (listed(tensor, 5) for tensor in tensors):
        lengths = lengths if isinstance(lengths, list) else [lengths]
        begin = -(-end // alignment) * alignment
        head += text(name) + struct.pack("<I", len(lengths))
        head += b"".join(packed("Q", length) for length in lengths)
        head += packed("I", kind) + packed("Q", begin + whole(change))
        size = 1
        for length in lengths:
            size *= max(whole(length), 0)
        block = TYPES.get(whole(kind))
        size = min(size // block.weights * block.bytes if block else size, 1 << 20)
        body += bytes(begin - len(body)) + fill(payload, size)
        end = begin + size
    head += bytes(-len(head) % alignment)
    tail = max(-len(body), min(whole(value.get("tail", 0)), 1 << 16))
    return head + (body + bytes(tail) if tail >= 0 else body[:tail])


def check_file(path: Path) -> None:
    """Every promise of an open file."""
    with GgufFile(path) as file:
        end = 0
        for tensor in file.tensors.values():
            assert tensor.begin >= end and tensor.begin + tensor.bytes <= file.bytes
            end = tensor.begin + tensor.bytes
            try:
                values = file.read(tensor)
            except (FormatError, UnsupportedError) as error:
                check_error(error)
                continue
            assert values.shape == tensor.shape and np.isfinite(values).all()


def one_input(data: bytes) -> None:
    value = document(data)
    path = SCRATCH.folder("gguf") / "model.gguf"
    path.write_bytes(gguf_bytes(value) if isinstance(value, dict) else data)
    try:
        check_file(path)
        output = SCRATCH.folder("output")
        summary = materialize_gguf(path, REFERENCE, output)
        assert summary.tensor_bytes <= summary.bytes == path.stat().st_size
        check_written(output, REFERENCE)
    except (FormatError, UnsupportedError, IoError) as error:
        check_error(error)


if __name__ == "__main__":
    run(one_input, [*WORDS.split(), *TYPE_NUMBERS])
