"""Labelled images in three parts: to train on, to draw batches B and rates from, and to test."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import require
from lnpjax.data.batches import random_order
from lnpjax.data.image_classes import ImageClasses, LabelledImages, load_image_classes
from lnpjax.experiments.spectral_reach.vision.config import VisionConfig
from lnpjax.jacobian import Batch

DATA_SEED = 0
_TRAINING, _BATCH_B, _HELD_OUT = 0, 1, 2
"""Streams of one seed."""


@dataclasses.dataclass(frozen=True)
class ImageSplit:
    """Labelled images of a config.

    Attributes:
        config: what is learned.
        images: the set; validation images are taken from those that are trained on.
    """

    config: VisionConfig
    images: ImageClasses

    @property
    def num_steps(self) -> int:
        """Steps of a run."""
        return self.config.steps

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        _, height, width, channels = self.images.train.images.shape
        return height, width, channels

    @property
    def num_train(self) -> int:
        """Images that are trained on."""
        return len(self.images.train) - self.config.num_validation

    @property
    def passes(self) -> float:
        """How often a run sees its training data."""
        return self.config.steps * self.config.batch_size / self.num_train

    def training(self, start: int, count: int) -> Batch:
        """Return batches A of consecutive steps, ``(count, batch, ...)``; the same for all."""
        size = self.config.batch_size
        places = np.arange(start * size, (start + count) * size)
        epochs, within = np.divmod(places, self.num_train)
        rows = np.empty(len(places), int)
        for epoch in np.unique(epochs):
            order = random_order(self.num_train, seed=DATA_SEED, stream=(_TRAINING, int(epoch)))
            rows[epochs == epoch] = order[within[epochs == epoch]]
        return self._stacked(self.images.train, self._kept[rows], count)

    def comparison(self, steps: Int[np.ndarray, " n"]) -> Batch:
        """Return batches B of steps, each drawn anew from the validation images (B.2.3)."""
        rows = []
        for step in steps:
            order = random_order(
                self.config.num_validation, seed=DATA_SEED, stream=(_BATCH_B, int(step))
            )
            rows.append(self._held_out[order[: self.config.batch_size]])
        return self._stacked(self.images.train, np.concatenate(rows), len(steps))

    def validation(self) -> Batch:
        """Return all validation images, in batches."""
        return self._all(self.images.train, self._held_out)

    def test(self) -> Batch:
        """Return the test images, in batches."""
        return self._all(self.images.test, np.arange(self.config.num_test))

    @property
    def _order(self) -> Int[np.ndarray, " images"]:
        return random_order(len(self.images.train), seed=DATA_SEED, stream=(_HELD_OUT,))

    @property
    def _held_out(self) -> Int[np.ndarray, " validation"]:
        return self._order[: self.config.num_validation]

    @property
    def _kept(self) -> Int[np.ndarray, " train"]:
        return self._order[self.config.num_validation :]

    def _all(self, images: LabelledImages, rows: Int[np.ndarray, " n"]) -> Batch:
        return self._stacked(images, rows, len(rows) // self.config.batch_size)

    def _stacked(self, images: LabelledImages, rows: Int[np.ndarray, " n"], count: int) -> Batch:
        inputs, labels = images.take(rows)
        return (
            inputs.reshape(count, -1, *inputs.shape[1:]),
            labels.astype(np.int32).reshape(count, -1),
        )


def load(config: VisionConfig, data: Path | None) -> ImageSplit:
    """Load the images of a config; digits, where there is no folder of data.

    Args:
        config: what is learned.
        data: the folder that the user named, or None.

    Raises:
        ValueError: if there are too few images, or a file is missing or not what it should be.
    """
    name = "digits" if data is None else config.images
    images = load_image_classes(name, data)
    config = for_images(config, images)
    split = ImageSplit(config, images)
    least = config.num_validation + config.batch_size
    require(
        len(images.train) >= least and len(images.test) >= config.num_test,
        "data",
        expected=f"{least} images to train on and {config.num_test} to test",
        got=f"{len(images.train)} and {len(images.test)} in {name}",
    )
    return split


def for_images(config: VisionConfig, images: ImageClasses) -> VisionConfig:
    """Return the config with as many held out images as there are; digits are few."""

    def at_most(count: int, there_are: int) -> int:
        size = config.batch_size
        return max(min(count, there_are // size * size), size)

    return dataclasses.replace(
        config,
        num_validation=at_most(config.num_validation, len(images.train) // 5),
        num_test=at_most(config.num_test, len(images.test)),
    )
