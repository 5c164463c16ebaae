"""Logarithmic spectral shells: where the error lies in the spectrum, and where it goes."""

from lnpjax.shells._average import BatchAverage, average_over_batches
from lnpjax.shells._balance import boundary_flux, energy_balance_residual, renormalisability_ratio
from lnpjax.shells._energies import (
    function_space_measure,
    log_shells,
    shell_centers,
    shell_dissipation,
    shell_energies,
    shell_minimum_energies,
)
from lnpjax.shells._fluxes import ShellFluxes, mode_couplings, shell_fluxes
from lnpjax.shells._frontier import (
    Frontier,
    FrontierDisplacement,
    detect_frontier,
    frontier_displacement,
)
from lnpjax.shells._profiles import Profile, ProfileOptions, measure_states, profiles_of

__all__ = [
    # energies
    "log_shells",
    "shell_centers",
    "shell_energies",
    "shell_dissipation",
    "shell_minimum_energies",
    "function_space_measure",
    # fluxes
    "shell_fluxes",
    "ShellFluxes",
    "mode_couplings",
    # balance
    "energy_balance_residual",
    "renormalisability_ratio",
    "boundary_flux",
    # the frontier
    "detect_frontier",
    "Frontier",
    "frontier_displacement",
    "FrontierDisplacement",
    # averages over batches
    "average_over_batches",
    "BatchAverage",
    # profiles of a network's states
    "measure_states",
    "profiles_of",
    "Profile",
    "ProfileOptions",
]
