"""Power laws of targets and rates: learned head, unresolved tail, and fits to them (F.6 to F.9).

The smooth specialisation that *Spectral Lens* makes of `lnpjax.theory.fourier.modes`: the mode of
rank r has the target energy ``beta_r^2 = C r^-p`` and the rate ``kappa_r = eta r^-q`` (eqs. 54
and 55). From a start at zero its activation energy is ``C r^-p (1 - e^-x)^2`` with
``x = (r* / r)^q``, where ``r* = (eta t)^(1/q)`` is the crossover rank (eqs. 57 and 58).

Exponents are positive where spectra fall: minus the slope of log energy against log rank.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax._base.checks import concrete, require
from lnpjax._base.numerics import accumulation_dtype, slope_weights
from lnpjax.theory.shells.transport import Scalar, check_positive

# Where x / (e^x - 1) = 1/2.
_HALF_WAY = 1.2564312086261697


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SmoothSpectrum:
    """Targets and rates that are power laws of the rank. A pytree.

    *Spectral Lens*, eqs. 54 and 55.

    Attributes:
        p: exponent of the target energies, > 0.
        q: exponent of the rates, >= 0; larger is a slower tail. At 0 all modes learn at one rate,
            and there is no crossover rank.
        eta: the rate of rank 1, > 0; per time.
        amplitude: C, the target energy of rank 1.

    Example:
        >>> model = SmoothSpectrum(p=1.0, q=0.5)
        >>> model.tail_exponent, model.target_energies(jnp.array([1.0, 4.0])).tolist()
        (2.0, [1.0, 0.25])
    """

    p: Scalar
    q: Scalar
    eta: Scalar = 1.0
    amplitude: Scalar = 1.0

    @property
    def tail_exponent(self) -> Scalar:
        """``alpha_tail = p + 2q`` of the unresolved tail (*Spectral Lens*, eq. 61)."""
        return self.p + 2 * self.q

    def target_energies(self, ranks: Float[Array, "*s"] | float) -> Float[Array, "*s"]:
        """Return ``beta_r^2 = C r^-p`` (*Spectral Lens*, eq. 54)."""
        return self.amplitude * check_positive("ranks", ranks) ** -self.p

    def rates(self, ranks: Float[Array, "*s"] | float) -> Float[Array, "*s"]:
        """Return ``kappa_r = eta r^-q`` (*Spectral Lens*, eq. 55)."""
        return self.eta * check_positive("ranks", ranks) ** -self.q


def _progress(
    model: SmoothSpectrum, ranks: Float[Array, "*s"] | float, time: Float[Array, "*s"] | float
) -> Float[Array, "*s"]:
    """Return ``x = eta t r^-q`` (*Spectral Lens*, eq. 62)."""
    check_positive("p", model.p)
    check_positive("q", model.q, zero=True)
    check_positive("eta", model.eta)
    return model.rates(ranks) * check_positive("time", time)


def activation_spectrum(
    model: SmoothSpectrum, ranks: Float[Array, "*s"] | float, time: Float[Array, "*s"] | float
) -> Float[Array, "*s"]:
    """Return activation energies ``C r^-p (1 - e^(-eta t r^-q))^2`` (*Spectral Lens*, eq. 57).

    Args:
        model: the power laws.
        ranks: r > 0.
        time: t > 0, broadcast against `ranks`.

    Returns:
        Energies: ``C r^-p`` far below `crossover_rank`, ``C (eta t)^2 r^-(p + 2q)`` far above.

    Raises:
        ValueError: if values of the model, a rank or a time are known not to be positive.

    Example:
        >>> model = SmoothSpectrum(p=1.0, q=1.0)
        >>> activation_spectrum(model, jnp.array([1.0, 1000.0]), 10.0).tolist()
        [0.999..., 9.900...e-08]
    """
    learned = -jnp.expm1(-_progress(model, ranks, time))
    return model.target_energies(ranks) * learned**2


def crossover_rank(model: SmoothSpectrum, time: Float[Array, "*s"] | float) -> Float[Array, "*s"]:
    """Return ``r* = (eta t)^(1/q)``, the rank that is learned to 1 - 1/e.

    *Spectral Lens*, eq. 58.

    Args:
        model: the power laws.
        time: t > 0.

    Raises:
        ValueError: if values of the model, a rank or a time are known not to be positive.

    Example:
        >>> print(f"{crossover_rank(SmoothSpectrum(p=1.0, q=0.5), 3.0):.3f}")
        9.000
    """
    return _progress(model, 1.0, time) ** (1 / check_positive("q", model.q))


def bend_rank(model: SmoothSpectrum, time: Float[Array, "*s"] | float) -> Float[Array, "*s"]:
    """Return where the local exponent is half-way, ``p + q``: ``r* 1.2564^(-1/q)``.

    F.6(iii) centres the bend on r* up to a factor, and this is the factor. It does not stay of
    order 1 when q is small, 0.10 at q = 0.1: there the bend is wide and lies well below r*.

    Args:
        model: the power laws.
        time: t > 0.

    Raises:
        ValueError: if values of the model, a rank or a time are known not to be positive.

    Example:
        >>> model = SmoothSpectrum(p=1.0, q=0.5)
        >>> print(f"{local_exponent(model, bend_rank(model, 100.0), 100.0):.3f}")
        1.500
    """
    return crossover_rank(model, time) * _HALF_WAY ** (-1 / jnp.asarray(model.q))


def local_exponent(
    model: SmoothSpectrum, ranks: Float[Array, "*s"] | float, time: Float[Array, "*s"] | float
) -> Float[Array, "*s"]:
    """Return minus the slope of the spectrum at a rank, ``p + 2q x / (e^x - 1)``.

    With ``x = (r* / r)^q``. It rises with the rank from p (head) to ``p + 2q`` (tail), and is
    ``p + 1.16 q`` at r*.

    Args:
        model: the power laws.
        ranks: r > 0.
        time: t > 0, broadcast against `ranks`.

    Raises:
        ValueError: if values of the model, a rank or a time are known not to be positive.

    Example:
        >>> model = SmoothSpectrum(p=1.0, q=0.5)
        >>> print(", ".join(f"{local_exponent(model, r, 10.0):.3f}" for r in (1e-2, 1e2, 1e9)))
        1.000, 1.582, 2.000
    """
    x = _progress(model, ranks, time)
    some = x > 0  # x underflows for modes that have hardly begun.
    safe = jnp.where(some, x, 1)
    return model.p + 2 * model.q * jnp.where(some, safe / jnp.expm1(safe), 1)


def recruitment_time(
    model: SmoothSpectrum, cutoff_rank: Scalar, *, tolerance: Scalar
) -> Float[Array, "*s"]:
    """Return when all modes up to a rank are learned to within a tolerance (F.7).

    *Spectral Lens*, eq. 66. ``T = ln(1/delta) / eta R^q``, set by the slowest of them.

    Args:
        model: the power laws.
        cutoff_rank: R >= 1.
        tolerance: delta in (0, 1): ``a_r >= (1 - delta) beta_r``.

    Returns:
        Time.

    Raises:
        ValueError: if values are known to be out of range.

    Example:
        >>> model = SmoothSpectrum(p=1.0, q=0.5, eta=2.0)
        >>> print(f"{recruitment_time(model, 100.0, tolerance=0.1):.3f}")
        11.513
    """
    return -jnp.log(_check_fraction("tolerance", tolerance)) / _progress(model, cutoff_rank, 1.0)


def _check_fraction(argument: str, value: Scalar) -> Array:
    values = concrete(value)
    require(
        values is None or bool(np.all((values > 0) & (values < 1))),
        argument,
        expected="a fraction in (0, 1)",
        got=value,
    )
    return jnp.asarray(value, accumulation_dtype())


def head_matched_rate(
    q: Scalar, *, anchor_rank: Scalar, progress: Scalar, time: Scalar
) -> Float[Array, "*s"]:
    """Return the eta with which the anchor is learned to a given share at a given time.

    *Spectral Lens*, eq. 73. ``eta = -ln(1 - xi) r_h^q / t_0``.

    Args:
        q: exponent of the rates.
        anchor_rank: ``r_h >= 1``.
        progress: ``xi = a / beta`` of the anchor, in (0, 1).
        time: ``t_0 > 0``.

    Raises:
        ValueError: if values are known to be out of range.

    Example:
        >>> eta = head_matched_rate(0.5, anchor_rank=4.0, progress=0.5, time=10.0)
        >>> model = SmoothSpectrum(p=1.0, q=0.5, eta=eta)
        >>> print(f"{recruitment_time(model, 4.0, tolerance=0.5):.3f}")
        10.000
    """
    folds = -jnp.log1p(-_check_fraction("progress", progress))
    anchor = check_positive("anchor_rank", anchor_rank) ** check_positive("q", q, zero=True)
    return folds * anchor / check_positive("time", time)


def head_matched_recruitment_time(
    q: Scalar,
    cutoff_rank: Scalar,
    *,
    tolerance: Scalar,
    anchor_rank: Scalar,
    progress: Scalar,
    time: Scalar,
) -> Float[Array, "*s"]:
    """Return the `recruitment_time` among runs whose anchor has the same progress at t_0 (F.8).

    *Spectral Lens*, eq. 71. ``T = ln(1/delta) / (-ln(1 - xi)) t_0 (R / r_h)^q``: for R beyond the
    anchor it grows with q, that is with the tail exponent. So does the exponent of any window of
    ranks beyond the anchor, inside the bend or not, since ``x = -ln(1 - xi) (r_h / r)^q`` falls
    with q there: between runs matched like this a fit need not reach the tail to order them.
    Without the match it may order them wrongly, however far out; and the order is that of
    recruitment, not of the time to a loss: below the anchor it is the flat run that is behind.

    Args:
        q: exponent of the rates.
        cutoff_rank: R.
        tolerance: delta in (0, 1).
        anchor_rank: ``r_h``.
        progress: xi in (0, 1).
        time: ``t_0 > 0``.

    Returns:
        Time.

    Raises:
        ValueError: if values are known to be out of range.

    Example:
        >>> early = dict(tolerance=0.1, anchor_rank=5.0, progress=0.9, time=1.0)
        >>> print(*(f"{head_matched_recruitment_time(q, 20.0, **early):.3f}" for q in (1, 2)))
        4.000 16.000
    """
    eta = head_matched_rate(q, anchor_rank=anchor_rank, progress=progress, time=time)
    return recruitment_time(SmoothSpectrum(1.0, q, eta), cutoff_rank, tolerance=tolerance)


def _window(
    model: SmoothSpectrum, time: Float[Array, "*s"] | float, first: int, last: int
) -> tuple[Float[Array, "*s rank"], Float[Array, " rank"]]:
    """Return ``x`` of every rank of a window, and the weights of a fit in log rank."""
    require(
        1 <= first < last,
        "first",
        expected=f"a window of at least two ranks, counted from 1, up to last = {last}",
        got=first,
    )
    ranks = np.arange(first, last + 1)
    weights = jnp.asarray(slope_weights(np.log(ranks)), accumulation_dtype())
    progress = _progress(model, jnp.asarray(ranks, weights.dtype), jnp.asarray(time)[..., None])
    return progress, weights


def window_exponent(
    model: SmoothSpectrum, time: Float[Array, "*s"] | float, *, first: int, last: int
) -> Float[Array, "*s"]:
    """Return what a least-squares fit over ranks ``first .. last`` measures (F.9).

    Log energy against log rank, every rank with the same weight: the tail exponent plus
    `window_bias`.

    Args:
        model: the power laws.
        time: t > 0, of any shape.
        first: lowest rank of the window, counted from 1.
        last: its highest rank.

    Returns:
        The fitted exponent, between p and ``p + 2q``.

    Raises:
        ValueError: if the window is empty, or values are known not to be positive.

    Example:
        The window of the paper's toy, early and late (the true exponent is 2):

        >>> model = SmoothSpectrum(p=1.0, q=0.5)
        >>> window_exponent(model, jnp.array([0.1, 100.0]), first=10, last=40).round(2)
        Array([1.99, 1.  ], dtype=float32)
    """
    return model.tail_exponent + window_bias(model, time, first=first, last=last)


def window_bias(
    model: SmoothSpectrum, time: Float[Array, "*s"] | float, *, first: int, last: int
) -> Float[Array, "*s"]:
    """Return the fitted less the true tail exponent of a finite window, in ``(-2q, 0)`` (F.9).

    A fit is linear in log energies, so that its bias is minus the slope of what they have over a
    power law, ``2 ln((1 - e^-x) / x)``. It depends on time through the crossover rank alone, and
    only gets larger with it.

    Args:
        model: the power laws; p makes no difference.
        time: t > 0, of any shape.
        first: lowest rank of the window, counted from 1.
        last: its highest rank.

    Raises:
        ValueError: if the window is empty, or values are known not to be positive.

    Example:
        >>> print(f"{window_bias(SmoothSpectrum(p=1.0, q=0.5), 1.0, first=10, last=40):.3f}")
        -0.106
    """
    x, weights = _window(model, time, first, last)
    return -2 * _log_saturation(x) @ weights


def _log_saturation(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return ``ln((1 - e^-x) / x)``, with all digits where it is close to zero."""
    small = x < 0.05
    series = x * (-1 / 2 + x * (1 / 24 - x**2 * (1 / 2880 - x**2 / 181440)))
    away = jnp.where(small, 1.0, x)
    return jnp.where(small, series, jnp.log(-jnp.expm1(-away)) - jnp.log(away))


