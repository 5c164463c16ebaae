"""What a network is learning from, while it trains.

Start with `lnp`, which makes a measurement, and `instrument`, which puts it into a training step.
"""

import warnings as _warnings
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

import jaxlib as _jaxlib

from lnpjax._version import __version__
from lnpjax.adapters import from_linen, from_nnx, from_torch
from lnpjax.decomposition import (
    LNP,
    Estimate,
    Exact,
    GlobalHutchinson,
    GroupLNP,
    Hutchinson,
    lnp,
    squared_jacobian_norm,
)
from lnpjax.jacobian import Linearization, SplitModel, linearize
from lnpjax.kernel import Modes, eigenmodes, entk
from lnpjax.parameters import by_depth
from lnpjax.spectra import effective_rank, participation_ratio, power_law, spectral_measure
from lnpjax.status import Status, describe_status
from lnpjax.training import (
    Record,
    Windows,
    accumulated,
    at_steps,
    every,
    instrument,
    instrument_nnx,
    log_windows,
)

if _TYPE_CHECKING:
    from lnpjax import adapters as adapters
    from lnpjax import comparison as comparison
    from lnpjax import data as data
    from lnpjax import decomposition as decomposition
    from lnpjax import experiments as experiments
    from lnpjax import inspection as inspection
    from lnpjax import jacobian as jacobian
    from lnpjax import kernel as kernel
    from lnpjax import lens as lens
    from lnpjax import models as models
    from lnpjax import parameters as parameters
    from lnpjax import plotting as plotting
    from lnpjax import precision as precision
    from lnpjax import pretraining as pretraining
    from lnpjax import recording as recording
    from lnpjax import runs as runs
    from lnpjax import sharding as sharding
    from lnpjax import shells as shells
    from lnpjax import spectra as spectra
    from lnpjax import status as status
    from lnpjax import theory as theory
    from lnpjax import training as training
    from lnpjax import validation as validation
    from lnpjax.pretraining import load_run as load_run
    from lnpjax.recording import Recorder as Recorder

if _jaxlib.__version__ == "0.10.2":
    _warnings.warn(
        "jaxlib 0.10.2 silently computes wrong numbers on the CPU for vmapped products followed by "
        "a reduction (jax issue 39103), which is what per-sample norms are. Use another release: "
        "pip install 'jax!=0.10.2' 'jaxlib!=0.10.2'",
        RuntimeWarning,
        stacklevel=2,
    )

__all__ = [
    # the decomposition
    "lnp",
    "LNP",
    "GroupLNP",
    "Exact",
    "Hutchinson",
    "GlobalHutchinson",
    "squared_jacobian_norm",
    "Estimate",
    # networks
    "linearize",
    "Linearization",
    "SplitModel",
    "from_nnx",
    "from_linen",
    "from_torch",
    "by_depth",
    # measuring while training
    "instrument",
    "instrument_nnx",
    "accumulated",
    "Record",
    "Recorder",
    "load_run",
    "log_windows",
    "every",
    "at_steps",
    "Windows",
    # kernels and spectra
    "entk",
    "eigenmodes",
    "Modes",
    "spectral_measure",
    "effective_rank",
    "participation_ratio",
    "power_law",
    # what may be wrong with a number
    "Status",
    "describe_status",
    # namespaces, loaded when they are first used
    "adapters",
    "comparison",
    "data",
    "decomposition",
    "experiments",
    "inspection",
    "jacobian",
    "kernel",
    "lens",
    "models",
    "parameters",
    "plotting",
    "precision",
    "pretraining",
    "recording",
    "runs",
    "sharding",
    "shells",
    "spectra",
    "status",
    "theory",
    "training",
    "validation",
    "__version__",
]

# Public names that stand in a namespace which nothing above has loaded.
_LATER = {"Recorder": "lnpjax.recording", "load_run": "lnpjax.pretraining"}
# The namespaces that nothing above has loaded.
_NAMESPACES = frozenset(__all__) - frozenset(globals()) - frozenset(_LATER)

