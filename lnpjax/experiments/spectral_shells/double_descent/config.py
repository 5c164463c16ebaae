"""The sizes of the experiment on double descent (Spectral Shells, section 6)."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import require
from lnpjax.experiments.spectral_shells.flows import measured_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoubleDescentConfig:
    """One size of the experiment.

    Attributes:
        widths: of the tanh networks of one hidden layer, ascending.
        num_seeds: networks, teachers and samples of a width; shared by all widths.
        num_train: n, the points that are learned.
        num_test: other points, of the same distribution, with noise of their own.
        num_inputs: dimensions of a point.
        teacher_width: of the tanh network that makes the targets, of unit mean square.
        noise: standard deviation of what is added to them.
        step: of the Runge-Kutta method, in units of the inverse of the largest eigenvalue at the
            start; divided by as much as that has grown, rounded up.
        num_steps: how many.
        num_times: about how many times of measurement, evenly spaced in the logarithm.
        threshold: the width at which there are about as many parameters as training points.
        seed: of everything that is drawn.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    widths: tuple[int, ...] = (1, 2, 4, 7, 16, 32, 64, 128)
    num_seeds: int = 10
    num_train: int = 64
    num_test: int = 256
    num_inputs: int = 8
    teacher_width: int = 8
    noise: float = 0.5
    step: float = 0.25
    num_steps: int = 6000
    num_times: int = 40
    threshold: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            len(self.widths) >= 2 and bool(np.all(np.diff(self.widths) > 0)),
            "widths",
            expected="at least two, ascending",
            got=self.widths,
        )
        require(
            self.threshold in self.widths and self.threshold < max(self.widths),
            "threshold",
            expected="one of widths, and not the largest",
            got=self.threshold,
        )
        require(self.num_seeds >= 2, "num_seeds", expected="at least two", got=self.num_seeds)

    @property
    def steps(self) -> Int[np.ndarray, " time"]:
        """After how many steps is measured, from zero on."""
        return measured_steps(self.num_steps, self.num_times)


PRESETS = {
    "smoke": DoubleDescentConfig(
        widths=(2, 4, 8),
        num_seeds=2,
        num_train=8,
        num_test=16,
        num_inputs=2,
        num_steps=20,
        num_times=5,
        threshold=4,
    ),
    "cpu": DoubleDescentConfig(),
    "paper": DoubleDescentConfig(
        widths=(1, 2, 4, 8, 16, 29, 64, 128, 256, 512, 1024),
        num_seeds=40,
        num_train=256,
        num_test=1024,
        num_steps=40_000,
        num_times=80,
        threshold=29,
    ),
}
