"""What a sweep of trainings with frozen modes says, by size and by arm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.estimates import Uncertain, jackknifed, mean_of
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.mode_freezing.arms import ARMS

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.mode_freezing.config import FreezingConfig

Kind = Literal["dense", "llama"]
KIND_NAMES: dict[Kind, str] = {
    "dense": "dense networks, exact kernel",
    "llama": "Llamas, Ritz vectors",
}


class Losses(NamedTuple):
    """Last losses of networks of one kind; sizes ascend, and seeds are shared by all.

    Attributes:
        kind: of the networks.
        sizes: their widths.
        by_arm: losses, sizes by seeds.
        own: the positions that the free trainings reached, likewise.
    """

    kind: Kind
    sizes: tuple[int, ...]
    by_arm: dict[str, Float[np.ndarray, "size seed"]]
    own: Float[np.ndarray, "size seed"]

    def ratio(self, arm: str, other: str, size: int = -1, other_size: int = -1) -> Uncertain:
        """Return the logarithm of one last loss over another, mean over seeds."""
        return mean_of(np.log(self.by_arm[arm][size] / self.by_arm[other][other_size]))

    def advantage(self, arm: str) -> Float[np.ndarray, " seed"]:
        """Return how far the largest size ends below the smallest, in logarithms."""
        losses = np.log(self.by_arm[arm])
        return losses[0] - losses[-1]

    def remaining(self, arm: str) -> Uncertain:
        """Return which share of the largest size's advantage an arm leaves."""
        left, free = self.advantage(arm), self.advantage("free")

        def share(members: np.ndarray) -> float:
            return float(left[members].mean() / free[members].mean())

        return jackknifed(len(left), share)

    def reach_exponent(self) -> Uncertain:
        """Return the exponent of the position that was reached, as a power of the width."""
        slopes = log_slope(np.asarray(self.sizes, float), np.log(self.own.T))
        return mean_of(slopes)


def losses_of(config: FreezingConfig, sweep: Sweep, kind: Kind) -> Losses:
    """Return the last losses of the networks of a kind."""
    sizes = config.widths if kind == "dense" else config.hidden_sizes
    rows = sweep.rows(kind=kind)

    def column(name: str, arm: str) -> Float[np.ndarray, "size seed"]:
        chosen = [row for row in rows if row["arm"] == arm]
        seeds = sorted({row["seed"] for row in chosen})
        values = {(row["size"], row["seed"]): row[name] for row in chosen}
        return np.array([[values[size, seed] for seed in seeds] for size in sizes], float)

    by_arm = {arm: column("last_loss", arm) for arm in ARMS}
    return Losses(kind, tuple(sizes), by_arm, column("own_position", "free"))


def curves(
    sweep: Sweep, kind: Kind, arm: str, name: str
) -> dict[int, Float[np.ndarray, "seed time"]]:
    """Return what a training went through, for every size: losses or positions."""
    by_size: dict[int, list[np.ndarray]] = {}
    for row in sweep.rows(kind=kind, arm=arm):
        run = sweep.arrays(row["unit"])[name][ARMS.index(arm)]
        by_size.setdefault(row["size"], []).append(run)
    return {size: np.stack(runs) for size, runs in sorted(by_size.items())}
