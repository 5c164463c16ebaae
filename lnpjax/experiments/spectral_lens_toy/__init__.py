"""The modular-arithmetic toy of Spectral Lens (Figs. 4 and 11)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_lens_toy.claims import judge
from lnpjax.experiments.spectral_lens_toy.config import PRESETS, ToyConfig
from lnpjax.experiments.spectral_lens_toy.figures import draw
from lnpjax.experiments.spectral_lens_toy.measure import measure, num_units

EXPERIMENT: Reproduction[ToyConfig] = Reproduction(
    name="spectral-lens-toy",
    title="Modular-arithmetic toy of Spectral Lens (Figs. 4 and 11)",
    paper="Spectral Lens",
    figures=("4", "11"),
    presets=PRESETS,
    num_units=num_units,
    measure=measure,
    draw=draw,
    judge=judge,
)
