"""Random features on power-law data: what the components must be (*Spectral Reach*, A.4)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Float

from lnpjax._base.checks import check_count, concrete, require
from lnpjax.spectra._eigenvalues import check_eigenvalues

# Nodes in ln t. Outside of this range the integrand of `expected_position` is below 1e-12 of its
# largest value for any spectrum; within, it is analytic, and the trapezoidal rule is exact to
# rounding at this spacing.
_LOG_TIMES = np.arange(-35.0, 70.0, 0.1)


def power_law_variances(dimension: int, beta: float) -> Float[np.ndarray, " d"]:
    """Return ``mu_k`` proportional to ``k^-beta``, with the sum d: the covariance of the inputs.

    *Spectral Reach*, B.2.5. `lnpjax.spectra.inverse_participation_ratio` of it is the right-hand
    side of *Spectral Reach*, eq. 11, with d terms in its sums. (The infinite sums of eq. 48 do not
    exist at ``beta = 1``, where the paper's range begins.)

    Args:
        dimension: d, of an input.
        beta: the exponent.

    Returns:
        The variances in float64, descending for ``beta > 0``.

    Raises:
        ValueError: if `dimension` is less than 1.

    Example:
        >>> power_law_variances(2, 1.0).round(3)
        array([1.333, 0.667])
    """
    check_count("dimension", dimension)
    powers = np.arange(1.0, dimension + 1) ** -beta
    return dimension * powers / powers.sum()


def relu_kernel(inputs: Float[Array | np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Return the kernel of infinitely many random ReLU features.

    *Spectral Reach*, eq. 38, in closed form (Cho and Saul, 2009): with the angle t between two
    inputs it is ``|x| |x'| (sin t + (pi - t) cos t) / (pi d)``. Of m features as *Spectral Reach*,
    eq. 53, has them, over ``sqrt(m)``, the matrix ``Phi Phi^T`` tends to it.

    Args:
        inputs: one sample per row, not zero, with values known outside of `jit`.

    Returns:
        The kernel in float64.

    Raises:
        ValueError: if there is no sample, or the inputs are not a matrix.

    Example:
        Equal inputs, and opposite ones, which share no active feature:

        >>> relu_kernel(np.array([[1.0, 1.0], [-1.0, -1.0]])).round(12) + 0.0
        array([[1., 0.],
               [0., 1.]])
    """
    values = np.asarray(inputs, np.float64)
    expected = "samples as rows"
    require(values.ndim == 2 and values.size > 0, "inputs", expected=expected, got=values.shape)
    norms = np.linalg.norm(values, axis=1)
    sizes = np.outer(norms, norms)
    cosine = np.clip(values @ values.T / sizes, -1, 1)
    angle = np.arccos(cosine)
    arc = np.sin(angle) + (np.pi - angle) * cosine
    return sizes * arc / (np.pi * values.shape[1])


def expected_position(eigenvalues: Float[Array | np.ndarray, " k"]) -> float:
    """Return the mean of chi_pos over Gaussian teachers, for one kernel.

    With ``y ~ N(0, K)`` the mean of ``sum_k alpha_k^2 lambda_k / (|y|^2 Tr K)`` is that of a ratio.
    *Spectral Reach*, eq. 46, divides the means instead, which is close where many modes share the
    target and too large where few do: by 5 % for two eigenvalues as 2 to 1. Here
    ``1 / s = integral of exp(-s t)`` turns the mean of the ratio into a single integral,
    ``integral_0^inf sum_k lambda_k^2 / (1 + 2 t lambda_k) prod_j (1 + 2 t lambda_j)^(-1/2) dt``,
    over the trace.

    Args:
        eigenvalues: of a positive semi-definite kernel, in any order, with values known outside of
            `jit`; negative ones of the size of rounding count as zero.

    Returns:
        A number in (0, 1]; never more than `lnpjax.spectra.inverse_participation_ratio`, by which
        *Spectral Reach*, eq. 46, estimates it.

    Raises:
        TypeError: if the eigenvalues are not an array of real floating-point numbers.
        ValueError: if there are none; where values are known, if one is infinite, NaN, or below
            zero by more than rounding.
        ValueError: if the eigenvalues are traced or all zero.

    Example:
        One mode is all there is; k equal ones have a k-th each:

        >>> print(f"{expected_position(np.ones(1)):.6f} {expected_position(np.ones(4)):.6f}")
        1.000000 0.250000
        >>> print(f"{expected_position(np.array([2.0, 1.0])):.4f}, and 5/9 by eq. 46")
        0.5286, and 5/9 by eq. 46
    """
    check_eigenvalues("eigenvalues", eigenvalues)
    values = concrete(eigenvalues)
    require(
        values is not None and bool(np.max(values) > 0),
        "eigenvalues",
        expected="values known outside of jit, not all zero",
        got="traced ones" if values is None else "zeros",
    )
    assert values is not None
    shares = np.maximum(values.astype(np.float64), 0)
    shares = shares[shares > 0] / shares.sum()
    times = np.exp(_LOG_TIMES)
    integrand = np.empty_like(times)
    for index, time in enumerate(times):
        stretched = 2 * time * shares
        weight = np.exp(-np.sum(np.log1p(stretched)) / 2)
        integrand[index] = time * weight * np.sum(shares**2 / (1 + stretched))
    return float(np.sum(integrand) * (_LOG_TIMES[1] - _LOG_TIMES[0]))
