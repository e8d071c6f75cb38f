"""Tiny Hugging Face checkpoints, written from a seed with numpy alone: the same bytes everywhere.

The numbers follow one recipe, because default initialisation hides bugs (unit norms, zero biases):
matrices N(0, 1.5^2 / fan_in), norm weights 1 + N(0, 0.2^2), biases N(0, 0.3^2). Logits that
transformers computes for them are in parity/, made by tests/python/parity/make_logits.py.
What the checkpoints of a family are stands in its own module, tiny_<family>.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tiny_dense
import tiny_experts
import tiny_gemma4
import tiny_hybrid
import tiny_latent
import tiny_lfm2_jamba
import tiny_minimax
import tiny_phi_glm_cohere
import tiny_state_space
from tiny_case import BASE, FAMILIES, LENGTH, VOCABULARY, Case, Floats, Tensors

__all__ = ["BASE", "LENGTH", "VOCABULARY", "Case", "Floats"]

SEQUENCES = 2

CASES: list[Case] = []
for module in (
    tiny_dense,
    tiny_phi_glm_cohere,
    tiny_hybrid,
    tiny_experts,
    tiny_latent,
    tiny_gemma4,
    tiny_minimax,
    tiny_state_space,
    tiny_lfm2_jamba,
):
    CASES += module.FAMILY.cases
    FAMILIES.update(dict.fromkeys(module.FAMILY.architectures, module.FAMILY))
BY_NAME = {case.name: case for case in CASES}


def config(case: Case, spelling: str = "new") -> dict[str, Any]:
    """config.json of a case: "new" as transformers 5 writes it, "old" as its predecessors did."""
    values, family = case.values, case.family
    values["architectures"] = [family.architectures[case.model_type]]
    for key in family.foreign_keys.get(case.model_type, ()):
        del values[key]
    if spelling == "new":
        family.new_spelling(values)
    for key in case.absent:
        del values[key]
    if spelling == "old":
        family.old_spelling(values)
    torch_dtype = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[case.dtype]
    values["dtype" if spelling == "new" else "torch_dtype"] = torch_dtype
    return values


class Numbers:
    """Normal-like numbers from integers alone, so that no library's logarithm decides a bit.

    Sums of four uniform 16-bit integers: exact in float64, variance 4 * (2^32 - 1) / 12.
    """

    def __init__(self, seed: str) -> None:
        digest = hashlib.sha256(seed.encode()).digest()
        self.state = np.random.RandomState(np.frombuffer(digest, dtype="<u4"))

    def normal(self, shape: tuple[int, ...], deviation: float) -> Floats:
        raw = self.state.randint(0, 65536, size=(*shape, 4)).sum(axis=-1) - 2 * 65535
        return (raw.astype(np.float64) * (deviation / 37837.22767)).astype(np.float32)


def tensors(case: Case) -> Tensors:
    """Names and values in file order, before rounding to the stored dtype."""
    return case.family.tensors(case, Numbers(case.name).normal)


def encode(values: Floats, dtype: str) -> bytes:
    """Little-endian bytes of float32 values rounded to nearest even in F32, F16 or BF16."""
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return rounded.astype("<u2").tobytes()


def write_safetensors(path: Path, entries: list[tuple[str, str, tuple[int, ...], bytes]]) -> None:
    """Writes (name, dtype, shape, payload) in the given order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape, payload in entries:
        end = offset + len(payload)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for *_, payload in entries:
            file.write(payload)


def write_checkpoint(case: Case, folder: Path, spelling: str = "new") -> str:
    """Writes the checkpoint of a case to `folder`; returns the SHA-256 of all its payloads."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config(case, spelling), indent=2, sort_keys=True)
    (folder / "config.json").write_text(text, encoding="utf-8")
    entries = [
        (name, case.dtype, values.shape, encode(values, case.dtype))
        for name, values in tensors(case)
    ]
    if case.shards == 0:
        write_safetensors(folder / "model.safetensors", entries)
    else:
        weight_map = {}
        for shard in range(case.shards):
            name = f"model-{shard + 1:05d}-of-{case.shards:05d}.safetensors"
            part = entries[shard :: case.shards]
            write_safetensors(folder / name, part)
            weight_map.update({entry[0]: name for entry in part})
        total = sum(len(entry[3]) for entry in entries)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=2)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    digest = hashlib.sha256()
    for *_, payload in entries:
        digest.update(payload)
    return digest.hexdigest()


def tokens(vocabulary: int = VOCABULARY) -> npt.NDArray[np.int32]:
    """The sequences that every case is run on, [SEQUENCES, LENGTH]."""
    state = np.random.RandomState(20)
    return state.randint(0, vocabulary, size=(SEQUENCES, LENGTH)).astype(np.int32)


def long_tokens(case: Case) -> npt.NDArray[np.int32]:
    """A longer sequence, [1, case.long]."""
    state = np.random.RandomState(21)
    return state.randint(0, VOCABULARY, size=(1, case.long)).astype(np.int32)


# With the tokenizer of the demo model, so that a text can be read; widths that groups divide.
READABLE = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}


def write_readable_checkpoint(case: Case, folder: Path, spelling: str = "new", **more: Any) -> None:
    """The case in the shape READABLE, with ``more`` in its config, and a tokenizer."""
    values = {**case.config, **READABLE, **more}
    values |= {**case.family.readable(values), **more}
    write_checkpoint(replace(case, config=values), folder, spelling)
    demo = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo / file, folder / file)
