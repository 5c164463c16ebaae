"""Scaling laws and spectral position of language models (Spectral Reach, Figs. 1, 6, 7, 10, 11)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_reach.scaling_laws import measure
from lnpjax.experiments.spectral_reach.scaling_laws.claims import judge
from lnpjax.experiments.spectral_reach.scaling_laws.config import PRESETS, ScalingConfig
from lnpjax.experiments.spectral_reach.scaling_laws.figures import draw

EXPERIMENT: Reproduction[ScalingConfig] = Reproduction(
    name="scaling-laws",
    title="Scaling laws and spectral position of language models "
    "(Spectral Reach, Figs. 1, 6, 7, 10, 11)",
    paper="Spectral Reach",
    figures=("1", "6", "7", "10", "11"),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
