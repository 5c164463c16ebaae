"""The energy balance of shells in tanh networks (Spectral Shells, sections 3 and 4)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_shells.balance import measure
from lnpjax.experiments.spectral_shells.balance.claims import judge
from lnpjax.experiments.spectral_shells.balance.config import PRESETS, BalanceConfig
from lnpjax.experiments.spectral_shells.balance.figures import draw

EXPERIMENT: Reproduction[BalanceConfig] = Reproduction(
    name="shells-balance",
    title="The energy balance of shells in tanh networks (Spectral Shells, sections 3 and 4)",
    paper="Spectral Shells",
    figures=("sections 3 and 4",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
