"""The rows of a comparison on one text, a batch of models against the reference at a time.

A batch reads the text in lock-step with the reference, which therefore runs once a batch. What is
kept of a row are its summary and the mean KL of every window: enough for the paired difference of
any two rows, whenever each of them was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jang_tools.comparison.given import is_foreign, open_given
from jang_tools.comparison.rows import Row
from jang_tools.evaluation.report import ModelScores, Subject, TextInfo
from jang_tools.evaluation.text_run import Progress, TextRun
from jang_tools.evaluation.texts import Text
from jang_tools.evaluation.tokenizers import Tokenizers
from jang_tools.json_file import read_json_object
from jang_tools.memory import available_memory
from jang_tools.model import load_model

MOST_AT_ONCE = 8  # models beside the reference


@dataclass(frozen=True)
class Settings:
    """How rows are measured; ``sequence`` is what `prepare` found, ``tokens`` as it was asked."""

    text: Text
    sequence: int
    tokens: int | None
    score: Literal["all", "second-half"]
    precision: Literal["fast", "exact"]

    def key(self) -> dict[str, Any]:
        return {**vars(self), "text": self.text.sha256}


def prepare(
    reference: Path,
    text: Text,
    sequence: int | None,
    tokens: int | None,
    score: Literal["all", "second-half"],
    precision: Literal["fast", "exact"],
) -> tuple[Settings, TextInfo]:
    """Cuts the text for the reference alone: whatever is wrong with it shows before any work.

    Windows are as long as asked, or as `jang eval` makes them, and the same for all rows.
    """
    models = [load_model(reference, "exact", 1, "f32")]
    run = TextRun(text, models, Tokenizers([reference]), sequence, tokens, score, [])
    return Settings(text, run.info.sequence, tokens, score, precision), run.info


def batches(rows: Sequence[Row], reference: Path, spare_disk: int | None) -> list[list[Row]]:
    """Consecutive rows that are measured together.

    Their weights fit the memory beside the reference's as far as that can be told, and
    ``spare_disk`` if it is given; a single row is always tried. Rows that bring another size of the
    vocabulary or have to be expanded are on their own: they change what is compared, or take an
    unknown amount of space.
    """
    memory = available_memory()
    room = None
    config = read_json_object(reference / "config.json")
    if memory is not None:
        weights = sum(file.stat().st_size for file in reference.glob("*.safetensors"))
        settings = config.get("quantization_config")
        if isinstance(settings, dict) and settings.get("quant_method") == "fp8":
            weights *= 4  # widened to float32 in memory
        room = max(memory * 3 // 4 - weights, 0)
    limits = [limit for limit in (room, spare_disk) if limit is not None]
    most = min(limits, default=None)
    vocabulary = config.get("vocab_size")
    out: list[list[Row]] = []
    joint, used = False, 0
    for row in rows:
        fits = most is None or used + row.bytes <= most
        together = _joins(row, vocabulary)
        if together and joint and fits and len(out[-1]) < MOST_AT_ONCE:
            out[-1].append(row)
            used += row.bytes
        else:
            out.append([row])
            joint, used = together, row.bytes
    return out


def _joins(row: Row, vocabulary: object) -> bool:
    if row.path is None:
        return True
    if is_foreign(row.path):
        return False
    return bool(read_json_object(row.path / "config.json").get("vocab_size") == vocabulary)


def measure(
    reference: Path,
    batch: Sequence[tuple[Row, Path]],
    settings: Settings,
    threads: int | None,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """A record for each row of a batch, in order, from its directory or file."""
    with ExitStack() as stack:
        places = [
            path if row.path is None else stack.enter_context(open_given(path, reference, progress))
            for row, path in batch
        ]
        models = [load_model(reference, "exact", threads, "f32")]
        models += [load_model(path, settings.precision, threads) for path in places]
        notices = [
            f"{row.name}: of another format, dequantized to float32 to be run"
            for row, _ in batch
            if row.path is not None and is_foreign(row.path)
        ]
        run = TextRun(
            settings.text,
            models,
            Tokenizers([reference, *places]),
            settings.sequence,
            settings.tokens,
            settings.score,
            notices,
        )
        subjects = [Subject(reference, reference.name, "", None, None, 0, 0.0)]
        subjects += [_subject(path, row) for (row, _), path in zip(batch, places, strict=True)]
        scores = run.scores(subjects, progress)
    return [{**_record(one), "notices": notices} for one in scores]


def _subject(path: Path, row: Row) -> Subject:
    return Subject(path, row.name, "", row.profile, row.method, row.bytes, row.bits_per_weight)


def _record(scores: ModelScores) -> dict[str, Any]:
    return {
        "kl": asdict(scores.kl),
        "top1": asdict(scores.top1),
        "perplexity": scores.perplexity,
        "perplexity_reference": scores.perplexity_reference,
        "perplexity_ratio": asdict(scores.perplexity_ratio),
        "probability_rms": scores.probability_rms,
        "logit_mse": scores.logit_mse,
        "kl_windows": scores.kl_positions.mean(axis=1).tolist(),
    }
