from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lnpjax.data import Batches, TokenDataset, TokenFiles, load_dataset, read_tokens
from lnpjax.data.datasets import fingerprint

IDS = np.random.default_rng(0).integers(0, 50_257, 1000)
MAGIC = {"u2": (20240520, 1), "u4": (20240801, 7)}


def write_tokens(path: Path, ids, *, kind="u2", order="<", header=True, **changes) -> Path:
    """As llm.c and modded-nanogpt write them, or as nanoGPT does, without a header."""
    numbers = np.zeros(256, f"{order}i4")
    magic, version = MAGIC[kind]
    numbers[:3] = magic, changes.get("version", version), changes.get("num_tokens", len(ids))
    content = np.asarray(ids).astype(f"{order}{kind}").tobytes()
    path.write_bytes((numbers.tobytes() if header else b"") + content)
    return path


LAYOUTS = {
    "nanoGPT": {"header": False},
    "FineWeb": {},
    "Llama 3": {"kind": "u4"},
    "FineWeb, big-endian": {"order": ">"},
    "Llama 3, big-endian": {"order": ">", "kind": "u4"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_batches_from_the_disk(tmp_path, layout):
    path = write_tokens(tmp_path / "train.bin", IDS, **LAYOUTS[layout])
    ids = read_tokens(path, vocab_size=50_257)
    assert isinstance(ids, np.memmap)
    assert np.array_equal(ids, IDS)
    dataset = load_dataset(path, vocab_size=50_257, context_length=9, num_validation=5)
    same = TokenDataset(IDS, vocab_size=50_257, context_length=9, num_validation=5)
    assert dataset.fingerprint == same.fingerprint
    inputs, targets = Batches(dataset, batch_size=4).batch(3)
    assert (inputs.dtype, inputs.dtype.isnative) == (np.int32, True)
    assert np.array_equal([inputs, targets], Batches(same, batch_size=4).batch(3))


def test_the_files_of_a_folder_are_one_stream(tmp_path):
    (tmp_path / "b").mkdir()
    write_tokens(tmp_path / "b" / "fineweb_000002.bin", IDS[300:], header=False)
    write_tokens(tmp_path / "a_000001.bin", IDS[:299], kind="u4")
    write_tokens(tmp_path / "a_000002.bin", IDS[299:300])
    dataset = load_dataset(tmp_path, vocab_size=50_257, context_length=9, num_validation=5)
    same = TokenDataset(IDS, vocab_size=50_257, context_length=9, num_validation=5)
    assert dataset.fingerprint == same.fingerprint
    rows = np.arange(same.num_train)
    assert np.array_equal(dataset.train(rows), same.train(rows))
    assert dataset.name == tmp_path.name
    assert fingerprint(read_tokens(tmp_path, vocab_size=50_257)) == fingerprint(IDS)


def test_slices_of_several_files_are_those_of_one_array():
    ids = TokenFiles(tuple(np.split(IDS[:20], [7, 8])))
    for start in (None, 0, 3, 7, 8, 19, 25):
        for stop in (None, 0, 7, 9, 20, -2):
            for step in (None, 3):
                index = slice(start, stop, step)
                assert np.array_equal(ids[index], IDS[:20][index])
    assert np.array_equal(ids[np.array([[0, 7], [8, 19]])], IDS[:20][np.array([[0, 7], [8, 19]])])


def test_a_budget_of_bytes_ends_within_a_file(tmp_path):
    for number in range(3):
        write_tokens(tmp_path / f"{number}.bin", IDS[100 * number :][:100])
    ids = read_tokens(tmp_path, vocab_size=50_257, max_bytes=301)
    assert np.array_equal(ids[:], IDS[:150])
    assert len(read_tokens(tmp_path, vocab_size=50_257, max_bytes=200)) == 100
    with pytest.raises(ValueError, match="max_bytes: expected those of at least one token, got 1"):
        read_tokens(tmp_path, vocab_size=50_257, max_bytes=1)


def test_text_in_a_folder_is_what_is_read_of_it(tmp_path):
    (tmp_path / "input.txt").write_text("To be or not to be, that is the question. " * 9)
    write_tokens(tmp_path / "train.bin", IDS, header=False)
    with pytest.warns(UserWarning, match=r"left out 1 ending in '\.bin'"):
        dataset = load_dataset(tmp_path, context_length=9, num_validation=5)
    assert dataset.vocab_size == 256


BAD_FILES = {
    "empty": (lambda p: p.write_bytes(b""), r"a file of tokens, got .*which is empty"),
    "odd": (lambda p: p.write_bytes(b"abc"), r"16-bit tokens, two bytes each, got 3 bytes in"),
    "other version": (lambda p: write_tokens(p, IDS, version=2), r"version 1 .*got version 2 in"),
    "cut": (
        lambda p: p.write_bytes(write_tokens(p, IDS).read_bytes()[:-7]),
        r"as many tokens as its header says.*header that says 1000, and 996\.5 in",
    ),
    "half a header": (
        lambda p: p.write_bytes(write_tokens(p, IDS).read_bytes()[:99]),
        r"a header of 256 integers, got .*which ends before",
    ),
    "absurd": (
        lambda p: write_tokens(p, IDS, num_tokens=2**31 - 1),
        r"header that says 2147483647, and 1000 in",
    ),
    "negative": (lambda p: write_tokens(p, IDS, num_tokens=-1), r"header that says -1, and"),
    "no tokens": (lambda p: write_tokens(p, IDS[:0]), r"at least one, got a header that says 0"),
    "other vocabulary": (
        lambda p: write_tokens(p, [*IDS, 50_257]),
        r"data: expected tokens below 50257, .*got token 50257 in .*another tokenizer",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_with_what_is_wrong(tmp_path, case):
    write, message = BAD_FILES[case]
    write(tmp_path / "train.bin")
    with pytest.raises(ValueError, match=message):
        read_tokens(tmp_path / "train.bin", vocab_size=50_257)


def test_a_vocabulary_that_nobody_named_is_asked_for(tmp_path):
    path = write_tokens(tmp_path / "train.bin", np.arange(65), header=False)
    with pytest.raises(ValueError, match=r"vocab_size: .*or a tokenizer, .*highest token .* is 64"):
        load_dataset(path)
