"""The sizes of the experiment that scales the training set (NTK Lens, Figs. 1, 2, 5-8)."""

from __future__ import annotations

import dataclasses

from lnpjax.experiments.ntk_lens.options import (
    EnsembleOptions,
    ScalingConfig,
    TrainingRule,
    check_ascending,
    cpu_ensemble,
    smoke_ensemble,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataScalingConfig(ScalingConfig):
    """One size of the experiment; see `ScalingConfig` for the rest.

    Attributes:
        depth: layers with weights, the read-out among them.
        width: of the hidden layers.
        sizes: of the training set, ascending; those that a set does not hold are left out.
    """

    depth: int = 4
    width: int = 8
    sizes: tuple[int, ...] = (50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600)
    ensemble: EnsembleOptions = dataclasses.field(
        default_factory=lambda: EnsembleOptions(rule=TrainingRule(first_rate=2e-4))
    )

    def __post_init__(self) -> None:
        check_ascending("sizes", self.sizes)


PRESETS = {
    "smoke": DataScalingConfig(
        image_sets=("mnist",), width=4, sizes=(16, 32), ensemble=smoke_ensemble()
    ),
    "cpu": DataScalingConfig(
        image_sets=("mnist", "fashion_mnist"),
        sizes=(50, 100, 200, 400, 800, 1600, 3200, 6400),
        ensemble=cpu_ensemble(num_test=1000, first_rate=1e-3),
    ),
    "paper": DataScalingConfig(),
}
