"""What the figures and the claims of the check of muP read off the finished sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.estimates import Uncertain, mean_of
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.maximal_update.config import Model
from lnpjax.experiments.spectral_reach.maximal_update.measure import unit_name
from lnpjax.experiments.spectral_reach.parametrisations import Arm

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.maximal_update.config import MaximalUpdateConfig

LAST = 0.2
"""The loss at the end is the mean over this last part of a run."""


def changes(
    config: MaximalUpdateConfig, sweep: Sweep, model: Model, arm: Arm, name: str
) -> Float[np.ndarray, "widths seeds checked"]:
    """Return how much the hidden layer or the outputs have changed, by width."""
    return np.stack(
        [sweep.arrays(unit_name(model, arm, width))[name] for width in config.widths]
    ).astype(float)


def end_losses(
    config: MaximalUpdateConfig, sweep: Sweep, model: Model, arm: Arm
) -> Float[np.ndarray, "widths seeds rates"]:
    """Return the loss at the end of every run; infinite where it is not a number."""
    first = config.steps - max(1, round(LAST * config.steps))
    losses = np.stack(
        [sweep.arrays(unit_name(model, arm, width))["losses"] for width in config.widths]
    )
    ends = losses[..., first:].astype(float).mean(axis=-1)
    return np.where(np.isfinite(ends), ends, np.inf)


def growth(config: MaximalUpdateConfig, sizes: Float[np.ndarray, "widths seeds"]) -> Uncertain:
    """Return the exponent of a size over widths: a mean over seeds, of a slope for each."""
    widths = np.array(config.widths, float)
    return mean_of([float(log_slope(widths, np.log(column))) for column in sizes.T])


def best_rates(
    config: MaximalUpdateConfig, losses: Float[np.ndarray, "... rates"]
) -> Float[np.ndarray, ...]:
    """Return the learning rate of the lowest loss, by a parabola through it and its neighbours.

    Args:
        config: whose rates they are.
        losses: at the end.

    Returns:
        The rates; where the lowest is at an edge of the grid, or a neighbour is not finite, the
        rate of the grid.
    """
    x = np.log(np.array(config.rates))
    lowest = np.argmin(losses, axis=-1)
    inner = np.clip(lowest, 1, len(x) - 2)
    left, middle, right = (
        np.take_along_axis(losses, (inner + k)[..., None], axis=-1)[..., 0] for k in (-1, 0, 1)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        bend = left - 2 * middle + right
        shift = np.where(bend > 0, 0.5 * (left - right) / bend, 0.0)
    usable = (lowest == inner) & np.isfinite(shift)
    spacing = x[inner + 1] - x[inner]
    return np.exp(x[lowest] + np.where(usable, np.clip(shift, -1, 1), 0) * spacing)


def at_edge(config: MaximalUpdateConfig, losses: Float[np.ndarray, "widths seeds rates"]) -> bool:
    """Whether the mean loss of a width is lowest at the first or the last rate."""
    lowest = np.argmin(losses.mean(axis=1), axis=-1)
    return bool(np.any((lowest == 0) | (lowest == len(config.rates) - 1)))
