"""What runs of several optimizers say: the rate that tuning chose, and where the others ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.spectral_descent.config import ARMS

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.spectral_descent.config import DescentConfig


class Tuned(NamedTuple):
    """The runs of an optimizer at the rate that its tuning seeds chose, without these.

    Attributes:
        rate: that was chosen.
        inside: whether a lower and a higher rate were tried.
        losses: last test losses.
        loss: test losses at all times.
        chi_pos: at all times.
        by_rate: mean last test loss of the tuning seeds, for every rate.
    """

    rate: float
    inside: bool
    losses: Float[np.ndarray, " seed"]
    loss: Float[np.ndarray, "seed time"]
    chi_pos: Float[np.ndarray, "seed time"]
    by_rate: Float[np.ndarray, " rate"]

    @property
    def depth(self) -> Float[np.ndarray, " seed"]:
        """Return the mean logarithm of chi_pos over the later half of the budget."""
        later = self.chi_pos[:, self.chi_pos.shape[1] // 2 :]
        return np.mean(np.log(later), axis=1)


def tuned(config: DescentConfig, sweep: Sweep, arm: str) -> Tuned:
    """Return the runs of an optimizer at its own best rate."""
    by_rate = np.array(
        [
            np.mean([row["last_loss"] for row in sweep.rows(arm=arm, rate=rate, tunes=True)])
            for rate in config.rates
        ]
    )
    best = int(np.argmin(np.nan_to_num(by_rate, nan=np.inf)))
    rows = sweep.rows(arm=arm, rate=config.rates[best], tunes=False)
    arrays = sweep.arrays(rows[0]["unit"])
    seeds = [row["seed"] for row in rows]
    return Tuned(
        config.rates[best],
        0 < best < len(config.rates) - 1,
        np.array([row["last_loss"] for row in rows]),
        np.asarray(arrays["loss"])[seeds],
        np.asarray(arrays["chi_pos"])[seeds],
        by_rate,
    )


def all_tuned(config: DescentConfig, sweep: Sweep) -> dict[str, Tuned]:
    """Return every optimizer at its own best rate."""
    return {arm: tuned(config, sweep, arm) for arm in ARMS}
