"""Convergence of Hutchinson's estimator (Spectral Reach, B.1, Fig. 6)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_reach.hutchinson_convergence import measure
from lnpjax.experiments.spectral_reach.hutchinson_convergence.claims import judge
from lnpjax.experiments.spectral_reach.hutchinson_convergence.config import (
    PRESETS,
    HutchinsonConfig,
)
from lnpjax.experiments.spectral_reach.hutchinson_convergence.figures import draw

EXPERIMENT: Reproduction[HutchinsonConfig] = Reproduction(
    name="hutchinson-convergence",
    title="Convergence of Hutchinson's estimator (Spectral Reach, B.1, Fig. 6)",
    paper="Spectral Reach",
    figures=("6",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
