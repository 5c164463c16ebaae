"""Classes with less to learn, through the NTK (NTK Lens, Figs. 4 and 7)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.ntk_lens.noise_scaling import measure
from lnpjax.experiments.ntk_lens.noise_scaling.claims import judge
from lnpjax.experiments.ntk_lens.noise_scaling.config import PRESETS, NoiseConfig
from lnpjax.experiments.ntk_lens.noise_scaling.figures import draw

EXPERIMENT: Reproduction[NoiseConfig] = Reproduction(
    name="noise-scaling",
    title="Classes with less to learn, through the NTK (NTK Lens, Figs. 4 and 7)",
    paper="NTK Lens",
    figures=("4", "7"),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
