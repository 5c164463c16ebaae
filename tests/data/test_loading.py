from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from lnpjax.data import load_dataset, load_tokenizer

STORIES = [f"Story {i}: the cat sat on mat number {i * i}." for i in range(60)]
SMALL = {"context_length": 16, "num_validation": 5}


@pytest.fixture
def story_files(tmp_path) -> dict[str, Path]:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    files = {name: tmp_path / f"stories.{name}" for name in ("txt", "jsonl", "parquet")}
    files["txt"].write_text("".join(f"{story}<|endoftext|>\n" for story in STORIES))
    files["jsonl"].write_text("".join(json.dumps({"text": story}) + "\n" for story in STORIES))
    pq.write_table(pa.table({"story": STORIES}), files["parquet"], row_group_size=7)
    return files


def test_the_same_documents_give_the_same_data_set_from_every_format(story_files):
    datasets = [load_dataset(file, **SMALL) for file in story_files.values()]
    assert bytes(datasets[0].ids.tolist()) == "".join(f"{s}\0" for s in STORIES).encode()
    assert len({dataset.fingerprint for dataset in datasets}) == 1
    assert [dataset.name for dataset in datasets] == [f.name for f in story_files.values()]


def test_the_standard_library_is_the_default():
    dataset = load_dataset(max_bytes=60_000, num_validation=20)
    assert (dataset.name, dataset.vocab_size, dataset.context_length) == ("stdlib", 256, 128)
    assert 60_000 - 4 < (dataset.ids > 0).sum() <= 60_000
    assert dataset.fingerprint == load_dataset(max_bytes=60_000, num_validation=20).fingerprint


def test_images_become_next_pixel_prediction(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3)).astype(np.uint8)
    np.savez(tmp_path / "photos.npz", x=images)
    dataset = load_dataset(tmp_path / "photos.npz", num_validation=2)
    assert (dataset.name, dataset.vocab_size, dataset.context_length) == ("photos.npz", 256, 15)


def test_digits_by_name():
    dataset = load_dataset("digits", context_length=63, num_validation=100)
    assert (dataset.name, dataset.vocab_size, dataset.num_validation) == ("digits", 17, 100)


def test_simplestories_comes_from_the_hub(monkeypatch):
    asked = []

    def documents(name, **settings):
        asked.append((name, settings))
        return iter(STORIES)

    monkeypatch.setattr("lnpjax.data.loading.hub_documents", documents)
    dataset = load_dataset("simplestories", cache_dir="cache", **SMALL)
    assert dataset.name == "simplestories"
    assert asked == [("simplestories", {"text_field": None, "cache_dir": "cache"})]


def test_progress_is_reported_and_the_budget_kept(story_files):
    calls = []
    dataset = load_dataset(
        story_files["txt"], max_bytes=1000, progress=lambda *done: calls.append(done), **SMALL
    )
    assert calls == [(bytes(dataset.ids.tolist()).count(0), len(dataset.ids))]
    assert len(dataset.ids) <= 1000 + calls[0][0]


def bad(path: Path, content: str = "") -> Path:
    path.write_text(content)
    return path


