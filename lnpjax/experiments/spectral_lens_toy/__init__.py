"""Modular-arithmetic toy of Spectral Lens (Figs. 4 and 11)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_lens_toy import measure
from lnpjax.experiments.spectral_lens_toy.claims import judge
from lnpjax.experiments.spectral_lens_toy.config import PRESETS, ToyConfig
from lnpjax.experiments.spectral_lens_toy.figures import draw

EXPERIMENT: Reproduction[ToyConfig] = Reproduction(
    name="spectral-lens-toy",
    title="Modular-arithmetic toy of Spectral Lens (Figs. 4 and 11)",
    paper="Spectral Lens",
    figures=("4", "11"),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
