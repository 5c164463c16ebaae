"""Labelled images as a data set: a part to train on, one to validate, one to test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import check_count, require
from lnpjax.data.datasets import NUM_VALIDATION, Batch, fingerprint
from lnpjax.data.image_classes import LabelledImages, read_train_and_test
from lnpjax.data.image_parts import ImageParts
from lnpjax.data.splits import Split, check_split, size_of_test, split_rows, spread_evenly


@dataclass(frozen=True, eq=False)
class LabelledDataset:
    """Labelled images, with pixels from 0 to 1; those on the disk are read when a batch asks.

    What is held out is spread evenly over the images (see `split_rows`). Where they come with
    test images, the test set is drawn from these, spread evenly over them, and from no others.

    Args:
        images: those that are trained on, that validate, and without `test_images` those that test.
        vocab_size: how many classes there are.
        num_validation: images in the validation set.
        name: what the data is called in logs.
        num_test: images in the test set.
        test_images: that came with the others, to test; `None` without any.

    Raises:
        ValueError: if a label is not in ``[0, vocab_size)``, all images are of one class, there are
            too few, or those to test have another shape.

    Example:
        >>> images = LabelledImages(np.zeros((9, 2, 2, 1), np.uint8), np.arange(9) % 3)
        >>> data = LabelledDataset(images, vocab_size=3, num_validation=2, num_test=1)
        >>> inputs, labels = data.train(np.array([0, 1]))
        >>> data.num_train, inputs.shape, labels
        (6, (2, 2, 2, 1), array([0, 2], dtype=int32))
    """

    images: LabelledImages
    vocab_size: int
    num_validation: int = NUM_VALIDATION
    name: str = "images"
    num_test: int = 0
    test_images: LabelledImages | None = None

    def __post_init__(self) -> None:
        check_count("vocab_size", self.vocab_size)
        for labels in self._labels:
            _require_labels(labels, self.vocab_size, self.name)
        num_classes = len(np.unique(self.images.labels))
        expected = "images of two classes at least"
        require(num_classes > 1, "data", expected=expected, got=f"{num_classes} in {self.name}")
        others = self.test_images
        inside = self.num_test if others is None else 0
        check_split(len(self.images), self.num_validation, inside, self.name)
        if others is not None:
            expected = f"at most the {len(others)} test images of {self.name}"
            require(self.num_test <= len(others), "num_test", expected=expected, got=self.num_test)
            expected, shape = f"test images of shape {self.image_shape}", others.images.shape[1:]
            require(shape == self.image_shape, "data", expected=expected, got=shape)

    @property
    def _labels(self) -> list[Int[np.ndarray, " images"]]:
        return [part.labels for part in (self.images, self.test_images) if part is not None]

    @property
    def context_length(self) -> None:
        """Samples have one label, and no positions."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image."""
        return tuple(self.images.images.shape[1:])

    @cached_property
    def _split(self) -> Split:
        if self.test_images is None:
            return split_rows(len(self.images), self.num_validation, self.num_test)
        split = split_rows(len(self.images), self.num_validation)
        return replace(split, test=spread_evenly(len(self.test_images), self.num_test))

    @property
    def num_train(self) -> int:
        """Images in the training set."""
        return len(self._split.train)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the images, their labels and the split; of files, by their checksums."""
        parts = [part.images for part in (self.images, self.test_images) if part is not None]
        stored = [part for part in parts if isinstance(part, ImageParts)]
        arrays = [part for part in parts if not isinstance(part, ImageParts)]
        return fingerprint(
            *arrays,
            *self._labels,
            num_validation=self.num_validation,
            num_test=self.num_test,
            stored=[(part.shape, part.checksums) for part in stored],
        )

    def train(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return training images, float32 ``(batch, h, w, c)``, and labels, int32 ``(batch,)``."""
        return _batch(self.images, self._split.train[indices])

    def validation(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return validation images and their labels, as `train`."""
        return _batch(self.images, self._split.validation[indices])

    def test(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        """Return test images and their labels, as `train`."""
        images = self.images if self.test_images is None else self.test_images
        return _batch(images, self._split.test[indices])


def _batch(images: LabelledImages, rows: Int[np.ndarray, " batch"]) -> Batch:
    pixels, labels = images.take(rows)
    return pixels, labels.astype(np.int32)


def _require_labels(labels: Int[np.ndarray, " n"], num_classes: int, name: str) -> None:
    """Refuse labels that JAX would take for another class: it clips them silently."""
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
    expected = f"classes in [0, {num_classes}) as labels of {name}"
    got = f"{lowest} to {highest}"
    require(lowest >= 0 and highest < num_classes, "labels", expected=expected, got=got)


def load_labelled_dataset(
    data: str | Path = "digits",
    *,
    num_validation: int = NUM_VALIDATION,
    num_test: int | None = None,
    held_out: float | None = None,
    num_classes: int | None = None,
) -> LabelledDataset:
    """Load labelled images for classification.

    Args:
        data: what `lnpjax.data.image_classes.read_train_and_test` reads: digits, an ``.npz`` file
            with ``x`` and ``y``, a folder of pictures by class, or MNIST, Fashion-MNIST, CIFAR-10
            and CIFAR-5M as distributed.
        num_validation: images in the validation set.
        num_test: images in the test set; None for all test images that the data come with, or, if
            they come with none, for what `held_out` leaves, or else as many as validate.
        held_out: the share of all images that is not trained on, rounded down; not where the data
            come with test images.
        num_classes: how many classes there are; None for one more than the largest label.

    Returns:
        The data set.

    Raises:
        ValueError: if the data are not what they should be: images of several sizes, labels out of
            range or of one class only, too few images.
        ImportError: if an optional package is not installed; the message names the extra.

    Example:
        >>> data = load_labelled_dataset("digits", num_validation=97)
        >>> data.num_train, data.num_test, data.vocab_size, data.image_shape
        (1603, 97, 10, (8, 8, 1))
    """
    check_count("num_validation", num_validation)
    check_count("num_classes", num_classes, optional=True)
    images, tested = read_train_and_test(data)
    name = Path(data).name
    if tested is None:
        if num_test is None and held_out is None:
            num_test = num_validation
        num_test = size_of_test(len(images), num_validation, num_test, held_out)
    else:
        expected = f"None, since {name} comes with {len(tested)} test images"
        require(held_out is None, "held_out", expected=expected, got=held_out)
        num_test = len(tested) if num_test is None else num_test
    if num_classes is None:
        highest = max(int(part.labels.max(initial=0)) for part in (images, tested) if part)
        expected = f"labels below the number of images, {len(images)} (or num_classes)"
        require(highest < len(images), "labels", expected=expected, got=f"{highest} in {name}")
        num_classes = highest + 1
    return LabelledDataset(images, num_classes, num_validation, name, num_test, tested)
