"""Networks with frozen modes of the kernel (Spectral Reach, sections 4 and 6)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_reach.mode_freezing import measure
from lnpjax.experiments.spectral_reach.mode_freezing.claims import judge
from lnpjax.experiments.spectral_reach.mode_freezing.config import PRESETS, FreezingConfig
from lnpjax.experiments.spectral_reach.mode_freezing.figures import draw

EXPERIMENT: Reproduction[FreezingConfig] = Reproduction(
    name="mode-freezing",
    title="Networks with frozen modes of the kernel (Spectral Reach, sections 4 and 6)",
    paper="Spectral Reach",
    figures=("sections 4 and 6",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
