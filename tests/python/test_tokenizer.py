"""Encoding as transformers does it, end tokens, and incremental decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

import tiny_tokenizers
from jang_tools.errors import ArgumentError, FormatError, UnsupportedError
from jang_tools.tokenizer import Tokenizer

BACKENDS = {"byte_level": tiny_tokenizers.byte_level(), "spm": tiny_tokenizers.sentencepiece()}
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def load(
    directory: Path, backend: Backend, fields: dict[str, Any], **documents: dict[str, Any]
) -> Tokenizer:
    return Tokenizer.load(tiny_tokenizers.write_directory(directory, backend, fields, **documents))


def stream(tokenizer: Tokenizer, ids: list[int], *, skip: bool = True) -> list[str]:
    decoder = tokenizer.detokenizer(skip_special_tokens=skip)
    return [*(decoder.add(id) for id in ids), decoder.finish()]


# --- encoding --------------------------------------------------------------------------------


def test_the_post_processor_adds_bos(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, BACKENDS["byte_level"], {"bos_token": "<|begin|>"})
    begin = tokenizer.token_id("<|begin|>")
    assert tokenizer.encode("the")[0] == begin
    assert begin not in tokenizer.encode("the", add_special_tokens=False)
    assert tokenizer.encode("the")[1:] == tokenizer.encode("the", add_special_tokens=False)


@pytest.mark.parametrize(
    ("flags", "first", "last"),
    [
        ({"add_bos_token": False}, False, False),
        ({"add_bos_token": True}, True, False),
        ({"add_eos_token": True}, False, True),
        ({"add_bos_token": True, "add_eos_token": True}, True, True),
    ],
)
def test_flags_of_the_config_replace_the_post_processor(
    tmp_path: Path, flags: dict[str, bool], first: bool, last: bool
) -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, **flags}
    ids = load(tmp_path, BACKENDS["spm"], config).encode("the a")
    assert (ids[0] == 1) is first
    assert (ids[-1] == 2) is last
    assert ids.count(1) + ids.count(2) == first + last


def test_a_prompt_that_begins_with_bos_gets_no_second_one(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, BACKENDS["spm"], {"bos_token": "<s>"})
    assert tokenizer.encode_prompt("<s>the") == tokenizer.encode("<s>the", add_special_tokens=False)
    assert tokenizer.encode_prompt("<s>the").count(1) == 1
    assert tokenizer.encode_prompt("the") == tokenizer.encode("the")
    assert tokenizer.encode("<s>the").count(1) == 2


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    backend = Backend.from_str(BACKENDS["byte_level"].to_str())
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    tokenizer = load(tmp_path, backend, {})
    assert tokenizer.encode("fox") == BACKENDS["byte_level"].encode("fox").ids
    assert len(tokenizer.encode("fox " * 30)) > 50


def test_tokens_known_only_to_the_config_are_added(tmp_path: Path) -> None:
    size = BACKENDS["byte_level"].get_vocab_size()
    config = {
        "added_tokens_decoder": {
            str(size + 1): {"content": "<tool>", "special": False, "lstrip": True},
            str(size): {"content": "<pad>", "special": True},
        },
        "pad_token": "<pad>",
        "additional_special_tokens": ["<extra>"],
    }
    tokenizer = load(tmp_path, BACKENDS["byte_level"], config)
    assert [tokenizer.token_id(t) for t in ("<pad>", "<tool>", "<extra>")] == [
        size,
        size + 1,
        size + 2,
    ]
    assert tokenizer.vocab_size == size + 3
    ids = tokenizer.encode("a <tool><pad><extra>", add_special_tokens=False)
    assert ids[-3:] == [size + 1, size, size + 2]
    assert tokenizer.decode(ids) == "a<tool>"  # lstrip took the space, special tokens are hidden


@pytest.mark.parametrize(
    ("config", "words_after_a_token"),
    [({}, ["\u2581", "the"]), ({"tokenizer_class": "LlamaTokenizer", "legacy": False}, ["the"])],
)
def test_llama_class_puts_the_leading_space_only_before_the_text(
    tmp_path: Path, config: dict[str, Any], words_after_a_token: list[str]
) -> None:
    tokenizer = load(tmp_path, BACKENDS["spm"], config)
    ids = tokenizer.encode("</s>the", add_special_tokens=False)
    expected = "".join(words_after_a_token)
    assert "".join(tokenizer.backend.id_to_token(id) or "" for id in ids[1:]) == expected
    start = tokenizer.encode("the", add_special_tokens=False)
    assert tokenizer.backend.id_to_token(start[0]) == "\u2581the"


def test_special_tokens_map_counts_after_the_config(tmp_path: Path) -> None:
    tokenizer = load(
        tmp_path,
        BACKENDS["spm"],
        {"eos_token": "</s>"},
        special_tokens_map={"eos_token": "<unk>", "bos_token": {"content": "<s>"}},
    )
    assert tokenizer.special_tokens == {"eos_token": "</s>", "bos_token": "<s>"}


def test_text_that_is_no_text_is_refused() -> None:
    tokenizer = Tokenizer(BACKENDS["spm"])
    with pytest.raises(ArgumentError, match="not valid UTF-8 at character 3"):
        tokenizer.encode("ab" + b"\xff".decode("utf-8", "surrogateescape"))


# --- end tokens ------------------------------------------------------------------------------


def test_eos_ids_are_the_union_of_all_that_name_one(tmp_path: Path) -> None:
    backend = BACKENDS["byte_level"]
    tokenizer = load(
        tmp_path,
        backend,
        {"eos_token": "<|begin|>", "chat_template": CHAT},
        config={"eos_token_id": 70, "text_config": {"eos_token_id": 71}},
        generation_config={"eos_token_id": [72, 73]},
    )
    named = {backend.token_to_id("<|begin|>"), backend.token_to_id("<|end|>")}
    assert tokenizer.eos_ids == {70, 71, 72, 73} | named


@pytest.mark.parametrize("end", ["\n", "", "Bye", "{{ raise_exception('no answers') }}"])
def test_ordinary_text_after_an_answer_ends_nothing(tmp_path: Path, end: str) -> None:
    template = "{% for m in messages %}{{ m.content }}" + end + "{% endfor %}"
    tokenizer = load(tmp_path, BACKENDS["byte_level"], {"chat_template": template})
    assert tokenizer.eos_ids == frozenset()


# --- incremental decoding --------------------------------------------------------------------

TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from(" \n\tabthe.,!ßä你好\ufffd\u0301\u200d😀👩🏽🎉🇩🇪\u2581"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("kind", BACKENDS)
@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_pieces_together_are_the_decoded_text(kind: str, text: str) -> None:
    tokenizer = Tokenizer(BACKENDS[kind])
    ids = tokenizer.encode(text)
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_piece_never_holds_half_a_character(kind: str) -> None:
    tokenizer = Tokenizer(BACKENDS[kind])
    text = "the 👩🏽\u200d🚀 ɐ 🇩🇪 on"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) > len(text)  # characters do span tokens
    pieces = stream(tokenizer, ids)
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text
    for length in range(len(ids)):  # stopped anywhere, what is out is a prefix
        assert text.startswith("".join(stream(tokenizer, ids[:length])))


@pytest.mark.parametrize("kind", BACKENDS)
def test_text_comes_as_soon_as_it_is_complete(kind: str) -> None:
    tokenizer = Tokenizer(BACKENDS[kind])
    decoder = tokenizer.detokenizer()
    out = ""
    for id in tokenizer.encode("the lazy dog on a time"):
        out += decoder.add(id)
        assert out == tokenizer.decode(tokenizer.encode("the lazy dog on a time"))[: len(out)]
    assert out == "the lazy dog on a time"
    assert decoder.finish() == ""


def test_leading_spaces_survive_between_pieces() -> None:
    tokenizer = Tokenizer(BACKENDS["spm"])
    ids = tokenizer.encode("the a  on", add_special_tokens=False)
    assert "".join(stream(tokenizer, ids)) == "the a  on"
    eos = tokenizer.token_id("</s>")
    assert eos is not None
    assert "".join(stream(tokenizer, [eos, *ids, eos])) == "the a  on"


def test_special_tokens_are_hidden_unless_wanted() -> None:
    tokenizer = Tokenizer(BACKENDS["byte_level"])
    ids = tokenizer.encode("<|user|>the<think> a<|end|>")
    assert "".join(stream(tokenizer, ids)) == "the<think> a"
    assert "".join(stream(tokenizer, ids, skip=False)) == "<|begin|><|user|>the<think> a<|end|>"


@pytest.mark.parametrize("kind", BACKENDS)
@given(data=st.lists(st.integers(0, 255), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_text_at_once_and_in_order(kind: str, data: list[int]) -> None:
    tokenizer = Tokenizer(BACKENDS[kind])
    ids = [byte_token(tokenizer, kind, byte) for byte in data]
    pieces = stream(tokenizer, ids)
    # Valid stretches between broken bytes come through. Where a byte is broken, the library marks
    # whole runs, and an unfinished character at the end is dropped.
    whole = bytes(data).decode("utf-8", "replace")
    if "\ufffd" not in whole:
        assert "".join(pieces) == tokenizer.decode(ids)
    held = 0
    for piece in pieces[:-1]:
        held = 0 if piece else held + 1
        assert held <= 8


def test_an_endless_run_of_broken_bytes_is_printed_as_it_goes() -> None:
    for kind in BACKENDS:
        tokenizer = Tokenizer(BACKENDS[kind])
        decoder = tokenizer.detokenizer()
        broken = byte_token(tokenizer, kind, 0xF0)
        out = "".join(decoder.add(broken) for _ in range(100))
        assert out == "\ufffd" * len(out)
        assert 90 <= len(out) <= 100


def test_ids_without_a_token_are_silent() -> None:
    tokenizer = Tokenizer(BACKENDS["spm"])
    ids = tokenizer.encode("the a", add_special_tokens=False)
    assert "".join(stream(tokenizer, [10**6, ids[0], 10**6, *ids[1:]])) == "the a"


def byte_token(tokenizer: Tokenizer, kind: str, byte: int) -> int:
    if kind == "spm":
        id = tokenizer.token_id(f"<0x{byte:02X}>")
    else:
        from jang_tools.detokenizer import _BYTE_OF

        (name,) = (character for character, value in _BYTE_OF.items() if value == byte)
        id = tokenizer.token_id(name)
    assert id is not None
    return id


# --- refusals --------------------------------------------------------------------------------


def test_without_tokenizer_json_the_reason_is_given(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"tokenizer\.json: no such file") as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": 3}}'),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "[" * 100_000),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"5": {}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": ["a"]}'),
        ("tokenizer_config.json", '{"chat_template": 5}'),
        ("tokenizer_config.json", '{"add_bos_token": true, "bos_token": ""}'),
        ("special_tokens_map.json", "\xff"),
        ("generation_config.json", "nonsense"),
    ],
)
def test_malformed_files_are_named_in_one_line(tmp_path: Path, name: str, text: str) -> None:
    tiny_tokenizers.write_directory(tmp_path, BACKENDS["spm"], {})
    (tmp_path / name).write_text(text, encoding="latin-1")
    if text.startswith('{"add_bos'):
        assert Tokenizer.load(tmp_path).encode("the")  # an empty name is no token
        return
    with pytest.raises(FormatError) as caught:
        Tokenizer.load(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_null_and_strange_values_are_no_tokens(tmp_path: Path) -> None:
    tokenizer = load(
        tmp_path,
        BACKENDS["spm"],
        {"bos_token": None, "eos_token": 7},
        config={"eos_token_id": None, "text_config": [1]},
        generation_config={"eos_token_id": [True, "2", 5]},
    )
    assert tokenizer.special_tokens == {}
    assert tokenizer.eos_ids == {5}
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] is None


# --- hostile files ---------------------------------------------------------------------------

BARE = {"version": "1.0", "added_tokens": [], "pre_tokenizer": None, "post_processor": None}
BARE |= {"decoder": None, "normalizer": None}
BLANK = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
STRICT = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}}
END = {"chat_template": "{{ messages[-1].content }}zz"}


def put(directory: Path, tokenizer: dict[str, Any], config: dict[str, Any]) -> Path:
    (directory / "tokenizer.json").write_text(json.dumps({**BARE, **tokenizer}))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize(
    ("tokenizer", "config", "reason"),
    [
        (BLANK, {"bos_token": "\ud800"}, "surrogates"),
        (BLANK, {"added_tokens_decoder": {"5": {"content": "\udfff"}}}, "surrogates"),
        (BLANK, {"chat_template": "x\ud800"}, "surrogates"),
        (BLANK, {"bos_token": " a:0 ", "add_bos_token": True}, "Piece"),
        (BLANK, {"added_tokens_decoder": {"\x1b[31m" * 99: {}}}, "has no content"),
        (STRICT, END, "unknown|UNK"),
    ],
)
def test_faults_of_files_are_one_line_that_names_the_file(
    tokenizer: dict[str, Any], config: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        Tokenizer.load(put(tmp_path, tokenizer, config))
    text = str(caught.value)
    assert "tokenizer" in text and text.isprintable() and len(text) < 1000


@pytest.mark.parametrize(
    ("tokenizer", "config"),
    [
        (BLANK, END),  # no id for what ends a turn
        ({**BLANK, "normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}}, END),
        (BLANK, {"added_tokens_decoder": {"9" * 5000: {"content": "x"}}}),
    ],
)
def test_odd_files_load(tokenizer: dict[str, Any], config: dict[str, Any], tmp_path: Path) -> None:
    loaded = Tokenizer.load(put(tmp_path, tokenizer, config))
    assert loaded.eos_ids == frozenset()
    assert loaded.encode("a", add_special_tokens=False) == [0]


def test_a_tokenizer_that_cannot_encode_says_so(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"tokenizer\.json: .*UNK"):
        Tokenizer.load(put(tmp_path, STRICT, {})).encode("zz")
