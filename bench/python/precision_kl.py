"""What int8 activations change: KL divergence of `fast` from `exact` precision, token by token.

    python bench/python/precision_kl.py [--model DIR | --profile JANG_4L] [--text FILE] [--tokens N]

Without --model the bundled model is converted first; without --text the model is judged on text
that it writes itself (sampled with a fixed seed in exact precision). Prints Markdown: mean KL in
nats, its standard error, 99 % quantile, maximum, share of equal top choices, and perplexities.
Needs only jang_tools and numpy.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from jang_tools import convert
from jang_tools.model import Model, load_model
from jang_tools.tokenizer import Tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
SEQUENCE = 256


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def written_text(model: Model, count: int, seed: int) -> list[np.ndarray]:
    """Sequences that ``model`` samples at temperature 1, each from one random token."""
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(-(-count // SEQUENCE)):
        tokens = [int(rng.integers(model.vocabulary))]
        cache = model.cache()
        while len(tokens) < SEQUENCE:
            chances = np.exp(log_softmax(model.last_logits(tokens[-1:], cache)))
            tokens.append(int(rng.choice(model.vocabulary, p=chances / chances.sum())))
        sequences.append(np.array(tokens, dtype=np.int32))
    return sequences


def file_text(directory: Path, text: Path, count: int) -> list[np.ndarray]:
    with text.open(encoding="utf-8") as file:
        beginning = file.read(16 * count)  # characters; more than `count` tokens of any language
    ids = Tokenizer.load(directory).encode(beginning)[:count]
    return [np.array(ids[i : i + SEQUENCE], dtype=np.int32) for i in range(0, len(ids), SEQUENCE)]


def compare(exact: Model, fast: Model, sequences: list[np.ndarray]) -> dict[str, float]:
    divergence, agreement, surprise = [], [], []
    for tokens in sequences:
        p, q = log_softmax(exact(tokens)), log_softmax(fast(tokens))
        divergence.append((np.exp(p) * (p - q)).sum(axis=-1))
        agreement.append(p.argmax(axis=-1) == q.argmax(axis=-1))
        following = np.arange(len(tokens) - 1), tokens[1:]
        surprise.append(np.array([-p[following].mean(), -q[following].mean()]))
    values = np.concatenate(divergence)
    means = np.array([part.mean() for part in divergence])
    nats = np.mean(surprise, axis=0)
    return {
        "tokens": len(values),
        "mean KL": float(values.mean()),
        "standard error": float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0,
        "99 %": float(np.quantile(values, 0.99)),
        "maximum": float(values.max()),
        "top-1 equal": float(np.concatenate(agreement).mean()),
        "perplexity exact": float(np.exp(nats[0])),
        "perplexity fast": float(np.exp(nats[1])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--profile", default="JANG_4L")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = arguments.model
        if directory is None:
            directory = Path(scratch) / "model"
            convert(EXAMPLE, directory, profile=arguments.profile, method="mse")
        exact, fast = load_model(directory, "exact"), load_model(directory, "fast")
        sequences = (
            file_text(directory, arguments.text, arguments.tokens)
            if arguments.text
            else written_text(exact, arguments.tokens, arguments.seed)
        )
        found = compare(exact, fast, sequences)
    print("| " + " | ".join(found) + " |")
    print("|" + " --- |" * len(found))
    print("| " + " | ".join(f"{value:.6g}" for value in found.values()) + " |")


if __name__ == "__main__":
    main()
