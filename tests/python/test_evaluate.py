"""evaluate(): against numpy in float64 on the demo model, its windows, its refusals."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import processors

import jang_tools
from jang_tools.errors import ArgumentError, CancelledError, FormatError, IoError
from jang_tools.evaluate import evaluate
from jang_tools.evaluation import statistics, texts
from jang_tools.evaluation.report import Evaluation
from jang_tools.evaluation.tables import number
from jang_tools.evaluation.texts import encode_start, make_windows, read_text, text_prefix
from jang_tools.model import load_model
from jang_tools.tokenizer import Tokenizer
from tiny_checkpoints import write_safetensors
from weight_files import read_weights

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
SEQUENCE, WINDOWS = 96, 5


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("eval")
    for profile in ("2M", "4L"):
        jang_tools.convert(DEMO, folder / f"demo-{profile}", profile=profile, method="rtn")
    return {profile: folder / f"demo-{profile}" for profile in ("2M", "4L")}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text(read_text("builtin").content[:9000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(converted: dict[str, Path], text: Path) -> Evaluation:
    models = [converted["4L"], converted["2M"]]
    return evaluate(DEMO, models, text=text, sequence=SEQUENCE, tokens=SEQUENCE * WINDOWS + 7)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def by_numpy(model: Path, text: Path) -> dict[str, np.ndarray]:
    """Everything that evaluate() measures, from whole passes and textbook formulas."""
    tokenizer = Tokenizer.load(DEMO)
    ids = tokenizer.encode(text.read_text("utf-8"), add_special_tokens=False)
    reference, other = load_model(DEMO, "exact"), load_model(model, "exact")
    rows: dict[str, list[np.ndarray]] = {}
    for start in range(0, SEQUENCE * WINDOWS, SEQUENCE):
        tokens, targets = ids[start : start + SEQUENCE], ids[start + 1 : start + SEQUENCE + 1]
        a, b = reference(tokens), other(tokens)
        p, q = log_softmax(a), log_softmax(b)
        difference = (a - a.mean(-1, keepdims=True, dtype=np.float64)) - (
            b - b.mean(-1, keepdims=True, dtype=np.float64)
        )
        at = np.arange(SEQUENCE)
        for name, values in {
            "kl": (np.exp(p) * (p - q)).sum(-1),
            "nll": -q[at, targets],
            "nll_reference": -p[at, targets],
            "mse": np.square(difference).mean(-1),
            "same": a.argmax(-1) == b.argmax(-1),
        }.items():
            rows.setdefault(name, []).append(values)
    return {name: np.stack(values).astype(np.float64) for name, values in rows.items()}


def standard_error(values: np.ndarray) -> float:
    means = values.mean(axis=1)
    return float(math.sqrt(((means - means.mean()) ** 2).sum() / (WINDOWS - 1) / WINDOWS))


@pytest.mark.parametrize("index", [0, 1])
def test_equals_numpy_in_float64(found: Evaluation, text: Path, index: int) -> None:
    scores = found.models[index]
    expected = by_numpy(scores.subject.path, text)
    kl = expected["kl"]
    assert scores.kl_positions.shape == kl.shape == (WINDOWS, SEQUENCE)
    np.testing.assert_allclose(scores.kl_positions, kl, rtol=1e-9, atol=1e-13)
    assert scores.kl.mean == pytest.approx(kl.mean(), rel=1e-10)
    assert scores.kl.se == pytest.approx(standard_error(kl), rel=1e-9)
    assert scores.kl.median == pytest.approx(np.median(kl), rel=1e-9)
    for name, share in (("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)):
        assert getattr(scores.kl, name) == pytest.approx(np.quantile(kl, share), rel=1e-9)
    assert scores.top1.value == pytest.approx(expected["same"].mean(), rel=1e-14)
    assert scores.top1.se == pytest.approx(standard_error(expected["same"]))
    assert scores.perplexity == pytest.approx(math.exp(expected["nll"].mean()), rel=1e-10)
    reference = expected["nll_reference"]
    assert scores.perplexity_reference == pytest.approx(math.exp(reference.mean()), rel=1e-10)
    ratio = math.exp((expected["nll"] - reference).mean())
    assert scores.perplexity_ratio.value == pytest.approx(ratio, rel=1e-10)
    error = ratio * standard_error(expected["nll"] - reference)
    assert scores.perplexity_ratio.se == pytest.approx(error, rel=1e-8)
    change = np.exp(-expected["nll"]) - np.exp(-reference)
    assert scores.probability_rms == pytest.approx(math.sqrt((change**2).mean()), rel=1e-9)
    assert scores.logit_mse == pytest.approx(expected["mse"].mean(), rel=1e-6)


def test_an_equal_model_is_not_apart(text: Path) -> None:
    found = evaluate(DEMO, DEMO, text=text, sequence=64, tokens=256)
    scores = found.models[0]
    assert scores.kl_positions.max() == 0
    assert (scores.kl.mean, scores.kl.max, scores.logit_mse) == (0, 0, 0)
    assert scores.top1.value == 1
    assert scores.perplexity == scores.perplexity_reference
    assert (scores.perplexity_ratio.value, scores.perplexity_ratio.se) == (1, 0)
    assert found.pairs == []


def test_says_what_it_measured(found: Evaluation, converted: dict[str, Path], text: Path) -> None:
    info = found.text
    assert info is not None
    assert info.sha256 == hashlib.sha256(text.read_bytes()).hexdigest()
    assert (info.windows, info.sequence, info.tokens) == (WINDOWS, SEQUENCE, WINDOWS * SEQUENCE)
    assert (info.score, info.bos) == ("all", [])
    tokenizer = hashlib.sha256((DEMO / "tokenizer.json").read_bytes()).hexdigest()
    assert info.tokenizer_sha256 == tokenizer
    ids = np.array(Tokenizer.load(DEMO).encode(text.read_text("utf-8")), dtype="<i4")
    used = ids[: WINDOWS * SEQUENCE + 1].tobytes()
    assert info.tokens_sha256 == hashlib.sha256(used).hexdigest()
    for scores, profile in zip(found.models, ("4L", "2M"), strict=True):
        subject = scores.subject
        assert (subject.name, subject.profile) == (f"demo-{profile}", f"JANG_{profile}")
        size = sum(file.stat().st_size for file in converted[profile].glob("model-*.safetensors"))
        assert subject.bytes == size
        assert subject.bits_per_weight == jang_tools.inspect(converted[profile]).bits_per_weight
    assert found.precision == "exact"
    assert any("windows" in notice for notice in found.notices)


def test_pairs_are_decided_and_repeatable(found: Evaluation) -> None:
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.better) == ("demo-4L", "demo-2M", "demo-4L")
    difference = found.models[0].kl.mean - found.models[1].kl.mean
    assert pair.kl.mean == pytest.approx(difference)
    assert pair.kl.low is not None and pair.kl.high is not None
    assert pair.kl.low < pair.kl.mean < pair.kl.high < 0
    assert pair.kl.confidence == 1
    again = statistics.paired_difference(
        found.models[0].kl_positions, found.models[1].kl_positions, found.seed
    )
    assert again == pair.kl


def test_the_second_half_is_scored_alone(found: Evaluation, text: Path) -> None:
    path = found.models[0].subject.path
    tokens = WINDOWS * SEQUENCE
    half = evaluate(DEMO, path, text=text, sequence=SEQUENCE, tokens=tokens, score="second-half")
    assert half.text is not None
    assert half.text.tokens == tokens // 2
    np.testing.assert_array_equal(
        half.models[0].kl_positions, found.models[0].kl_positions[:, SEQUENCE // 2 :]
    )


def test_fast_precision_is_that_of_the_models_only(found: Evaluation, text: Path) -> None:
    path = found.models[0].subject.path
    fast = evaluate(
        DEMO, path, text=text, sequence=SEQUENCE, tokens=WINDOWS * SEQUENCE, precision="fast"
    )
    scores, exact = fast.models[0], found.models[0]
    assert scores.perplexity_reference == exact.perplexity_reference
    assert scores.kl.mean != exact.kl.mean
    assert scores.kl.mean == pytest.approx(exact.kl.mean, rel=0.1)


def test_threads_change_nothing(found: Evaluation, text: Path) -> None:
    path = found.models[0].subject.path
    one = evaluate(DEMO, path, text=text, sequence=SEQUENCE, tokens=WINDOWS * SEQUENCE, threads=1)
    np.testing.assert_array_equal(one.models[0].kl_positions, found.models[0].kl_positions)


def test_the_document_is_plain_json(found: Evaluation) -> None:
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["schema"] == "jang.eval/1"
    assert set(document["text"]) >= {"sha256", "tokens", "sequence"}
    model = document["models"][0]
    assert {"path", "bytes", "bits_per_weight", "kl", "top1", "perplexity"} <= set(model)
    assert {"mean", "se", "median", "p99", "p999", "max"} <= set(model["kl"])
    assert model["perplexity_reference"] == found.models[0].perplexity_reference
    assert document["pairs"][0]["kl"]["mean"] == found.pairs[0].kl.mean
    assert document["tasks"] == []


def test_infinite_numbers_become_null() -> None:
    assert statistics.exp(1000) == math.inf
    nll = np.full((2, 3), 1000.0)
    assert statistics.ratio_of_perplexities(nll, np.zeros((2, 3))).value == math.inf


def test_markdown_has_a_row_a_model(found: Evaluation) -> None:
    lines = found.to_markdown().splitlines()
    assert lines[0].startswith("| model | MB | bits/weight | KL |")
    assert lines[2].startswith("| demo-4L | 4.97 | 5.83 | ")
    assert lines[3].startswith("| demo-2M | ")
    assert all(line.count("|") == lines[0].count("|") for line in lines[:4])
    assert any(line.startswith("Text prose.txt (sha256 ") for line in lines)


def test_progress_ends_complete_and_interruption_ends_it(found: Evaluation, text: Path) -> None:
    path = found.models[0].subject.path
    seen: list[tuple[str, int, int, str]] = []
    evaluate(DEMO, path, text=text, sequence=64, tokens=128, progress=lambda *now: seen.append(now))
    assert seen[-1] == ("evaluating", 256, 256, "tokens")
    assert [done for _, done, _, _ in seen] == sorted(done for _, done, _, _ in seen)

    def stop(*_: object) -> None:
        raise CancelledError("enough")

    with pytest.raises(CancelledError):
        evaluate(DEMO, path, text=text, sequence=64, tokens=128, progress=stop)


# --- statistics --------------------------------------------------------------------------------


def test_errors_go_by_sequences() -> None:
    random = np.random.default_rng(3)
    values = random.normal(size=(40, 1)) + 0.01 * random.normal(size=(40, 50))
    found = statistics.estimate(values)
    assert found.value == pytest.approx(values.mean())
    assert found.se == pytest.approx(values.mean(1).std(ddof=1) / math.sqrt(40))
    # Tokens of a sequence agree here, so that counting them as independent would flatter.
    assert found.se > 5 * values.std(ddof=1) / math.sqrt(values.size)
    assert statistics.estimate(values[:1]).se is None


def test_the_bootstrap_is_seeded_and_right_on_normal_means() -> None:
    means = np.random.default_rng(4).normal(1.0, 2.0, size=400)
    first = statistics.bootstrap_means(means, 7)
    np.testing.assert_array_equal(first, statistics.bootstrap_means(means, 7))
    assert not np.array_equal(first, statistics.bootstrap_means(means, 8))
    assert first.mean() == pytest.approx(means.mean(), abs=0.01)
    assert first.std() == pytest.approx(means.std() / 20, rel=0.05)


def test_paired_differences_see_what_means_hide() -> None:
    random = np.random.default_rng(5)
    hard = random.normal(10, 5, size=(64, 1))
    a = hard + random.normal(0, 0.1, size=(64, 8))
    found = statistics.paired_difference(a, a + 0.05 + random.normal(0, 0.1, (64, 8)), 0)
    assert found.high is not None and found.high < 0
    assert found.confidence == pytest.approx(1, abs=0.01)
    same = statistics.paired_difference(a, a, 0)
    assert (same.mean, same.low, same.high, same.confidence) == (0, 0, 0, 0.5)
    alone = statistics.paired_difference(a[:1], a[1:2], 0)
    assert (alone.se, alone.low, alone.confidence) == (None, None, None)


def test_mcnemar() -> None:
    assert statistics.mcnemar(0, 0) == 1
    assert statistics.mcnemar(5, 5) == 1
    assert statistics.mcnemar(0, 6) == pytest.approx(2 / 64)
    assert statistics.mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert statistics.mcnemar(8, 2) == statistics.mcnemar(2, 8)
    assert statistics.mcnemar(450, 551) == pytest.approx(statistics.mcnemar(449, 551), rel=0.15)
    assert statistics.proportion_error(0.3, 100) == pytest.approx(math.sqrt(0.21 / 100))


def test_numbers_are_short() -> None:
    shown = [number(value) for value in (0.0, 0.0311, 1234.5, 1.5e-7, 12.0, None, math.inf)]
    assert shown == ["0", "0.0311", "1234", "1.50e-07", "12.0", "", "inf"]


# --- windows -----------------------------------------------------------------------------------


def test_windows_cover_the_text_once() -> None:
    ids = np.arange(100, dtype=np.int32)
    windows = make_windows(ids, [], 10, half=False)
    assert len(windows) == 9  # the tenth would have no target for its last position
    assert [int(window.tokens[0]) for window in windows] == list(range(0, 90, 10))
    for window in windows:
        np.testing.assert_array_equal(window.targets, window.tokens + 1)
        assert window.first_scored == 0
    assert len(make_windows(np.arange(101, dtype=np.int32), [], 10, half=False)) == 10
    assert make_windows(ids, [], 10, half=True)[0].first_scored == 5


def test_windows_begin_with_what_the_tokenizer_adds() -> None:
    ids = np.arange(100, 200, dtype=np.int32)
    windows = make_windows(ids, [7], 10, half=False)
    assert windows[0].tokens.tolist() == [7, *range(100, 109)]
    assert windows[0].targets.tolist() == list(range(100, 110))
    assert windows[1].tokens.tolist() == [7, *range(109, 118)]
    assert windows[0].first_scored == 0  # the first token of the text is predicted from BOS
    two = make_windows(ids, [7, 8], 10, half=False)
    assert two[0].targets.tolist() == [8, *range(100, 109)]
    assert two[0].first_scored == 1  # nothing is to be learnt from predicting the prefix
    with pytest.raises(ArgumentError, match="more than 2"):
        make_windows(ids, [7, 8], 2, half=False)


def test_the_prefix_is_what_the_post_processor_puts_first() -> None:
    tokenizer = Tokenizer.load(DEMO)
    assert text_prefix(tokenizer) == []
    tokenizer.backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    assert text_prefix(tokenizer) == [0]


def test_a_beginning_is_tokenized_as_in_the_whole() -> None:
    tokenizer = Tokenizer.load(DEMO)
    content = read_text("builtin").content
    whole = encode_start(tokenizer, content, None)
    assert len(whole) > 30_000
    for count in (1, 100, 5000, len(whole), len(whole) + 5):
        np.testing.assert_array_equal(encode_start(tokenizer, content, count), whole[:count])


def test_models_that_add_bos_are_read_with_it(tmp_path: Path, text: Path) -> None:
    copy = Path(shutil.copytree(DEMO, tmp_path / "with-bos"))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config |= {"add_bos_token": True, "bos_token": "<|endoftext|>"}
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    found = evaluate(copy, copy, text=text, sequence=32, tokens=64)
    assert found.text is not None
    assert found.text.bos == [0]
    assert found.text.tokens == 64
    with pytest.raises(ArgumentError, match="other tokens of the text"):
        evaluate(DEMO, copy, text=text, sequence=32, tokens=64)


# --- texts -------------------------------------------------------------------------------------


def test_compressed_texts_are_read(tmp_path: Path) -> None:
    content = "Ein Text, ça va, 本文.\n" * 20
    data = content.encode()
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(data))
    for name in ("a.txt", "a.txt.gz", "a.txt.xz"):
        found = read_text(tmp_path / name)
        assert (found.content, found.name, found.bytes) == (content, name, len(data))
        assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_texts_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(FormatError, match=r"latin.txt: not valid UTF-8 at byte 3"):
        read_text(tmp_path / "latin.txt")
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    with pytest.raises(FormatError, match=r"bad.gz: cannot be decompressed"):
        read_text(tmp_path / "bad.gz")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"text" * 100)[:-9])
    with pytest.raises(FormatError, match=r"cut.gz: cannot be decompressed"):
        read_text(tmp_path / "cut.gz")
    with pytest.raises(IoError, match=r"absent.txt"):
        read_text(tmp_path / "absent.txt")


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence": 2000}, "2000 exceeds the context of 1024"),
        ({"sequence": 1}, "at least 2"),
        ({"tokens": 10, "sequence": 64}, "fewer than one window"),
        ({"score": "first"}, "score: expected one of"),
        ({"precision": "f16"}, "precision: expected one of"),
        ({"text": None}, "nothing to evaluate on"),
        ({"tasks": {"gsm8k": "x"}}, "gsm8k"),
    ],
)
def test_options_that_make_no_sense(text: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        evaluate(DEMO, DEMO, **{"text": text, **options})


def test_a_short_text_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(ArgumentError, match="fill no window of 1024") as caught:
        evaluate(DEMO, DEMO, text=tmp_path / "short.txt")
    assert "--sequence" in caught.value.hint


def test_no_models_and_the_same_twice(text: Path) -> None:
    with pytest.raises(ArgumentError, match="at least one"):
        evaluate(DEMO, [], text=text)
    with pytest.raises(ArgumentError, match="given twice"):
        evaluate(DEMO, [DEMO, DEMO], text=text, sequence=32)


def test_other_tokenizers_are_refused(tmp_path: Path, text: Path) -> None:
    smaller = Path(shutil.copytree(DEMO, tmp_path / "smaller"))
    document = json.loads((smaller / "tokenizer.json").read_text("utf-8"))
    last = max(document["model"]["vocab"], key=document["model"]["vocab"].__getitem__)
    del document["model"]["vocab"][last]
    merges = document["model"]["merges"]
    document["model"]["merges"] = [
        merge
        for merge in merges
        if "".join(merge if isinstance(merge, list) else merge.split(" ")) != last
    ]
    (smaller / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ArgumentError, match="4095 tokens, the reference's 4096"):
        evaluate(DEMO, smaller, text=text, sequence=32, tokens=64)

    other = Path(shutil.copytree(DEMO, tmp_path / "other"))
    document = json.loads((other / "tokenizer.json").read_text("utf-8"))
    document["model"]["merges"] = document["model"]["merges"][:50]
    (other / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ArgumentError, match="other tokens of the text"):
        evaluate(DEMO, other, text=text, sequence=32, tokens=64)


def test_a_model_without_tokenizer_is_read_as_the_reference(tmp_path: Path, text: Path) -> None:
    bare = Path(shutil.copytree(DEMO, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    found = evaluate(DEMO, bare, text=text, sequence=32, tokens=64)
    assert found.models[0].kl.max == 0
    assert any("bare: has no tokenizer.json" in notice for notice in found.notices)


def test_equal_names_are_told_apart(tmp_path: Path, text: Path) -> None:
    for folder in ("a", "b"):
        shutil.copytree(DEMO, tmp_path / folder / "model")
    models = [tmp_path / "a" / "model", tmp_path / "b" / "model"]
    found = evaluate(DEMO, models, text=text, sequence=32, tokens=64)
    assert [scores.subject.name for scores in found.models] == ["a/model", "b/model"]
    assert found.pairs[0].better is None


def test_the_public_name_is_the_function() -> None:
    assert jang_tools.evaluate is evaluate
    assert texts.BUILTIN == "builtin"


def padded(folder: Path, rows: int) -> Path:
    """The demo model with random rows added to embedding and head."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    config = json.loads((DEMO / "config.json").read_text())
    config["vocab_size"] += rows
    (folder / "config.json").write_text(json.dumps(config))
    noise = np.random.default_rng(6).integers(0x3C00, 0x3E00, size=(rows, 256), dtype=np.uint16)
    entries = []
    for name, tensor in read_weights(DEMO).items():
        shape, payload = tensor.shape, tensor.payload
        if shape[0] == 4096:
            shape, payload = (4096 + rows, 256), payload + noise.tobytes()
        entries.append((name, tensor.dtype, shape, payload))
    write_safetensors(folder / "model.safetensors", entries)
    return folder


def test_rows_of_padding_are_left_out_where_they_differ(tmp_path: Path, text: Path) -> None:
    wide = padded(tmp_path / "wide", 64)
    assert load_model(wide)([5]).shape == (1, 4160)
    found = evaluate(DEMO, wide, text=text, sequence=32, tokens=64)
    assert found.models[0].kl.max == 0
    assert any("4096 and 4160: the first 4096 entries" in notice for notice in found.notices)
    # Between models of one size all entries count, padding included: that is what they compute.
    whole = evaluate(wide, wide, text=text, sequence=32, tokens=64)
    assert whole.notices == [n for n in found.notices if "padded" not in n]
    assert whole.models[0].perplexity > found.models[0].perplexity
