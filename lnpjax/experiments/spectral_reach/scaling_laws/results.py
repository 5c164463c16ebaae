"""What the figures and the claims on scaling laws read off the finished sweep.

Seeds are the unit: every statistic is one of means over seeds, and its error that of the jackknife
over them. Seeds of different sizes are independent, and left out together, which does no harm.
Errors of one logarithm at several sizes are pooled (`pooled`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from lnpjax.experiments._harness.estimates import Uncertain, jackknifed, pooled, standard_error
from lnpjax.experiments._harness.power_laws import limited_power_law, log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.runs import Runs, runs_of

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.scaling_laws.config import ScalingConfig

LATE = 0.2
"""Windows that begin after so much of a run are late."""
NUM_DRAWS = 50
"""How often floors are fitted to means that are off by as much as steps scatter."""
Members = Int[np.ndarray, " members"]
Values = Float[np.ndarray, " members"]


@dataclasses.dataclass(frozen=True)
class Family:
    """The runs of all sizes on some data.

    Attributes:
        data: what is learned.
        sizes: ascending in the number of parameters.
    """

    data: str
    sizes: Sequence[Runs]

    @property
    def num_seeds(self) -> int:
        """Runs of each size."""
        return self.sizes[0].num_seeds

    @functools.cached_property
    def parameters(self) -> Float[np.ndarray, " sizes"]:
        """N of each size."""
        return np.array([size.num_parameters for size in self.sizes], float)

    @functools.cached_property
    def train_losses(self) -> Float[np.ndarray, "seeds sizes"]:
        """The smoothed training loss at the end."""
        return np.stack([size.smoothed_loss[:, -1] for size in self.sizes], axis=1)

    @functools.cached_property
    def test_losses(self) -> Float[np.ndarray, "seeds sizes"]:
        """The test loss at the end."""
        return np.stack([size.test_loss[:, -1] for size in self.sizes], axis=1)

    def over_seeds(self, statistic: Callable[[Members], float]) -> Uncertain:
        """Return a statistic of chosen seeds with its error."""
        return jackknifed(self.num_seeds, statistic)


def families(config: ScalingConfig, sweep: Sweep) -> list[Family]:
    """Return the runs of a finished sweep by data.

    Args:
        config: the size.
        sweep: finished.
    """
    return [Family(data, sizes) for data, sizes in runs_of(config.recipe, sweep).items()]


def log_mean(values: Values) -> float:
    """Return ln of the mean; NaN where that is not positive.

    Example:
        >>> log_mean(np.array([1.0, 1.0])), log_mean(np.array([-1.0]))
        (0.0, nan)
    """
    mean = float(np.mean(values))
    return float(np.log(mean)) if mean > 0 else float("nan")


def loss_exponent(family: Family, losses: Float[np.ndarray, "seeds sizes"]) -> Uncertain:
    """Return the exponent of the loss in N (Fig. 1, top), from final losses."""
    return family.over_seeds(lambda seeds: _exponent(family, losses[seeds]))


def exponents_differ(family: Family) -> Uncertain:
    """Return by how much of the training loss' exponent that of the test loss differs from it."""

    def statistic(seeds: Members) -> float:
        train, test = (
            _exponent(family, losses[seeds]) for losses in (family.train_losses, family.test_losses)
        )
        return test / train - 1

    return family.over_seeds(statistic)


def _exponent(family: Family, losses: Float[np.ndarray, "seeds sizes"]) -> float:
    return float(log_slope(family.parameters, np.log(losses.mean(axis=0))))


def explained(family: Family, losses: Float[np.ndarray, "seeds sizes"]) -> Uncertain:
    """Return R^2 of the power law in N."""

    def statistic(seeds: Members) -> float:
        x, y = np.log(family.parameters), np.log(losses[seeds].mean(axis=0))
        return float(np.corrcoef(x, y)[0, 1] ** 2)

    return family.over_seeds(statistic)


