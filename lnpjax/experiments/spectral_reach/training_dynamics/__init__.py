"""Spectral position along a run, and where its kernel is known (Spectral Reach, A.1, A.4)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_reach.training_dynamics import measure
from lnpjax.experiments.spectral_reach.training_dynamics.claims import judge
from lnpjax.experiments.spectral_reach.training_dynamics.config import PRESETS, DynamicsConfig
from lnpjax.experiments.spectral_reach.training_dynamics.figures import draw

EXPERIMENT: Reproduction[DynamicsConfig] = Reproduction(
    name="training-dynamics",
    title="Spectral position along a run, and where its kernel is known (Spectral Reach, A.1, A.4)",
    paper="Spectral Reach",
    figures=("footnote 3", "A.1", "A.4"),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