def window_bias_far_out(
    model: SmoothSpectrum, time: Float[Array, "*s"] | float, *, first: int, last: int
) -> Float[Array, "*s"]:
    """Return the `window_bias` far beyond the crossover: ``(r*)^q`` times a constant (F.9).

    The constant is the least-squares slope of ``r^-q`` in log r over the window, negative: to this
    order the bias falls off as ``(r* / r)^q`` and not faster. Where q is small that is slow.

    Args:
        model: the power laws; p makes no difference.
        time: t > 0, of any shape.
        first: lowest rank of the window, counted from 1.
        last: its highest rank.

    Raises:
        ValueError: if the window is empty, or values are known not to be positive.

    Example:
        >>> model = SmoothSpectrum(p=1.0, q=0.5)
        >>> print(f"{window_bias_far_out(model, 1.0, first=10, last=40):.3f}")
        -0.110
    """
    x, weights = _window(model, time, first, last)
    return x @ weights


def window_start(
    model: SmoothSpectrum, time: Float[Array, "*s"] | float, *, tolerance: Scalar
) -> Float[Array, "*s"]:
    """Return how far out a window must start for a bias below a tolerance, ``r* (q/tol)^(1/q)``.

    F.9. A fitted slope is a positively weighted mean of local slopes, each biased by
    ``2q (1 - x / (e^x - 1)) < q x``, most at the low end of the window: that is at most the
    tolerance from this rank on, wherever the window ends. A bound that is sharp far out for narrow
    windows. The paper's ``R_1 >> r*`` hides the power 1/q: to within 0.1 takes 10 times r* at
    q = 1, 25 times at q = 0.5 and 39 times at q = 0.25; to within 0.02, 50, 625 and 24,000 times.

    Args:
        model: the power laws; p makes no difference.
        time: t > 0, of any shape.
        tolerance: largest admissible absolute bias of the exponent, > 0.

    Returns:
        The rank.

    Raises:
        ValueError: if values are known not to be positive.

    Example:
        >>> print(f"{window_start(SmoothSpectrum(p=1.0, q=0.5), 2.0, tolerance=0.1):.1f}")
        100.0
    """
    q = jnp.asarray(model.q)
    spread = (q / check_positive("tolerance", tolerance)) ** (1 / q)
    return crossover_rank(model, time) * spread
