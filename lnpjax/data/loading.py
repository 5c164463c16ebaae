"""One name or path to a data set: what the command line calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from lnpjax._base.checks import check_count, require
from lnpjax.data.datasets import (
    NUM_VALIDATION,
    ArrayDataset,
    TokenDataset,
)
from lnpjax.data.documents import DocumentSequences
from lnpjax.data.encoding import encode_documents
from lnpjax.data.files import TEXT_EXTENSIONS, TOKEN_EXTENSIONS, extension, holds
from lnpjax.data.hub import HUB_DATASETS, PREFIX, hub_documents
from lnpjax.data.image_parts import PixelSequences, holds_image_parts, read_image_parts
from lnpjax.data.images import digits, next_pixel_dataset, next_pixel_sequences, read_images
from lnpjax.data.random_access import SourceDataset
from lnpjax.data.sources import (
    DOCUMENT_SEPARATOR,
    STANDARD_LIBRARY_BYTES,
    read_documents,
    standard_library_documents,
)
from lnpjax.data.splits import size_of_test
from lnpjax.data.token_files import TokenFiles, read_tokens
from lnpjax.data.tokenizers import ByteTokenizer, JsonTokenizer, Tokenizer

KNOWN_DATA = ("stdlib", "digits", *HUB_DATASETS)
"""Names that `load_dataset` knows; anything else is a path, or a name on the hub."""
DEFAULT_CONTEXT_LENGTH = 128
"""Positions per sequence of text when none are named."""
Kind: TypeAlias = Literal["text", "images", "tokens"]


def is_path(data: str) -> bool:
    """Return whether the name of data is a path: not a known one, and not of the hub.

    Example:
        >>> is_path("book.txt"), is_path("digits"), is_path("hf:roneneldan/TinyStories")
        (True, False, False)
    """
    return data not in KNOWN_DATA and not data.startswith(PREFIX)


def load_tokenizer(tokenizer: str | Path | None = None) -> Tokenizer:
    """Load the tokenizer of a name or path.

    Args:
        tokenizer: None or `"bytes"` for bytes, else the path of a Hugging Face `tokenizers` JSON
            file.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a tokenizer.
        ImportError: if the package `tokenizers` is not installed (the extra "run").

    Example:
        >>> load_tokenizer("bytes").vocab_size
        256
    """
    if tokenizer is None or tokenizer == "bytes":
        return ByteTokenizer()
    return JsonTokenizer.from_file(tokenizer)


def load_dataset(
    data: str | Path = "stdlib",
    *,
    tokenizer: str | Path | None = None,
    vocab_size: int | None = None,
    context_length: int | None = None,
    num_validation: int = NUM_VALIDATION,
    num_test: int | None = None,
    held_out: float | None = None,
    sequences: Literal["packed", "documents"] = "packed",
    max_bytes: int | None = None,
    text_field: str | None = None,
    separator: str = DOCUMENT_SEPARATOR,
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TokenDataset | ArrayDataset | SourceDataset:
    """Load the data set of a name or path.

    Args:
        data: `"stdlib"` (the interpreter's own sources), `"digits"` (scikit-learn's digits,
            next-pixel prediction), `"simplestories"`, ``hf:owner/name`` (see `hub_documents`), or a
            path: what `read_documents` or `read_tokens` reads, or an `.npz` file of uint8 images
            (next-pixel prediction), or what `read_image_parts` reads, such as the folder of
            CIFAR-5M's six files. A folder with text and token files is one of text.
        tokenizer: for text: None or `"bytes"`, else the path of a Hugging Face `tokenizers` JSON
            file. For token files: None, or that of the tokenizer that wrote them.
        vocab_size: for token files: how many tokens there are, which the files do not say; None for
            those of the tokenizer.
        context_length: positions per sequence; None for 128 with text, and for one whole image
            with images.
        num_validation: samples in the fixed validation set.
        num_test: samples in the fixed test set; None for none, or for what `held_out` leaves.
        held_out: the share of all samples that is not trained on, rounded down: the test set has
            those that the validation set leaves. None for only the samples that were counted.
        sequences: how text is cut: `"packed"`, one stream of all documents, into sequences that
            follow one another; `"documents"`, one sequence for each document, cut or padded (see
            `DocumentSequences`). For token files, this needs the tokenizer that wrote them.
        max_bytes: read at most that much text, or of token files; None for all of it, except 4 MiB
            of `"stdlib"`.
        text_field: the field or column that holds the text (see `read_documents`).
        separator: what ends a document in a `.txt` file.
        cache_dir: where downloads from the hub are kept; None for huggingface_hub's own cache.
        progress: called while text is encoded with the documents and tokens so far.

    Returns:
        A `TokenDataset` for text and tokens, an `ArrayDataset` for images, a `SourceDataset` for
        images that stay on the disk and for documents.

    Raises:
        FileNotFoundError: if `data` is neither a known name nor a path, or the tokenizer file is
            missing.
        ValueError: if a file is not what it should be, there is too little data, or an argument
            does not fit the data.
        ConnectionError: if the hub is unreachable.
        ImportError: if an optional package is not installed; the message names the extra.

    Example:
        >>> data = load_dataset("stdlib", context_length=32, num_validation=8, max_bytes=20_000)
        >>> data.name, data.vocab_size, data.context_length
        ('stdlib', 256, 32)
    """
    check_count("context_length", context_length, optional=True)
    check_count("num_validation", num_validation)
    for argument, count in (("max_bytes", max_bytes), ("vocab_size", vocab_size)):
        check_count(argument, count, optional=True)
    data = str(data)
    kind = kind_of(data)
    given = {"tokenizer": tokenizer, "vocab_size": vocab_size}
    given |= {"max_bytes": max_bytes, "text_field": text_field}
    require(
        sequences in ("packed", "documents"),
        "sequences",
        expected="'packed' or 'documents'",
        got=repr(sequences),
    )
    given["sequences"] = sequences
    for argument in _WITHOUT_EFFECT[kind]:
        value = given[argument]
        usual = "packed" if argument == "sequences" else None
        expected = f"{usual} for {kind} ({data})"
        require(value in (None, usual), argument, expected=expected, got=repr(value))
    sizes = _Sizes(num_validation, num_test, held_out)
    if kind == "images":
        return _load_images(data, context_length, sizes)
    ids: np.ndarray | TokenFiles
    encoder = load_tokenizer(tokenizer) if kind == "text" or tokenizer else None
    if kind == "tokens":
        size = encoder.vocab_size if encoder and not vocab_size else vocab_size
        ids = read_tokens(data, vocab_size=size, max_bytes=max_bytes)
    else:
        assert encoder is not None
        size = encoder.vocab_size
        budget = STANDARD_LIBRARY_BYTES if data == "stdlib" and max_bytes is None else max_bytes
        documents = _open_documents(data, text_field, separator, cache_dir, budget)
        ids = encode_documents(documents, encoder, max_bytes=budget, progress=progress)
        expected = "at least one document that is not empty"
        require(len(ids) > 0, "data", expected=expected, got=f"none in {data}")
    assert size is not None
    length = DEFAULT_CONTEXT_LENGTH if context_length is None else context_length
    name = Path(data).name if is_path(data) else data
    if sequences == "documents":
        end = None if encoder is None else encoder.end_of_text
        expected = "a tokenizer that marks the end of a text, for one document in each sequence"
        require(end is not None, "tokenizer", expected=expected, got=repr(tokenizer))
        assert end is not None
        source = DocumentSequences(ids, end, length)
        num_test = sizes.num_test_of(len(source))
        return SourceDataset(source, size, num_validation, name, num_test, padded=True)
    num_test = sizes.num_test_of(len(ids) // (length + 1))
    return TokenDataset(ids, size, length, num_validation, name=name, num_test=num_test)


class _Sizes(NamedTuple):
    """What is held out of samples that have not been counted yet."""

    num_validation: int
    num_test: int | None
    held_out: float | None

    def num_test_of(self, num_samples: int) -> int:
        return size_of_test(num_samples, self.num_validation, self.num_test, self.held_out)


_WITHOUT_EFFECT = {
    "images": ("tokenizer", "vocab_size", "max_bytes", "text_field", "sequences"),
    "tokens": ("text_field",),
    "text": ("vocab_size",),
}
"""Arguments of `load_dataset` that say nothing about data of a kind, and have to be None."""


def kind_of(data: str) -> Kind:
    """Return what a name or path holds; refuse what is neither.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if it is a file of an unknown kind.

    Example:
        >>> kind_of("stdlib"), kind_of("digits")
        ('text', 'images')
    """
    if not is_path(data):
        return "images" if data == "digits" else "text"
    require(
        data != "" and Path(data).exists(),
        "data",
        expected=f"one of {', '.join(KNOWN_DATA)}, {PREFIX}owner/name, or the path of a file or "
        "folder",
        got=repr(data),
        error=FileNotFoundError,
    )
    if holds(data, TOKEN_EXTENSIONS):
        return "tokens"
    is_file = Path(data).is_file()
    is_images = (is_file and Path(data).suffix == ".npz") or holds_image_parts(data)
    require(
        not is_file or is_images or extension(data) is not None,
        "data",
        expected=f"a file ending in {', '.join((*TEXT_EXTENSIONS, *TOKEN_EXTENSIONS))} or .npz",
        got=data,
    )
    return "images" if is_images else "text"


def _open_documents(
    data: str,
    text_field: str | None,
    separator: str,
    cache_dir: str | Path | None,
    longest: int | None,
) -> Iterator[str]:
    if data == "stdlib":
        return standard_library_documents(max_bytes=None)
    if not is_path(data):
        return hub_documents(data, text_field=text_field, cache_dir=cache_dir)
    return read_documents(data, text_field=text_field, separator=separator, longest=longest)


def _load_images(
    data: str, context_length: int | None, sizes: _Sizes
) -> ArrayDataset | SourceDataset:
    name, num_validation = Path(data).name, sizes.num_validation
    dataset: ArrayDataset | SourceDataset
    if data == "digits":
        dataset = digits(num_validation=num_validation)
        dataset = replace(dataset, num_test=sizes.num_test_of(len(dataset.targets)))
    elif holds_image_parts(data):
        source = PixelSequences(read_image_parts(data, gray=True)[0])
        num_test = sizes.num_test_of(len(source))
        dataset = SourceDataset(source, 256, num_validation, name, num_test)
    else:
        sequences = next_pixel_sequences(read_images(data))
        dataset = next_pixel_dataset(sequences, num_validation=num_validation, name=name)
        dataset = replace(dataset, num_test=sizes.num_test_of(len(sequences)))
    require(
        context_length in (None, dataset.context_length),
        "context_length",
        expected=f"{dataset.context_length} (one image without its last pixel) or None for {data}",
        got=context_length,
    )
    return dataset
