"""The sizes of the experiment that scales the width (NTK Lens, sections 4, 5)."""

from __future__ import annotations

import dataclasses

import numpy as np

from lnpjax._base.checks import require
from lnpjax.experiments.ntk_lens.options import EnsembleOptions, TrainingRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelScalingConfig:
    """One size of the experiment.

    Attributes:
        image_sets: those read from the folder of data; without one, the digits are learned.
        depths: layers with weights, the read-out among them.
        widths: of the hidden layers, ascending.
        num_train: images that are learned, the same for all members.
        ensemble: members, measurements, and the training rule.
        wide_from: width from which on ensembles have `wide_members`, for the sake of time.
        wide_members: members of those.
        timed_widths: where the ensemble is timed against a loop over its members.
    """

    image_sets: tuple[str, ...] = ("mnist", "fashion_mnist", "cifar10")
    depths: tuple[int, ...] = (3, 4)
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    num_train: int = 100
    ensemble: EnsembleOptions = dataclasses.field(default_factory=EnsembleOptions)
    wide_from: int = 8192
    wide_members: int = 20
    timed_widths: tuple[int, ...] = (8, 64, 512)

    def __post_init__(self) -> None:
        require(
            len(self.widths) >= 2 and bool(np.all(np.diff(self.widths) > 0)),
            "widths",
            expected="at least two ascending widths",
            got=self.widths,
        )

    def options_at(self, width: int) -> EnsembleOptions:
        """The options of the ensembles of a width."""
        if width < self.wide_from:
            return self.ensemble
        members = min(self.wide_members, self.ensemble.members)
        spectra = min(members, self.ensemble.dynamics_members)
        return dataclasses.replace(self.ensemble, members=members, dynamics_members=spectra)


PRESETS = {
    "smoke": ModelScalingConfig(
        image_sets=("mnist",),
        depths=(3,),
        widths=(4, 8),
        num_train=20,
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
        timed_widths=(4,),
    ),
    "cpu": ModelScalingConfig(
        image_sets=("mnist", "fashion_mnist"),
        widths=(8, 16, 32, 64, 128, 256, 512, 1024),
        wide_from=1024,
        wide_members=6,
        ensemble=EnsembleOptions(
            num_test=500,
            dynamics_points=8,
            dynamics_members=4,
            rule=TrainingRule(
                epochs=240, every=4, earliest=60, latest=220, first_rate=6e-4, attempts=5
            ),
        ),
    ),
    "paper": ModelScalingConfig(),
}  # fmt: skip
