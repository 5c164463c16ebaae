"""Scaling the width, through the NTK (NTK Lens, Figs. 1-3, 5, 6, 8)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.ntk_lens.model_scaling import measure
from lnpjax.experiments.ntk_lens.model_scaling.claims import judge
from lnpjax.experiments.ntk_lens.model_scaling.config import PRESETS, ModelScalingConfig
from lnpjax.experiments.ntk_lens.model_scaling.figures import draw

EXPERIMENT: Reproduction[ModelScalingConfig] = Reproduction(
    name="ntk-model-scaling",
    title="Scaling the width, through the NTK (NTK Lens, Figs. 1-3, 5, 6, 8)",
    paper="NTK Lens",
    figures=("1", "2", "3", "5", "6", "8"),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
