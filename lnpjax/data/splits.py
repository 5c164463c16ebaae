"""Which samples are trained on, which validate, and which test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import check_count, require


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of indices, each ascending.

    Attributes:
        train: those of the samples that are trained on.
        validation: of the validation set.
        test: of the test set, which may be empty.
    """

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]


def spread_evenly(num_items: int, num_picked: int) -> Int[np.ndarray, " num_picked"]:
    """Choose items that are spread evenly over all: the middle of each of `num_picked` equal parts.

    The validation set is chosen this way, not from the end: corpora are ordered (by file, by
    source), so their end is unlike the rest, while batch B has to come from the distribution of
    batch A. The cost is that a validation sequence may come from a document whose other parts are
    trained on.

    Args:
        num_items: how many there are.
        num_picked: how many to pick, at most `num_items`.

    Returns:
        Strictly increasing indices, `(num_picked,)`.

    Example:
        >>> spread_evenly(10, 2)
        array([2, 7])
    """
    return (2 * np.arange(num_picked) + 1) * num_items // (2 * num_picked or 1)


def split_rows(num_rows: int, num_validation: int, num_test: int = 0) -> Split:
    """Split rows: those held out are spread over all, and of these the validation set over them.

    Without a test set, the validation set is all that is held out.

    Args:
        num_rows: how many there are.
        num_validation: how many validate.
        num_test: how many test.

    Returns:
        The three sets.

    Example:
        >>> split = split_rows(6, 1, 2)
        >>> split.train, split.validation, split.test
        (array([0, 2, 4]), array([3]), array([1, 5]))
    """
    held_out = spread_evenly(num_rows, num_validation + num_test)
    of_validation = spread_evenly(len(held_out), num_validation)
    return Split(
        np.delete(np.arange(num_rows), held_out),
        held_out[of_validation],
        np.delete(held_out, of_validation),
    )


def check_split(num_samples: int, num_validation: int, num_test: int, name: str) -> None:
    """Refuse sizes of sets that leave no sample to train on.

    Args:
        num_samples: how many there are in all.
        num_validation: how many validate, at least one.
        num_test: how many test; may be none.
        name: what the data is called.

    Raises:
        ValueError: if a size is invalid, or too large.
    """
    check_count("num_validation", num_validation)
    check_count("num_test", num_test, least=0)
    test = f" + num_test = {num_test}" if num_test else ""
    require(
        num_samples > num_validation + num_test,
        "data",
        expected=f"more than num_validation = {num_validation}{test} samples",
        got=f"{num_samples} in {name}",
    )


def size_of_test(
    num_samples: int, num_validation: int, num_test: int | None, held_out: float | None
) -> int:
    """Return the size of the test set, which may be given as what a share leaves.

    Args:
        num_samples: how many there are in all.
        num_validation: how many validate.
        num_test: how many test; None for what `held_out` leaves, or none without it.
        held_out: the share of all samples that is not trained on, rounded down; None for none.

    Returns:
        How many test.

    Raises:
        ValueError: if the share is not in (0, 1), or too small for the validation set.

    Example:
        >>> 4096 + size_of_test(6 * 1_000_448, 4096, None, 0.1)
        600268
    """
    if held_out is None or num_test is not None:
        return num_test or 0
    inside = math.isfinite(held_out) and 0 < held_out < 1
    require(inside, "held_out", expected="a share of the samples, in (0, 1)", got=held_out)
    count = int(Fraction(str(held_out)) * num_samples)  # 0.29 * 100 is below 29
    require(
        count >= num_validation,
        "held_out",
        expected=f"a share with at least the {num_validation} samples of num_validation",
        got=f"{held_out}, {count} of {num_samples} samples",
    )
    return count - num_validation
