"""One name or path to a data set: what the command line calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lnpjax._base.checks import check_count, require
from lnpjax.data.datasets import (
    NUM_VALIDATION,
    ArrayDataset,
    TokenDataset,
    encode_documents,
)
from lnpjax.data.hub import HUB_DATASETS, hub_documents
from lnpjax.data.images import digits, next_pixel_dataset, next_pixel_sequences, read_images
from lnpjax.data.sources import (
    DOCUMENT_SEPARATOR,
    STANDARD_LIBRARY_BYTES,
    TEXT_EXTENSIONS,
    read_documents,
    standard_library_documents,
    text_extension,
)
from lnpjax.data.tokenizers import ByteTokenizer, JsonTokenizer, Tokenizer

KNOWN_DATA = ("stdlib", "digits", *HUB_DATASETS)
"""Names that `load_dataset` knows; anything else is a path."""
DEFAULT_CONTEXT_LENGTH = 128
"""Positions per sequence of text when none are named."""


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
    context_length: int | None = None,
    num_validation: int = NUM_VALIDATION,
    max_bytes: int | None = None,
    text_field: str | None = None,
    separator: str = DOCUMENT_SEPARATOR,
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TokenDataset | ArrayDataset:
    """Load the data set of a name or path.

    Args:
        data: `"stdlib"` (the interpreter's own sources), `"digits"` (scikit-learn's digits,
            next-pixel prediction), `"simplestories"` (the Hugging Face hub), or a path: a `.txt`,
            `.jsonl` or `.parquet` file (the first two also as `.gz`), a folder of such files, or an
            `.npz` file of uint8 images (next-pixel prediction).
        tokenizer: for text: None or `"bytes"`, else the path of a Hugging Face `tokenizers` JSON
            file.
        context_length: positions per sequence; None for 128 with text, and for one whole image
            with images.
        num_validation: samples in the fixed validation set.
        max_bytes: read at most that much text; None for all of it, except 4 MiB of `"stdlib"`.
        text_field: the field or column that holds the text, for `.jsonl`, `.parquet` and the hub.
        separator: what ends a document in a `.txt` file.
        cache_dir: where downloads from the hub are kept; None for huggingface_hub's own cache.
        progress: called while text is encoded with the documents and tokens so far.

    Returns:
        A `TokenDataset` for text, an `ArrayDataset` for images.

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
    check_count("max_bytes", max_bytes, optional=True)
    data = str(data)
    if _holds_images(data):
        text_only = {"tokenizer": tokenizer, "max_bytes": max_bytes, "text_field": text_field}
        for argument, value in text_only.items():
            require(value is None, argument, expected=f"None for images ({data})", got=repr(value))
        return _load_images(data, context_length=context_length, num_validation=num_validation)

    encoder = load_tokenizer(tokenizer)
    budget = STANDARD_LIBRARY_BYTES if data == "stdlib" and max_bytes is None else max_bytes
    documents = _open_documents(data, text_field, separator, cache_dir, budget)
    ids = encode_documents(documents, encoder, max_bytes=budget, progress=progress)
    require(
        len(ids) > 0,
        "data",
        expected="at least one document that is not empty",
        got=f"none in {data}",
    )
    return TokenDataset(
        ids=ids,
        vocab_size=encoder.vocab_size,
        context_length=DEFAULT_CONTEXT_LENGTH if context_length is None else context_length,
        num_validation=num_validation,
        name=data if data in KNOWN_DATA else Path(data).name,
    )


def _holds_images(data: str) -> bool:
    """Return whether a name or path is one of images, not of text; refuse what is neither."""
    require(
        data in KNOWN_DATA or (data != "" and Path(data).exists()),
        "data",
        expected=f"one of {', '.join(KNOWN_DATA)}, or the path of a file or folder",
        got=repr(data),
        error=FileNotFoundError,
    )
    is_file = data not in KNOWN_DATA and Path(data).is_file()
    is_images = is_file and Path(data).suffix == ".npz"
    require(
        not is_file or is_images or text_extension(data) is not None,
        "data",
        expected=f"a file ending in {', '.join(TEXT_EXTENSIONS)} or .npz",
        got=data,
    )
    return data == "digits" or is_images


def _open_documents(
    data: str,
    text_field: str | None,
    separator: str,
    cache_dir: str | Path | None,
    longest: int | None,
) -> Iterator[str]:
    if data == "stdlib":
        return standard_library_documents(max_bytes=None)
    if data in HUB_DATASETS:
        return hub_documents(data, text_field=text_field, cache_dir=cache_dir)
    return read_documents(data, text_field=text_field, separator=separator, longest=longest)


def _load_images(data: str, *, context_length: int | None, num_validation: int) -> ArrayDataset:
    if data == "digits":
        dataset = digits(num_validation=num_validation)
    else:
        dataset = next_pixel_dataset(
            next_pixel_sequences(read_images(data)),
            num_validation=num_validation,
            name=Path(data).name,
        )
    require(
        context_length in (None, dataset.context_length),
        "context_length",
        expected=f"{dataset.context_length} (one image without its last pixel) or None for {data}",
        got=context_length,
    )
    return dataset
