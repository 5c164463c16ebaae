"""The spectrum of a covariance, and what the precision of its samples lets one know of it."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from lnpjax.covariance import Covariance, CovarianceState, covariance_finalize
from lnpjax.spectrum_summary import (
    SpectrumSummary,
    Window,
    spectral_resolution,
    summarize_spectrum,
)


def covariance_spectrum(
    state: CovarianceState,
    *,
    head: Window | None = None,
    tail: Window | None = None,
    resolution: float | Float[Array, ""] | None = None,
) -> SpectrumSummary:
    """The spectrum of the covariance, summarised (Spectral Lens, appendix C). Pure.

    Rounding of the hidden states themselves adds a floor to the spectrum, which matters in half
    precision, or where means are large. A float of size h is rounded by up to half of its spacing,
    at most ``eps h / 2``: an error of variance up to ``eps^2 h^2 / 12``, nearly independent between
    features. To the covariance it adds at most ``eps^2 / 12`` times the largest mean square of a
    feature. Eigenvalues below twelve times that, the square of the spacing, are left out of fits
    and flagged: what is left is known to a tenth.

    Args:
        state: the state.
        head: as in `lnpjax.spectrum_summary.summarize_spectrum`, as are the others.
        tail: likewise.
        resolution: likewise; `None` for `lnpjax.spectrum_summary.spectral_resolution` or, where
            that is larger, what the dtype of the hidden states resolves.

    Returns:
        A `SpectrumSummary` with the status of the covariance; NaN where it is undefined.

    Raises:
        ValueError: if a window reaches beyond the width.

    Cost: an eigendecomposition without vectors, about ``4/3 d^3``.

    Example:
        >>> from lnpjax.covariance import covariance_init, covariance_update
        >>> state = covariance_update(covariance_init(2), jnp.array([[0.0, 0.0], [2.0, 4.0]]))
        >>> float(covariance_spectrum(state, tail=(1, 2)).trace)
        10.0
    """
    covariance = covariance_finalize(state)
    defined = jnp.all(jnp.isfinite(covariance.matrix))
    # Solvers need not survive NaN.
    eigenvalues = jnp.linalg.eigvalsh(jnp.where(defined, covariance.matrix, 0))
    if resolution is None:
        resolution = jnp.maximum(
            spectral_resolution(len(eigenvalues), eigenvalues.dtype),
            _input_resolution(covariance, state.rounding, eigenvalues[-1]),
        )
    return summarize_spectrum(
        jnp.where(defined, eigenvalues, jnp.nan),
        head=head,
        tail=tail,
        resolution=resolution,
        status=covariance.status,
    )


def _input_resolution(
    covariance: Covariance, rounding: Float[Array, ""], largest: Float[Array, ""]
) -> Float[Array, ""]:
    """The square of the spacing of floats as large as the hidden states, over the largest."""
    known = jnp.isfinite(largest) & (largest > 0) & jnp.all(jnp.isfinite(covariance.mean))
    largest = jnp.where(known, largest, 1)
    # Squares of large means overflow.
    mean = jnp.where(known, covariance.mean, 0) * (rounding / jnp.sqrt(largest))
    variance = jnp.where(known, jnp.diagonal(covariance.matrix), 0) / largest
    resolution = jnp.max(mean**2 + rounding**2 * variance)
    return jnp.minimum(resolution, 1 - float(jnp.finfo(resolution.dtype).eps))
