"""The sizes of the experiment that scales the width (NTK Lens, sections 4, 5)."""

from __future__ import annotations

import dataclasses

from lnpjax.experiments.ntk_lens.options import (
    EnsembleOptions,
    ScalingConfig,
    check_ascending,
    cpu_ensemble,
    smoke_ensemble,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelScalingConfig(ScalingConfig):
    """One size of the experiment; see `ScalingConfig` for the rest.

    Attributes:
        depths: layers with weights, the read-out among them.
        widths: of the hidden layers, ascending.
        num_train: images that are learned, the same for all members.
        wide_from: width from which on ensembles have `wide_members`, for the sake of time.
        wide_members: members of those.
        timed_widths: where the ensemble is timed against a loop over its members.
    """

    depths: tuple[int, ...] = (3, 4)
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    num_train: int = 100
    wide_from: int = 8192
    wide_members: int = 20
    timed_widths: tuple[int, ...] = (8, 64, 512)

    def __post_init__(self) -> None:
        check_ascending("widths", self.widths)

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
        ensemble=smoke_ensemble(),
        timed_widths=(4,),
    ),
    "cpu": ModelScalingConfig(
        image_sets=("mnist", "fashion_mnist"),
        widths=(8, 16, 32, 64, 128, 256, 512, 1024),
        wide_from=1024,
        wide_members=6,
        ensemble=cpu_ensemble(num_test=500, first_rate=6e-4),
    ),
    "paper": ModelScalingConfig(),
}
