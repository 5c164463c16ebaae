"""What the figures and the claims at equal compute read off the runs of all sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from lnpjax.comparison import spearman
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.runs import Runs, runs_of

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.isocompute.config import IsocomputeConfig


@dataclasses.dataclass(frozen=True)
class Curve:
    """All sizes that have reached a budget, at the step at which they had spent it.

    Attributes:
        flops: the budget.
        sizes: that reached it after their warm-up.
        test_loss: of every seed.
        chi_pos: likewise, the mean over a window of steps.
    """

    flops: float
    sizes: Sequence[Runs]
    test_loss: Float[np.ndarray, "seeds sizes"]
    chi_pos: Float[np.ndarray, "seeds sizes"]

    @property
    def parameters(self) -> Float[np.ndarray, " sizes"]:
        """N of each size."""
        return np.array([size.num_parameters for size in self.sizes], float)

    @property
    def rank_correlations(self) -> Float[np.ndarray, " seeds"]:
        """Spearman's, of test loss and chi_pos over the sizes, of each seed."""
        pairs = zip(self.test_loss, self.chi_pos, strict=True)
        return np.array([spearman(loss, position).rho for loss, position in pairs])


@dataclasses.dataclass(frozen=True)
class Plane:
    """The curves of one data set.

    Attributes:
        data: what is learned.
        sizes: all.
        curves: ascending in compute.
    """

    data: str
    sizes: Sequence[Runs]
    curves: Sequence[Curve]


def planes(config: IsocomputeConfig, sweep: Sweep) -> list[Plane]:
    """Return the curves of a finished sweep by data.

    Args:
        config: the size.
        sweep: finished.
    """
    return [
        Plane(data, sizes, [curve_of(sizes, share) for share in config.shares])
        for data, sizes in runs_of(config.runs.recipe, sweep).items()
    ]


def curve_of(sizes: Sequence[Runs], share: float) -> Curve:
    """Read the runs at a budget, in straight lines of logarithms between measured steps.

    Args:
        sizes: ascending in the number of parameters.
        share: of the compute that the largest spends.
    """
    largest = sizes[-1]
    flops = share * float(largest.compute(largest.train_loss.shape[1]))
    steps = [flops / float(size.compute(1)) for size in sizes]
    reached = [
        (size, step)
        for size, step in zip(sizes, steps, strict=True)
        if size.warmup_steps <= step <= size.train_loss.shape[1]
    ]
    losses, positions = [], []
    for size, step in reached:
        losses.append(between(size.test_steps[1:], size.test_loss[:, 1:], step))
        positions.append(between(*size.by_window("chi_pos"), step))
    shape = (sizes[0].num_seeds, len(reached))
    return Curve(
        flops,
        [size for size, _ in reached],
        np.stack(losses, axis=1) if losses else np.empty(shape),
        np.stack(positions, axis=1) if positions else np.empty(shape),
    )


def between(
    steps: Float[np.ndarray, " n"], values: Float[np.ndarray, "seeds n"], step: float
) -> Float[np.ndarray, " seeds"]:
    """Return values at a step, in straight lines of logarithms; those below zero count for none.

    Example:
        >>> between(np.array([1.0, 4.0]), np.array([[1.0, 16.0]]), 2.0)
        array([4.])
    """

    def one(row: Float[np.ndarray, " n"]) -> float:
        positive = row > 0
        if not positive.any():
            return float("nan")
        x = np.log(np.maximum(steps[positive], 1))
        return float(np.exp(np.interp(np.log(step), x, np.log(row[positive]))))

    return np.array([one(row) for row in values])


def optimum(
    parameters: Float[np.ndarray, " sizes"], values: Float[np.ndarray, " sizes"]
) -> tuple[float, float]:
    """Return ln N at the bottom of a parabola in ln N through ln values, and its curvature.

    Args:
        parameters: N, three sizes or more.
        values: positive.

    Returns:
        The place, NaN where the parabola has no bottom, and the second derivative.

    Example:
        >>> N = np.array([1.0, 2.0, 4.0])
        >>> place, curvature = optimum(N, np.exp(np.log(N / 2) ** 2))
        >>> print(f"{np.exp(place):.2f} {curvature:.2f}")
        2.00 2.00
    """
    x, y = np.log(parameters), np.log(values)
    if not np.all(np.isfinite(y)):
        return float("nan"), float("nan")
    square, slope, _ = np.polyfit(x - x.mean(), y, 2)
    place = x.mean() - slope / (2 * square) if square > 0 else np.nan
    return float(place), float(2 * square)


def optima(plane: Plane, name: str, seeds: Int[np.ndarray, " chosen"]) -> list[float]:
    """Return ln N at the optimum of every curve, from means over chosen seeds.

    Args:
        plane: the curves.
        name: "test_loss" or "chi_pos".
        seeds: their numbers.
    """
    return [
        optimum(curve.parameters, getattr(curve, name)[seeds].mean(axis=0))[0]
        for curve in plane.curves
    ]