BAD_CALLS = {
    "unknown name": (
        lambda tmp: load_dataset("tinystories"),
        FileNotFoundError,
        r"expected one of stdlib, digits, simplestories, hf:owner/name, or .*got 'tinystories'",
    ),
    "empty name": (lambda tmp: load_dataset(""), FileNotFoundError, r"data: .*got ''"),
    "unknown extension": (
        lambda tmp: load_dataset(bad(tmp / "a.doc", "a,b")),
        ValueError,
        r"data: expected a file ending in \.txt, \.jsonl, \.csv, .*or \.npz, got .*a\.doc",
    ),
    "folder without text": (
        lambda tmp: load_dataset(bad(tmp / "a.doc", "a,b").parent),
        ValueError,
        r"a folder with at least one file ending in .* with '\.doc'",
    ),
    "empty corpus": (
        lambda tmp: load_dataset(bad(tmp / "a.txt", " \n")),
        ValueError,
        r"data: expected at least one document that is not empty, got none in .*a\.txt",
    ),
    "corpus too short": (
        lambda tmp: load_dataset(bad(tmp / "a.txt", "short")),
        ValueError,
        r"more than num_validation = 160 sequences of context_length \+ 1 = 129 .*got 6 tokens",
    ),
    "missing field": (
        lambda tmp: load_dataset(bad(tmp / "a.jsonl", '{"body": "b"}')),
        ValueError,
        r"text_field: expected 'text' or 'story', got only 'body'",
    ),
    "context_length zero": (
        lambda tmp: load_dataset(context_length=0),
        ValueError,
        r"context_length: expected an integer >= 1, got 0",
    ),
    "num_validation zero": (
        lambda tmp: load_dataset(num_validation=0),
        ValueError,
        r"num_validation: expected an integer >= 1, got 0",
    ),
    "max_bytes zero": (
        lambda tmp: load_dataset(max_bytes=0),
        ValueError,
        r"max_bytes: expected an integer >= 1, got 0",
    ),
    "missing tokenizer": (
        lambda tmp: load_dataset(tokenizer=tmp / "none.json"),
        FileNotFoundError,
        r"tokenizer: expected .*got .*none\.json",
    ),
    "broken tokenizer": (
        lambda tmp: load_dataset(tokenizer=bad(tmp / "broken.json", "{")),
        ValueError,
        r"tokenizer: expected .*got .*broken\.json",
    ),
    "tokenizer for images": (
        lambda tmp: load_dataset("digits", tokenizer="bytes"),
        ValueError,
        r"tokenizer: expected None for images \(digits\), got 'bytes'",
    ),
    "vocabulary of text": (
        lambda tmp: load_dataset(vocab_size=300),
        ValueError,
        r"vocab_size: expected None for text \(stdlib\), got 300",
    ),
    "field of tokens": (
        lambda tmp: load_dataset(bad(tmp / "a.bin", "abcd"), text_field="text"),
        ValueError,
        r"text_field: expected None for tokens \(.*a\.bin\), got 'text'",
    ),
    "other length of images": (
        lambda tmp: load_dataset("digits", context_length=64),
        ValueError,
        r"context_length: expected 63 .*or None for digits, got 64",
    ),
    "more validation than images": (
        lambda tmp: load_dataset("digits", num_validation=2000),
        ValueError,
        r"data: expected more than num_validation = 2000 samples, got 1797 in digits",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_name_the_argument_and_what_was_expected(tmp_path, case):
    call, error, message = BAD_CALLS[case]
    with pytest.raises(error, match=message):
        call(tmp_path)


def test_bytes_can_be_named():
    assert load_tokenizer("bytes") == load_tokenizer(None)


@pytest.mark.skipif(
    not os.environ.get("LNPJAX_DATA"), reason="needs the real data folder named by LNPJAX_DATA"
)
def test_tinystories_under_the_simplestories_tokenizer():
    folder = Path(os.environ["LNPJAX_DATA"])
    dataset = load_dataset(
        folder / "tinystories",
        tokenizer=folder / "tokenizers/simplestories/simplestories-4096.json",
        context_length=512,
    )
    assert len(dataset.ids) == 536_535
    assert (dataset.ids == 1).sum() == 2316
    assert dataset.ids.dtype == np.uint16
    assert (dataset.vocab_size, dataset.num_train, dataset.num_validation) == (4096, 885, 160)
    assert dataset.fingerprint == "4d36127a22c04c72"


@pytest.mark.skipif(
    not os.environ.get("LNPJAX_DATA"), reason="needs the real data folder named by LNPJAX_DATA"
)
def test_the_token_files_of_others():
    folder = Path(os.environ["LNPJAX_DATA"]) / "checkpoints"
    dataset = load_dataset(
        folder / "glassllm-en/tinystories_120.bin", vocab_size=1024, context_length=127
    )
    assert (len(dataset.ids), dataset.vocab_size) == (33_630, 1024)
    assert load_dataset(folder / "gpt-by-hand/val.bin", vocab_size=32, **SMALL).vocab_size == 32
    with pytest.raises(ValueError, match=r"data: expected tokens below 16, .*got token"):
        load_dataset(folder / "gpt-by-hand/val.bin", vocab_size=16, **SMALL)


@pytest.mark.skipif(
    not os.environ.get("LNPJAX_DATA"), reason="needs the real data folder named by LNPJAX_DATA"
)
def test_natural_patches_have_the_length_of_cifar_images():
    dataset = load_dataset(Path(os.environ["LNPJAX_DATA"]) / "natural_patches/skimage_rgb32.npz")
    assert (dataset.context_length, dataset.vocab_size, dataset.num_train) == (1023, 256, 722)
    assert dataset.fingerprint == "4bc0bdc22323b7d0"
