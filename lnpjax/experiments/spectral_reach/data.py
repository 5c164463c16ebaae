"""The data of the experiments of Spectral Reach: tokens of stories, and pixels of images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8

from lnpjax._base.checks import require
from lnpjax.data import (
    Batches,
    Dataset,
    load_dataset,
    next_pixel_dataset,
    next_pixel_sequences,
)
from lnpjax.data.batches import random_order
from lnpjax.data.image_classes import load_image_classes
from lnpjax.experiments.spectral_reach.options import Task
from lnpjax.jacobian import Batch

STORIES = "tinystories"
TOKENIZER = "tokenizers/simplestories/simplestories-4096.json"
DATA_SEED = 0
_BATCH_B = 2
"""The stream of draws of batches B; training takes 0 of the same seed."""


def tasks_of(tasks: tuple[Task, ...], data: Path | None) -> tuple[Task, ...]:
    """Return what is learned with a folder of data, or without one: digits, by the last sizes.

    Args:
        tasks: of the config.
        data: the folder that the user named, or None.
    """
    if data is not None or all(task.source == "digits" for task in tasks):
        return tasks
    return (dataclasses.replace(tasks[-1], source="digits", context_length=None, pooled=1),)


class DataSource(Protocol):
    """What training asks of its data."""

    @property
    def num_steps(self) -> int:
        """Steps of a run."""

    def training(self, start: int, count: int) -> Batch:
        """Return batches A of consecutive steps, the same for all runs."""

    def comparison(self, steps: Int[np.ndarray, " n"]) -> Batch:
        """Return batches B of steps, each drawn anew from the validation samples."""

    def validation(self) -> Batch:
        """Return all validation samples, in batches."""

    def test(self) -> Batch:
        """Return all test samples, in batches."""


@dataclasses.dataclass(frozen=True)
class Split:
    """A data set in three parts: to train on, to draw batches B and rates from, and to test.

    Attributes:
        task: what is learned.
        dataset: whose validation samples are the latter two, in turn.
    """

    task: Task
    dataset: Dataset

    @property
    def num_steps(self) -> int:
        """Steps of a run."""
        return self.task.steps

    @property
    def tokens_per_step(self) -> int:
        """Tokens that are predicted in a training step."""
        return self.task.batch_size * (self.dataset.context_length or 1)

    @property
    def passes(self) -> float:
        """How often a run sees its training data."""
        return self.task.steps * self.task.batch_size / self.dataset.num_train

    def training(self, start: int, count: int) -> Batch:
        """Return batches A of consecutive steps, ``(count, batch, time)``; the same for all."""
        batches = Batches(self.dataset, self.task.batch_size, seed=DATA_SEED)
        rows = [batches.indices(step) for step in range(start, start + count)]
        return _stacked(self.dataset.train(np.concatenate(rows)), count)

    def comparison(self, steps: Int[np.ndarray, " n"]) -> Batch:
        """Return batches B of steps, each drawn anew from the validation samples (B.2.1)."""
        rows = []
        for step in steps:
            order = random_order(
                self.task.num_validation, seed=DATA_SEED, stream=(_BATCH_B, int(step))
            )
            rows.append(self._validation_rows[order[: self.task.batch_size]])
        return _stacked(self.dataset.validation(np.concatenate(rows)), len(steps))

    def validation(self) -> Batch:
        """Return all validation samples, in batches."""
        return self._all(self._validation_rows)

    def test(self) -> Batch:
        """Return all test samples, in batches."""
        rows = np.arange(self.dataset.num_validation)
        return self._all(np.delete(rows, self._validation_rows))

    @property
    def _validation_rows(self) -> Int[np.ndarray, " validation"]:
        """Validation samples are spread evenly over what is held out."""
        held, count = self.dataset.num_validation, self.task.num_validation
        return np.arange(count) * held // count

    def _all(self, rows: Int[np.ndarray, " n"]) -> Batch:
        return _stacked(self.dataset.validation(rows), len(rows) // self.task.batch_size)


def load(task: Task, data: Path | None) -> Split:
    """Load the data of a task.

    Args:
        task: what is learned.
        data: the folder of data; not needed for digits and simplestories.

    Returns:
        The data set, split.

    Raises:
        ValueError: if there is too little data, or a file is not what it should be.
        FileNotFoundError: if a file is missing.
    """
    return Split(task, _dataset(task, data, task.num_validation + task.num_test))


def _dataset(task: Task, data: Path | None, num_held_out: int) -> Dataset:
    if task.source == "digits":
        return load_dataset("digits", num_validation=num_held_out)
    require(data is not None, "data", expected=f"a folder with the data {task.source}", got="None")
    folder = Path(str(data))
    if task.source in ("stories", "bytes", "simplestories"):
        return load_dataset(
            "simplestories" if task.source == "simplestories" else folder / STORIES,
            tokenizer=None if task.source == "bytes" else folder / TOKENIZER,
            context_length=task.context_length,
            num_validation=num_held_out,
        )
    if task.source == "cifar5m":
        return load_dataset(folder / "cifar5m.npz", num_validation=num_held_out)
    images = load_image_classes("fashion_mnist", folder)
    both = np.concatenate([images.train.images, images.test.images])
    sequences = next_pixel_sequences(pooled(both, task.pooled))
    length = sequences.shape[1] if task.context_length is None else task.context_length + 1
    expected = f"at most {sequences.shape[1] - 1}, of one image"
    require(length <= sequences.shape[1], "context_length", expected=expected, got=length - 1)
    return next_pixel_dataset(
        sequences[:, :length],
        num_validation=num_held_out,
        name="fashion",
    )


def pooled(
    images: UInt8[np.ndarray, "n height width channels"], edge: int
) -> UInt8[np.ndarray, "n h w channels"]:
    """Return images whose pixels are means of squares.

    Args:
        images: gray levels.
        edge: of the squares; a divisor of height and width.

    Raises:
        ValueError: if it is not.

    Example:
        >>> pooled(np.array([[[[0], [1]], [[2], [5]]]], np.uint8), 2).tolist()
        [[[[2]]]]
    """
    n, height, width, channels = images.shape
    fits = height % edge == 0 and width % edge == 0
    require(fits, "pooled", expected=f"a divisor of {height} and of {width}", got=edge)
    squares = images.reshape(n, height // edge, edge, width // edge, edge, channels)
    return np.round(squares.mean(axis=(2, 4))).astype(np.uint8)


def _stacked(batch: Batch, count: int) -> Batch:
    inputs, targets = batch
    return (
        inputs.reshape(count, -1, *inputs.shape[1:]),
        targets.reshape(count, -1, *targets.shape[1:]),
    )
