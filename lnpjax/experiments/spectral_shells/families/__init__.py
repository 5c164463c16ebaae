"""Shells of language models in training (Spectral Shells, Figs. 1-3)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_shells.families import measure
from lnpjax.experiments.spectral_shells.families.claims import judge
from lnpjax.experiments.spectral_shells.families.config import PRESETS, FamiliesConfig
from lnpjax.experiments.spectral_shells.families.figures import draw

EXPERIMENT: Reproduction[FamiliesConfig] = Reproduction(
    name="shells-families",
    title="Shells of language models in training (Spectral Shells, Figs. 1-3)",
    paper="Spectral Shells",
    figures=("1", "2", "3"),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
