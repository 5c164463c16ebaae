"""Losses and spectral position at equal compute (Spectral Reach, Fig. 8)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_reach.isocompute import measure
from lnpjax.experiments.spectral_reach.isocompute.claims import judge
from lnpjax.experiments.spectral_reach.isocompute.config import PRESETS, IsocomputeConfig
from lnpjax.experiments.spectral_reach.isocompute.figures import draw

EXPERIMENT: Reproduction[IsocomputeConfig] = Reproduction(
    name="isocompute",
    title="Losses and spectral position at equal compute (Spectral Reach, Fig. 8)",
    paper="Spectral Reach",
    figures=("8",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
