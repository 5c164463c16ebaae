"""The sizes of the experiment on spectral position along a run (Spectral Reach, A.1, A.4)."""

from __future__ import annotations

import dataclasses

import numpy as np

from lnpjax._base.checks import check_count, require
from lnpjax.experiments.random_features.config import RandomFeatureConfig
from lnpjax.experiments.spectral_reach.scaling_laws.config import PRESETS as SCALING
from lnpjax.experiments.spectral_reach.scaling_laws.config import ScalingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """One size of the experiment.

    Attributes:
        runs: the runs that are read; those of the experiment `scaling-laws` serve.
        features: the random feature model whose read-out is trained.
        step: of its gradient descent, times the largest eigenvalue of ``K / n``; below 2.
        moments: after how many steps it is looked at, ascending from 0.
        widths: numbers of features, ascending, at which their kernel is compared with its limit.
        hidden: units of the small network whose mode pairs are looked at.
        batch_size: of that network; its kernel has ten times as many rows.
        pair_moments: after how many steps, ascending.
        rate: the learning rate of Adam there.
        num_seeds: of that network, and of the features at each exponent of their inputs.
        num_kernels: at each of these exponents, that are compared with their limit.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    runs: ScalingConfig
    features: RandomFeatureConfig
    step: float = 0.9
    moments: tuple[int, ...] = (0, 1, 3, 10, 30, 100, 300, 1000, 3000)
    widths: tuple[int, ...] = (128, 512, 2048, 8192)
    hidden: int = 16
    batch_size: int = 16
    pair_moments: tuple[int, ...] = (0, 3, 10, 30, 100, 300)
    rate: float = 3e-3
    num_seeds: int = 8
    num_kernels: int = 48

    def __post_init__(self) -> None:
        require(0 < self.step < 2, "step", expected="a number between 0 and 2", got=self.step)
        for name, least in (("hidden", 1), ("batch_size", 1), ("num_seeds", 2), ("num_kernels", 2)):
            check_count(name, getattr(self, name), least=least)
        for name, first, count in (("moments", 0, 2), ("widths", 8, 3), ("pair_moments", 0, 2)):
            values = getattr(self, name)
            fits = len(values) >= count and bool(np.all(np.diff(values) > 0)) and values[0] >= first
            require(fits, name, expected=f"{count} or more, ascending from {first} on", got=values)


def small_features(num_samples: int, dimension: int, num_features: int) -> RandomFeatureConfig:
    """Return a model whose kernel is diagonalised at every moment, for three laws of its inputs."""
    return RandomFeatureConfig(
        num_samples=num_samples,
        dimension=dimension,
        num_features=num_features,
        betas=(1.0, 2.0, 3.0),
        window=(2, 8),
    )


PRESETS = {
    "smoke": DynamicsConfig(
        runs=SCALING["smoke"],
        features=small_features(12, 8, 16),
        moments=(0, 1, 3),
        widths=(8, 16, 64),
        hidden=2,
        batch_size=2,
        pair_moments=(0, 2),
        num_seeds=2,
        num_kernels=2,
    ),
    "cpu": DynamicsConfig(runs=SCALING["cpu"], features=small_features(128, 16, 256)),
    "long": DynamicsConfig(runs=SCALING["long"], features=small_features(256, 32, 512)),
    "paper": DynamicsConfig(
        runs=SCALING["paper"],
        features=small_features(1024, 128, 5000),
        widths=(128, 512, 2048, 8192, 32768),
        hidden=64,
        batch_size=64,
        num_seeds=16,
    ),
}
