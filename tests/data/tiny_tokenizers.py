"""Tiny tokenizers of the two kinds that language models use, made with the tokenizers library.

Byte-level BPE (GPT-2, Llama 3, Qwen) spells bytes in an alphabet of printable characters; the
sentencepiece kind (Llama 2, Mistral, Gemma) marks spaces with U+2581 and falls back to byte tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = (
    "The quick brown fox jumps over the lazy dog. Once upon a time there was a small model that"
    " read tokens, wrote tokens, and wondered about spaces. Größe, naïve, 你好 world! 😀 🎉 12345"
)
BYTE_LEVEL_SPECIAL = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def byte_level() -> Tokenizer:
    """Byte-level BPE with chat tokens; the post-processor puts <|begin|> first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=BYTE_LEVEL_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    return tokenizer


def sentencepiece() -> Tokenizer:
    """BPE over words that begin with U+2581, with <s>, </s> and a token for each byte."""
    space = "\u2581"
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), space]
    letters = sorted(set("abcdefghijklmnopqrstuvwxyzTOäß.,!你"))
    vocabulary = {piece: index for index, piece in enumerate([*pieces, *letters])}
    merges = [(space, "t"), ("h", "e"), (f"{space}t", "he"), (space, "a"), ("o", "n"), (space, "d")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(space), normalizers.Replace(" ", space)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(space), " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text in ("<unk>", "<s>", "</s>")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def write_directory(
    directory: Path, tokenizer: Tokenizer, settings: dict[str, Any], **documents: dict[str, Any]
) -> Path:
    """tokenizer.json and tokenizer_config.json, and `<name>.json` for each of ``documents``."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    for name, document in {"tokenizer_config": settings, **documents}.items():
        text = json.dumps(document, ensure_ascii=False)
        (directory / f"{name}.json").write_text(text, encoding="utf-8")
    return directory
