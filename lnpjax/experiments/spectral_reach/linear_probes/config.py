"""The sizes of the experiment on linear probes (Spectral Reach, section 5)."""

from __future__ import annotations

import dataclasses

from lnpjax.experiments.spectral_reach.scaling_laws.config import PRESETS as SCALING
from lnpjax.experiments.spectral_reach.scaling_laws.config import ScalingConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbesConfig:
    """One size of the experiment.

    Attributes:
        runs: whose ends are the pre-trained backbones; those of `scaling-laws` serve.
        steps: of training the probes; None for as many as the runs have.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    runs: ScalingConfig
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            self.runs.recipe.check_divides("steps", self.steps)


PRESETS = {
    "smoke": ProbesConfig(runs=SCALING["smoke"], steps=20),
    "cpu": ProbesConfig(runs=SCALING["cpu"], steps=600),
    "long": ProbesConfig(runs=SCALING["long"]),
    "paper": ProbesConfig(runs=SCALING["paper"]),
}
