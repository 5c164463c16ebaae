"""The sizes of the experiment at equal compute (Spectral Reach, D.2)."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import require
from lnpjax.experiments.spectral_reach.scaling_laws.config import PRESETS as SCALING
from lnpjax.experiments.spectral_reach.scaling_laws.config import ScalingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class IsocomputeConfig:
    """One size of the experiment.

    Attributes:
        runs: the runs that are read; those of the experiment `scaling-laws` serve.
        shares: the budgets, as shares of the compute that the largest size spends in its whole run,
            ascending.
        least_sizes: that must have reached a budget, for a curve.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    runs: ScalingConfig
    shares: tuple[float, ...] = (0.045, 0.06, 0.085, 0.12, 0.2)
    least_sizes: int = 3

    def __post_init__(self) -> None:
        expected = "shares above 0 of the compute of the largest run, which no run exceeds: up to 1"
        fine = len(self.shares) >= 1 and all(0 < share <= 1 for share in self.shares)
        require(fine, "shares", expected=expected, got=self.shares)
        ascending = list(self.shares) == sorted(set(self.shares))
        require(ascending, "shares", expected="ascending shares", got=self.shares)
        expected = "at least 3, the points of a parabola"
        require(self.least_sizes >= 3, "least_sizes", expected=expected, got=self.least_sizes)


PRESETS = {
    "smoke": IsocomputeConfig(runs=SCALING["smoke"], shares=(0.08, 0.09)),
    "cpu": IsocomputeConfig(runs=SCALING["cpu"]),
    "long": IsocomputeConfig(runs=SCALING["long"]),
    "paper": IsocomputeConfig(runs=SCALING["paper"], shares=(0.001, 0.003, 0.01, 0.03, 0.1)),
}
