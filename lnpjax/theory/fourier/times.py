"""When the modes of a linear model get where: *Spectral Lens*, F.4, F.5 and F.10.

The model, its rates and its targets are those of `lnpjax.theory.fourier.modes`, from a start at
zero.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from lnpjax._base.checks import concrete, require
from lnpjax.theory.shells.transport import Scalar, check_positive


def normalized_mass(energies: Float[Array, "*s mode"]) -> Float[Array, "*s mode"]:
    """Return the share of every mode in the energy (*Spectral Lens*, eq. 46).

    F.4: with equal targets, rates that are all equal give ``1/m`` at any time, and unequal ones
    give the fastest mode more, whatever the loss: most at the start, where shares are
    ``kappa_r^2 / sum kappa^2``, and ever less of an excess as the loss goes to zero.

    Example:
        >>> normalized_mass(jnp.array([3.0, 1.0]))
        Array([0.75, 0.25], dtype=float32)
    """
    return energies / energies.sum(axis=-1, keepdims=True)


def time_to_loss(
    rates: Float[Array, " mode"],
    targets: Inexact[Array, " mode"],
    loss: Float[Array, "*s"] | float,
) -> Float[Array, "*s"]:
    """Return the unique time at which a model that started from zero has a given loss.

    With one rate for all modes it is ``ln(L(0) / loss) / (2 kappa)``. Otherwise it lies between
    that for the largest and that for the smallest rate, and is found there by bisection. A last
    step of Newton's makes its first derivatives, with respect to all arguments, those of the
    implicit function (*Spectral Lens*, eq. 53); second derivatives are not available.

    Args:
        rates: ``kappa_r > 0``.
        targets: ``beta_r``, not all zero.
        loss: in (0, L(0)), with ``L(0) = 1/2 sum |beta_r|^2``; of any shape.

    Returns:
        Time.

    Raises:
        ValueError: if, where values are known, a rate is not positive or the loss is not in reach.

    Example:
        >>> print(f"{time_to_loss(jnp.array([0.5, 0.5]), jnp.ones(2), 0.36788):.4f}")
        1.0000
    """
    rates, loss = check_positive("rates", rates), check_positive("loss", loss)
    energies = jnp.abs(jnp.asarray(targets)) ** 2
    start = energies.sum() / 2
    known_start, known_loss = concrete(start), concrete(loss)
    require(
        known_start is None or known_loss is None or bool(np.all(known_loss < known_start)),
        "loss",
        expected=f"less than the initial loss {known_start}",
        got=loss,
    )

    def log_excess(time: Array) -> Array:
        exponents = -2 * rates * time[..., None]
        return jax.scipy.special.logsumexp(exponents, b=energies, axis=-1) - jnp.log(2 * loss)

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (bracket[0] + bracket[1]) / 2
        early = log_excess(middle) > 0
        return jnp.where(early, middle, bracket[0]), jnp.where(early, bracket[1], middle)

    twice_folds = jax.lax.stop_gradient(jnp.log(start / loss)) / 2
    bracket = twice_folds / jnp.max(rates), twice_folds / jnp.min(rates)
    steps = 2 * jnp.finfo(rates.dtype).nmant  # Enough for rates that differ by 1 / precision.
    time = jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, halve, bracket)[1])
    slope = jax.jvp(log_excess, (time,), (jnp.ones_like(time),))[1]
    return time - log_excess(time) / jax.lax.stop_gradient(slope)


def _check_bands(num_fast: int, num_modes: int) -> None:
    require(
        0 < num_fast < num_modes,
        "num_fast",
        expected=f"at least one fast and one slow mode of {num_modes}",
        got=num_fast,
    )


def _band_energies(
    time: Any, slow_rate: Any, fast_rate: Any, num_fast: int, num_modes: int
) -> tuple[Array, Array]:
    _check_bands(num_fast, num_modes)
    time = check_positive("time", time)
    fast = -jnp.expm1(-check_positive("fast_rate", fast_rate) * time)
    slow = -jnp.expm1(-check_positive("slow_rate", slow_rate) * time)
    return num_fast * fast**2, (num_modes - num_fast) * slow**2


def fast_band_concentration(
    time: Float[Array, "*s"] | float,
    slow_rate: Float[Array, "*s"] | float,
    *,
    fast_rate: Scalar,
    num_fast: int,
    num_modes: int,
) -> Float[Array, "*s"]:
    """Return the share ``C^(k)`` of the fast band in a two-band model's activation energy.

    *Spectral Lens*, eq. 49. Targets are 1, the start is zero. Within a family that differs in the
    slow rate alone, more concentration early means a longer `two_band_time` (F.5). Between runs
    that differ in the fast rate alone it is the other way round: a larger one raises the
    concentration and saves time.

    Args:
        time: ``t_0 > 0``.
        slow_rate: ``kappa_s > 0``, broadcast against `time`.
        fast_rate: ``kappa_bar``.
        num_fast: k.
        num_modes: m > k.

    Returns:
        A fraction.

    Raises:
        ValueError: if a band is empty, or a time or a rate known not to be positive.

    Example:
        >>> print(f"{fast_band_concentration(1e3, 1.0, fast_rate=2.0, num_fast=1, num_modes=4)}")
        0.25
    """
    fast, slow = _band_energies(time, slow_rate, fast_rate, num_fast, num_modes)
    return fast / (fast + slow)


def fast_band_concentration_slope(
    time: Float[Array, "*s"] | float,
    slow_rate: Float[Array, "*s"] | float,
    *,
    fast_rate: Scalar,
    num_fast: int,
    num_modes: int,
) -> Float[Array, "*s"]:
    """Return ``dC/dkappa_s = -A B' / (A + B)^2 < 0`` of `fast_band_concentration`.

    *Spectral Lens*, eqs. 51 and 52.

    Args and errors are those of `fast_band_concentration`; a time.

    Example:
        >>> fast_band_concentration_slope(1.0, 1.0, fast_rate=2.0, num_fast=1, num_modes=2) < 0
        Array(True, dtype=bool)
    """
    fast, slow = _band_energies(time, slow_rate, fast_rate, num_fast, num_modes)
    # B' / B = 2 t / (e^(kappa t) - 1)
    growth = 2 * jnp.asarray(time) / jnp.expm1(jnp.asarray(slow_rate) * time)
    return -fast * slow * growth / (fast + slow) ** 2


def two_band_time(
    slow_rate: Scalar, *, fast_rate: Scalar, loss: Scalar, num_fast: int, num_modes: int
) -> Float[Array, ""]:
    """Return the time ``T_eps`` to a target loss in the two-band model: `time_to_loss` of it.

    *Spectral Lens*, eq. 50.

    Args:
        slow_rate: ``kappa_s``.
        fast_rate: ``kappa_bar``.
        loss: ``eps`` in (0, m/2).
        num_fast: k.
        num_modes: m > k.

    Raises:
        ValueError: if a band is empty, or values are known to be out of range.

    Example:
        >>> slow = two_band_time(0.5, fast_rate=2.0, loss=0.1, num_fast=1, num_modes=2)
        >>> bool(slow > two_band_time(1.0, fast_rate=2.0, loss=0.1, num_fast=1, num_modes=2))
        True
    """
    _check_bands(num_fast, num_modes)
    rates = [check_positive("fast_rate", fast_rate), check_positive("slow_rate", slow_rate)]
    targets = jnp.sqrt(jnp.array([num_fast, num_modes - num_fast], rates[0].dtype))
    return time_to_loss(jnp.stack(rates), targets, loss)


def two_band_time_slope(
    slow_rate: Scalar, *, fast_rate: Scalar, loss: Scalar, num_fast: int, num_modes: int
) -> Float[Array, ""]:
    """Return ``dT/dkappa_s < 0`` of `two_band_time`, in time squared (*Spectral Lens*, eq. 53).

    Args and errors are those of `two_band_time`.

    Example:
        >>> two_band_time_slope(0.5, fast_rate=2.0, loss=0.1, num_fast=1, num_modes=2) < 0
        Array(True, dtype=bool)
    """
    time = two_band_time(
        slow_rate, fast_rate=fast_rate, loss=loss, num_fast=num_fast, num_modes=num_modes
    )
    slow = (num_modes - num_fast) * jnp.exp(-2 * slow_rate * time)
    fast = num_fast * jnp.exp(-2 * fast_rate * time)
    return -slow * time / (fast_rate * fast + slow_rate * slow)


def crossover_times(
    rates: Float[Array, " mode"], targets: Inexact[Array, " mode"] | None = None
) -> Float[Array, "mode mode"]:
    """Return when the update energies of two modes are equal, from a start at zero (F.10).

    ``t_ij = ln(kappa_i |beta_i| / (kappa_j |beta_j|)) / (kappa_i - kappa_j)``: before, the mode of
    the larger rate has the larger update, afterwards the other. The paper has equal targets, where
    every time is positive. Otherwise one may be negative: then the slower mode's update is larger
    from the start.

    Args:
        rates: ``kappa_r > 0``.
        targets: ``beta_r``, nonzero; `None` for all equal.

    Returns:
        A symmetric matrix of times; NaN where two rates are equal, as on the diagonal.

    Raises:
        ValueError: if, where values are known, a rate is not positive.

    Example:
        >>> print(f"{crossover_times(jnp.array([2.0, 1.0]))[0, 1]:.4f}")
        0.6931
    """
    rates = check_positive("rates", rates)
    logs = jnp.log(rates) + (0 if targets is None else jnp.log(jnp.abs(targets)))
    gaps = rates[:, None] - rates
    return jnp.where(gaps == 0, jnp.nan, (logs[:, None] - logs) / jnp.where(gaps == 0, 1, gaps))


def reversal_time(rates: Float[Array, " mode"]) -> Float[Array, ""]:
    """Return when the ranking by updates becomes that by activations reversed (F.10).

    With equal targets. The paper takes the largest of all crossover times. A crossover time is the
    inverse logarithmic mean of its two rates, so the largest is that of the two slowest modes:
    ``T* = ln(kappa_(m-1) / kappa_m) / (kappa_(m-1) - kappa_m)``. As this is at least
    ``1 / kappa_(m-1)``, by then all modes but the slowest are learned to 1 - 1/e, and where rates
    lie close, that one too: a complete reversal belongs to the end of training.

    Args:
        rates: at least two ``kappa_r > 0``, all different, in any order.

    Returns:
        Time.

    Raises:
        ValueError: if there are fewer than two rates, or one is known not to be positive.

    Example:
        >>> print(f"{reversal_time(jnp.array([50.0, 1.0, 2.0])):.4f}")
        0.6931
    """
    rates = check_positive("rates", rates)
    require(
        rates.ndim == 1 and len(rates) >= 2,
        "rates",
        expected="a vector of at least two rates",
        got=f"shape {rates.shape}",
    )
    return crossover_times(jnp.sort(rates)[:2])[0, 1]
