"""Maximal-update parametrisation over widths (Spectral Reach, B.2.4)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_reach.maximal_update import measure
from lnpjax.experiments.spectral_reach.maximal_update.claims import judge
from lnpjax.experiments.spectral_reach.maximal_update.config import PRESETS, MaximalUpdateConfig
from lnpjax.experiments.spectral_reach.maximal_update.figures import draw

EXPERIMENT: Reproduction[MaximalUpdateConfig] = Reproduction(
    name="maximal-update",
    title="Maximal-update parametrisation over widths (Spectral Reach, B.2.4)",
    paper="Spectral Reach",
    figures=("none: what its Fig. 9 takes for granted",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
