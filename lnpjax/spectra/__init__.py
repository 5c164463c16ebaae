"""What a spectrum says, and spectra of kernels that are never formed."""

from lnpjax.spectra._density import SpectralDensity, spectral_density
from lnpjax.spectra._eigenvalues import (
    effective_rank,
    inverse_participation_ratio,
    normalized_spectrum,
    participation_ratio,
    von_neumann_entropy,
)
from lnpjax.spectra._lanczos import RitzModes, SpectralMeasure, ritz_modes, spectral_measure
from lnpjax.spectra._position import PositionDistribution, PositionMeasure, position_distribution
from lnpjax.spectra._power_law import PowerLaw, power_law
from lnpjax.spectra._summary import (
    HEAD_WINDOW,
    SpectrumSummary,
    Window,
    cumulative_variance,
    effective_dimension,
    jensen_shannon_divergence,
    spectral_resolution,
    summarize_spectrum,
    tail_window,
)

__all__ = [
    # how many modes matter
    "effective_rank",
    "participation_ratio",
    "inverse_participation_ratio",
    "von_neumann_entropy",
    "normalized_spectrum",
    # how fast they decay
    "power_law",
    "PowerLaw",
    # one summary
    "summarize_spectrum",
    "SpectrumSummary",
    "tail_window",
    "cumulative_variance",
    "effective_dimension",
    "jensen_shannon_divergence",
    "spectral_resolution",
    "Window",
    "HEAD_WINDOW",
    # without the kernel
    "spectral_measure",
    "SpectralMeasure",
    "ritz_modes",
    "RitzModes",
    "spectral_density",
    "SpectralDensity",
    # where learning lies
    "position_distribution",
    "PositionDistribution",
    "PositionMeasure",
]
