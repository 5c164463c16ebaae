"""What a network is learning from, while it trains.

Start with `lnp`, which makes a measurement, and `instrument`, which puts it into a training step.
"""

import warnings as _warnings

import jaxlib as _jaxlib

from lnpjax._version import __version__
from lnpjax.activations import activation_spectra, stream_covariances
from lnpjax.adapters import from_linen, from_nnx
from lnpjax.alignment import (
    Misalignment,
    eigenvector_misalignment,
    kernel_target_alignment,
    label_alignment,
)
from lnpjax.batch_average import average_over_batches
from lnpjax.closed_forms import SplitModel
from lnpjax.components import LNP, GroupLNP
from lnpjax.covariance import (
    Covariance,
    CovarianceState,
    covariance_finalize,
    covariance_float64,
    covariance_init,
    covariance_merge,
    covariance_update,
)
from lnpjax.covariance_spectra import covariance_spectrum
from lnpjax.decomposition import LNPMeasure, lnp
from lnpjax.density import SpectralDensity, spectral_density
from lnpjax.estimators import Exact, GlobalHutchinson, Hutchinson
from lnpjax.frontier import Frontier, detect_frontier, frontier_displacement
from lnpjax.gradients import (
    attention_probes,
    gradient_gram,
    gradient_singular_values,
    gradient_spectra,
    per_sample_gradients,
    weight_spectra,
)
from lnpjax.hidden_states import linen_hidden_states, nnx_hidden_states
from lnpjax.intervals import Interval
from lnpjax.jacobian import Linearization, linearize
from lnpjax.kernel import entk, entk_groups
from lnpjax.lanczos import SpectralMeasure, spectral_measure
from lnpjax.mode_steps import ModeStep, project_update, step_along_gradient
from lnpjax.modes import Modes, eigenmodes, mode_pairs
from lnpjax.ntk_dynamics import adaptation_rate, trace_ratio
from lnpjax.observables import observable, residual, token_surprisal
from lnpjax.outputs import select_outputs
from lnpjax.parameters import by_depth
from lnpjax.position import PositionDistribution, position_distribution
from lnpjax.schedule import Windows, log_windows
from lnpjax.shell_balance import energy_balance_residual, renormalisability_ratio
from lnpjax.shell_fluxes import ShellFluxes, shell_fluxes
from lnpjax.shells import log_shells, shell_centers, shell_dissipation, shell_energies
from lnpjax.spectrum import (
    PowerLaw,
    effective_rank,
    inverse_participation_ratio,
    normalized_kernel,
    participation_ratio,
    power_law,
    trace_outputs,
    von_neumann_entropy,
)
from lnpjax.spectrum_summary import (
    SpectrumSummary,
    cumulative_variance,
    effective_dimension,
    jensen_shannon_divergence,
    spectral_resolution,
    summarize_spectrum,
    tail_window,
)
from lnpjax.status import Status, describe_status
from lnpjax.trace import Estimate, squared_jacobian_norm
from lnpjax.training import InstrumentedStep, Record, instrument

if _jaxlib.__version__ == "0.10.2":
    _warnings.warn(
        "jaxlib 0.10.2 silently computes wrong numbers on the CPU for vmapped products followed by "
        "a reduction (jax issue 39103), which is what per-sample norms are. Use another release: "
        "pip install 'jax!=0.10.2' 'jaxlib!=0.10.2'",
        RuntimeWarning,
        stacklevel=2,
    )

__all__ = [
    "LNP",
    "Covariance",
    "CovarianceState",
    "Estimate",
    "Exact",
    "Frontier",
    "GlobalHutchinson",
    "GroupLNP",
    "Hutchinson",
    "InstrumentedStep",
    "Interval",
    "LNPMeasure",
    "Linearization",
    "Misalignment",
    "ModeStep",
    "Modes",
    "PositionDistribution",
    "PowerLaw",
    "Record",
    "ShellFluxes",
    "SpectralDensity",
    "SpectralMeasure",
    "SpectrumSummary",
    "SplitModel",
    "Status",
    "Windows",
    "__version__",
    "activation_spectra",
    "adaptation_rate",
    "attention_probes",
    "average_over_batches",
    "by_depth",
    "covariance_finalize",
    "covariance_float64",
    "covariance_init",
    "covariance_merge",
    "covariance_spectrum",
    "covariance_update",
    "cumulative_variance",
    "describe_status",
    "detect_frontier",
    "effective_dimension",
    "effective_rank",
    "eigenmodes",
    "eigenvector_misalignment",
    "energy_balance_residual",
    "entk",
    "entk_groups",
    "from_linen",
    "from_nnx",
    "frontier_displacement",
    "gradient_gram",
    "gradient_singular_values",
    "gradient_spectra",
    "instrument",
    "inverse_participation_ratio",
    "jensen_shannon_divergence",
    "kernel_target_alignment",
    "label_alignment",
    "linearize",
    "linen_hidden_states",
    "lnp",
    "log_shells",
    "log_windows",
    "mode_pairs",
    "nnx_hidden_states",
    "normalized_kernel",
    "observable",
    "participation_ratio",
    "per_sample_gradients",
    "position_distribution",
    "power_law",
    "project_update",
    "renormalisability_ratio",
    "residual",
    "select_outputs",
    "shell_centers",
    "shell_dissipation",
    "shell_energies",
    "shell_fluxes",
    "spectral_density",
    "spectral_measure",
    "spectral_resolution",
    "squared_jacobian_norm",
    "step_along_gradient",
    "stream_covariances",
    "summarize_spectrum",
    "tail_window",
    "token_surprisal",
    "trace_outputs",
    "trace_ratio",
    "von_neumann_entropy",
    "weight_spectra",
]
