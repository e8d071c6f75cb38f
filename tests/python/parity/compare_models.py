#!/usr/bin/env python3
"""Compares the models that random_models.py made with the logits beside them: `make parity-full`.

Of each model: logits of the checkpoint in f32, of one pass, of a sequence in pieces and of two
threads; of its unquantized conversion. A line for every model, and exit status 1 if one differs or
is refused. A quantized conversion is compared with stock mlx-lm too, which has not all options:
where it differs, docs/format.md, section 9, must say why.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))

from jang_tools import convert, verify
from jang_tools.errors import JangError
from jang_tools.model import load_model
from stock import stock_model

TOLERANCE = 1e-4  # of the largest logit, against transformers
PIECES = 2e-5  # likewise, of one way of cutting a sequence against another
STOCK = 1e-3  # likewise, of stock mlx-lm against us
# Of these gamma - 1 is written as gamma, or weights beside multipliers as their products,
# in the source's dtype: only F32 does not round them.
ROUNDED = ("qwen3_next", "qwen3_5", "falcon_h1")
CUTS = [0, 1, 2, 31, 32, 40, 59, 75]  # one token, across the chunks of recurrent layers

Logits = npt.NDArray[np.float32]


def relative(found: Logits, expected: Logits) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def in_pieces(folder: Path, tokens: npt.NDArray[np.int32]) -> Logits:
    model = load_model(folder, "exact")
    cache = model.core.new_cache()
    parts = [tokens[begin:end] for begin, end in pairwise(CUTS)]
    return np.concatenate([model.core.forward(part, cache) for part in parts])


def cut_alike(config: str) -> bool:
    """Whether a sequence in pieces means the same: not where positions depend on the length."""
    return '"dynamic"' not in config and '"longrope"' not in config


def errors_of(folder: Path, outputs: Path) -> dict[str, tuple[float, float]]:
    """Name of a comparison, its error and the bound. Converts into `outputs`."""
    config = (folder / "config.json").read_text()
    with np.load(folder / "reference.npz") as reference:
        tokens, expected, noise = (reference[key] for key in ("tokens", "logits", "noise"))
    found = load_model(folder, "exact", threads=1)(tokens)
    bound = max(TOLERANCE, 2 * float(noise / np.abs(expected).max()))
    errors = {"transformers": (relative(found, expected), bound)}
    two = load_model(folder, "exact", threads=2)(tokens)
    errors["threads"] = (relative(two, found), 0.0)
    if cut_alike(config):
        errors["pieces"] = (relative(in_pieces(folder, tokens), found), PIECES)
    for name, rules in (("plain", ["*=none"]), ("quantized", [])):
        output = outputs / name
        convert(folder, output, profile="JANG_3M", method="rtn", group_size=32, rules=rules)
        if not verify(output, against=folder).ok:
            errors[f"verify {name}"] = (float("inf"), 0.0)
    kind = json.loads(config)
    if kind["dtype"] == "float32" or not kind["model_type"].startswith(ROUNDED):
        plain = load_model(outputs / "plain", "exact")(tokens)
        errors["plain"] = (relative(plain, found), PIECES)
    return errors


def stock_difference(folder: Path, outputs: Path) -> str:
    """What stock mlx-lm says of the quantized conversion, if it does not say the same."""
    with np.load(folder / "reference.npz") as reference:
        tokens = reference["tokens"]
    ours = load_model(outputs / "quantized", "exact")(tokens)
    try:
        theirs = stock_model(outputs / "quantized")(tokens)
    except Exception as error:
        return f"stock does not run it: {str(error).splitlines()[0][:80]}"
    error = relative(ours, theirs)
    return "" if error <= STOCK else f"stock differs by {error:.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="only these models; default: all")
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    names = arguments.names or sorted(path.name for path in arguments.folder.iterdir())
    bad = []
    for name in names:
        try:
            with tempfile.TemporaryDirectory() as outputs:
                errors = errors_of(arguments.folder / name, Path(outputs))
                stock = stock_difference(arguments.folder / name, Path(outputs))
        except JangError as error:
            bad.append(f"{name}: {error}")
            print(bad[-1], flush=True)
            continue
        text = "  ".join(f"{key} {error:.1e}" for key, (error, _) in errors.items())
        above = [key for key, (error, bound) in errors.items() if not error <= bound]
        said = [f"DIFFERS: {', '.join(above)}"] if above else []
        print("  ".join([f"{name:24} {text}", *said, *([stock] if stock else [])]), flush=True)
        if above:
            bad.append(f"{name}: {', '.join(above)}")
    print(f"{len(names) - len(bad)} of {len(names)} models agree")
    for line in bad:
        print(f"  {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
