"""What the dense networks of NTK Lens learn: image sets, sizes, and the images of each member."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lnpjax._base.checks import require
from lnpjax.data.image_classes import ImageClasses, load_image_classes
from lnpjax.experiments.ntk_lens.options import EnsembleOptions
from lnpjax.experiments.ntk_lens.training import DenseEnsemble, KernelDirections, Problem

DEFAULT_SETS = ("digits",)
"""What is learned where no folder of data is named."""


def ensembles_of(options: EnsembleOptions) -> Callable[[tuple[int, ...]], DenseEnsemble]:
    """Makes the ensemble of given sizes, the same one again for the same sizes."""
    directions = KernelDirections()

    @functools.cache
    def ensemble(sizes: tuple[int, ...]) -> DenseEnsemble:
        return DenseEnsemble(
            sizes, num_ntk=options.num_ntk, every=options.rule.every, directions=directions
        )

    return ensemble


def load_sets(names: Sequence[str], data: Path | None) -> list[ImageClasses]:
    """The sets of that name from a folder, or the digits where there is none."""
    return [load_image_classes(name, data) for name in (DEFAULT_SETS if data is None else names)]


def num_sets(names: Sequence[str], data: Path | None) -> int:
    """How many sets `load_sets` gives."""
    return len(DEFAULT_SETS if data is None else names)


def dense_sizes(images: ImageClasses, depth: int, width: int) -> tuple[int, ...]:
    """Widths of a network of `depth` layers from the pixels to the classes.

    Example:
        >>> dense_sizes(load_image_classes("digits"), 3, 16)
        (64, 16, 16, 10)
    """
    pixels = int(np.prod(images.train.images.shape[1:]))
    return (pixels, *[width] * (depth - 1), images.num_classes)


def problem_of(images: ImageClasses, rows: np.ndarray, options: EnsembleOptions) -> Problem:
    """What members learn who are given these rows, ``(members, n)``, of the training images."""
    inputs, labels = images.train.take(rows)
    test_inputs, test_labels = images.test.take(slice(0, options.num_test))
    require(
        len(test_labels) >= options.num_ntk,
        "num_ntk",
        expected=f"at most the {len(test_labels)} test images of {images.name}",
        got=options.num_ntk,
    )
    arrays = (inputs.reshape(*rows.shape, -1), labels, test_inputs, test_labels)
    train, train_labels, test, labels_of_test = map(jnp.asarray, arrays)
    return Problem(train, train_labels, test.reshape(len(test), -1), labels_of_test)
