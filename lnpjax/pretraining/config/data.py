"""Which data, and how they are cut and split."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Self

from lnpjax._base.checks import require
from lnpjax.data import Dataset, load_dataset, load_labelled_dataset
from lnpjax.data.loading import kind_of
from lnpjax.pretraining.config._checks import require_choice

STDLIB_CONTEXT_LENGTH = 64  # half the usual one, so that the default run ends in a minute
TASKS = ("next-token", "next-pixel", "classify")
CLASSIFY = "classify"
_OF_LABELS = ("num_classes",)
_OF_TOKENS = ("tokenizer", "vocab_size", "context_length", "max_bytes", "text_field", "sequences")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Text as bytes or tokens, images as sequences of pixels, or images with labels.

    Example:
        >>> DataOptions(data="digits", num_validation=97).load().num_train
        1700

    Args:
        task: What is learned. None: next-token from text, next-pixel from images.
            - next-token, next-pixel: every token or grey level from those before it.
            - classify: the class of an image from its label.
        data: A name or a path. None: stdlib, or digits for classify.
            - stdlib: 4 MiB of the Python interpreter's standard library; needs no network.
            - digits: scikit-learn's handwritten digits; needs no network.
            - simplestories: from the Hugging Face hub.
            - hf:owner/name, or hf:owner/name/CONFIGURATION: text on the Hugging Face hub.
            - .txt, .jsonl, .csv (.gz and .zst too), .parquet, .arrow, or a folder of them: text.
            - .bin, or a folder of them: token ids of nanoGPT or FineWeb, read from the disk.
            - an .npz file of uint8 images, or the folder of CIFAR-5M's six files.
            - for classify: these, the .npz with labels in y; a folder of MNIST or Fashion-MNIST
              (idx files) or CIFAR-10 (binary version) as distributed; or a folder with a folder of
              pictures for each class.
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
            held_out leaves, or as many as num_validation; of images that come with a test set, all
            of it.
        held_out: Share of all sequences that is not trained on, rounded down; those that
            num_validation leaves are the test set.
        num_classes: How many classes there are, for classify. None: one more than the largest
            label.
        max_bytes: Read at most this many bytes of text or of token ids. None: all of it (4 MiB of
            stdlib).
        text_field: Field or column that holds the text. None: text or story.
    """

    task: Literal["next-token", "next-pixel", "classify"] | None = None
    data: str | None = None
    tokenizer: str | None = None
    vocab_size: int | None = None
    context_length: int | None = None
    sequences: Literal["packed", "documents"] = "packed"
    num_validation: int = 160
    num_test: int | None = None
    held_out: float | None = None
    num_classes: int | None = None
    max_bytes: int | None = None
    text_field: str | None = None

    @property
    def classifies(self) -> bool:
        """Whether samples have one label each."""
        return self.task == CLASSIFY

    @property
    def source(self) -> str:
        """The name or path of the data, also where none is named.

        Example:
            >>> DataOptions().source, DataOptions(task="classify").source
            ('stdlib', 'digits')
        """
        if self.data is not None:
            return self.data
        return "digits" if self.classifies else "stdlib"

    def with_test(self) -> Self:
        """Return these options with a test set: if none is asked for, as large as the validation's.

        Labelled images have one in any case.

        Example:
            >>> DataOptions(num_validation=40).with_test().num_test
            40
        """
        given = self.num_test is not None or self.held_out is not None
        whole = given or self.classifies
        return self if whole else dataclasses.replace(self, num_test=self.num_validation)

    def check(self) -> None:
        """Refuse values that are invalid, or without effect on the task.

        Raises:
            ValueError: if one is; the message names the option.
        """
        if self.task is not None:
            require_choice("task", self.task, TASKS)
        for name in _OF_TOKENS if self.classifies else _OF_LABELS:
            value, usual = getattr(self, name), _usual(name)
            task = self.task or "next-token"
            expected = f"{usual} with the task {task}"
            require(value == usual, name, expected=expected, got=repr(value))

    def load(self) -> Dataset:
        """Load the data set.

        Returns:
            The data set. Its samples have one target per position, and there is no test set, if
            neither num_test nor held_out asks for one; or they are images with one label each.

        Raises:
            ValueError: if a file is not what it should be, there is too little data, or an option
                does not fit the data.
            OSError: if there is no such file, or the hub is unreachable.
            ImportError: if an optional package is not installed; the message names the extra.

        Example:
            >>> DataOptions(max_bytes=20_000, num_validation=8).load().context_length
            64
        """
        self.check()
        source = self.source
        if self.classifies:
            return load_labelled_dataset(
                source,
                num_validation=self.num_validation,
                num_test=self.num_test,
                held_out=self.held_out,
                num_classes=self.num_classes,
            )
        if self.task is not None:
            is_images = kind_of(source) == "images"
            expected = f"{'next-pixel or classify' if is_images else 'next-token'} for {source}"
            fits = is_images == (self.task == "next-pixel")
            require(fits, "task", expected=expected, got=self.task)
        context_length = self.context_length
        if context_length is None and source == "stdlib":
            context_length = STDLIB_CONTEXT_LENGTH
        return load_dataset(
            source,
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


def _usual(name: str) -> Any:
    """Return the default of an option."""
    return DataOptions.__dataclass_fields__[name].default
