"""Noise and signal in the updates of Muon and of Adam (Spectral Lens, appendix D)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_lens_muon_adam import measure
from lnpjax.experiments.spectral_lens_muon_adam.claims import judge
from lnpjax.experiments.spectral_lens_muon_adam.config import PRESETS, MuonAdamConfig
from lnpjax.experiments.spectral_lens_muon_adam.figures import draw

EXPERIMENT: Reproduction[MuonAdamConfig] = Reproduction(
    name="muon-vs-adam",
    title="Noise and signal in the updates of Muon and of Adam (Spectral Lens, appendix D)",
    paper="Spectral Lens",
    figures=("D",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
