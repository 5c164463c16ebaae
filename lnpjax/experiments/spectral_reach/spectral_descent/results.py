"""What runs of several optimizers say: the rate that tuning chose, and where the others ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lnpjax.experiments._harness.estimates import lowest_point
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.claims import MOST_VOID
from lnpjax.runs import Row

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.spectral_descent.config import DescentConfig


class Tuned(NamedTuple):
    """The runs of an optimizer at the rate that its tuning seeds chose, without these.

    Attributes:
        rate: that was chosen.
        inside: whether a lower and a higher rate were tried.
        losses: last test losses.
        loss: test losses at all times.
        chi_pos: at all times; NaN where a measurement is void.
        by_rate: mean last test loss of the tuning seeds, for every rate.
        text: that was learned.
    """

    rate: float
    inside: bool
    losses: Float[np.ndarray, " seed"]
    loss: Float[np.ndarray, "seed time"]
    chi_pos: Float[np.ndarray, "seed time"]
    by_rate: Float[np.ndarray, " rate"]
    text: str

    @property
    def later(self) -> Float[np.ndarray, "seed time"]:
        """Logarithms of chi_pos over the later half of the budget; NaN where they are void."""
        later = self.chi_pos[:, self.chi_pos.shape[1] // 2 :]
        valid = np.isfinite(later) & (later > 0)
        return np.log(np.where(valid, later, np.nan))


class Depths(NamedTuple):
    """How deep in the tail runs are, by what was measured in all of them.

    Attributes:
        mean: of the logarithms of chi_pos over the later half of the budget, of the seeds that
            count: those of which at most `MOST_VOID` of these measurements are void in any run.
        counts: which seeds these are.
        void: the share of all later measurements that are.
    """

    mean: Float[np.ndarray, "run seed"]
    counts: Bool[np.ndarray, " all_seeds"]
    void: float


def depths(runs: Sequence[Tuned]) -> Depths:
    """Return how deep in the tail runs are; a time at which one is void counts for none of them.

    So that chi_pos, which falls all the time, is compared at the same times.
    """
    later = np.stack([run.later for run in runs])
    whole = np.isfinite(later).all(axis=0)
    counts = whole.mean(axis=1) >= 1 - MOST_VOID
    kept, where = later[:, counts], np.broadcast_to(whole[counts], later[:, counts].shape)
    void = float(np.mean(~np.isfinite(later)))
    return Depths(np.mean(kept, axis=2, where=where), counts, void)


def mean_by_rate(config: DescentConfig, rows: Sequence[Row]) -> Float[np.ndarray, " rate"]:
    """Return the mean last test loss of rows, for every rate."""
    return np.array(
        [
            np.mean([row["last_loss"] for row in rows if row["rate"] == rate])
            for rate in config.rates
        ]
    )


def tuned(config: DescentConfig, sweep: Sweep, arm: str) -> Tuned:
    """Return the runs of an optimizer at its own best rate."""
    by_rate = mean_by_rate(config, sweep.rows(arm=arm, tunes=True))
    best = lowest_point(by_rate)
    rows = sweep.rows(arm=arm, rate=config.rates[best], tunes=False)
    unit = rows[0]["unit"]
    places = [place for place, row in enumerate(sweep.rows(unit=unit)) if not row["tunes"]]
    arrays = sweep.arrays(unit)
    return Tuned(
        config.rates[best],
        0 < best < len(config.rates) - 1,
        np.array([row["last_loss"] for row in rows]),
        np.asarray(arrays["loss"])[places],
        np.asarray(arrays["chi_pos"])[places],
        by_rate,
        ", ".join(sorted({row.get("text", config.text) for row in rows})),
    )


def all_tuned(config: DescentConfig, sweep: Sweep) -> dict[str, Tuned]:
    """Return every optimizer at its own best rate."""
    return {arm: tuned(config, sweep, arm) for arm in config.arms}
