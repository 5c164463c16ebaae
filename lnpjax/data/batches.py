"""Which samples make the batch of a step: pure functions of a seed and the step.

Nothing is carried from one step to the next, so a run resumes at any step without replaying the
ones before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from lnpjax._base.checks import check_count, require
from lnpjax.data.datasets import Batch, Dataset, DatasetWithTest

_TRAIN, _VALIDATION = 0, 1


def random_order(
    num_items: int, *, seed: int, stream: tuple[int, ...]
) -> Int[np.ndarray, " num_items"]:
    """Draw a permutation: a pure function of a seed and a stream, under every version of numpy.

    `numpy.random.Generator.permutation` may change between versions of numpy; the raw output of a
    bit generator and of `SeedSequence` may not. So the permutation is the order of raw 64-bit
    draws.

    Args:
        num_items: how many items are permuted.
        seed: the seed.
        stream: separates permutations that share a seed.

    Returns:
        A permutation of `range(num_items)`.

    Example:
        >>> random_order(5, seed=0, stream=(0, 0))
        array([...])
    """
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=stream))
    return np.argsort(bits.random_raw(num_items), kind="stable")


@dataclass(frozen=True, eq=False)
class Batches:
    """Shuffled training batches, addressed by step.

    An epoch is one random permutation of the training set, drawn from the seed and the number of
    the epoch, cut into `steps_per_epoch` batches. No sample appears twice in an epoch; the
    `num_train % batch_size` samples at the end of the permutation are left out, and others in the
    next epoch. With `fill_last`, they make one batch more, filled with the first of the epoch.

    Args:
        dataset: where samples come from.
        batch_size: samples per batch, at most `dataset.num_train`.
        seed: integer >= 0; decides nothing except the order.
        fill_last: whether an epoch has a last batch that is filled, or leaves out what would not
            fill one.

    Raises:
        ValueError: if `batch_size` is not in [1, num_train] or `seed` is negative.

    Example:
        >>> from lnpjax.data.datasets import TokenDataset
        >>> data = TokenDataset(np.arange(40), vocab_size=40, context_length=3, num_validation=2)
        >>> batches = Batches(data, batch_size=4, seed=0)
        >>> batches.steps_per_epoch
        2
        >>> inputs, targets = batches.batch(1_000_000)
        >>> inputs.shape, bool((targets[:, :-1] == inputs[:, 1:]).all())
        ((4, 3), True)
    """

    dataset: Dataset
    batch_size: int
    seed: int = 0
    fill_last: bool = False
    # The order of the last epoch, since sorting takes long and all steps of an epoch share it.
    _order: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)
        check_count("seed", self.seed, least=0)
        require(
            self.batch_size <= self.dataset.num_train,
            "batch_size",
            expected=f"at most the {self.dataset.num_train} training samples of the data set",
            got=self.batch_size,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training set."""
        whole, rest = divmod(self.dataset.num_train, self.batch_size)
        return whole + (self.fill_last and rest > 0)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step.

        Args:
            step: integer >= 0; step `k` belongs to epoch `k // steps_per_epoch`.

        Returns:
            `(inputs, targets)` with `batch_size` samples each.

        Raises:
            ValueError: if `step` is negative.
        """
        return self.dataset.train(self.indices(step))

    def indices(self, step: int) -> Int[np.ndarray, " batch_size"]:
        """Return which training samples make the batch of a step.

        Raises:
            ValueError: if `step` is negative.
        """
        check_count("step", step, least=0)
        epoch, position = divmod(int(step), self.steps_per_epoch)
        order = self._order.get(epoch)
        if order is None:
            order = random_order(self.dataset.num_train, seed=self.seed, stream=(_TRAIN, epoch))
            self._order.clear()
            self._order[epoch] = order
        start = position * self.batch_size
        batch = order[start : start + self.batch_size]
        return np.append(batch, order[: self.batch_size - len(batch)])


def validation_batch(dataset: Dataset, step: int, *, size: int, seed: int = 0) -> Batch:
    """Draw batch B of a measured step, without replacement, from the fixed validation set.

    *Spectral Reach* (B.2.1) draws a fresh batch of 32 out of 160 for every measured step.

    Args:
        dataset: where samples come from.
        step: the step that is measured; the draw is a pure function of `(seed, step)`.
        size: samples to draw, at most `dataset.num_validation`.
        seed: integer >= 0; draws are independent of the training order of the same seed.

    Returns:
        `(inputs, targets)` with `size` samples each.

    Raises:
        ValueError: if `size` is not in [1, num_validation], or `step` or `seed` is negative.

    Example:
        >>> from lnpjax.data.datasets import ArrayDataset
        >>> data = ArrayDataset(np.zeros((9, 2)), np.arange(9), vocab_size=9, num_validation=4)
        >>> inputs, targets = validation_batch(data, 7, size=4)
        >>> sorted(targets.tolist())
        [1, 3, 5, 7]
    """
    check_count("size", size)
    check_count("step", step, least=0)
    check_count("seed", seed, least=0)
    require(
        size <= dataset.num_validation,
        "size",
        expected=f"at most the {dataset.num_validation} validation samples of the data set",
        got=size,
    )
    order = random_order(dataset.num_validation, seed=seed, stream=(_VALIDATION, int(step)))
    return dataset.validation(order[:size])


def pad_batch(batch: Batch, batch_size: int) -> tuple[Batch, Bool[np.ndarray, " batch_size"]]:
    """Pad a short last batch to a fixed size, so that nothing is compiled again for it.

    The padding repeats the last sample, so that a model sees real data in every row.

    Args:
        batch: `(inputs, targets)` with 1 to `batch_size` samples.
        batch_size: samples after padding.

    Returns:
        The padded batch, and a mask `(batch_size,)` that is true at the samples that were there.

    Raises:
        ValueError: if the batch is empty, larger than `batch_size`, or its arrays differ in length.

    Example:
        >>> (inputs, targets), mask = pad_batch((np.eye(2), np.array([5, 6])), 3)
        >>> targets, mask
        (array([5, 6, 6]), array([ True,  True, False]))
    """
    check_count("batch_size", batch_size)
    inputs, targets = batch
    require(
        len(inputs) == len(targets) and 1 <= len(targets) <= batch_size,
        "batch",
        expected=f"as many inputs as targets, 1 to {batch_size} of them",
        got=f"{len(inputs)} inputs and {len(targets)} targets",
    )
    rows = np.minimum(np.arange(batch_size), len(targets) - 1)
    return (inputs[rows], targets[rows]), np.arange(batch_size) < len(targets)


def validation_batches(
    dataset: Dataset, size: int
) -> Iterator[tuple[Batch, Bool[np.ndarray, " size"]]]:
    """Go once through the whole validation set, in batches of equal size.

    Args:
        dataset: where samples come from.
        size: samples per batch; the last batch is padded (see `pad_batch`).

    Returns:
        An iterator of `(batch, mask)`; over the pass, the mask is true once for every validation
        sample.

    Raises:
        ValueError: if `size` is below 1.

    Example:
        >>> from lnpjax.data.datasets import ArrayDataset
        >>> data = ArrayDataset(np.zeros((9, 2)), np.arange(9), vocab_size=9, num_validation=5)
        >>> [int(mask.sum()) for _, mask in validation_batches(data, 2)]
        [2, 2, 1]
    """
    return _one_pass(dataset.validation, dataset.num_validation, size)


def batches_of_test(
    dataset: DatasetWithTest, size: int
) -> Iterator[tuple[Batch, Bool[np.ndarray, " size"]]]:
    """Go once through the whole test set; see `validation_batches`.

    Args:
        dataset: where samples come from.
        size: samples per batch.

    Returns:
        An iterator of `(batch, mask)`.

    Raises:
        ValueError: if `size` is below 1.

    Example:
        >>> from lnpjax.data.datasets import ArrayDataset
        >>> data = ArrayDataset(np.zeros((9, 2)), np.arange(9), 9, num_validation=5, num_test=3)
        >>> [int(mask.sum()) for _, mask in batches_of_test(data, 2)]
        [2, 1]
    """
    return _one_pass(dataset.test, dataset.num_test, size)


def _one_pass(
    samples: Callable[[Int[np.ndarray, " batch"]], Batch], count: int, size: int
) -> Iterator[tuple[Batch, Bool[np.ndarray, " size"]]]:
    check_count("size", size)
    rows = np.arange(count)
    return (pad_batch(samples(rows[start : start + size]), size) for start in range(0, count, size))
