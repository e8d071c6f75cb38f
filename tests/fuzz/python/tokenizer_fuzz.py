"""A directory of tokenizer files: what loads can encode, decode and stream.

The document has the files' contents by name: tokenizer, tokenizer_config, config,
generation_config, special_tokens_map; "text" is what is encoded, "ids" are decoded. Without a
tokenizer there is a small sound one.
"""

from __future__ import annotations

import json
from typing import Any

import atheris

with atheris.instrument_imports(include=["jang_tools"]):
    from jang_tools.errors import ArgumentError, FormatError, UnsupportedError
    from jang_tools.tokenizer import Tokenizer

from harness import Scratch, check_error, document, run

SCRATCH = Scratch()
FILES = ("tokenizer", "tokenizer_config", "config", "generation_config", "special_tokens_map")
BYTES = [chr(c) for c in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]]
BYTES += [chr(0x100 + i) for i in range(256 - len(BYTES))]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
SOUND: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [{"id": 256, "content": "<s>", "special": True}],
    "normalizer": None,
    "pre_tokenizer": BYTE_LEVEL,
    "post_processor": None,
    "decoder": BYTE_LEVEL,
    "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate([*BYTES, "<s>"])}},
}
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
SOUND["added_tokens"][0] |= dict.fromkeys(FLAGS, False)
SOUND["model"]["merges"] = []
WORDS = r"""
bos_token
eos_token
<s>
</s>
add_bos_token
added_tokens_decoder
content
chat_template
{{ messages[0].content }}<s>
additional_special_tokens
tokenizer_class
LlamaTokenizerFast
lstrip
rstrip
eos_token_id
text_config
256
ByteLevel
Metaspace
TemplateProcessing
BPE
Unigram
WordLevel
Prepend
Sequence
Replace
ByteFallback
Fuse
Strip
normalizer
pre_tokenizer
post_processor
decoder
type
pattern
String
Regex
"""


def one_input(data: bytes) -> None:
    value = document(data)
    if not isinstance(value, dict):
        value = {"text": data.decode("utf-8", "replace")}
    folder = SCRATCH.folder("tokenizer")
    (folder / "tokenizer.json").write_text(json.dumps(SOUND), encoding="utf-8")
    for name in FILES:
        if name in value:
            text = value[name] if isinstance(value[name], str) else json.dumps(value[name])
            (folder / f"{name}.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        tokenizer = Tokenizer.load(folder)
    except (FormatError, UnsupportedError) as error:
        check_error(error)
        return
    assert all(isinstance(id, int) for id in tokenizer.eos_ids)
    text = value.get("text")
    use(tokenizer, text if isinstance(text, str) else "a b")


def use(tokenizer: Tokenizer, text: str) -> None:
    try:
        ids = tokenizer.encode(text)
    except (ArgumentError, FormatError) as error:
        check_error(error)
        return
    assert all(isinstance(id, int) and id >= 0 for id in ids)
    tokenizer.encode_prompt(text)
    assert isinstance(tokenizer.decode(ids), str)
    stream = tokenizer.detokenizer()
    assert isinstance("".join([*(stream.add(id) for id in ids), stream.finish()]), str)
    if tokenizer.chat_template is None:
        return
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        tokenizer.chat_template.opens_thinking()
    except FormatError as error:
        check_error(error)


if __name__ == "__main__":
    run(one_input, WORDS.strip("\n").split("\n"))
