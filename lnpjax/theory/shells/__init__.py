"""Transport and dissipation of error energy along the spectrum, in closed form."""

from lnpjax.theory.shells.fit import ScaleFreeFit, fit_scale_free
from lnpjax.theory.shells.incomplete_gamma import upper_incomplete_gamma
from lnpjax.theory.shells.mismatch import (
    DoubleDescent,
    MismatchTerms,
    SampleMismatch,
    double_descent,
    mismatch_terms,
    mismatch_window,
    sample_mismatch,
    shell_weights,
)
from lnpjax.theory.shells.scale_free import (
    EnergyBalance,
    ScaleFree,
    cutoff_at,
    energy_balance,
    energy_density,
    growth_ends,
    log_shell_energies,
    loss,
    loss_exponent,
    prefactor,
    self_similar,
    shell_energies,
)
from lnpjax.theory.shells.solver import Drift, TransportSolution, log_grid, solve_transport
from lnpjax.theory.shells.transport import (
    Density,
    Equation,
    amplitude,
    amplitude_growth,
    characteristic,
    compression,
    dissipation_time,
    drift,
    transported_density,
)

__all__ = [
    # the equation
    "Equation",
    "Density",
    "drift",
    "characteristic",
    "dissipation_time",
    "compression",
    "amplitude",
    "amplitude_growth",
    "transported_density",
    # a scale-free spectrum
    "ScaleFree",
    "self_similar",
    "energy_density",
    "cutoff_at",
    "prefactor",
    "log_shell_energies",
    "shell_energies",
    "loss",
    "loss_exponent",
    "growth_ends",
    "EnergyBalance",
    "energy_balance",
    # any drift
    "Drift",
    "TransportSolution",
    "log_grid",
    "solve_transport",
    # fits to measured profiles
    "ScaleFreeFit",
    "fit_scale_free",
    # two samples
    "SampleMismatch",
    "sample_mismatch",
    "MismatchTerms",
    "mismatch_terms",
    "shell_weights",
    "mismatch_window",
    "DoubleDescent",
    "double_descent",
    # special functions
    "upper_incomplete_gamma",
]
