"""Double descent with trained and frozen kernels (Spectral Shells, section 6)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_shells.double_descent import measure
from lnpjax.experiments.spectral_shells.double_descent.claims import judge
from lnpjax.experiments.spectral_shells.double_descent.config import PRESETS, DoubleDescentConfig
from lnpjax.experiments.spectral_shells.double_descent.figures import draw

EXPERIMENT: Reproduction[DoubleDescentConfig] = Reproduction(
    name="shells-double-descent",
    title="Double descent with trained and frozen kernels (Spectral Shells, section 6)",
    paper="Spectral Shells",
    figures=("section 6",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
