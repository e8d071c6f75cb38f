"""The model that foreign files are held against: one layer, written from the seeds' tables."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

from harness import ROOT, Scratch
from jang_tools.foreign.reference import Reference, read_reference

sys.path.insert(0, str(ROOT / "tests" / "fuzz"))

from make_corpus import LLAMA, SHAPES, header


def write_reference(scratch: Scratch) -> Reference:
    folder = scratch.folder("reference")
    text, size = header({name: ("F16", shape) for name, shape in SHAPES.items()})
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text.encode() + bytes(size)
    )
    (folder / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    return read_reference(folder)


def check_written(output: Path, reference: Reference) -> None:
    """What was made of a foreign file is a whole checkpoint of the reference's tensors."""
    from jang_tools import _core

    checkpoint = _core.Checkpoint(output)
    found = {tensor.name: tuple(tensor.shape) for tensor in checkpoint.tensors}
    expected = dict(reference.tensors)
    head = "lm_head.weight"
    if head in found:  # a foreign head makes a tied model one with a head
        expected[head] = expected["model.embed_tokens.weight"]
    assert found == expected, (found, expected)
    assert all(tensor.dtype == "F32" for tensor in checkpoint.tensors)
