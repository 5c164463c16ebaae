"""Samples of sources with random access, such as grain's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import check_count, require
from lnpjax.data.datasets import (
    NUM_VALIDATION,
    Batch,
    fingerprint,
    require_integers,
    require_range,
    settings_of_test,
)
from lnpjax.data.documents import PADDING
from lnpjax.data.splits import Split, check_split, split_rows, spread_evenly

HASHED_SAMPLES = 1024


class Source(Protocol):
    """What samples are taken from: grain's data sources and `MapDataset`, lists, PyTorch's data.

    Example:
        >>> source: Source = [np.arange(5), np.arange(5)]
        >>> len(source)
        2
    """

    def __len__(self) -> int:
        """Return how many samples there are."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return the sample of an index in [0, len)."""


@dataclass(frozen=True, eq=False)
class SourceDataset:
    """The samples of a source as a data set: read when a batch asks for them.

    A sample is a vector of ids, whose inputs are all except the last and whose targets all except
    the first; or a pair `(inputs, targets)`; or a mapping with these two names. What is held out
    is spread evenly over the source (see `split_rows`); the order of batches is that of `Batches`,
    so leave shuffling and batching to it.

    Args:
        source: the samples, all of the same shapes.
        vocab_size: how many values a target can take.
        num_validation: samples in the validation set.
        name: what the data is called in logs.
        num_test: samples in the test set.
        padded: whether targets may be `lnpjax.data.PADDING`, which count for nothing.

    Raises:
        TypeError: if the source has no length or no index, as iterators have not.
        ValueError: if it holds too few samples, or the first is not one; while a batch is read, if
            a sample has another shape than the first or a target that is not in range.

    Example:
        >>> source = [np.arange(start, start + 4) for start in range(9)]
        >>> data = SourceDataset(source, vocab_size=12, num_validation=3)
        >>> data.num_train, data.context_length
        (6, 3)
        >>> data.train(np.array([5]))
        (array([[ 8,  9, 10]], dtype=int32), array([[ 9, 10, 11]], dtype=int32))
    """

    source: Source
    vocab_size: int
    num_validation: int = NUM_VALIDATION
    name: str = "source"
    num_test: int = 0
    padded: bool = False

    def __post_init__(self) -> None:
        require(
            hasattr(self.source, "__len__") and hasattr(self.source, "__getitem__"),
            "source",
            expected="samples with a length and an index (of grain, a data source or MapDataset)",
            got=type(self.source).__name__,
            error=TypeError,
        )
        check_count("vocab_size", self.vocab_size)
        check_split(len(self.source), self.num_validation, self.num_test, self.name)
        self._samples(np.array([0]))

    @cached_property
    def _split(self) -> Split:
        return split_rows(len(self.source), self.num_validation, self.num_test)

    @property
    def num_train(self) -> int:
        """Samples in the training set."""
        return len(self.source) - self.num_validation - self.num_test

    @cached_property
    def context_length(self) -> int | None:
        """Targets per sample, or None where a sample has one label."""
        _, targets = self._samples(np.array([0]))
        return None if targets.ndim == 1 else targets.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """Identifies up to 1024 samples that are spread evenly, and how many there are.

        A source with an attribute `fingerprint` identifies itself, besides.
        """
        count = len(self.source)
        inputs, targets = self._samples(spread_evenly(count, min(count, HASHED_SAMPLES)))
        settings = {"count": count, "num_validation": self.num_validation}
        settings |= settings_of_test(self.num_test)
        own = getattr(self.source, "fingerprint", None)
        return fingerprint(inputs, targets, **settings, **({} if own is None else {"source": own}))

    def train(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return training samples: inputs `(batch, ...)` and targets, int32 `(batch, ...)`."""
        return self._samples(self._split.train[indices])

    def validation(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return validation samples: inputs `(batch, ...)` and targets, int32 `(batch, ...)`."""
        return self._samples(self._split.validation[indices])

    def test(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return test samples: inputs `(batch, ...)` and targets, int32 `(batch, ...)`."""
        return self._samples(self._split.test[indices])

    def _samples(self, rows: Int[np.ndarray, " batch"]) -> Batch:
        pairs = [_as_pair(self.source[int(row)], int(row)) for row in rows]
        try:
            inputs, targets = (np.stack(column) for column in zip(*pairs, strict=True))
        except ValueError as error:
            shapes = sorted({np.shape(part) for pair in pairs for part in pair})
            raise ValueError(
                f"source: expected samples of the same shapes, got {shapes} ({error})"
            ) from error
        require_integers("targets", targets)
        counted = targets[targets != PADDING] if self.padded else targets
        require_range("targets", counted, self.vocab_size)
        if inputs.dtype.kind in "iu":
            inputs = inputs.astype(np.int32)
        return inputs, targets.astype(np.int32)


def _as_pair(sample: Any, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs and the targets of a sample."""
    if isinstance(sample, Mapping) and {"inputs", "targets"} <= set(sample):
        sample = (sample["inputs"], sample["targets"])
    if isinstance(sample, tuple | list) and len(sample) == 2 and np.ndim(sample[0]) > 0:
        return np.asarray(sample[0]), np.asarray(sample[1])
    ids = None if sample is None or isinstance(sample, Mapping) else np.asarray(sample)
    is_vector = ids is not None and ids.ndim == 1 and len(ids) >= 2 and ids.dtype.kind in "iu"
    got = f"keys {sorted(sample)}" if isinstance(sample, Mapping) else type(sample).__name__
    require(
        is_vector,
        "source",
        expected="samples that are vectors of ids, or pairs of inputs and targets",
        got=f"{got} at index {index}",
    )
    assert ids is not None
    return ids[:-1], ids[1:]
