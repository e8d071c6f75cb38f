#!/usr/bin/env python3
"""Measures every family and writes docs/families.md: `make families`.

Parity of all cases of tests/data/tiny_checkpoints.py with the stored logits of transformers and
between ways of cutting a sequence; of one converted directory a family with stock mlx-lm; how many
matrices gptq solves; and speed on a model of about a billion random weights in the family's shape.
Needs 2 GB of disk; a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "data"))

import tiny_checkpoints as tiny  # noqa: E402
from jang_tools import _core, convert  # noqa: E402
from jang_tools.bench.machine import cpu_name  # noqa: E402
from jang_tools.bench.shapes import ConfigShape  # noqa: E402
from jang_tools.bench.synthetic import write_checkpoint  # noqa: E402
from jang_tools.calibration import BUILTIN, read_calibration_text  # noqa: E402
from jang_tools.model import load_model  # noqa: E402

Logits = npt.NDArray[np.float32]

# About a billion weights, of which a token of a routed model passes about half.
LARGE: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32768,
    "max_position_embeddings": 8192,
}
LARGE_EXPERTS: dict[str, Any] = {
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "intermediate_size": 1024,
    "moe_intermediate_size": 1024,
    "shared_expert_intermediate_size": 1024,
    "n_routed_experts": 16,
}
LARGE_LATENTS: dict[str, Any] = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}
LARGE_MIXERS: dict[str, Any] = {
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}


@dataclass
class Row:
    """What was found about a family."""

    model_type: str
    source: float = 0.0  # of the largest logit, against transformers; so below
    decode: float = 0.0  # token by token against the whole sequence
    stock: float | None = None  # of stock mlx-lm against us, on what we converted
    solved: int = 0  # matrices that gptq solved
    matrices: int = 0  # of those that are quantized
    prefill: float = 0.0  # tok/s
    decoding: float = 0.0
    share: float = 0.0  # of the read-only bandwidth while decoding


def relative(found: Logits, expected: Logits) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def cases_of(model_type: str) -> list[tiny.Case]:
    return [case for case in tiny.CASES if case.model_type == model_type]


def measure_source(cases: list[tiny.Case], row: Row, folder: Path) -> None:
    for case in cases:
        path = folder / case.name
        tiny.write_checkpoint(case, path)
        model = _core.Model(str(path), precision="exact", threads=2)
        with np.load(ROOT / "tests" / "data" / "parity" / f"{case.name}.npz") as stored:
            tokens, expected = stored["tokens"], stored["logits"]
        found = np.stack([model.forward(t, model.new_cache()) for t in tokens])
        row.source = max(row.source, relative(found, expected))
        for t in tokens[:, : case.exact_continuation]:
            cache = model.new_cache()
            steps = np.concatenate([model.forward(t[i : i + 1], cache) for i in range(len(t))])
            row.decode = max(row.decode, relative(steps, model.forward(t, model.new_cache())))


def stock_logits(path: Path, tokens: npt.NDArray[np.int32]) -> Logits | None:
    """None where stock mlx-lm does not load the directory."""
    import mlx.core as mx
    from mlx_lm.utils import load_model as load_stock

    mx.set_default_device(mx.cpu)
    try:
        stock, _ = load_stock(path, strict=True)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    stock.set_dtype(mx.float32)
    return np.array(stock(mx.array(tokens)[None])[0])


def measure_converted(case: tiny.Case, row: Row, folder: Path) -> None:
    source, text = folder / "readable", folder / "calibration.txt"
    # Windows that the test does not reach: stock has none in most families.
    wide = {"sliding_window": 64} if case.config.get("sliding_window") else {}
    tiny.write_readable_checkpoint(case, source, num_hidden_layers=4, **wide)
    text.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    options: dict[str, Any] = {"profile": "JANG_3M", "group_size": 32}
    sequences = {"calibration_sequences": 12, "calibration_tokens": 64}
    convert(source, folder / "out", method="gptq", calibration=text, **options, **sequences)
    document = json.loads((folder / "out" / "jang_config.json").read_text(encoding="utf-8"))
    manifest = document["quantization"]["tensor_quantization_manifest"]
    row.matrices = len(manifest)
    row.solved = sum(entry.get("solver") == "gptq" for entry in manifest.values())
    tokens = tiny.tokens()[0]
    theirs = stock_logits(folder / "out", tokens)
    if theirs is not None:
        row.stock = relative(theirs, load_model(folder / "out", "exact", threads=2)(tokens))


def large(case: tiny.Case) -> tiny.Case:
    """The case at the size that is timed; windows as wide as ordinary models have them."""
    values = {**case.config, **LARGE}
    for group in (LARGE_EXPERTS, LARGE_LATENTS, LARGE_MIXERS):
        if any(key in case.config for key in group if key != "intermediate_size"):
            values |= {k: v for k, v in group.items() if k in {**tiny.BASE, **case.config}}
    values.pop("layer_types", None)
    values |= case.family.large(values)
    if values.get("sliding_window"):
        values["sliding_window"] = 4096
    return replace(case, config=values, dtype="BF16", shards=0)


def measure_speed(case: tiny.Case, row: Row, folder: Path) -> None:
    shape = ConfigShape(case.model_type, tiny.config(large(case)))
    write_checkpoint(folder / "large", shape, 4)
    command = [sys.executable, "-m", "jang_tools.cli.main", "bench", "--model", folder / "large"]
    command += ["--depth", "0", "--batch", "none", "--rounds", "3", "--json", "--quiet"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for result in json.loads(done.stdout)["results"]:
        if result["kind"] == "prefill":
            row.prefill = result["tok_s"]
        else:
            row.decoding, row.share = result["tok_s"], result["share"]


HEAD = """# Families

