"""A GPTQ directory: what is taken is a whole model of finite values, the reference's tensors.

The document: config and settings are the two JSON files, tensors {name: [dtype, shape, payload]}.
Offsets follow from the shapes, or nothing would come behind the reader of weight files, which has
targets of its own.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["jang_tools"]):
    from jang_tools import _core
    from jang_tools.errors import FormatError, IoError, UnsupportedError
    from jang_tools.foreign.gptq_model import materialize_gptq
    from jang_tools.foreign.open_foreign import foreign_kind

from harness import Scratch, check_error, document, fill, run
from reference_model import check_written, write_reference

SCRATCH = Scratch()
REFERENCE = write_reference(SCRATCH)
SIZES = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "U8": 1, "I64": 8, "F64": 8, "BOOL": 1}
MODULE = "model.layers.0.self_attn.q_proj"
WORDS = """
    bits group_size desc_act sym quant_method gptq gptq_v2 marlin checkpoint_format dynamic
    quantization_config pack_dtype tie_word_embeddings model.layers.0.self_attn.q_proj.qweight
    model.layers.0.self_attn.q_proj.qzeros model.layers.0.self_attn.q_proj.scales
    model.layers.0.self_attn.q_proj.g_idx model.layers.0.self_attn.q_proj.bias
    model.layers.0.self_attn.q_proj.weight lm_head.weight F16 I32
"""


def weight_file(tensors: Any) -> bytes:
    entries: dict[str, Any] = {}
    payload = b""
    for name, entry in (tensors if isinstance(tensors, dict) else {}).items():
        parts = [*(entry if isinstance(entry, list) else []), 0, 0, 0][:3]
        dtype, shape, kind = parts
        count = SIZES.get(dtype, 1) if isinstance(dtype, str) else 1
        for length in shape if isinstance(shape, list) else []:
            count *= length if isinstance(length, int) and 0 <= length < 1 << 20 else 1
        count = min(count, 1 << 16)
        span = [len(payload), len(payload) + count]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
        payload += fill(kind, count)
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + payload


def one_input(data: bytes) -> None:
    value = document(data)
    if not isinstance(value, dict):
        return
    folder = SCRATCH.folder("gptq")
    for key, name in (("config", "config.json"), ("settings", "quantize_config.json")):
        if key in value:
            (folder / name).write_text(json.dumps(value[key]), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weight_file(value.get("tensors")))
    assert foreign_kind(folder) in (None, "gptq")
    output = SCRATCH.folder("output")
    try:
        summary = materialize_gptq(folder, REFERENCE, output)
    except (FormatError, UnsupportedError, IoError) as error:
        check_error(error)
        return
    assert summary.bits in (2, 3, 4, 8)
    check_written(output, REFERENCE)
    checkpoint = _core.Checkpoint(output)
    for tensor in checkpoint.tensors:
        assert np.isfinite(checkpoint.array(tensor.name)).all(), tensor.name


if __name__ == "__main__":
    run(one_input, WORDS.split())
