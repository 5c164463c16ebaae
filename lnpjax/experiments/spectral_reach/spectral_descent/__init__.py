"""Optimizers that move into the spectral tail (Spectral Reach, section 7)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_reach.spectral_descent import measure
from lnpjax.experiments.spectral_reach.spectral_descent.claims import judge
from lnpjax.experiments.spectral_reach.spectral_descent.config import PRESETS, DescentConfig
from lnpjax.experiments.spectral_reach.spectral_descent.figures import draw

EXPERIMENT: Reproduction[DescentConfig] = Reproduction(
    name="spectral-descent",
    title="Optimizers that move into the spectral tail (Spectral Reach, section 7)",
    paper="Spectral Reach",
    figures=("section 7",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
