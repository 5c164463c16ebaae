"""Sixteen variants of nanoGPT in a chain (Spectral Lens, Figs. 3 and 13 to 17)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_lens_chain import measure
from lnpjax.experiments.spectral_lens_chain.claims import judge
from lnpjax.experiments.spectral_lens_chain.config import PRESETS, ChainConfig
from lnpjax.experiments.spectral_lens_chain.figures import draw

EXPERIMENT: Reproduction[ChainConfig] = Reproduction(
    name="spectral-lens-chain",
    title="Sixteen variants of nanoGPT in a chain (Spectral Lens, Figs. 3 and 13 to 17)",
    paper="Spectral Lens",
    figures=("3", "13", "14", "15", "17"),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
