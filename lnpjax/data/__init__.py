"""Data: documents, tokenizers, data sets, and batches that are pure functions of a seed and a step.

Numpy only: nothing here imports jax. `load_dataset` is the one call most users need.

Example:
    >>> from lnpjax.data import Batches, load_dataset
    >>> dataset = load_dataset("stdlib", context_length=32, num_validation=8, max_bytes=20_000)
    >>> inputs, targets = Batches(dataset, batch_size=4, seed=0).batch(step=3)
    >>> inputs.shape
    (4, 32)
"""

from lnpjax.data.batches import (
    Batches,
    batches_of_test,
    pad_batch,
    validation_batch,
    validation_batches,
)
from lnpjax.data.datasets import (
    ArrayDataset,
    Batch,
    Dataset,
    DatasetWithTest,
    TokenDataset,
    fingerprint,
)
from lnpjax.data.documents import PADDING, DocumentSequences
from lnpjax.data.encoding import encode_documents
from lnpjax.data.hub import hub_documents
from lnpjax.data.image_parts import ImageParts, read_image_parts
from lnpjax.data.images import digits, next_pixel_dataset, next_pixel_sequences
from lnpjax.data.labelled import LabelledDataset, load_labelled_dataset
from lnpjax.data.loading import KNOWN_DATA, load_dataset, load_tokenizer
from lnpjax.data.random_access import Source, SourceDataset
from lnpjax.data.sources import read_documents, split_documents, standard_library_documents
from lnpjax.data.token_files import TokenFiles, read_tokens
from lnpjax.data.tokenizers import ByteTokenizer, JsonTokenizer, Tokenizer

__all__ = [
    "KNOWN_DATA",
    "PADDING",
    "ArrayDataset",
    "Batch",
    "Batches",
    "ByteTokenizer",
    "Dataset",
    "DatasetWithTest",
    "DocumentSequences",
    "ImageParts",
    "JsonTokenizer",
    "LabelledDataset",
    "Source",
    "SourceDataset",
    "TokenDataset",
    "TokenFiles",
    "Tokenizer",
    "batches_of_test",
    "digits",
    "encode_documents",
    "fingerprint",
    "hub_documents",
    "load_dataset",
    "load_labelled_dataset",
    "load_tokenizer",
    "next_pixel_dataset",
    "next_pixel_sequences",
    "pad_batch",
    "read_documents",
    "read_image_parts",
    "read_tokens",
    "split_documents",
    "standard_library_documents",
    "validation_batch",
    "validation_batches",
]
