from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lnpjax.data.encoding import encode_documents
from lnpjax.data.tokenizers import ByteTokenizer, JsonTokenizer

tokenizers = pytest.importorskip("tokenizers")

TEXTS = ["", "plain", "né\n昔々 🙂", "tab\tand \r\n line ends"]


@pytest.fixture
def word_file(tmp_path) -> Path:
    """A word-level tokenizer that would pad, cut and add a token around texts if it were let."""
    words = ["[UNK]", "[EOS]", "once", "upon", "a", "time"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [EOS]", special_tokens=[("[EOS]", 1)]
    )
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    path = tmp_path / "words.json"
    backend.save(str(path))
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_bytes_have_an_end_of_text_that_text_does_not_contain():
    tokenizer = ByteTokenizer()
    assert tokenizer.vocab_size == 256
    assert not any(tokenizer.end_of_text in tokenizer.encode(text) for text in TEXTS)


def test_invalid_utf8_decodes_to_replacement_characters():
    assert ByteTokenizer().decode([104, 195]) == "h\ufffd"


@pytest.mark.parametrize("ids", [[256], [-1]])
def test_bytes_refuse_other_ids(ids):
    with pytest.raises(ValueError, match=r"ids: expected bytes, in \[0, 256\)"):
        ByteTokenizer().decode(ids)


def test_a_json_tokenizer_neither_pads_nor_cuts_nor_adds(word_file):
    tokenizer = JsonTokenizer.from_file(word_file)
    ids = tokenizer.encode("once upon a time once")
    assert ids.dtype == np.int32
    assert ids.tolist() == [2, 3, 4, 5, 2]
    assert tokenizer.decode(ids) == "once upon a time once"
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (6, 1)
    assert tokenizer.decode([5, 1]) == "time [EOS]"


@pytest.mark.parametrize("lower", [False, True])
def test_a_word_that_a_tokenizer_cannot_encode_is_named_with_its_file(tmp_path, lower):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if lower:
        backend.normalizer = tokenizers.normalizers.Lowercase()
    backend.save(str(tmp_path / "closed.json"))
    tokenizer = JsonTokenizer.from_file(tmp_path / "closed.json")
    assert tokenizer.encode("a a").tolist() == [0, 0]
    word = "Zebra".lower() if lower else "Zebra"
    message = (
        rf"tokenizer: expected .*got .*closed\.json, which has no .*unknown words such as '{word}'"
    )
    with pytest.raises(ValueError, match=message):
        tokenizer.encode_batch(["a", "a Zebra a Yak"])
    with pytest.raises(ValueError, match=message):
        encode_documents(["a Zebra"], tokenizer)


def test_encoding_a_batch_equals_encoding_one_by_one(word_file):
    texts = ["once", "", "a time", "what"]
    for tokenizer in (JsonTokenizer.from_file(word_file), ByteTokenizer()):
        batch = tokenizer.encode_batch(texts)
        assert [ids.tolist() for ids in batch] == [tokenizer.encode(t).tolist() for t in texts]


def test_the_end_of_text_can_be_named(word_file):
    assert JsonTokenizer.from_file(word_file, end_of_text="time").end_of_text == 5
    with pytest.raises(ValueError, match=r"end_of_text: expected a token of .*got '<end>'"):
        JsonTokenizer.from_file(word_file, end_of_text="<end>")


@pytest.mark.parametrize("content", ["", "not json", "{}", '{"version": "1.0"}'])
def test_a_broken_file_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(
        ValueError, match=r"tokenizer: expected .*tokenizer\.json of a model.*got .*broken\.json"
    ):
        JsonTokenizer.from_file(path)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_missing_file_is_named_with_what_to_do(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"tokenizer: expected .*Tokenizer\.save writes"):
        JsonTokenizer.from_file(tmp_path / name)


@pytest.mark.skipif(
    not os.environ.get("LNPJAX_DATA"), reason="needs the real data folder named by LNPJAX_DATA"
)
def test_the_simplestories_tokenizer():
    folder = Path(os.environ["LNPJAX_DATA"])
    tokenizer = JsonTokenizer.from_file(folder / "tokenizers/simplestories/simplestories-4096.json")
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (4096, 1)
    text = "once upon a time, there was a little girl named lily."
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text.upper())) == text
