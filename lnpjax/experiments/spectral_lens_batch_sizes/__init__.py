"""Batch sizes leave their mark on spectra (Spectral Lens, Figs. 1, 2, 6 to 10, 12, 18)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_lens_batch_sizes import measure
from lnpjax.experiments.spectral_lens_batch_sizes.claims import judge
from lnpjax.experiments.spectral_lens_batch_sizes.config import PRESETS, BatchSizeConfig
from lnpjax.experiments.spectral_lens_batch_sizes.figures import draw

EXPERIMENT: Reproduction[BatchSizeConfig] = Reproduction(
    name="batch-size-tiers",
    title="Batch sizes leave their mark on spectra (Spectral Lens, Figs. 1, 2, 6 to 10, 12, 18)",
    paper="Spectral Lens",
    figures=("1", "2", "6", "7", "8", "9", "10", "12", "18"),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
