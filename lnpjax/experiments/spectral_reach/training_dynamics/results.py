"""What the figures and the claims read off runs, and off models whose kernel is known.

The rules were fixed before the runs were looked at, and hold from the end of the warm-up on:

- A window's loss and chi_pos are means over its measured steps; the slopes of their logarithms in
  that of the step, from one window to the next, are correlated over a run.
- A sudden drop is one from a window to the next that exceeds what the steps before and after it
  suggest, by `LEAST_DROP` in the logarithm and by `Z` of its standard errors, which are those of
  means over measured steps, taken as independent.
- chi_pos has flattened at the end of the first `FLAT_WINDOWS` windows over which it falls with a
  power of the step of less than `FLAT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.runs import Runs
from lnpjax.experiments.spectral_reach.training_dynamics.measure import PAIRS

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.training_dynamics.config import DynamicsConfig

LEAST_DROP = float(np.log(1.5))
Z = 4.0
FLAT, FLAT_WINDOWS = 0.25, 3
NUM_SMOOTH = 2000
"""Smooth curves that the rate of false alarms is taken from."""


class Path(NamedTuple):
    """Means over windows after the warm-up, as logarithms; NaN where a mean is not positive.

    Attributes:
        steps: mean steps of the windows.
        values: of every run.
        errors: standard errors.
    """

    steps: Float[np.ndarray, " windows"]
    values: Float[np.ndarray, "runs windows"]
    errors: Float[np.ndarray, "runs windows"]


def path_of(size: Runs, values: Float[np.ndarray, "runs measured"]) -> Path:
    """Return what is at the measured steps of a size as means over windows after the warm-up."""
    first = int(np.searchsorted(size.starts, size.warmup_steps))
    means, errors, steps = [], [], []
    for window in range(first, len(size.starts)):
        inside = size.windows == window
        part = values[:, inside]
        counts = np.sum(np.isfinite(part), axis=1)
        means.append(np.nanmean(part, axis=1))
        errors.append(np.nanstd(part, axis=1, ddof=1) / np.sqrt(counts))
        steps.append(np.mean(size.steps[inside]) + 1.0)
    mean, error = np.stack(means, axis=1), np.stack(errors, axis=1)
    positive = np.where(mean > 0, mean, np.nan)
    return Path(np.array(steps), np.log(positive), error / positive)


def slopes(size: Runs, name: str) -> Float[np.ndarray, "seeds changes"]:
    """Return by which power of the step a component, or the loss, goes between windows."""
    path = path_of(size, size.component(name))
    return np.diff(path.values) / np.diff(np.log(path.steps))


def correlations(size: Runs) -> Float[np.ndarray, "loss position"]:
    """Return how slopes of the loss go with those of chi_pos, for all pairs of runs.

    Entry (i, j) correlates the loss of seed i with chi_pos of seed j: those on the diagonal are of
    one run, and the others show what the course that all runs share makes.
    """
    loss, position = (slopes(size, name) for name in ("loss", "chi_pos"))
    return np.array([[_correlation(a, b) for b in position] for a in loss])


def _correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(a[both], b[both])[0, 1]) if both.sum() >= 3 else np.nan


def own_correlations(size: Runs) -> Float[np.ndarray, " seeds"]:
    """Return the correlation of every run."""
    return np.diag(correlations(size))


def own_less_others(size: Runs) -> Float[np.ndarray, " seeds"]:
    """Return by how much each run's correlation exceeds the mean of its loss with other runs."""
    every = correlations(size)
    others = (every.sum(axis=1) - np.diag(every)) / (len(every) - 1)
    return np.diag(every) - others


def excess_drops(path: Path) -> tuple[Float[np.ndarray, "runs k"], Float[np.ndarray, "runs k"]]:
    """Return by how much each change exceeds the mean of those before and after, with its error."""
    x, squares = path.values, path.errors**2
    changes = np.diff(x)
    excess = changes[:, 1:-1] - (changes[:, :-2] + changes[:, 2:]) / 2
    inner = 2.25 * (squares[:, 1:-2] + squares[:, 2:-1])
    return excess, np.sqrt(inner + 0.25 * (squares[:, :-3] + squares[:, 3:]))


def sudden_drops(path: Path) -> Bool[np.ndarray, "runs k"]:
    """Say which changes are sudden drops; the first and the last change are not looked at."""
    excess, error = excess_drops(path)
    return np.asarray(excess < -np.maximum(LEAST_DROP, Z * error))


