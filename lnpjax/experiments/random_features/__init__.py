"""Random features on power-law data (Spectral Reach, Fig. 3)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.random_features import measure
from lnpjax.experiments.random_features.claims import judge
from lnpjax.experiments.random_features.config import PRESETS, RandomFeatureConfig
from lnpjax.experiments.random_features.figures import draw

EXPERIMENT: Reproduction[RandomFeatureConfig] = Reproduction(
    name="random-features",
    title="Random features on power-law data (Spectral Reach, Fig. 3)",
    paper="Spectral Reach",
    figures=("3",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