def held_out(
    family: Family, logarithms: Float[np.ndarray, "*draws sizes"]
) -> Float[np.ndarray, "*draws"]:
    """Return ln of what a power law of the other sizes predicts for the largest, over what it has.

    Args:
        family: the sizes.
        logarithms: ln of a quantity of every size.
    """
    x, others = np.log(family.parameters), logarithms[..., :-1]
    slope = log_slope(family.parameters[:-1], others)
    return others.mean(axis=-1) + slope * (x[-1] - x[:-1].mean()) - logarithms[..., -1]


def decades(size: Runs, name: str) -> Uncertain:
    """Return log10 of a component at the end over that at the start."""
    start, end = size.at_start(name), size.at_end(name)
    return jackknifed(
        size.num_seeds, lambda seeds: (log_mean(end[seeds]) - log_mean(start[seeds])) / np.log(10)
    )


def decades_from_highest(size: Runs) -> float:
    """Return log10 of chi_pos in the last window over that of its highest window."""
    means = size.by_window("chi_pos")[1].mean(axis=0)
    return float(np.log10(means[-1] / means.max())) if means[-1] > 0 else float("nan")


def outgrown(size: Runs) -> Uncertain:
    """Return by how many decades chi_pos falls beyond what chi_net grows."""
    net, pos = ((size.at_start(name), size.at_end(name)) for name in ("chi_net", "chi_pos"))

    def statistic(seeds: Members) -> float:
        growth, fall = (log_mean(end[seeds]) - log_mean(start[seeds]) for start, end in (net, pos))
        return (-fall - growth) / np.log(10)

    return jackknifed(size.num_seeds, statistic)


def end_ratios(family: Family) -> list[Uncertain]:
    """Return ln of chi_pos at the end, of every size but the largest over that of the next."""

    def log_end(size: Runs) -> Uncertain:
        ends = size.at_end("chi_pos")
        return jackknifed(size.num_seeds, lambda seeds: log_mean(ends[seeds]))

    ends = pooled([log_end(size) for size in family.sizes])
    return [
        Uncertain(small.value - large.value, 2**0.5 * small.error, small.df)
        for small, large in itertools.pairwise(ends)
    ]


def late_slope(size: Runs) -> Uncertain:
    """Return d ln chi_pos / d ln step over the late windows.

    All seeds see the same batches, and what these do to chi_pos is nothing that seeds differ in. So
    the error has two parts: that over seeds, and what the scatter of steps within windows makes of
    the slope.
    """
    centers, values = size.by_window("chi_pos")
    late = size.starts >= LATE * size.train_loss.shape[1]

    def statistic(seeds: Members) -> float:
        logarithms = np.array([log_mean(column) for column in values[np.ix_(seeds, late)].T])
        return float(log_slope(centers[late], logarithms))

    over_seeds = jackknifed(size.num_seeds, statistic)
    relative = _window_errors(size)[late] / values[:, late].mean(axis=0)
    of_steps = log_slope(centers[late], np.diag(relative))
    error = (over_seeds.error**2 + np.sum(of_steps**2)) ** 0.5
    return Uncertain(over_seeds.value, float(error), over_seeds.df)


def follows_loss(size: Runs) -> Uncertain:
    """Return the correlation of ln chi_loss with ln of the training loss over the windows."""
    chi_loss, loss = (size.by_window(name)[1] for name in ("chi_loss", "loss"))

    def statistic(seeds: Members) -> float:
        x, y = (np.log(values[seeds].mean(axis=0)) for values in (chi_loss, loss))
        return float(np.corrcoef(x, y)[0, 1])

    return jackknifed(size.num_seeds, statistic)


def fitted_floor(
    size: Runs, seeds: Members, *, num_draws: int | None = None
) -> Float[np.ndarray, "*draws"]:
    """Return the floor of ``chi_pos = floor + amplitude * step^-a`` after the warm-up.

    Args:
        size: its runs.
        seeds: whose mean is fitted.
        num_draws: fit means that are off by as much as steps scatter, so often; None: as they are.
    """
    centers, values = size.by_window("chi_pos")
    fitted = size.starts >= size.warmup_steps
    means, errors = values[np.ix_(seeds, fitted)].mean(axis=0), _window_errors(size)[fitted]
    if num_draws is not None:
        noise = np.random.default_rng(0).standard_normal((num_draws, len(means)))
        means = means + errors * noise
    return limited_power_law(centers[fitted], means, errors).limit