def smooth_runs(
    size: Runs, rng: np.random.Generator, count: int
) -> Float[np.ndarray, "count measured"]:
    """Return smooth courses of chi_pos at the steps of a size, with noise from step to step.

    Powers of the step with exponents from 0.2 to 2, from a bend on and down to a floor, each at any
    place of the run; and a scatter of single steps from 0.2 to 3 times the value.
    """
    steps = size.steps + 1.0
    last = np.log(steps[-1])
    fall = rng.uniform(0.2, 2.0, (count, 1))
    bend, end = np.exp(rng.uniform(0, last, (2, count, 1)))
    value = (1 + steps / bend) ** -fall + (1 + end / bend) ** -fall
    scatter = np.exp(rng.uniform(np.log(0.2), np.log(3.0), (count, 1)))
    return value * (1 + scatter * rng.standard_normal((count, len(steps))))


def false_alarms(size: Runs) -> float:
    """Return the share of smooth runs, with the windows of a size, in which a drop is seen."""
    values = smooth_runs(size, np.random.default_rng(0), NUM_SMOOTH)
    return float(np.mean(sudden_drops(path_of(size, values)).any(axis=1)))


def runs_with_drops(size: Runs) -> Bool[np.ndarray, " seeds"]:
    """Say in which runs of a size there is a sudden drop."""
    return np.any(sudden_drops(path_of(size, size.component("chi_pos"))), axis=1)


def stops(size: Runs) -> Float[np.ndarray, " seeds"]:
    """Return the share of its steps after which each run is stopped; 1 if it never flattens."""
    path = path_of(size, size.component("chi_pos"))
    first = len(size.starts) - len(path.steps)
    total = size.train_loss.shape[1]
    shares = np.ones(size.num_seeds)
    for seed, values in enumerate(path.values):
        for end in range(FLAT_WINDOWS, len(path.steps) + 1):
            part = slice(end - FLAT_WINDOWS, end)
            if float(log_slope(path.steps[part], values[part])) > -FLAT:
                last = size.steps[size.windows == first + end - 1][-1]
                shares[seed] = (last + 1) / total
                break
    return shares


def given_up(size: Runs, shares: Float[np.ndarray, " seeds"]) -> Float[np.ndarray, " seeds"]:
    """Return ln of the test loss after a share of the steps over that at the end, of every run."""
    steps = shares * size.train_loss.shape[1]
    logs = np.log(size.test_loss)
    pairs = zip(steps, logs, strict=True)
    return np.array([np.interp(step, size.test_steps, log) - log[-1] for step, log in pairs])


class Stopped(NamedTuple):
    """What stopping does to the runs of several sizes, one array of seeds for each.

    Attributes:
        shares: of the steps that are taken.
        lost: ln of the test loss then over that at the end.
        control: the same where all runs stop after the mean share.
    """

    shares: list[Float[np.ndarray, " seeds"]]
    lost: list[Float[np.ndarray, " seeds"]]
    control: list[Float[np.ndarray, " seeds"]]


def stopped(sizes: Sequence[Runs]) -> Stopped:
    """Stop the runs of one data set by the rule, and all after the same share of their steps."""
    shares = [stops(size) for size in sizes]
    mean = np.mean(np.concatenate(shares))
    lost = [given_up(size, share) for size, share in zip(sizes, shares, strict=True)]
    control = [given_up(size, np.full(size.num_seeds, mean)) for size in sizes]
    return Stopped(shares, lost, control)


def of_moments(
    config: DynamicsConfig, sweep: Sweep, beta: float, name: str
) -> Float[np.ndarray, "seeds moments"]:
    """Return a column of the read-outs along their training, for one law of inputs."""
    rows = sweep.rows(kind="moment", beta=beta)
    return np.array([row[name] for row in rows]).reshape(config.num_seeds, len(config.moments))


def deviations(
    config: DynamicsConfig, sweep: Sweep, beta: float, name: str
) -> Float[np.ndarray, " seeds"]:
    """Return log10 of the largest relative deviation from the equations, of every seed."""
    measured, exact = (of_moments(config, sweep, beta, key) for key in (name, f"exact_{name}"))
    largest = np.max(np.abs(measured / exact - 1), axis=1)
    return np.log10(np.maximum(largest, np.finfo(float).eps))


def width_exponents(
    config: DynamicsConfig, sweep: Sweep, beta: float
) -> Float[np.ndarray, " seeds"]:
    """Return the exponent of each seed's distance from the kernel of infinite width."""
    return np.array(
        [
            float(log_slope(np.array(config.widths, float), np.log(one)))
            for one in distances(config, sweep, beta)
        ]
    )


def distances(
    config: DynamicsConfig, sweep: Sweep, beta: float
) -> Float[np.ndarray, "seeds widths"]:
    """Return the relative distances from the kernel of infinite width."""
    rows = sweep.rows(kind="width", beta=beta)
    return np.array([row["distance"] for row in rows]).reshape(-1, len(config.widths))


def pair_column(
    config: DynamicsConfig, sweep: Sweep, name: str
) -> Float[np.ndarray, "seeds moments"]:
    """Return a column of the mode pairs along the training of small networks."""
    rows = sweep.rows(kind=PAIRS)
    return np.array([row[name] for row in rows]).reshape(config.num_seeds, -1)
