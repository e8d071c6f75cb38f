"""The built-in texts of calibration and evaluation: what they hold, and that they share nothing."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GRAM = 13
WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]|\w+")
NAMES = ("calibration", "evaluation")


def packed(name: str) -> bytes:
    return (files("jang_tools") / "data" / f"{name}.txt.gz").read_bytes()


def text_of(name: str) -> str:
    return gzip.decompress(packed(name)).decode("utf-8")


def grams(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}


def test_sizes_suit_the_package() -> None:
    assert 650_000 < len(text_of("calibration").encode()) < 750_000
    assert 150_000 < len(text_of("evaluation").encode()) < 250_000
    assert sum(len(packed(name)) for name in NAMES) < 400_000


def test_the_texts_share_no_run_of_words() -> None:
    calibration, evaluation = (grams(text_of(name)) for name in NAMES)
    assert len(calibration) > 100_000 and len(evaluation) > 25_000
    assert calibration.isdisjoint(evaluation)


def test_a_shared_run_of_words_would_be_noticed() -> None:
    borrowed = " ".join(text_of("evaluation").split()[500:530])
    assert not grams(text_of("calibration") + borrowed).isdisjoint(grams(text_of("evaluation")))


@pytest.mark.parametrize("name", NAMES)
def test_every_beginning_is_a_mixture(name: str) -> None:
    content = text_of(name)
    for part in (content[: len(content) // 3], content[-len(content) // 3 :]):
        assert "User: " in part and "\nAssistant: " in part
        assert "#include" in part or "std::" in part
        assert "def " in part
        assert re.search(r"[а-я]{4}", part) or re.search(r"[一-鿿]{4}", part)
        assert re.search(r"[äöüßéèñ]", part)


@pytest.mark.parametrize("name", NAMES)
def test_the_texts_name_no_private_thing(name: str) -> None:
    content = text_of(name)
    assert not re.search(r"/(home|root|Users|work)/|\S@\S+\.(com|org|net)\b", content)
    assert "\r" not in content and "\x00" not in content


def test_the_notice_names_the_sources() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    source = (ROOT / "tools" / "make_texts.py").read_text(encoding="utf-8")
    books = re.findall(r'^    \d+: "(.+), (.+)",$', source, re.M)
    assert len(books) > 15
    for _, author in books:
        assert author.split()[-1] in notice


def test_the_bytes_are_those_of_gzip_without_a_time() -> None:
    for name in NAMES:
        assert packed(name)[4:8] == bytes(4)
