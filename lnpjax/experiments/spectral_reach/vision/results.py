"""What the figures and the claims on vision transformers read off the finished sweep."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.estimates import Uncertain, jackknifed
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.parametrisations import ARMS, Arm
from lnpjax.experiments.spectral_reach.runs import runs_of
from lnpjax.experiments.spectral_reach.scaling_laws.results import Family
from lnpjax.experiments.spectral_reach.vision.measure import unit_name

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.vision.config import VisionConfig


@dataclasses.dataclass(frozen=True)
class Vision:
    """The runs of an arm.

    Attributes:
        arm: the parametrisation.
        family: of all widths, ascending.
        widths: these.
        feature_changes: of the last hidden layer since the start, over its size there, at the
            test steps after the first, for each width.
    """

    arm: Arm
    family: Family
    widths: Float[np.ndarray, " widths"]
    feature_changes: list[Float[np.ndarray, "seeds tests"]]

    def intensity(self) -> Uncertain:
        """Return the exponent over widths of the change of features at the end of training."""
        ends = np.stack([changes[:, -1] for changes in self.feature_changes], axis=1)
        return jackknifed(
            len(ends),
            lambda seeds: float(log_slope(self.widths, np.log(ends[seeds].mean(axis=0)))),
        )


def arms(config: VisionConfig, sweep: Sweep) -> list[Vision]:
    """Return the runs of both arms.

    Args:
        config: the size.
        sweep: finished.
    """
    by_arm = runs_of(config.recipe, sweep)
    return [
        Vision(
            arm,
            Family(arm, by_arm[arm]),
            np.array(config.widths, float),
            [
                sweep.arrays(f"{unit_name(arm, width)}-runs")["feature_change"].astype(float)
                for width in config.widths
            ],
        )
        for arm in ARMS
    ]
