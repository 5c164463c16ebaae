"""Data sets with a training part and a fixed validation part: token streams and plain arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int, Shaped

from lnpjax._base.checks import check_count, require
from lnpjax.data.splits import Split, check_split, split_rows
from lnpjax.data.token_files import TokenFiles

Batch = tuple[np.ndarray, np.ndarray]
"""`(inputs, targets)`: two arrays whose first axis is the sample."""
NUM_VALIDATION = 160
"""Size of the fixed validation set of *Spectral Reach* (B.2.1), the default everywhere."""
HASHED_ELEMENTS = 2**20


class Dataset(Protocol):
    """What batches are drawn from: disjoint sets of samples, addressed by index.

    One may also have a test set (see `DatasetWithTest`).

    Attributes:
        name: what the data is called in logs.
        vocab_size: how many values a target can take: tokens, levels of a pixel, classes.
        context_length: positions per sample, or None where a sample has one label.
        num_train: samples in the training set.
        num_validation: samples in the validation set.
        fingerprint: identifies the data and its split; two data sets that give different batches
            have different ones.

    Example:
        >>> from lnpjax.data import load_dataset
        >>> dataset: Dataset = load_dataset("digits", num_validation=97)
        >>> dataset.num_train, dataset.num_validation, dataset.vocab_size
        (1700, 97, 17)
    """

    @property
    def name(self) -> str:
        """What the data is called in logs."""

    @property
    def vocab_size(self) -> int:
        """How many values a target can take."""

    @property
    def context_length(self) -> int | None:
        """Positions per sample, or None."""

    @property
    def num_train(self) -> int:
        """Samples in the training set."""

    @property
    def num_validation(self) -> int:
        """Samples in the validation set."""

    @property
    def fingerprint(self) -> str:
        """Identifies the data and its split."""

    def train(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return the training samples at `indices`, each in [0, num_train)."""

    def validation(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return the validation samples at `indices`, each in [0, num_validation)."""


class DatasetWithTest(Dataset, Protocol):
    """A data set that also has a test set, disjoint from the other two; it may be empty.

    Attributes:
        num_test: samples in the test set.

    Example:
        >>> from lnpjax.data import load_dataset
        >>> dataset: DatasetWithTest = load_dataset("digits", num_validation=97, num_test=200)
        >>> dataset.num_train, dataset.num_validation, dataset.num_test
        (1500, 97, 200)
    """

    @property
    def num_test(self) -> int:
        """Samples in the test set."""

    def test(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return the test samples at `indices`, each in [0, num_test)."""


def num_test(dataset: Dataset) -> int:
    """Return how many samples the test set of a data set has, 0 where it has no such set."""
    return getattr(dataset, "num_test", 0)


def fingerprint(*arrays: Shaped[np.ndarray, "rows ..."] | TokenFiles, **settings: object) -> str:
    """Hash the values of some arrays and of settings.

    Integers are hashed as little-endian int32: how they are stored in memory makes no difference.

    Args:
        *arrays: integer or float arrays.
        **settings: whatever else decides which batches come out; hashed through `repr`.

    Returns:
        The first 16 hexadecimal digits of a sha256.

    Example:
        >>> fingerprint(np.array([1, 2, 3], np.uint8)) == fingerprint(np.array([1, 2, 3]))
        True
        >>> fingerprint(np.array([1, 2, 3])) == fingerprint(np.array([1, 2, 4]))
        False
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for array in arrays:
        dtype = np.dtype("<i4" if array.dtype.kind in "iub" else array.dtype.newbyteorder("<"))
        digest.update(repr((array.shape, dtype.str)).encode())
        rows = max(1, HASHED_ELEMENTS // max(1, array[:1].size))
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows], dtype).tobytes())
    return digest.hexdigest()[:16]


def settings_of_test(num_test: int) -> dict[str, int]:
    """Return what a test set adds to a fingerprint: nothing where there is none, as ever."""
    return {"num_test": num_test} if num_test else {}


@dataclass(frozen=True, eq=False)
class TokenDataset:
    """A stream of token ids cut into sequences for next-token prediction.

    A sequence is `context_length + 1` consecutive ids; its inputs are all except the last and its
    targets all except the first. Sequences start every `stride` ids; by default they do not
    overlap, and what is left at the end is not used. What is held out is spread evenly over the
    stream (see `split_rows`); training sequences that share an id with it are left out.

    Args:
        ids: integer ids, `(tokens,)`, each in `[0, vocab_size)`; those of `read_tokens` stay on the
            disk.
        vocab_size: size of the vocabulary.
        context_length: positions per sequence.
        num_validation: sequences in the validation set.
        stride: ids between the starts of two sequences; None for `context_length + 1`.
        name: what the data is called in logs.
        num_test: sequences in the test set.

    Raises:
        ValueError: for ids that are not a vector of integers in range, sizes below 1, or too few
            ids.

    Example:
        >>> data = TokenDataset(np.arange(12), vocab_size=12, context_length=3, num_validation=1)
        >>> data.num_train, data.num_validation
        (2, 1)
        >>> inputs, targets = data.train(np.array([1]))
        >>> inputs, targets
        (array([[ 8,  9, 10]], dtype=int32), array([[ 9, 10, 11]], dtype=int32))
    """

    ids: Int[np.ndarray, " tokens"] | TokenFiles
    vocab_size: int
    context_length: int
    num_validation: int = NUM_VALIDATION
    stride: int | None = None
    name: str = "tokens"
    num_test: int = 0

    def __post_init__(self) -> None:
        require_integers("ids", self.ids, ndim=1)
        for name in ("vocab_size", "context_length", "num_validation"):
            check_count(name, getattr(self, name))
        check_count("num_test", self.num_test, least=0)
        check_count("stride", self.stride, optional=True)
        require_range("ids", self.ids, self.vocab_size)
        num_sequences = len(self._starts)
        test = f" + num_test = {self.num_test}" if self.num_test else ""
        require(
            num_sequences > self.num_validation + self.num_test and self.num_train > 0,
            "data",
            expected=(
                f"more than num_validation = {self.num_validation}{test} sequences of "
                f"context_length + 1 = {self.context_length + 1} tokens (give more text, a shorter "
                "context_length or a smaller num_validation)"
            ),
            got=f"{len(self.ids)} tokens, {num_sequences} sequences, in {self.name}",
        )

    @cached_property
    def _starts(self) -> Int[np.ndarray, " sequences"]:
        length = self.context_length + 1
        return np.arange(0, len(self.ids) - length + 1, self.stride or length)

    @cached_property
    def _split(self) -> Split:
        split = split_rows(len(self._starts), self.num_validation, self.num_test)
        taken = self._starts[np.sort(np.concatenate([split.validation, split.test]))]
        after = np.searchsorted(taken, self._starts)
        neighbours = np.stack([taken[after - 1], taken[np.minimum(after, len(taken) - 1)]])
        gaps = np.abs(neighbours - self._starts).min(axis=0)
        return replace(split, train=np.flatnonzero(gaps > self.context_length))

    @property
    def num_train(self) -> int:
        """Sequences in the training set."""
        return len(self._split.train)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the ids and how they are cut and split."""
        return fingerprint(
            self.ids,
            context_length=self.context_length,
            num_validation=self.num_validation,
            stride=self.stride or self.context_length + 1,
            **settings_of_test(self.num_test),
        )

    def train(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return training sequences: inputs and targets, int32 `(batch, context_length)` each."""
        return self._cut(self._split.train[indices])

    def validation(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return validation sequences: inputs and targets, int32 `(batch, context_length)` each."""
        return self._cut(self._split.validation[indices])

    def test(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return test sequences: inputs and targets, int32 `(batch, context_length)` each."""
        return self._cut(self._split.test[indices])

    def _cut(self, rows: Int[np.ndarray, " batch"]) -> Batch:
        positions = self._starts[rows][:, None] + np.arange(self.context_length + 1)
        sequences = self.ids[positions].astype(np.int32)
        return sequences[:, :-1], sequences[:, 1:]


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Samples that are rows of two arrays: classification, or sequences of known length.

    What is held out is spread evenly over the rows (see `split_rows`); the others are the training
    set.

    Args:
        inputs: `(samples, ...)`. Integers come out of a batch as int32, floats as they are.
        targets: `(samples,)` labels, or `(samples, context)` for one target per position; integers
            in `[0, vocab_size)`.
        vocab_size: how many values a target can take.
        num_validation: samples in the validation set.
        name: what the data is called in logs.
        num_test: samples in the test set.

    Raises:
        ValueError: for arrays of different lengths, targets that are not integers in range, or too
            few samples.

    Example:
        >>> data = ArrayDataset(np.eye(4), np.arange(4), vocab_size=4, num_validation=2)
        >>> data.train(np.array([0, 1]))[1]
        array([0, 2], dtype=int32)
        >>> data.validation(np.array([0, 1]))[1]
        array([1, 3], dtype=int32)
    """

    inputs: Shaped[np.ndarray, "samples ..."]
    targets: Int[np.ndarray, "samples ..."]
    vocab_size: int
    num_validation: int = NUM_VALIDATION
    name: str = "arrays"
    num_test: int = 0

    def __post_init__(self) -> None:
        require_integers("targets", self.targets)
        require(
            isinstance(self.inputs, np.ndarray)
            and self.inputs.ndim >= 1
            and len(self.inputs) == len(self.targets),
            "inputs",
            expected=f"an array with one row for each of the {len(self.targets)} targets",
            got=_described(self.inputs),
        )
        check_count("vocab_size", self.vocab_size)
        check_split(len(self.targets), self.num_validation, self.num_test, self.name)
        require_range("targets", self.targets, self.vocab_size)

    @cached_property
    def _split(self) -> Split:
        return split_rows(len(self.targets), self.num_validation, self.num_test)

    @property
    def num_train(self) -> int:
        """Samples in the training set."""
        return len(self.targets) - self.num_validation - self.num_test

    @property
    def context_length(self) -> int | None:
        """Targets per sample, or None where a sample has one label."""
        return None if self.targets.ndim == 1 else self.targets.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the arrays and their split."""
        settings = settings_of_test(self.num_test)
        return fingerprint(
            self.inputs, self.targets, num_validation=self.num_validation, **settings
        )

    def train(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return training samples: inputs `(batch, ...)` and targets, int32 `(batch, ...)`."""
        return self._rows(self._split.train[indices])

    def validation(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return validation samples: inputs `(batch, ...)` and targets, int32 `(batch, ...)`."""
        return self._rows(self._split.validation[indices])

    def test(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return test samples: inputs `(batch, ...)` and targets, int32 `(batch, ...)`."""
        return self._rows(self._split.test[indices])

    def _rows(self, rows: Int[np.ndarray, " batch"]) -> Batch:
        inputs = self.inputs[rows]
        if inputs.dtype.kind in "iu":
            inputs = inputs.astype(np.int32)
        return inputs, self.targets[rows].astype(np.int32)


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return type(value).__name__


def require_integers(argument: str, array: Any, *, ndim: int | None = None) -> None:
    """Refuse what is not an array of integers."""
    require(
        isinstance(array, np.ndarray | TokenFiles)
        and array.dtype.kind in "iu"
        and (array.ndim == ndim if ndim else array.ndim >= 1),
        argument,
        expected=f"a numpy array of integers with {ndim or 'at least 1'} axis",
        got=_described(array),
    )


def require_range(argument: str, array: np.ndarray | TokenFiles, limit: int) -> None:
    """Refuse integers that are not below the limit, or negative."""
    lowest, highest = (int(array.min()), int(array.max())) if array.size else (0, 0)
    require(
        lowest >= 0 and highest < limit,
        argument,
        expected=f"values in [0, vocab_size) = [0, {limit})",
        got=f"{lowest} to {highest}",
    )
