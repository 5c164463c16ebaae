"""The sizes of the experiment on the balance of shells (Spectral Shells, sections 3 and 4)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Int

from lnpjax._base.checks import require
from lnpjax.experiments.spectral_shells.flows import measured_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """One size of the experiment.

    Attributes:
        widths: of the tanh networks, ascending.
        hidden_layers: of them.
        num_seeds: networks, teachers and samples of a width; shared by all widths and regimes.
        num_samples: n, the points of a regression, and the size of the exact kernel.
        num_inputs: dimensions of a point.
        teacher_width: of the tanh network that makes the targets.
        step: of the Runge-Kutta method, in units of the inverse of the largest eigenvalue at the
            start.
        num_steps: how many.
        num_times: about how many times of measurement, evenly spaced in the logarithm.
        num_checks: at how many of these eq. 3 is compared with a difference of energies.
        lowest: lower edge of the shells, an eigenvalue of ``J J^T / n``.
        highest: where the shells must reach.
        ratio: q, of the edges.
        seed: of everything that is drawn.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    hidden_layers: int = 1
    num_seeds: int = 6
    num_samples: int = 48
    num_inputs: int = 4
    teacher_width: int = 8
    step: float = 0.25
    num_steps: int = 1000
    num_times: int = 60
    num_checks: int = 6
    lowest: float = 2.0**-20
    highest: float = 2.0**4
    ratio: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            len(self.widths) >= 2 and bool(np.all(np.diff(self.widths) > 0)),
            "widths",
            expected="at least two, ascending",
            got=self.widths,
        )
        require(self.num_seeds >= 2, "num_seeds", expected="at least two", got=self.num_seeds)
        require(
            1 <= self.num_checks <= self.num_times,
            "num_checks",
            expected=f"from one to num_times={self.num_times}",
            got=self.num_checks,
        )

    @property
    def steps(self) -> Int[np.ndarray, " time"]:
        """After how many steps is measured, from zero on."""
        return measured_steps(self.num_steps, self.num_times)

    @property
    def num_shells(self) -> int:
        """Shells above the remainder."""
        return math.ceil(math.log(self.highest / self.lowest) / math.log(self.ratio) - 1e-9)


PRESETS = {
    "smoke": BalanceConfig(
        widths=(4, 8),
        num_seeds=2,
        num_samples=8,
        num_inputs=2,
        num_steps=20,
        num_times=6,
        num_checks=2,
    ),
    "cpu": BalanceConfig(),
    "paper": BalanceConfig(
        widths=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
        hidden_layers=2,
        num_seeds=20,
        num_samples=256,
        num_steps=20_000,
        num_times=160,
    ),
}