def _window_errors(size: Runs) -> Float[np.ndarray, " windows"]:
    """The standard errors of the windows' means over seeds, from the scatter of their steps."""
    means = size.component("chi_pos").mean(axis=0)
    windows = (means[size.windows == window] for window in range(len(size.starts)))
    known = [part[np.isfinite(part)] for part in windows]
    return np.array([standard_error(part) if len(part) > 1 else np.nan for part in known])


def floor_of(size: Runs) -> Uncertain:
    """Return the floor of chi_pos, with an error as that of `of_floors`."""
    over_seeds = jackknifed(size.num_seeds, lambda seeds: float(fitted_floor(size, seeds)))
    drawn = fitted_floor(size, np.arange(size.num_seeds), num_draws=NUM_DRAWS)
    error = float(np.hypot(over_seeds.error, half_width(drawn)))
    return Uncertain(over_seeds.value, error, over_seeds.df)


def half_width(draws: Float[np.ndarray, " draws"]) -> float:
    """Return half of the interval that holds 68 % of draws: few that miss a floor do not widen it.

    Args:
        draws: NaN for a logarithm of nothing.

    Example:
        >>> half_width(np.array([1.0, 2.0, 3.0, 2.0, 1.0, 3.0, 2.0, np.nan]))
        1.0
    """
    known = np.where(np.isnan(draws), -np.inf, draws)
    low, high = np.quantile(known, [0.16, 0.84], method="nearest")
    return float((high - low) / 2) if np.isfinite(low) else float("nan")


def log_floor(
    size: Runs, seeds: Members, *, num_draws: int | None = None
) -> Float[np.ndarray, "*draws"]:
    """Return ln of the floor that `fitted_floor` has; NaN where there is none."""
    floor = fitted_floor(size, seeds, num_draws=num_draws)
    return np.log(np.where(floor > 0, floor, np.nan))


def log_floors(family: Family) -> Float[np.ndarray, " sizes"]:
    """Return ln of every size's floor."""
    everyone = np.arange(family.num_seeds)
    return np.array([float(log_floor(size, everyone)) for size in family.sizes])


def of_floors(family: Family, statistic: Callable[[np.ndarray], np.ndarray]) -> Uncertain:
    """Return a statistic of ln of the floors, whose errors have two parts, as in `late_slope`.

    Args:
        family: the sizes.
        statistic: of ``(*draws, sizes)``; linear in the logarithms.
    """
    everyone = np.arange(family.num_seeds)

    def over_seeds(size: Runs) -> Uncertain:
        return jackknifed(size.num_seeds, lambda seeds: float(log_floor(size, seeds)))

    known = pooled([over_seeds(size) for size in family.sizes])
    drawn = [half_width(log_floor(size, everyone, num_draws=NUM_DRAWS)) for size in family.sizes]
    errors = np.hypot([estimate.error for estimate in known], drawn)
    weights = statistic(np.eye(len(family.sizes)))
    error = float(np.sum((weights * errors) ** 2) ** 0.5)
    return Uncertain(float(statistic(log_floors(family))), error, known[0].df)


def floor_exponent(family: Family) -> Uncertain:
    """Return the exponent of the floor in N."""
    return of_floors(family, lambda logarithms: log_slope(family.parameters, logarithms))


def floor_held_out(family: Family) -> Uncertain:
    """Return ln of the largest size's floor by the power law of the others, over its own."""
    return of_floors(family, lambda logarithms: held_out(family, logarithms))


def loss_held_out(family: Family) -> Uncertain:
    """Return ln of the largest size's test loss by the power law of the others, over its own."""
    return family.over_seeds(
        lambda seeds: float(held_out(family, np.log(family.test_losses[seeds].mean(axis=0))))
    )
