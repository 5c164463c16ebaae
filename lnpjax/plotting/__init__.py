"""The figures, one function each."""

from lnpjax.plotting._comparison import plot_comparison
from lnpjax.plotting._lens import plot_lens
from lnpjax.plotting._modes import plot_mode_steps, plot_modes
from lnpjax.plotting._network import (
    plot_density,
    plot_lnp_groups,
    plot_position,
    plot_spectra,
)
from lnpjax.plotting._position import plot_positions
from lnpjax.plotting._runs import plot_accuracy, plot_components, plot_groups, plot_run
from lnpjax.plotting._shells import plot_shell_profile, plot_shell_profiles

__all__ = [
    # runs
    "plot_run",
    "plot_components",
    "plot_groups",
    "plot_accuracy",
    "plot_positions",
    "plot_lens",
    # kernels and shells
    "plot_modes",
    "plot_mode_steps",
    "plot_shell_profile",
    "plot_shell_profiles",
    # one network
    "plot_lnp_groups",
    "plot_position",
    "plot_density",
    "plot_spectra",
    # several runs
    "plot_comparison",
]
