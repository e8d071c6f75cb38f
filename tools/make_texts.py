#!/usr/bin/env python3
"""Assembles the built-in texts of calibration and evaluation, and says what is in them.

    python tools/make_texts.py --prose simple_prose.txt.xz [--check]

Prose comes from public-domain books: the collection that the demo model was trained on, one
paragraph a line, books parted by <|endoftext|> (its SHA-256 is below; it is not in the repository).
Code and documentation are this repository's own at a fixed revision; languages and dialogues are
own writing, in tools/texts/ and made by tools/made_dialogues.py. The two texts share no run of 13
words, nor does either with the parts of the collection on which conversions of the demo model are
measured: its last megabyte and 600,000 characters from 5,000,000 on.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from made_dialogues import CALIBRATION, EVALUATION, dialogues

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "python" / "jang_tools" / "data"
OWN = ROOT / "tools" / "texts"
REVISION = "0fc39b2"
PROSE_SHA256 = "a9f210b93c6173bb01c2e3d0ba5f043c0125a0ca55d9a2288ade02f9013ce1e6"
GRAM = 13
WORD = re.compile(r"[぀-ヿ一-鿿가-힯]|\w+")
RESERVED = ((5_000_000, 5_600_000), (79_136_863, 80_136_863))  # characters, for measurements

# Index in the collection: title and author, all of whom died before 1955.
BOOKS = {
    12: "The Prisoner of Zenda, Anthony Hope",
    78: "The Gods of Mars, Edgar Rice Burroughs",
    108: "The Man Who Was Thursday, G. K. Chesterton",
    126: "When the Sleeper Wakes, H. G. Wells",
    144: "The House of Pride, Jack London",
    150: "White Fang, Jack London",
    168: "From the Earth to the Moon, Jules Verne",
    198: "Emily of New Moon, L. M. Montgomery",
    204: "Life on the Mississippi, Mark Twain",
    216: "The Picture of Dorian Gray, Oscar Wilde",
    228: "Captain Blood, Rafael Sabatini",
    234: "Dr Jekyll and Mr Hyde, Robert Louis Stevenson",
    240: "Captains Courageous, Rudyard Kipling",
    246: "Winesburg, Ohio, Sherwood Anderson",
    251: "Grimms' Fairy Tales, Jacob and Wilhelm Grimm",
    252: "Personal Memoirs, Ulysses S. Grant",
    255: "Alexander's Bridge, Willa Cather",
    256: "My Antonia, Willa Cather",
    257: "O Pioneers!, Willa Cather",
    258: "One of Ours, Willa Cather",
    260: "The Song of the Lark, Willa Cather",
}
EVALUATION_BOOKS = (257, 258, 260)
PASSAGE = 6_500  # characters, up to the end of a paragraph

CALIBRATION_CODE = [
    "cpp/arch/config.cpp",
    "cpp/arch/rope_config.cpp",
    "cpp/base/thread_pool.cpp",
    "cpp/base/cpu_quota.cpp",
    "cpp/convert/panels.cpp",
    "cpp/io/json.cpp",
    "cpp/io/safetensors_writer.cpp",
    "cpp/model/kv_cache.cpp",
    "cpp/model/model.cpp",
    "cpp/plan/budget.cpp",
    "cpp/quant/quantize.cpp",
    "kernels/dispatch.cpp",
    "kernels/generic/attention.inl",
    "kernels/generic/vec.inl",
    "kernels/x86_avx512/unpack.inl",
    "python/jang_tools/chat.py",
    "python/jang_tools/cli/ui.py",
    "python/jang_tools/generate.py",
    "python/jang_tools/hub.py",
    "python/jang_tools/partial_output.py",
    "tests/cpp/model/sampler_test.cpp",
    "tests/python/test_generate.py",
    "tools/check_layers.py",
    "Makefile",
    "cmake/Dependencies.cmake",
    "cpp/arch/inventory.cpp",
    "cpp/arch/split_tensor.cpp",
    "cpp/convert/panel_writer.cpp",
    "cpp/io/checkpoint.cpp",
    "cpp/model/layers/attention_pass.cpp",
    "cpp/plan/tiers.cpp",
    "kernels/x86_avx2/int8_dot.inl",
    "tests/cpp/io/json_test.cpp",
    "tests/cpp/kernels/kv_test.cpp",
]
CALIBRATION_DOCS = ["docs/format.md", "docs/quantization.md", "docs/safety.md"]
EVALUATION_CODE = [
    "cpp/model/sampler.cpp",
    "cpp/io/shard_index.cpp",
    "cpp/base/float16.h",
    "kernels/generic/rope.inl",
    "cpp/model/rotary.cpp",
    "python/jang_tools/detokenizer.py",
    "python/jang_tools/memory.py",
    "python/jang_tools/bench/synthetic.py",
    "tools/transcripts.py",
    "tests/cpp/base/float16_test.cpp",
    "tools/setup.sh",
    "cpp/model/activations.cpp",
]
EVALUATION_DOCS = ["docs/kernels.md"]


@dataclass(frozen=True)
class Recipe:
    """What a text is made of: bytes of prose, code, documents and dialogues to aim for."""

    name: str
    books: tuple[int, ...]
    passages: int
    code: list[str]
    docs: list[str]
    own: tuple[str, str]
    made: list[str]


def grams(text: str) -> Iterable[int]:
    """Hashes of all runs of GRAM words; a character of Chinese, Japanese, Korean is a word."""
    words = WORD.findall(text.lower())
    for at in range(len(words) - GRAM + 1):
        yield hash(tuple(words[at : at + GRAM]))


def passages(collection: str, books: tuple[int, ...], count: int) -> list[str]:
    """``count`` passages a book, evenly spread, from one paragraph's start to another's end."""
    bounds = [0]
    for found in re.finditer(re.escape("<|endoftext|>"), collection):
        bounds += [found.start(), found.end()]
    bounds.append(len(collection))
    pieces = []
    for book in books:
        start, end = bounds[2 * book], bounds[2 * book + 1]
        for i in range(count):
            at = start + (end - start) * (2 * i + 1) // (2 * count)
            at = collection.index("\n", at) + 1
            stop = min(collection.index("\n", at + PASSAGE), end)
            if any(at < high and stop > low for low, high in RESERVED):
                raise SystemExit(f"a passage of book {book} is reserved for measurements")
            pieces.append(collection[at:stop].strip())
    return pieces


def source(path: str) -> str:
    done = subprocess.run(
        ["git", "show", f"{REVISION}:{path}"], cwd=ROOT, capture_output=True, check=True
    )
    return done.stdout.decode("utf-8")


def split(text: str, size: int) -> list[str]:
    """Pieces of about ``size`` characters that end where a block of lines does."""
    pieces, current = [], ""
    for block in text.split("\n\n"):
        current += block + "\n\n"
        if len(current) >= size:
            pieces.append(current.strip("\n"))
            current = ""
    return [*pieces, current.strip("\n")] if current.strip() else pieces


def mixed(pieces: list[str]) -> list[str]:
    """The pieces in an order of no meaning, so that no language or file comes last."""
    return sorted(pieces, key=lambda piece: hashlib.sha256(piece.encode()).digest())


def interleave(kinds: list[list[str]]) -> str:
    """The pieces of all kinds, each kind evenly spread: any beginning is a mixture too."""
    placed = [
        ((i + 0.5) / len(pieces), kind, piece)
        for kind, pieces in enumerate(kinds)
        for i, piece in enumerate(pieces)
    ]
    return "\n\n".join(piece for _, _, piece in sorted(placed, key=lambda row: row[:2])) + "\n"


def assemble(recipe: Recipe, collection: str) -> list[list[str]]:
    languages, chat = ((OWN / name).read_text("utf-8") for name in recipe.own)
    return [
        passages(collection, recipe.books, recipe.passages),
        mixed([piece for path in recipe.code for piece in split(source(path), 4000)]),
        [piece for path in recipe.docs for piece in split(source(path), 3000)],
        mixed(split(languages, 1)),
        split(chat, 1500),
        split("\n\n".join(recipe.made), 1200),
    ]


def without(kinds: list[list[str]], known: set[int]) -> list[list[str]]:
    """The pieces less the blocks that share a run of words with what is known."""
    cleaned = []
    for pieces in kinds:
        kept = []
        for piece in pieces:
            blocks = piece.split("\n\n")
            text = "\n\n".join(block for block in blocks if known.isdisjoint(grams(block)))
            if text.strip():
                kept.append(text.strip("\n"))
        cleaned.append(kept)
    return cleaned


def report(name: str, kinds: list[list[str]], text: str) -> None:
    names = ("prose", "code", "documents", "languages", "dialogues", "made")
    sizes = [sum(len(piece.encode()) for piece in pieces) for pieces in kinds]
    shares = ", ".join(f"{kind} {size}" for kind, size in zip(names, sizes, strict=True))
    data = text.encode()
    print(f"{name}: {len(data)} bytes ({shares}), sha256 {hashlib.sha256(data).hexdigest()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prose", type=Path, required=True)
    parser.add_argument("--check", action="store_true", help="compare with the committed files")
    arguments = parser.parse_args()
    packed = arguments.prose.read_bytes()
    if hashlib.sha256(packed).hexdigest() != PROSE_SHA256:
        raise SystemExit(f"{arguments.prose}: not the collection that the texts are taken from")
    collection = lzma.decompress(packed).decode("utf-8")

    others = tuple(book for book in BOOKS if book not in EVALUATION_BOOKS)
    made = dialogues(CALIBRATION, 1, 60_000), dialogues(EVALUATION, 2, 20_000)
    recipes = [
        Recipe(
            "calibration", others, 3, CALIBRATION_CODE, CALIBRATION_DOCS,
            ("languages_calibration.txt", "chat_calibration.txt"), made[0],
        ),
        Recipe(
            "evaluation", EVALUATION_BOOKS, 4, EVALUATION_CODE, EVALUATION_DOCS,
            ("languages_evaluation.txt", "chat_evaluation.txt"), made[1],
        ),
    ]  # fmt: skip
    known: set[int] = set()
    for low, high in RESERVED:
        known.update(grams(collection[low:high]))
    failed = False
    for recipe in recipes:
        kinds = without(assemble(recipe, collection), known)
        text = interleave(kinds)
        own = set(grams(text))
        if not known.isdisjoint(own):
            raise SystemExit(f"{recipe.name}: shares {GRAM} words with what it must not")
        known |= own
        report(recipe.name, kinds, text)
        target = DATA / f"{recipe.name}.txt.gz"
        if arguments.check:
            failed |= gzip.decompress(target.read_bytes()) != text.encode()
        else:
            target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    if failed:
        print("the committed texts are others")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
