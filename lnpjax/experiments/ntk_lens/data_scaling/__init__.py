"""Scaling the training set, through the NTK (NTK Lens, Figs. 1, 2, 5, 6, 8)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.ntk_lens.data_scaling import measure
from lnpjax.experiments.ntk_lens.data_scaling.claims import judge
from lnpjax.experiments.ntk_lens.data_scaling.config import PRESETS, DataScalingConfig
from lnpjax.experiments.ntk_lens.data_scaling.figures import draw

EXPERIMENT: Reproduction[DataScalingConfig] = Reproduction(
    name="ntk-data-scaling",
    title="Scaling the training set, through the NTK (NTK Lens, Figs. 1, 2, 5, 6, 8)",
    paper="NTK Lens",
    figures=("1", "2", "5", "6", "8"),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