# Where the names stand that were at top level before there were namespaces.
_MOVED = {
    "Covariance": "lnpjax.lens.Covariance",
    "CovarianceState": "lnpjax.lens.CovarianceState",
    "Frontier": "lnpjax.shells.Frontier",
    "InstrumentedStep": "lnpjax.training.InstrumentedStep",
    "Interval": "lnpjax._base.intervals.Interval",
    "LNPMeasure": "lnpjax.decomposition.LNPMeasure",
    "Misalignment": "lnpjax.kernel.Misalignment",
    "ModeStep": "lnpjax.kernel.ModeStep",
    "PositionDistribution": "lnpjax.spectra.PositionDistribution",
    "PowerLaw": "lnpjax.spectra.PowerLaw",
    "ShellFluxes": "lnpjax.shells.ShellFluxes",
    "SpectralDensity": "lnpjax.spectra.SpectralDensity",
    "SpectralMeasure": "lnpjax.spectra.SpectralMeasure",
    "SpectrumSummary": "lnpjax.spectra.SpectrumSummary",
    "activation_spectra": "lnpjax.lens.activation_spectra",
    "adaptation_rate": "lnpjax.kernel.adaptation_rate",
    "attention_probes": "lnpjax.lens.attention_probes",
    "average_over_batches": "lnpjax.shells.average_over_batches",
    "covariance_finalize": "lnpjax.lens.covariance_finalize",
    "covariance_float64": "lnpjax.lens.covariance_float64",
    "covariance_init": "lnpjax.lens.covariance_init",
    "covariance_merge": "lnpjax.lens.covariance_merge",
    "covariance_spectrum": "lnpjax.lens.covariance_spectrum",
    "covariance_update": "lnpjax.lens.covariance_update",
    "cumulative_variance": "lnpjax.spectra.cumulative_variance",
    "detect_frontier": "lnpjax.shells.detect_frontier",
    "effective_dimension": "lnpjax.spectra.effective_dimension",
    "eigenvector_misalignment": "lnpjax.kernel.eigenvector_misalignment",
    "energy_balance_residual": "lnpjax.shells.energy_balance_residual",
    "entk_groups": "lnpjax.kernel.entk_groups",
    "frontier_displacement": "lnpjax.shells.frontier_displacement",
    "gradient_gram": "lnpjax.lens.gradient_gram",
    "gradient_singular_values": "lnpjax.lens.gradient_singular_values",
    "gradient_spectra": "lnpjax.lens.gradient_spectra",
    "inverse_participation_ratio": "lnpjax.spectra.inverse_participation_ratio",
    "jensen_shannon_divergence": "lnpjax.spectra.jensen_shannon_divergence",
    "kernel_target_alignment": "lnpjax.kernel.kernel_target_alignment",
    "label_alignment": "lnpjax.kernel.label_alignment",
    "linen_hidden_states": "lnpjax.lens.linen_hidden_states",
    "log_shells": "lnpjax.shells.log_shells",
    "mode_pairs": "lnpjax.kernel.mode_pairs",
    "nnx_hidden_states": "lnpjax.lens.nnx_hidden_states",
    "normalized_kernel": "lnpjax.kernel.normalized_kernel",
    "observable": "lnpjax.jacobian.observable",
    "per_sample_gradients": "lnpjax.lens.per_sample_gradients",
    "position_distribution": "lnpjax.spectra.position_distribution",
    "project_update": "lnpjax.kernel.project_update",
    "renormalisability_ratio": "lnpjax.shells.renormalisability_ratio",
    "residual": "lnpjax.jacobian.residual",
    "select_outputs": "lnpjax.jacobian.select_outputs",
    "shell_centers": "lnpjax.shells.shell_centers",
    "shell_dissipation": "lnpjax.shells.shell_dissipation",
    "shell_energies": "lnpjax.shells.shell_energies",
    "shell_fluxes": "lnpjax.shells.shell_fluxes",
    "spectral_density": "lnpjax.spectra.spectral_density",
    "spectral_resolution": "lnpjax.spectra.spectral_resolution",
    "step_along_gradient": "lnpjax.kernel.step_along_gradient",
    "stream_covariances": "lnpjax.lens.stream_covariances",
    "summarize_spectrum": "lnpjax.spectra.summarize_spectrum",
    "tail_window": "lnpjax.spectra.tail_window",
    "token_surprisal": "lnpjax.jacobian.token_surprisal",
    "trace_outputs": "lnpjax.kernel.trace_outputs",
    "trace_ratio": "lnpjax.kernel.trace_ratio",
    "von_neumann_entropy": "lnpjax.spectra.von_neumann_entropy",
    "weight_spectra": "lnpjax.lens.weight_spectra",
    "activations": "lnpjax.lens",
    "alignment": "lnpjax.kernel",
    "assumptions": "lnpjax.jacobian",
    "batch_average": "lnpjax.shells",
    "checkpoints": "lnpjax.runs",
    "closed_forms": "lnpjax.jacobian",
    "comparison_plots": "lnpjax.plotting",
    "components": "lnpjax.decomposition",
    "costs": "lnpjax.kernel",
    "covariance": "lnpjax.lens",
    "covariance_spectra": "lnpjax.lens",
    "density": "lnpjax.spectra",
    "early_prediction": "lnpjax.comparison",
    "entry_points": "lnpjax._base.entry_points",
    "estimators": "lnpjax.decomposition",
    "explicit_meshes": "lnpjax._base.meshes",
    "frontier": "lnpjax.shells",
    "gradients": "lnpjax.lens",
    "hidden_states": "lnpjax.lens",
    "independence": "lnpjax._base.independence",
    "interaction": "lnpjax.jacobian",
    "intervals": "lnpjax._base.intervals",
    "kernel_methods": "lnpjax.kernel",
    "lanczos": "lnpjax.spectra",
    "lens_plots": "lnpjax.plotting",
    "microbatches": "lnpjax._base.slices",
    "mode_plots": "lnpjax.plotting",
    "mode_steps": "lnpjax.kernel",
    "modes": "lnpjax.kernel",
    "norm_taps": "lnpjax.jacobian",
    "ntk_dynamics": "lnpjax.kernel",
    "observables": "lnpjax.jacobian",
    "outputs": "lnpjax.jacobian",
    "plot_style": "lnpjax.plotting",
    "position": "lnpjax.spectra",
    "position_plots": "lnpjax.plotting",
    "power_laws": "lnpjax.spectra",
    "preconditioners": "lnpjax.jacobian",
    "probe_noise": "lnpjax.jacobian",
    "probes": "lnpjax.jacobian",
    "progress": "lnpjax.runs",
    "pullbacks": "lnpjax.jacobian",
    "random_rounding": "lnpjax._base.random_rounding",
    "rank_correlation": "lnpjax.comparison",
    "rows": "lnpjax.runs",
    "run_comparison": "lnpjax.comparison",
    "run_summary": "lnpjax.runs",
    "sample_gradients": "lnpjax.lens",
    "scaling": "lnpjax._base.scaling",
    "schedule": "lnpjax.training",
    "sequencing": "lnpjax._base.ordering",
    "shell_balance": "lnpjax.shells",
    "shell_plots": "lnpjax.plotting",
    "smoothing": "lnpjax.runs",
    "spectrum": "lnpjax.spectra",
    "spectrum_summary": "lnpjax.spectra",
    "taxonomy": "lnpjax.comparison",
    "trace": "lnpjax.decomposition",
    "cut": "lnpjax.lens",
    "writers": "lnpjax.runs",
}

if not _TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a namespace when it, or a name that stands in it, is first used."""
        if name in _NAMESPACES:
            return _import_module(f"lnpjax.{name}")
        if name in _LATER:
            return getattr(_import_module(_LATER[name]), name)
        place = f": it is {_MOVED[name]} now" if name in _MOVED else ""
        raise AttributeError(f"module 'lnpjax' has no attribute {name!r}{place}", name=name)


def __dir__() -> list[str]:
    return sorted(__all__)
