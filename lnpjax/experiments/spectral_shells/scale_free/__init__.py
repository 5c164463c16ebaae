"""Scale-free transport in power-law regression (Spectral Shells, section 5)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_shells.scale_free import measure
from lnpjax.experiments.spectral_shells.scale_free.claims import judge
from lnpjax.experiments.spectral_shells.scale_free.config import PRESETS, ScaleFreeConfig
from lnpjax.experiments.spectral_shells.scale_free.figures import draw

EXPERIMENT: Reproduction[ScaleFreeConfig] = Reproduction(
    name="shells-scale-free",
    title="Scale-free transport in power-law regression (Spectral Shells, section 5)",
    paper="Spectral Shells",
    figures=("section 5",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
