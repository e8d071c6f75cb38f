#!/usr/bin/env python3
"""Makes (or with --check recomputes and compares) the reference logits in tests/data/parity/.

Needs the dependency group `parity` (torch, transformers), which nothing else does: `make parity`.
Every checkpoint of tests/data/tiny_checkpoints.py, in both spellings of its configuration, those of
tests/data/fp8_checkpoints.py and the demo model are run by transformers in float32 with eager
attention on the stored weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "tests" / "data"
DEMO = ROOT / "examples" / "tiny-prose-llama"
sys.path.insert(0, str(DATA))

import fp8_checkpoints as fp8  # noqa: E402
import tiny_checkpoints as tiny  # noqa: E402

FROM_CONFIG = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
TOLERANCE = 1e-5  # of the largest logit, between two runs of the reference itself


def reference_logits(
    folder: Path, tokens: npt.NDArray[np.int32], dtype: str = "float32"
) -> npt.NDArray[np.float32]:
    """Logits of transformers computing in `dtype`, [sequences, length, vocabulary]."""
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation="eager",
        output_loading_info=True,
    )
    # What follows from the config is not stored by all writers.
    info["missing_keys"] = {key for key in info["missing_keys"] if not key.endswith(FROM_CONFIG)}
    unused = {key: value for key, value in info.items() if value}
    if unused:
        raise SystemExit(f"{folder.name}: not all tensors were loaded as they are: {unused}")
    inner = model.base_model
    embeddings = [model.get_input_embeddings(), getattr(inner, "embed_tokens_per_layer", None)]
    for scale in (getattr(embedding, "embed_scale", None) for embedding in embeddings):
        if scale is None:
            continue
        # The factor of the embedding is rounded to the dtype of the weights: here to the one they
        # are stored in, as when the model runs in it.
        config = json.loads((folder / "config.json").read_text())
        scale.copy_(scale.to(getattr(torch, config.get("dtype") or config["torch_dtype"])))
    with torch.no_grad():
        rows = [model(torch.from_numpy(row[None].astype(np.int64))).logits[0] for row in tokens]
    return np.stack([row.numpy() for row in rows]).astype(np.float32)


def case_data(case: tiny.Case) -> dict[str, npt.NDArray[np.generic]]:
    tokens = tiny.tokens()
    logits, longer = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for spelling in ("new", "old"):
            folder = Path(temporary) / spelling
            digest = tiny.write_checkpoint(case, folder, spelling)
            logits.append(reference_logits(folder, tokens))
            if case.long:
                longer.append(reference_logits(folder, tiny.long_tokens(case)))
    if not np.array_equal(logits[0], logits[1]):
        raise SystemExit(f"{case.name}: the two spellings of the configuration differ")
    made = {"tokens": tokens, "logits": logits[0], "weights_sha256": np.array(digest)}
    if longer:
        made |= {"long_tokens": tiny.long_tokens(case), "long_logits": longer[0]}
    return made


def fp8_data(name: str) -> dict[str, npt.NDArray[np.generic]]:
    tokens = tiny.tokens()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        digest = fp8.write_parity(name, folder)
        logits = reference_logits(folder, tokens)
    return {"tokens": tokens, "logits": logits, "weights_sha256": np.array(digest)}


def demo_data() -> dict[str, npt.NDArray[np.generic]]:
    tokens = tiny.tokens(vocabulary=4096)[:1]
    return {"tokens": tokens, "logits": reference_logits(DEMO, tokens)}


def difference(made: dict[str, npt.NDArray[np.generic]], path: Path) -> str:
    """Empty if the file at `path` holds what was made."""
    if not path.exists():
        return "no such file"
    with np.load(path, allow_pickle=False) as stored:
        if sorted(stored.files) != sorted(made):
            return f"expected the arrays {sorted(made)}, found {sorted(stored.files)}"
        for name, values in made.items():
            if not name.endswith("logits"):
                if not np.array_equal(stored[name], values):
                    return f"{name} differ"
                continue
            wanted = values.astype(np.float32)
            if stored[name].shape != wanted.shape:
                return f"{name}: expected {wanted.shape}, found {stored[name].shape}"
            error = float(np.abs(stored[name] - wanted).max() / np.abs(wanted).max())
            if error > TOLERANCE:
                return f"{name} differ by {error:.1e} of their scale"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored files")
    parser.add_argument("names", nargs="*", help="only these cases; default: all")
    arguments = parser.parse_args()
    check = arguments.check
    makers = {case.name: (lambda case=case: case_data(case)) for case in tiny.CASES}
    makers |= {name: (lambda name=name: fp8_data(name)) for name in fp8.PARITY}
    makers["tiny-prose-llama"] = demo_data
    if unknown := set(arguments.names) - makers.keys():
        parser.error(f"no case of the name {', '.join(sorted(unknown))}")
    if arguments.names:
        makers = {name: makers[name] for name in arguments.names}
    failures = 0
    for name, make in makers.items():
        made = make()
        path = DATA / "parity" / f"{name}.npz"
        problem = ""
        if check:
            problem = difference(made, path)
        else:
            path.parent.mkdir(exist_ok=True)
            np.savez_compressed(path, **made)
        failures += bool(problem)
        scale = float(np.abs(made["logits"].astype(np.float32)).max())
        print(
            f"{name:28} scale {scale:7.2f}  {problem or ('ok' if check else 'written')}", flush=True
        )
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
