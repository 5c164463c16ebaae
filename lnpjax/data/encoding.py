"""From documents to token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
from jaxtyping import Int

from lnpjax.data.sources import take_bytes
from lnpjax.data.tokenizers import Tokenizer

_DOCUMENTS_PER_BATCH = 1024


def encode_documents(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    *,
    max_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Int[np.ndarray, " tokens"]:
    """Encode documents into one stream of ids, each followed by the tokenizer's `end_of_text`.

    Args:
        documents: the documents, consumed in batches.
        tokenizer: the tokenizer.
        max_bytes: a budget of UTF-8 bytes (see `take_bytes`).
        progress: called after every batch with the documents and the tokens so far.

    Returns:
        The ids `(tokens,)` in the smallest unsigned integer type that holds the vocabulary.

    Raises:
        ValueError: if `max_bytes` is below 1.

    Example:
        >>> from lnpjax.data.tokenizers import ByteTokenizer
        >>> encode_documents(["hi", "yo"], ByteTokenizer())
        array([104, 105,   0, 121, 111,   0], dtype=uint8)
    """
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    mark = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], dtype)
    encoded = [np.empty(0, dtype)]
    num_documents = num_tokens = 0
    for texts in _batched(take_bytes(documents, max_bytes), _DOCUMENTS_PER_BATCH):
        pieces = [part for ids in tokenizer.encode_batch(texts) for part in (ids, mark)]
        encoded.append(np.concatenate(pieces).astype(dtype))
        num_documents += len(texts)
        num_tokens += len(encoded[-1])
        if progress is not None:
            progress(num_documents, num_tokens)
    return np.concatenate(encoded)


def _batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
