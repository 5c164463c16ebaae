"""What the figures and the claims on linear probes read off the finished sweep.

Equation 55 divides the mean spectral position on random backbones by that on pre-trained ones, over
the steps with a normalised time above 0.9, of which in each window the top 10 % are selected. With
the published schedule no step has such a time, if it is the step over the number of steps. Here it
is, and the last window of each run begins at 0.9 or later, so that the equation is evaluated as it
is printed, over that window; with the selection and without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from lnpjax.experiments._harness.estimates import Uncertain, jackknifed
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.linear_probes.measure import PROBES
from lnpjax.experiments.spectral_reach.runs import Runs, runs_of

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.linear_probes.config import ProbesConfig

LATE = 0.9
"""The normalised time above which equation 55 averages."""
SELECTED = 0.1
"""The share of the values of a window that it selects, from the top (C.1)."""
START = 5


@dataclasses.dataclass(frozen=True)
class Probed:
    """The probes of one size.

    Attributes:
        runs: of the whole networks.
        num_steps: of training the probes.
        steps: that were measured.
        windows: the window of each.
        chi_pos: at these, in the order of `PROBES`.
        chi_net: likewise.
        overfit: test loss at the end over the lowest one, less one, of each.
    """

    runs: Runs
    num_steps: int
    steps: Int[np.ndarray, " measured"]
    windows: Int[np.ndarray, " measured"]
    chi_pos: Float[np.ndarray, "probes seeds measured"]
    chi_net: Float[np.ndarray, "probes seeds measured"]
    overfit: Float[np.ndarray, "probes seeds"]

    @property
    def num_seeds(self) -> int:
        """Runs of each probe."""
        return self.runs.num_seeds

    def late_positions(self, *, selected: bool) -> Float[np.ndarray, "probes seeds"]:
        """Return the means of chi_pos in equation 55.

        Args:
            selected: whether over the top 10 % of each window.
        """
        late = self.steps > LATE * self.num_steps
        late |= self.windows == self.windows.max()  # a time of exactly 0.9 is its first step
        parts = [
            top_of(self.chi_pos[..., late & (self.windows == window)], selected=selected)
            for window in np.unique(self.windows[late])
        ]
        return np.concatenate(parts, axis=-1).mean(axis=-1)


def top_of(
    values: Float[np.ndarray, "*probes n"], *, selected: bool
) -> Float[np.ndarray, "*probes k"]:
    """Return the top 10 % of the values of a window, one at least, or all of them.

    Example:
        >>> top_of(np.arange(20.0), selected=True)
        array([18., 19.])
    """
    if not selected:
        return values
    count = max(1, round(SELECTED * values.shape[-1]))
    return np.sort(values, axis=-1)[..., -count:]


def probed(config: ProbesConfig, sweep: Sweep) -> dict[str, list[Probed]]:
    """Return the probes of a finished sweep by data, ascending in the number of parameters.

    Args:
        config: the size.
        sweep: finished.
    """
    probes: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in sweep.rows(kind="probe"):
        probes.setdefault((str(row["data"]), str(row["size"])), []).append(row)
    return {
        data: [_probed(config, sweep, size, probes[data, size.name]) for size in sizes]
        for data, sizes in runs_of(config.runs.recipe, sweep).items()
    }


def _probed(config: ProbesConfig, sweep: Sweep, size: Runs, rows: Sequence[dict]) -> Probed:
    steps = int(rows[0]["steps"])
    windows = config.runs.recipe.windows(steps)
    arrays = sweep.arrays(rows[0]["unit"])
    shape = (len(PROBES), size.num_seeds)
    overfit = [row["test_loss"] / row["lowest_test_loss"] - 1 for row in rows]
    return Probed(
        size,
        steps,
        windows.steps,
        np.searchsorted(windows.starts, windows.steps, side="right") - 1,
        arrays["chi_pos"].astype(float).reshape(*shape, -1),
        arrays["chi_net"].astype(float).reshape(*shape, -1),
        np.reshape(overfit, shape),
    )


def contrast(size: Probed, readout: str, *, selected: bool) -> Uncertain:
    """Return (random - pre-trained) / (random + pre-trained) of sizes of late positions.

    It is above 0 where equation 12 holds and, unlike the ratio, is known also where a mean is near
    zero or below it, as it may be between batches.

    Args:
        size: its probes.
        readout: of the pre-trained backbone: "fresh" or "kept".
        selected: whether over the top 10 % of each window.
    """
    random, trained = _pair(size, readout, selected=selected)

    def statistic(seeds: Int[np.ndarray, " chosen"]) -> float:
        above, below = random[seeds].mean(), trained[seeds].mean()
        return float((above - below) / (abs(above) + abs(below)))

    return jackknifed(size.num_seeds, statistic)


def ratio(size: Probed, readout: str, *, selected: bool) -> Uncertain:
    """Return equation 55, of means over seeds.

    Args:
        size: its probes.
        readout: of the pre-trained backbone: "fresh" or "kept".
        selected: whether over the top 10 % of each window.
    """
    random, trained = _pair(size, readout, selected=selected)
    return jackknifed(
        size.num_seeds, lambda seeds: float(random[seeds].mean() / trained[seeds].mean())
    )


def _pair(
    size: Probed, readout: str, *, selected: bool
) -> tuple[Float[np.ndarray, " seeds"], Float[np.ndarray, " seeds"]]:
    late = size.late_positions(selected=selected)
    return late[PROBES.index(("random", "own"))], late[PROBES.index(("pre-trained", readout))]


def growth_on_random(size: Probed) -> Uncertain:
    """Return log10 of chi_net at the end over that at the start, of probes on random backbones."""
    network = size.chi_net[PROBES.index(("random", "own"))]
    start = network[:, size.steps < START].mean(axis=1)
    end = network[:, size.windows == size.windows.max()].mean(axis=1)
    return jackknifed(
        size.num_seeds, lambda seeds: float(np.log10(end[seeds].mean() / start[seeds].mean()))
    )
