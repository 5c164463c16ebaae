"""The sizes of the experiment that scales the training set (NTK Lens, Figs. 1, 2, 5-8)."""

from __future__ import annotations

import dataclasses

import numpy as np

from lnpjax._base.checks import require
from lnpjax.experiments.ntk_lens.options import EnsembleOptions, TrainingRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataScalingConfig:
    """One size of the experiment.

    Attributes:
        image_sets: those read from the folder of data; without one, the digits are learned.
        depth: layers with weights, the read-out among them.
        width: of the hidden layers.
        sizes: of the training set, ascending; those that a set does not hold are left out.
        ensemble: members, measurements, and the training rule.
    """

    image_sets: tuple[str, ...] = ("mnist", "fashion_mnist", "cifar10")
    depth: int = 4
    width: int = 8
    sizes: tuple[int, ...] = (50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600)
    ensemble: EnsembleOptions = dataclasses.field(
        default_factory=lambda: EnsembleOptions(rule=TrainingRule(first_rate=2e-4))
    )

    def __post_init__(self) -> None:
        require(
            len(self.sizes) >= 2 and bool(np.all(np.diff(self.sizes) > 0)),
            "sizes",
            expected="at least two ascending sizes",
            got=self.sizes,
        )


PRESETS = {
    "smoke": DataScalingConfig(
        image_sets=("mnist",),
        width=4,
        sizes=(16, 32),
        ensemble=EnsembleOptions(
            members=3,
            num_test=32,
            num_ntk=8,
            dynamics_points=3,
            dynamics_members=2,
            rule=TrainingRule(
                epochs=24, every=2, earliest=6, latest=22, first_rate=0.02, pilots=3, attempts=1,
                window=6,
            ),
        ),
    ),
    "cpu": DataScalingConfig(
        image_sets=("mnist", "fashion_mnist"),
        sizes=(50, 100, 200, 400, 800, 1600, 3200, 6400),
        ensemble=EnsembleOptions(
            num_test=1000,
            dynamics_points=8,
            dynamics_members=4,
            rule=TrainingRule(
                epochs=240, every=4, earliest=60, latest=220, first_rate=1e-3, attempts=5
            ),
        ),
    ),
    "paper": DataScalingConfig(),
}  # fmt: skip
