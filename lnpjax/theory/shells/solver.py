"""A numerical solution of the transport-dissipation equation, for any drift and initial spectrum.

With ``x = ln lambda`` and ``h = lambda eps``, the energy per unit of x, *Spectral shells*, eq. 7,
reads ``d_t h + d_x((v / lambda) h) = -2 lambda h``. Here it is a conservative
difference scheme on points even in x, with upwind fluxes between them, and Runge-Kutta steps even
in ``ln t`` in which the dissipation, stiff at large eigenvalues, enters by its exact exponential.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lnpjax._base.checks import check_count, concrete, require
from lnpjax.status import Status, flag
from lnpjax.theory.shells.transport import (
    Equation,
    Scalar,
    check_equation,
    check_positive,
    check_times,
)

Drift: TypeAlias = Callable[[Array, Array], Array]
# The flux at the right edge of point j from points j-2, ..., j+2, for a drift to the right (Shu and
# Osher's difference form of upwind-biased reconstruction), by order.
_RECONSTRUCTION = {
    1: np.array([0, 0, 1, 0, 0]),
    3: np.array([0, -1, 5, 2, 0]) / 6,
    5: np.array([2, -13, 47, 27, -3]) / 60,
}
_GHOSTS = 3
_MIN_POINTS = 2 * _GHOSTS
# A continuation beyond an end of the grid rises no faster than this power: what lies there may be
# rounding, far beyond the cutoff, and the ratio of two such numbers anything.
_STEEPEST = 4
# A little less than the stability limit of the least stable of the three with RK4.
_MAX_COURANT = 1.2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TransportSolution:
    """A solution at the requested times, with the books of its energy; made by `solve_transport`.

    ``energy[k] - energy[0] = created[k] - dissipated[k] - outflow[k]`` to the order of the
    time steps.

    Attributes:
        density: eps, energy per eigenvalue, ``(time, point)``.
        energy: over the range of the grid, ``sum eps lambda dx``.
        dissipated: energy dissipated since the first time.
        outflow: energy that has left across both ends of the grid, less what came in.
        created: energy that transport has made; zero for the conservative equation.
        courant: the largest Courant number, grid cells crossed in a step; beyond 1.2 the scheme is
            unstable.
        status: `lnpjax.Status` flags; `NON_FINITE` where the solution broke down.
    """

    density: Float[Array, "time point"]
    energy: Float[Array, " time"]
    dissipated: Float[Array, " time"]
    outflow: Float[Array, " time"]
    created: Float[Array, " time"]
    courant: Float[Array, ""]
    status: Int[Array, ""]


def log_grid(lambda_min: Scalar, lambda_max: Scalar, num_points: int) -> Float[Array, " point"]:
    """Return centres of cells that divide ``[lambda_min, lambda_max]`` evenly in the logarithm.

    Args:
        lambda_min: lower end, > 0.
        lambda_max: upper end, larger.
        num_points: how many cells, at least 6.

    Raises:
        ValueError: if the range is empty or known not to be positive, or there are too few points.

    Example:
        >>> print(*(f"{point:.2f}" for point in log_grid(1.0, 64.0, 6)))
        1.41 2.83 5.66 11.31 22.63 45.25
    """
    check_count("num_points", num_points, least=_MIN_POINTS)
    lower = check_positive("lambda_min", lambda_min)
    upper = check_positive("lambda_max", lambda_max)
    ends = concrete(lower), concrete(upper)
    require(
        ends[0] is None or ends[1] is None or bool(ends[0] < ends[1]),
        "lambda_max",
        expected=f"more than lambda_min = {lambda_min}",
        got=lambda_max,
    )
    cells = (jnp.arange(num_points) + 0.5) / num_points
    return lower * (upper / lower) ** cells


def solve_transport(
    initial_density: Float[Array, " point"],
    eigenvalues: Float[Array, " point"],
    times: Float[Array, " time"],
    *,
    drift: Drift,
    equation: Equation = "conservative",
    order: int = 5,
    substeps: int = 32,
) -> TransportSolution:
    """Solve ``d_t eps + d_lambda(v eps) = -2 lambda eps``, or its advective relative.

    *Spectral shells*, eq. 7. At both ends of the grid the spectrum is continued as the power law
    through its last two points (in ``lambda eps``, at most the fourth power upwards): what flows in
    is an assumption, and harmless where the energy there is small.

    Args:
        initial_density: eps at the first time, at every point.
        eigenvalues: at least 6 points even in ``ln lambda``, as of `log_grid`.
        times: increasing and positive; the first is that of `initial_density`.
        drift: ``v(lambda, t)``, elementwise in lambda; per time squared.
        equation: "conservative", or "advective" for ``d_t eps + v d_lambda eps = -2 lambda eps``.
        order: 1, 3 or 5: the error falls like this power of the spacing, where the solution is
            smooth; the first one also keeps densities positive.
        substeps: Runge-Kutta steps of order 4 between two times. Each must not carry energy further
            than 1.2 cells.

    Returns:
        The `TransportSolution` at all times, the first included.

    Raises:
        TypeError: if `drift` is not callable.
        ValueError: if shapes disagree, for an unknown equation or order, and, where values are
            known, for points that are not even in the logarithm, times that do not increase, or
            steps that are too long (inside `jit`, look at `courant`).

    Cost: four evaluations of the fluxes, each O(points), per step.

    Example:
        Without drift there is only dissipation:

        >>> grid = log_grid(0.1, 10.0, 8)
        >>> still = lambda eigenvalues, time: jnp.zeros_like(eigenvalues)
        >>> solution = solve_transport(jnp.ones(8), grid, jnp.array([1.0, 2.0]), drift=still)
        >>> bool(jnp.allclose(solution.density[1], jnp.exp(-2 * grid)))
        True
    """
    check_equation(equation)
    require(order in _RECONSTRUCTION, "order", expected="1, 3 or 5", got=order)
    check_count("substeps", substeps)
    require(
        callable(drift),
        "drift",
        expected="a function v(lambda, t)",
        got=type(drift).__name__,
        error=TypeError,
    )
    grid, times = _check_grid(eigenvalues), check_times(times)
    density = check_positive("initial_density", initial_density, zero=True)
    require(
        density.shape == grid.shape,
        "initial_density",
        expected=f"shape {grid.shape}, as eigenvalues",
        got=density.shape,
    )
    scheme = _Scheme(grid, drift, equation, order)
    fractions = jnp.arange(substeps + 1) / substeps
    steps = times[:-1, None] * (times[1:] / times[:-1])[:, None] ** fractions
    courant = jnp.max(jax.vmap(scheme.courant)(steps[:, :-1].ravel(), steps[:, 1:].ravel()))
    largest = concrete(courant)
    require(
        largest is None or bool(largest <= _MAX_COURANT),
        "substeps",
        expected=f"enough of them for at most {_MAX_COURANT} cells per step",
        got=f"{substeps}, which make {courant}",
    )

    def interval(state: Any, edges: Array) -> tuple[Any, Any]:
        state, _ = jax.lax.scan(
            lambda s, step: (scheme.step(s, *step), None), state, (edges[:-1], edges[1:])
        )
        return state, state

    first = (density * grid, jnp.zeros(3, density.dtype))
    _, rest = jax.lax.scan(interval, first, steps)
    h, books = (jnp.concatenate([a[None], b]) for a, b in zip(first, rest, strict=True))
    return TransportSolution(
        density=h / grid,
        energy=jnp.sum(h, axis=-1) * scheme.dx,
        dissipated=books[:, 0],
        outflow=books[:, 1],
        created=books[:, 2],
        courant=courant,
        status=flag(~jnp.all(jnp.isfinite(h)), Status.NON_FINITE),
    )


class _Scheme:
    """The fluxes on one grid, and the step that uses them."""

    def __init__(self, grid: Array, drift: Drift, equation: Equation, order: int) -> None:
        self.grid, self.drift, self.equation = grid, drift, equation
        self.dx = jnp.log(grid[-1] / grid[0]) / (len(grid) - 1)
        cells = jnp.arange(-_GHOSTS, len(grid) + _GHOSTS)
        self.extended = grid[0] * jnp.exp(self.dx * cells)
        self.edges = grid[0] * jnp.exp(self.dx * (jnp.arange(len(grid) + 1) - 0.5))
        self.weights = jnp.asarray(_RECONSTRUCTION[order], grid.dtype)

    def courant(self, start: Array, end: Array) -> Array:
        """Count the cells that energy crosses in a step, at the velocity of its start."""
        speed = self.drift(self.edges, start) / self.edges
        return jnp.max(jnp.abs(speed)) * start * jnp.log(end / start) / self.dx

    def rates(self, h: Array, time: Array) -> tuple[Array, Array]:
        """Return ``d h / d ln t`` without dissipation, and its books."""
        flux = self._fluxes(_continue(h, jnp.exp(_STEEPEST * self.dx)), time)
        created = jnp.zeros_like(h)
        if self.equation == "advective":
            _, stretching = jax.jvp(
                lambda grid: self.drift(grid, time), (self.grid,), (jnp.ones_like(self.grid),)
            )
            created = stretching * h
        change = created - jnp.diff(flux) / self.dx
        books = jnp.stack(
            [
                jnp.sum(2 * self.grid * h) * self.dx,
                flux[-1] - flux[0],
                jnp.sum(created) * self.dx,
            ]
        )
        return time * change, time * books

    def _fluxes(self, extended: Array, time: Array) -> Array:
        """Return the energy per time across every edge, from the points upwind of it."""
        at_points = self.drift(self.extended, time) / self.extended * extended
        rightward = jnp.convolve(at_points, self.weights[::-1], mode="valid")[:-1]
        leftward = jnp.convolve(at_points, self.weights, mode="valid")[1:]
        return jnp.where(self.drift(self.edges, time) >= 0, rightward, leftward)

    def step(self, state: tuple[Array, Array], start: Array, end: Array) -> tuple[Array, Array]:
        """Make a classical Runge-Kutta step in ``ln t`` for the dissipation-free variable."""
        h, books = state
        width, middle = jnp.log(end / start), jnp.sqrt(start * end)
        first = jnp.exp(-2 * self.grid * (middle - start))
        second = jnp.exp(-2 * self.grid * (end - middle))
        k1, b1 = self.rates(h, start)
        k2, b2 = self.rates(first * (h + width / 2 * k1), middle)
        k3, b3 = self.rates(first * h + width / 2 * k2, middle)
        k4, b4 = self.rates(second * (first * h + width * k3), end)
        change = second * (first * k1 + 2 * (k2 + k3)) + k4
        return (
            second * first * h + width / 6 * change,
            books + width / 6 * (b1 + 2 * (b2 + b3) + b4),
        )


def _continue(h: Array, steepest: Array) -> Array:
    """Add ghost points beyond both ends, on the power law through the last two points."""

    def beyond(last: Array, before: Array) -> Array:
        positive = (last > 0) & (before > 0)
        ratio = jnp.where(positive, last / jnp.where(positive, before, 1), 0)
        return last * jnp.minimum(ratio, steepest) ** jnp.arange(1, _GHOSTS + 1)

    return jnp.concatenate([beyond(h[0], h[1])[::-1], h, beyond(h[-1], h[-2])])


def _check_grid(eigenvalues: Any) -> Float[Array, " point"]:
    grid = check_positive("eigenvalues", eigenvalues)
    require(
        grid.ndim == 1 and len(grid) >= _MIN_POINTS,
        "eigenvalues",
        expected=f"a vector of at least {_MIN_POINTS} points",
        got=f"shape {grid.shape}",
    )
    points = concrete(grid)
    if points is not None:
        spacing = np.diff(np.log(points.astype(float)))
        tolerance = 100 * float(jnp.finfo(grid.dtype).eps) * np.max(np.abs(np.log(points)) + 1)
        require(
            bool((np.min(spacing) > 0) & (np.ptp(spacing) <= tolerance)),
            "eigenvalues",
            expected="increasing points even in the logarithm",
            got=f"spacings between {np.min(spacing)} and {np.max(spacing)}",
        )
    return grid
