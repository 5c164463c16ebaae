"""Which data, and how they are cut and split."""

from __future__ import annotations

import dataclasses
from typing import Literal, Self

from lnpjax.data import Dataset, load_dataset

STDLIB_CONTEXT_LENGTH = 64  # half the usual one, so that the default run ends in a minute


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Text as bytes or tokens, or images as sequences of pixels.

    Example:
        >>> DataOptions(data="digits", num_validation=97).load().num_train
        1700

    Args:
        data: A name or a path.
            - stdlib: 4 MiB of the Python interpreter's standard library; needs no network.
            - digits: scikit-learn's handwritten digits, next pixel; needs no network.
            - simplestories: from the Hugging Face hub.
            - hf:owner/name, or hf:owner/name/CONFIGURATION: text on the Hugging Face hub.
            - .txt, .jsonl, .csv (.gz and .zst too), .parquet, .arrow, or a folder of them: text.
            - .bin, or a folder of them: token ids of nanoGPT or FineWeb, read from the disk.
            - an .npz file of uint8 images, or the folder of CIFAR-5M's six files: next pixel.
        tokenizer: Path of a Hugging Face tokenizers JSON file. None: the tokens are the bytes, 256
            of them.
        vocab_size: How many tokens there are, for files of token ids without --tokenizer
            (GPT-2's: 50257).
        context_length: Tokens per sequence. None: 64 for stdlib, 128 for other text, one whole
            image for images.
        sequences: How text is cut: packed (one stream of all documents, cut every context_length +
            1 tokens) or documents (one to a sequence, cut or padded; padding counts for nothing,
            and every document for the same).
        num_validation: Sequences held out for validation: batch B of each measurement is drawn from
            them, and the validation loss is the mean over all of them.
        num_test: Sequences held out for the test loss, on which nothing depends. None: those that
            held_out leaves, or as many as num_validation.
        held_out: Share of all sequences that is not trained on, rounded down; those that
            num_validation leaves are the test set.
        max_bytes: Read at most this many bytes of text or of token ids. None: all of it (4 MiB of
            stdlib).
        text_field: Field or column that holds the text. None: text or story.
    """

    data: str = "stdlib"
    tokenizer: str | None = None
    vocab_size: int | None = None
    context_length: int | None = None
    sequences: Literal["packed", "documents"] = "packed"
    num_validation: int = 160
    num_test: int | None = None
    held_out: float | None = None
    max_bytes: int | None = None
    text_field: str | None = None

    def with_test(self) -> Self:
        """Return these options with a test set: if none is asked for, as large as the validation's.

        Example:
            >>> DataOptions(num_validation=40).with_test().num_test
            40
        """
        given = self.num_test is not None or self.held_out is not None
        return self if given else dataclasses.replace(self, num_test=self.num_validation)

    def load(self) -> Dataset:
        """Load the data set.

        Returns:
            The data set, whose samples have one target per position; without a test set, if
            neither num_test nor held_out asks for one.

        Raises:
            ValueError: if a file is not what it should be, there is too little data, or an option
                does not fit the data.
            OSError: if there is no such file, or the hub is unreachable.
            ImportError: if an optional package is not installed; the message names the extra.

        Example:
            >>> DataOptions(max_bytes=20_000, num_validation=8).load().context_length
            64
        """
        context_length = self.context_length
        if context_length is None and self.data == "stdlib":
            context_length = STDLIB_CONTEXT_LENGTH
        return load_dataset(
            self.data,
            tokenizer=self.tokenizer,
            vocab_size=self.vocab_size,
            context_length=context_length,
            num_validation=self.num_validation,
            num_test=self.num_test,
            held_out=self.held_out,
            sequences=self.sequences,
            max_bytes=self.max_bytes,
            text_field=self.text_field,
        )
