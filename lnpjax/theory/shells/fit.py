"""Fitting a scale-free spectrum to measured shell profiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lnpjax._base.checks import check_floating, require
from lnpjax._base.numerics import accumulation_dtype
from lnpjax.status import Status, flag
from lnpjax.theory.shells.scale_free import ScaleFree, log_shell_energies
from lnpjax.theory.shells.transport import (
    Equation,
    check_edges,
    check_equation,
    check_positive,
    check_times,
)

# Where the search starts: every pair of a drift and a power. Fits from all of them run side by side
# and the best is kept; one start alone can end in the valley where the cutoff stands in for p.
_STARTS = np.array([(c0, p) for c0 in (-0.5, 0.0, 0.5) for p in (-1.5, -0.5, 0.5)])
_ITERATIONS = 100


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScaleFreeFit:
    """A fitted scale-free spectrum; made by `fit_scale_free`.

    Attributes:
        model: c0, p, amplitude and cutoff; its t0 is the first time of the profiles.
        standard_errors: of ``c0, p, ln(energy at the middle of the range), ln(cutoff)`` in this
            order, from the curvature of the sum of squares. Without given errors they take the
            scatter about the fit for the noise. NaN or infinite where the profiles do not
            determine a parameter.
        residual: root mean square of the residuals: of ``ln E``, or in units of the given errors.
        num_points: shell energies that were used.
        num_left_out: those that were not: zero, negative, not finite, or below the floor.
        converged: whether no step of the linearised problem would lower the squares any more.
        status: `lnpjax.Status` flags: `TOO_FEW_POINTS` where there are not more points than the
            four parameters, and all numbers are NaN.
    """

    model: ScaleFree
    standard_errors: Float[Array, " 4"]
    residual: Float[Array, ""]
    num_points: Int[Array, ""]
    num_left_out: Int[Array, ""]
    converged: Bool[Array, ""]
    status: Int[Array, ""]


def fit_scale_free(
    edges: Float[Array, " edge"],
    energies: Float[Array, "time shell"],
    times: Float[Array, " time"],
    *,
    errors: Float[Array, "time shell"] | None = None,
    equation: Equation = "conservative",
    floor: float = 1e-6,
) -> ScaleFreeFit:
    """Fit c0 and p, with an amplitude and an initial cutoff, to shell profiles at several times.

    Least squares of ``ln E`` against `lnpjax.theory.shells.log_shell_energies`, by the method
    of Levenberg and Marquardt from several starts. The profile at the first time is a power of the
    eigenvalue with an exponential cutoff that is fitted too, so nothing is assumed about what
    happened before. c0 shows itself twice, in how low shells rise or fall and in how the frontier
    moves; the two equations differ in the first, so the residuals tell them apart.

    Args:
        edges: K + 1 increasing positive shell boundaries.
        energies: ``(T, K)``, E of every shell at every time, T >= 2.
        times: T increasing positive times, of gradient flow: accumulated learning rates, in units
            that are the inverse of those of `edges`.
        errors: optional standard errors of `energies`; the fit weights ``ln E`` with E / error.
        equation: whose solution is fitted, "conservative" or "advective".
        floor: energies below this share of the largest one at their time are left out: rounding and
            unresolved modes make the far side of the frontier.

    Returns:
        The `ScaleFreeFit`.

    Raises:
        TypeError: if `energies` or `errors` are not arrays of real floating-point numbers.
        ValueError: for an unknown equation, shapes that disagree, fewer than two times; and, where
            values are known, for edges or times that do not increase, or errors that are not
            positive.

    Cost: some thousand evaluations of all shell energies.

    Example:
        >>> from lnpjax.theory.shells import ScaleFree, shell_energies
        >>> edges, times = jnp.logspace(-3, 1, 13), jnp.array([1.0, 3.0, 10.0])
        >>> measured = shell_energies(ScaleFree(c0=0.3, p=-0.5, cutoff=1.0), edges, times)
        >>> fit = fit_scale_free(edges, measured, times)
        >>> print(f"{fit.model.c0:.2f} {fit.model.p:.2f} {bool(fit.converged)}")
        0.30 -0.50 True
    """
    check_equation(equation)
    edges, times = check_edges(edges), check_times(times)
    energies, inverse_errors, used = _check_energies(energies, errors, edges, times, floor)
    dtype = accumulation_dtype()
    logs = jnp.log(jnp.where(used, energies, 1))
    middle = jnp.log(edges[0] * edges[-1]) / 2

    def model_of(parameters: Array) -> ScaleFree:
        c0, p, log_middle, log_cutoff = parameters
        # The density at the middle of the range, unlike that at 1, hardly depends on p.
        amplitude = jnp.exp(log_middle - (p + 1) * middle)
        return ScaleFree(c0, p, amplitude, times[0], jnp.exp(log_cutoff))

    def residuals(parameters: Array) -> Array:
        fitted = log_shell_energies(model_of(parameters), edges, times, equation=equation)
        return jnp.where(used, (fitted - logs) * inverse_errors, 0).ravel()

    weights = jnp.where(used[0], energies[0], 0)
    mean_log = jnp.sum(weights * jnp.log(edges[1:] * edges[:-1]) / 2) / jnp.sum(weights)

    def start(c0_and_p: Array) -> Array:
        level = jnp.sum(jnp.where(used, logs, 0)) / jnp.maximum(jnp.sum(used), 1)
        return jnp.concatenate([c0_and_p, jnp.stack([level, -mean_log])])

    ends, costs = jax.vmap(lambda s: _levenberg_marquardt(residuals, start(s)))(
        jnp.asarray(_STARTS, dtype)
    )
    parameters = ends[jnp.argmin(jnp.where(jnp.isfinite(costs), costs, jnp.inf))]

    r, jacobian = residuals(parameters), jax.jacfwd(residuals)(parameters)
    num_points = jnp.sum(used, dtype=jnp.int32)
    enough = num_points > len(parameters)
    cost = jnp.sum(r**2)
    gain = cost - jnp.sum((r - jacobian @ jnp.linalg.lstsq(jacobian, r)[0]) ** 2)
    # What rounding alone makes of the squares.
    rounding = jnp.sum((jnp.finfo(dtype).eps * inverse_errors * jnp.where(used, logs, 0)) ** 2)
    freedom = jnp.maximum(num_points - len(parameters), 1)
    variance = cost / freedom if errors is None else jnp.ones_like(cost)
    standard_errors = jnp.sqrt(variance * jnp.diagonal(jnp.linalg.inv(jacobian.T @ jacobian)))

    def where_enough(x: Array) -> Array:
        return jnp.where(enough, x, jnp.nan)

    return ScaleFreeFit(
        model=jax.tree.map(where_enough, model_of(parameters)),
        standard_errors=where_enough(standard_errors),
        residual=where_enough(jnp.sqrt(cost / jnp.maximum(num_points, 1))),
        num_points=num_points,
        num_left_out=jnp.int32(used.size) - num_points,
        converged=enough & (gain <= 1e-3 * cost + 1e4 * rounding),
        status=flag(~enough, Status.TOO_FEW_POINTS),
    )


def _levenberg_marquardt(
    residuals: Callable[[Array], Array], start: Float[Array, " k"]
) -> tuple[Float[Array, " k"], Float[Array, ""]]:
    """Return the parameters at a minimum of the sum of squares, and the sum there."""

    def iteration(state: tuple[Array, Array, Array], _: None) -> tuple[Any, None]:
        parameters, cost, damping = state
        r, jacobian = residuals(parameters), jax.jacfwd(residuals)(parameters)
        normal = jacobian.T @ jacobian
        # Scaled by its diagonal, so that the damping knows no units; a parameter without effect
        # keeps a one there.
        scale = jnp.sqrt(jnp.diagonal(normal))
        scale = jnp.where(scale > 0, scale, 1)
        damped = normal / jnp.outer(scale, scale) + damping * jnp.eye(len(scale))
        step = jnp.linalg.solve(damped, jacobian.T @ r / scale) / scale
        candidate = parameters - step
        new_cost = jnp.sum(residuals(candidate) ** 2)
        better = new_cost < cost  # False for NaN
        floor = jnp.finfo(damping.dtype).eps
        return (
            jnp.where(better, candidate, parameters),
            jnp.where(better, new_cost, cost),
            jnp.clip(jnp.where(better, damping / 5, damping * 4), floor, 1 / floor),
        ), None

    first = (start, jnp.sum(residuals(start) ** 2), jnp.ones((), start.dtype))
    (parameters, cost, _), _ = jax.lax.scan(iteration, first, length=_ITERATIONS)
    return parameters, cost


def _check_energies(
    energies: Any, errors: Any, edges: Array, times: Array, floor: Any
) -> tuple[Array, Array, Array]:
    """Return energies, weights of their logarithms, and which of them take part."""
    check_floating("energies", energies)
    expected = (len(times), len(edges) - 1)
    require(
        energies.shape == expected,
        "energies",
        expected=f"shape {expected}: times by shells",
        got=energies.shape,
    )
    require(0 <= floor < 1, "floor", expected="a number in [0, 1)", got=floor)
    energies = jnp.asarray(energies, accumulation_dtype())
    finite = jnp.isfinite(energies)
    largest = jnp.max(jnp.where(finite, energies, 0), axis=-1, keepdims=True)
    used = finite & (energies > 0) & (energies >= floor * largest)
    if errors is None:
        return energies, jnp.ones_like(energies), used
    check_floating("errors", errors)
    require(
        errors.shape == expected,
        "errors",
        expected=f"shape {expected}, as energies",
        got=errors.shape,
    )
    errors = check_positive("errors", errors)
    return energies, jnp.where(used, energies / errors, 0), used