Written by `make families`: do not edit. Errors are the largest difference of a logit by the
largest logit, in exact precision: of all small random models of the family (every option of it
is on in at least one) against transformers in float32, and decoded token by token against one
pass; and of one of them, converted by `gptq` at JANG_3M, against stock mlx-lm in float32
("none": stock does not load it; where stock computes something else,
[format.md](format.md#9-interoperability) says what). Matrices: how many gptq solved of those
that are quantized; an embedding that is not the head too, and experts that the text reached too
seldom, are searched by mse. Speeds: a model of about a billion weights at 4 bits, prefill of
512 tokens and decoding of 64, and the share of a pass that only reads the same bytes; {cpu}.

| model type | transformers | decode | stock | gptq | prefill tok/s | decode tok/s | share |
|---|---|---|---|---|---|---|---|"""


def markdown(rows: list[Row]) -> str:
    lines = [HEAD.format(cpu=f"{cpu_name()}, {os.cpu_count()} threads")]
    for row in rows:
        stock = "none" if row.stock is None else f"{row.stock:.1e}"
        lines.append(
            f"| {row.model_type} | {row.source:.1e} | {row.decode:.1e} | {stock} "
            f"| {row.solved} of {row.matrices} | {row.prefill:.0f} | {row.decoding:.0f} "
            f"| {100 * row.share:.0f} % |"
        )
    return "\n".join(lines) + "\n"


def measure(model_type: str, speed: bool) -> Row:
    row = Row(model_type)
    cases = cases_of(model_type)
    steps: list[Callable[[Path], None]] = [
        lambda folder: measure_source(cases, row, folder),
        lambda folder: measure_converted(
            next((case for case in cases if case.stock), cases[0]), row, folder
        ),
    ]
    if speed:
        steps.append(lambda folder: measure_speed(cases[0], row, folder))
    for step in steps:
        with tempfile.TemporaryDirectory() as temporary:
            step(Path(temporary))
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="TYPE,...", help="these model types, to the terminal")
    parser.add_argument("--no-speed", action="store_true", help="parity alone")
    arguments = parser.parse_args()
    types = sorted({case.model_type for case in tiny.CASES})
    if arguments.only:
        types = arguments.only.split(",")
    rows = []
    for model_type in types:
        print(f"==> {model_type}", flush=True)
        rows.append(measure(model_type, not arguments.no_speed))
        print(f"    {rows[-1]}", flush=True)
    text = markdown(rows)
    if arguments.only or arguments.no_speed:
        print(text)
    else:
        (ROOT / "docs" / "families.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
