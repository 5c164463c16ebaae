"""The transition from features to the kernel, over pixels (NTK Lens, Fig. 3)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.ntk_lens.transition import measure
from lnpjax.experiments.ntk_lens.transition.claims import judge
from lnpjax.experiments.ntk_lens.transition.config import PRESETS, TransitionConfig
from lnpjax.experiments.ntk_lens.transition.figures import draw

EXPERIMENT: Reproduction[TransitionConfig] = Reproduction(
    name="ntk-transition",
    title="The transition from features to the kernel, over pixels (NTK Lens, Fig. 3)",
    paper="NTK Lens",
    figures=("3",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
