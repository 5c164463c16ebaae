"""Explicit spectra of the kernel before and after training (Spectral Reach, D.5, Fig. 12)."""

from __future__ import annotations

from lnpjax.experiments._harness.reproduction import Reproduction
from lnpjax.experiments.spectral_reach.explicit_spectrum import measure
from lnpjax.experiments.spectral_reach.explicit_spectrum.claims import judge
from lnpjax.experiments.spectral_reach.explicit_spectrum.config import PRESETS, ExplicitConfig
from lnpjax.experiments.spectral_reach.explicit_spectrum.figures import draw

EXPERIMENT: Reproduction[ExplicitConfig] = Reproduction(
    name="explicit-spectrum",
    title="Explicit spectra of the kernel before and after training (Spectral Reach, D.5, Fig. 12)",
    paper="Spectral Reach",
    figures=("12",),
    presets=PRESETS,
    num_units=measure.num_units,
    measure=measure.measure,
    draw=draw,
    judge=judge,
)
