"""The sizes of the experiment on scale-free transport (Spectral Shells, section 5)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleFreeConfig:
    """One size of the experiment.

    Attributes:
        num_seeds: networks, targets and samples; shared by both regimes.
        num_samples: n, the points of a regression, and the size of the exact kernel.
        num_inputs: d, dimensions of a point.
        width: of the one hidden layer.
        input_exponent: coordinate k of the inputs has the variance ``k^-input_exponent``.
        target_exponent: and its part of the linear target that of ``k^-target_exponent``.
        window: first and last time of the scale-free window, in units of the inverse of the
            largest eigenvalue at the start.
        step: of the Runge-Kutta method, in the same units.
        num_times: of measurement, evenly spaced in the logarithm over the window.
        decades: how far below the largest eigenvalue at the start the shells reach.
        growth: how far above, as a factor.
        ratio: q, of the edges.
        floor: what part of the largest energy shells must have for the fit.
        seed: of everything that is drawn.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    num_seeds: int = 8
    num_samples: int = 192
    num_inputs: int = 128
    width: int = 128
    input_exponent: float = 1.5
    target_exponent: float = 1.75
    window: tuple[float, float] = (3.0, 30.0)
    step: float = 0.125
    num_times: int = 25
    decades: float = 3.0
    growth: float = 16.0
    ratio: float = 2.0
    floor: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.num_seeds >= 2, "num_seeds", expected="at least two", got=self.num_seeds)
        first, last = self.window
        require(
            0 < self.step <= first < last,
            "window",
            expected=f"two ascending times, not before one step of {self.step}",
            got=self.window,
        )
        furthest = self.input_exponent * math.log10(self.num_inputs)
        require(
            0 < self.decades <= furthest,
            "decades",
            expected=f"at most {furthest:.2f}, where the power law of the inputs ends",
            got=self.decades,
        )

    @property
    def steps(self) -> Int[np.ndarray, " time"]:
        """After how many steps is measured."""
        first, last = self.window
        times = np.geomspace(first, last, self.num_times)
        return np.unique((times / self.step).round().astype(int))

    @property
    def lowest(self) -> float:
        """Lower edge of the shells, as a part of the largest eigenvalue at the start."""
        return 10.0**-self.decades


PRESETS = {
    "smoke": ScaleFreeConfig(
        num_seeds=2,
        num_samples=12,
        num_inputs=6,
        width=8,
        window=(1.0, 4.0),
        num_times=4,
        decades=1.0,
    ),
    "cpu": ScaleFreeConfig(),
    "paper": ScaleFreeConfig(
        num_seeds=20,
        num_samples=1024,
        num_inputs=1024,
        width=1024,
        window=(3.0, 100.0),
        num_times=60,
        decades=4.0,
    ),
}
