"""Vision transformers in standard and maximal-update parametrisation (Spectral Reach, Fig. 9)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_reach.vision import measure
from lnpjax.experiments.spectral_reach.vision.claims import judge
from lnpjax.experiments.spectral_reach.vision.config import PRESETS, VisionConfig
from lnpjax.experiments.spectral_reach.vision.figures import draw

EXPERIMENT: Reproduction[VisionConfig] = Reproduction(
    name="vision",
    title="Vision transformers in standard and maximal-update parametrisation "
    "(Spectral Reach, Fig. 9)",
    paper="Spectral Reach",
    figures=("9",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
