"""Linear probes on pre-trained and random backbones (Spectral Reach, Figs. 4, 5)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_reach.linear_probes import measure
from lnpjax.experiments.spectral_reach.linear_probes.claims import judge
from lnpjax.experiments.spectral_reach.linear_probes.config import PRESETS, ProbesConfig
from lnpjax.experiments.spectral_reach.linear_probes.figures import draw

EXPERIMENT: Reproduction[ProbesConfig] = Reproduction(
    name="linear-probes",
    title="Linear probes on pre-trained and random backbones (Spectral Reach, Figs. 4, 5)",
    paper="Spectral Reach",
    figures=("4", "5"),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
