"""The Fourier model of *Spectral Lens*: every result of its appendix F.4 in closed form.

One place to import from; each group lives in a module of its own.

- `lnpjax.theory.fourier.modes`: a linear model on a cyclic group, mode by mode (F.1 to F.3)
- `lnpjax.theory.fourier.times`: matched losses, times to targets, crossovers (F.4, F.5, F.10)
- `lnpjax.theory.fourier.smooth_spectrum`: power laws of targets and rates, and fits to them (F.6 to
    F.9)
- `lnpjax.theory.fourier.factors`: the two-layer model (F.11, F.12)
- `lnpjax.theory.fourier.shift_equivariance`: rotary and absolute positions (F.13, F.14)
- `lnpjax.theory.fourier.tied_heads`: what tied and untied heads can express (F.15, F.16)
- `lnpjax.theory.fourier.orthogonal_updates`: the polar factor as steepest descent (F.17)
"""

from lnpjax.theory.fourier.factors import (
    band_concentration,
    band_concentration_rate,
    factor_products,
)
from lnpjax.theory.fourier.modes import (
    characters,
    cyclic_shift,
    fourier_coefficients,
    from_coefficients,
    kernel_spectrum,
    mode_coefficients,
    mode_loss,
    moment_matrix,
    shift_eigenvalues,
    update_energies,
)
from lnpjax.theory.fourier.orthogonal_updates import (
    guaranteed_decrease,
    largest_step,
    nuclear_norm,
    polar_factor,
)
from lnpjax.theory.fourier.shift_equivariance import (
    absolute_scores,
    absolute_shift_change,
    rotary_scores,
    shift_defect,
    surviving_positions,
)
from lnpjax.theory.fourier.smooth_spectrum import (
    SmoothSpectrum,
    activation_spectrum,
    bend_rank,
    crossover_rank,
    head_matched_rate,
    head_matched_recruitment_time,
    local_exponent,
    recruitment_time,
    window_bias,
    window_bias_far_out,
    window_exponent,
    window_start,
)
from lnpjax.theory.fourier.tied_heads import (
    best_tied_map,
    best_untied_map,
    embedding_width,
    output_projector,
    tied_error,
    tied_error_bound,
    untied_error,
)
from lnpjax.theory.fourier.times import (
    crossover_times,
    fast_band_concentration,
    fast_band_concentration_slope,
    normalized_mass,
    reversal_time,
    time_to_loss,
    two_band_time,
    two_band_time_slope,
)

__all__ = [
    # a linear model on a cyclic group, mode by mode
    "characters",
    "cyclic_shift",
    "shift_eigenvalues",
    "fourier_coefficients",
    "from_coefficients",
    "kernel_spectrum",
    "mode_coefficients",
    "mode_loss",
    "update_energies",
    "moment_matrix",
    # times to targets, and crossovers
    "normalized_mass",
    "time_to_loss",
    "fast_band_concentration",
    "fast_band_concentration_slope",
    "two_band_time",
    "two_band_time_slope",
    "crossover_times",
    "reversal_time",
    # power laws of targets and rates
    "SmoothSpectrum",
    "activation_spectrum",
    "crossover_rank",
    "bend_rank",
    "local_exponent",
    "recruitment_time",
    "head_matched_rate",
    "head_matched_recruitment_time",
    # fits to windows of them
    "window_exponent",
    "window_bias",
    "window_bias_far_out",
    "window_start",
    # two layers
    "factor_products",
    "band_concentration",
    "band_concentration_rate",
    # positions: rotary and absolute
    "rotary_scores",
    "absolute_scores",
    "shift_defect",
    "absolute_shift_change",
    "surviving_positions",
    # tied and untied heads
    "output_projector",
    "best_tied_map",
    "best_untied_map",
    "tied_error",
    "untied_error",
    "tied_error_bound",
    "embedding_width",
    # orthogonal updates
    "polar_factor",
    "nuclear_norm",
    "guaranteed_decrease",
    "largest_step",
]
