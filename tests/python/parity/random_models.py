#!/usr/bin/env python3
"""Random models of every family, made by transformers' own classes, with its logits beside them.

`make parity-full` runs this where torch and transformers are (`make DIR`), then compare_models.py.
A model takes its options from the cases of tests/data/tiny_checkpoints.py of its type, each key
from another one, and a shape at random; what transformers itself refuses or cannot run is drawn
again. Weights are random around what the class begins with, so that no norm is 1 and no bias 0.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))

from make_logits import reference_logits

import tiny_checkpoints as tiny

LENGTH = 75  # past the windows of the cases, and past a chunk of recurrent layers
# Beyond the original positions of longrope transformers keeps the short factors in phimoe.
SHORTER = {"phimoe": 60}
DRAWS = 40
HEADS = [(4, 2), (4, 4), (6, 2), (3, 1), (8, 2), (5, 5), (4, 1)]
# Of one case together: lists have an entry for each layer or channel, the rest goes with them.
TOGETHER = ("layers", "layer", "pattern", "period", "offset", "block", "interval")


def draw_case(cases: list[tiny.Case], dice: random.Random, name: str) -> tiny.Case:
    """A case whose options come from several."""
    first = dice.choice(cases)
    values = dict(first.config)
    listed = {key for case in cases for key, value in case.config.items() if type(value) is list}
    for case in cases:
        for key, value in case.config.items():
            apart = key in values and key not in listed and not any(s in key for s in TOGETHER)
            if apart and dice.random() < 0.5:
                values[key] = value
    values |= draw_shape({**tiny.BASE, **values}, dice)
    return replace(first, name=name, config=values, dtype=dice.choice(["F32", "BF16", "F16"]))


def has_enough_experts(values: dict[str, Any]) -> bool:
    """Of the groups that are open to a token; with fewer, transformers takes closed ones."""
    groups, open_groups = values.get("n_group"), values.get("topk_group")
    if not groups or not open_groups:
        return True
    return bool(values["num_experts_per_tok"] <= values["n_routed_experts"] // groups * open_groups)


def draw_shape(values: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """Some sizes anew; only those that the plain model has."""
    shape: dict[str, Any] = {"vocab_size": dice.randint(200, 500)}
    if dice.random() < 0.3:
        return shape
    heads, kv_heads = dice.choice(HEADS)
    width = dice.choice([16, 32, 40, 64])
    shape |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    if dice.random() < 0.5:  # what types without a head_dim of their own need
        shape |= {"head_dim": width, "hidden_size": heads * width}
    else:
        shape |= {"head_dim": width, "hidden_size": 32 * dice.randint(3, 9)}
    if dice.random() < 0.5:
        shape["intermediate_size"] = 32 * dice.randint(2, 9)
    if "rms_norm_eps" in values:
        shape["rms_norm_eps"] = dice.choice([1e-6, 1e-5, 1e-3])
    return shape


def randomize(model: Any, seed: int) -> None:
    """Matrices N(0, 1.5^2 / fan-in), embeddings N(0, 1), vectors around what they are."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(model.get_input_embeddings().weight)}
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if id(parameter) in embeddings:
                parameter.copy_(noise)
            elif parameter.dim() < 2:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(1.5 / parameter.shape[-1] ** 0.5 * noise)


def store(model: Any, dtype: str, folder: Path) -> None:
    """Weights in `dtype`; buffers, which follow from the config, as they are."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))
    model.save_pretrained(folder)


def make_model(case: tiny.Case, seed: int, folder: Path) -> None:
    """Writes checkpoint and reference; raises whatever transformers raises."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    values = tiny.config(case)
    if not has_enough_experts(values):
        raise ValueError("fewer open experts than a token wants")
    (folder / "config.json").write_text(json.dumps(values))
    config = AutoConfig.from_pretrained(folder)
    # In float32 from the beginning, buffers that follow from the config among it.
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    randomize(model, seed)
    store(model, values["dtype"], folder)
    length = SHORTER.get(case.model_type, LENGTH)
    state = np.random.RandomState(seed)
    tokens = state.randint(0, values["vocab_size"], size=(1, length)).astype(np.int32)
    logits = reference_logits(folder, tokens)
    if not np.isfinite(logits).all():
        raise ValueError("logits are not finite")
    # Where it can: some random models magnify rounding, and then f32 is no reference.
    try:
        exact = reference_logits(folder, tokens, "float64")
    except Exception:
        exact = logits
    noise = np.abs(exact - logits).max()
    np.savez(folder / "reference.npz", tokens=tokens[0], logits=exact[0], noise=noise)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=8, help="models of each type; default 8")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", action="append", help="this model type; may be repeated")
    arguments = parser.parse_args()
    types: dict[str, list[tiny.Case]] = defaultdict(list)
    for case in tiny.CASES:
        types[case.model_type].append(case)
    short = []
    for model_type, cases in types.items():
        if arguments.only and model_type not in arguments.only:
            continue
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            dice = random.Random(f"{model_type} {seed}")
            name = f"{model_type}-{seed}"
            folder, reason = arguments.folder / name, ""
            for _ in range(DRAWS):
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    make_model(draw_case(cases, dice, name), seed, folder)
                except (Exception, SystemExit) as error:
                    reason = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
                    continue
                break
            else:
                shutil.rmtree(folder, ignore_errors=True)
                short.append(f"{name}: none in {DRAWS} draws; the last: {reason}")
            print(f"{name} {'made' if folder.exists() else reason}", flush=True)
    for line in short:
        print(line)
    return 1 if short else 0


if __name__ == "__main__":
    raise SystemExit(main())
