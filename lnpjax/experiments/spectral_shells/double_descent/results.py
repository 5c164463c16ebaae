"""What the figures and the claims of double descent read off the finished sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.sweep import Sweep

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_shells.double_descent.config import DoubleDescentConfig

KERNELS = ("trained", "frozen")
COLUMNS = ("train_loss", "test_loss", "diagonal", "off_diagonal", "outside")
"""Columns of the arrays: both losses, and the parts of their difference (section 6.2)."""


def path(
    config: DoubleDescentConfig, sweep: Sweep, width: int, kernel: str, column: str
) -> Float[np.ndarray, "seeds time"]:
    """Return one of `COLUMNS` for a width, over seeds and times."""
    found = sweep.arrays(f"width{width}")[kernel][:, :, COLUMNS.index(column)]
    return np.asarray(found, float)[: config.num_seeds]


def over_widths(
    config: DoubleDescentConfig, sweep: Sweep, kernel: str, column: str
) -> Float[np.ndarray, "widths seeds time"]:
    """Return `path` of all widths."""
    return np.stack([path(config, sweep, width, kernel, column) for width in config.widths])


def rise_in_time(losses: Float[np.ndarray, "*s time"]) -> Float[np.ndarray, "*s"]:
    """Return ``ln`` of the last loss over the lowest one.

    Example:
        >>> rise_in_time(np.array([[4.0, 1.0, np.e], [3.0, 2.0, 1.0]]))
        array([1., 0.])
    """
    return np.log(losses[..., -1] / losses.min(axis=-1))


def by_width(
    config: DoubleDescentConfig, sweep: Sweep, name: str
) -> Float[np.ndarray, "widths seeds"]:
    """Return a scalar of the trained networks, by width and seed."""
    rows = sweep.rows(kind="network", kernel="trained")
    return np.array(
        [[row[name] for row in rows if row["width"] == width] for width in config.widths], float
    )


def wide_enough(config: DoubleDescentConfig) -> list[int]:
    """Return the places of the widths above the threshold, which can fit every point."""
    return [place for place, width in enumerate(config.widths) if width > config.threshold]
