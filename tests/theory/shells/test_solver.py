"""The numerical solution against the closed forms, and its order of convergence."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.status import Status
from lnpjax.theory.shells import log_grid, scale_free, solve_transport
from lnpjax.theory.shells import transport as shells

EQUATIONS = ("conservative", "advective")
TIMES = np.array([1.0, 2.0, 6.0])


def hump(u):
    """Within the grid to rounding, so that its ends do not matter."""
    return jnp.exp(-((jnp.log(u) - np.log(0.05)) ** 2)) / u


def power_drift(c0):
    return functools.partial(shells.drift, c0=c0)


@functools.partial(jax.jit, static_argnames=("equation", "order", "substeps"))
def solve(initial_density, grid, c0, times=TIMES, **options):
    return solve_transport(initial_density, grid, times, drift=power_drift(c0), **options)


def largest_error(solution, exact, grid):
    """Of the energy per logarithm, relative to its peak at each time."""
    error = np.max(np.abs(solution.density - exact) * grid, axis=-1)
    return float(np.max(error / np.max(exact * grid, axis=-1)))


def error_of(num_points, order, c0, equation, solved="same"):
    grid = log_grid(1e-5, 1e3, num_points)
    solution = solve(hump(grid), grid, c0, equation=equation, order=order, substeps=num_points // 6)
    assert solution.courant < 1.2
    exact = shells.transported_density(
        hump, grid, TIMES[:, None], c0=c0, equation=equation if solved == "same" else solved
    )
    return largest_error(solution, exact, grid)


@pytest.mark.parametrize(("equation", "c0"), [("conservative", 0.7), ("advective", -0.6)])
@pytest.mark.parametrize(
    ("order", "num_points", "expected"), [(1, 240, 0.85), (3, 120, 2.8), (5, 120, 4.7)]
)
def test_order_of_convergence(x64, equation, c0, order, num_points, expected):
    coarse, fine = (error_of(n, order, c0, equation) for n in (num_points, 2 * num_points))
    assert np.log2(coarse / fine) > expected


@pytest.mark.parametrize("equation", EQUATIONS)
def test_a_fine_grid_gives_the_closed_form_and_no_other(x64, equation):
    other = EQUATIONS[equation == "conservative"]
    assert error_of(420, 5, 0.7, equation) < 1e-6
    assert error_of(120, 5, 0.7, equation, solved=other) > 0.1


@pytest.mark.parametrize(
    ("equation", "c0", "p"), [("conservative", 0.5, 0.4), ("advective", -0.4, -0.5)]
)
def test_power_laws_flow_in_across_the_lower_end(x64, equation, c0, p):
    model, grid = scale_free.self_similar(c0, p), log_grid(1e-4, 1e2, 300)
    solution = solve(model.initial_density(grid), grid, c0, equation=equation, substeps=60)
    exact = scale_free.energy_density(model, grid, TIMES[:, None], equation=equation)
    assert largest_error(solution, exact, grid) < 1e-6
    losses = scale_free.loss(model, TIMES, lambda_min=1e-4, equation=equation)
    np.testing.assert_allclose(solution.energy, losses, rtol=1e-5)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_the_books_balance(x64, equation):
    def imbalance(substeps):
        grid = log_grid(1e-5, 10.0, 120)
        solution = solve(hump(grid), grid, 0.7, equation=equation, substeps=substeps)
        books = solution.created - solution.dissipated - solution.outflow
        assert solution.dissipated[-1] > 0.3 * solution.energy[0]
        return float(jnp.max(jnp.abs(solution.energy - solution.energy[0] - books)))

    coarse, fine = imbalance(20), imbalance(40)
    assert fine < 1e-5
    assert np.log2(coarse / fine) > 3.5


def test_transport_alone_conserves_energy_to_rounding(x64):
    """Eigenvalues too small to dissipate, and a drift that is no power law and changes sign."""
    grid = log_grid(1e-13, 1e-7, 200)

    def drift(eigenvalues, time):
        return eigenvalues * jnp.cos(jnp.log(eigenvalues) + time)

    start = jnp.exp(-((jnp.log(grid) - np.log(1e-10)) ** 2)) / grid
    solution = solve_transport(start, grid, np.array([1.0, 2.0]), drift=drift, substeps=60)
    assert float(jnp.max(jnp.abs(solution.density[1] - start) * grid)) > 0.1
    kept = solution.energy[1] + solution.outflow[1]
    assert kept == pytest.approx(float(solution.energy[0]), rel=1e-9)


def test_first_order_keeps_energies_positive(x64):
    grid = log_grid(1e-3, 10.0, 60)
    step = jnp.where(jnp.abs(jnp.log(grid) + 2) < 1, 1 / grid, 0)
    lows = {
        order: jnp.min(solve(step, grid, 0.7, order=order, substeps=32).density) for order in (1, 5)
    }
    assert lows[1] >= 0 > lows[5]


@pytest.mark.parametrize("c0", [1.5, -1.5])
@pytest.mark.parametrize("top", [1e-1, 1e4])
def test_stays_stable_whatever_lies_at_the_ends(x64, c0, top):
    """From large energies at the upper end to pure rounding."""
    grid = log_grid(1e-4, top, 100)
    solution = solve(hump(grid), grid, c0, np.array([1.0, 30.0, 900.0]), substeps=100)
    before, after = jnp.max(jnp.abs(solution.density) * grid, axis=-1)[:2]
    assert after < 2 * before
    assert jnp.all(jnp.isfinite(solution.density))
    assert jnp.max(jnp.abs(solution.density[2] * grid)) < 2 * before


def test_no_drift_is_exact_dissipation(x64):
    grid = log_grid(1e-3, 1e3, 40)
    solution = solve_transport(hump(grid), grid, TIMES, drift=power_drift(0.0), substeps=1)
    exact = hump(grid) * np.exp(-2 * grid * (TIMES[:, None] - 1))
    np.testing.assert_allclose(solution.density, exact, rtol=1e-12)
    assert not jnp.any(solution.outflow)


def test_runs_under_jit_and_reports_steps_that_are_too_long():
    grid = log_grid(1e-3, 10.0, 60)

    good = solve(hump(grid), grid, 0.5)
    assert good.density.shape == (3, 60)
    assert int(good.status) == Status.OK
    outside = solve_transport(hump(grid), grid, TIMES, drift=power_drift(0.5))
    np.testing.assert_allclose(good.energy, outside.energy, rtol=1e-5)
    assert solve(hump(grid), grid, 50.0).courant > 1.2
    assert int(solve(hump(grid), grid, 1e4).status) == Status.NON_FINITE


GRID = np.geomspace(1e-2, 1.0, 8)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"initial_density": np.ones(7)}, "initial_density"),
        ({"initial_density": -np.ones(8)}, "initial_density"),
        ({"eigenvalues": np.linspace(0.1, 1, 8)}, "eigenvalues"),
        ({"eigenvalues": GRID[::-1].copy()}, "eigenvalues"),
        ({"eigenvalues": GRID[:5]}, "eigenvalues"),
        ({"times": np.array([1.0])}, "times"),
        ({"times": np.array([2.0, 1.0])}, "times"),
        ({"times": np.array([0.0, 1.0])}, "times"),
        ({"equation": "exact"}, "equation"),
        ({"order": 2}, "order"),
        ({"substeps": 0}, "substeps"),
        ({"substeps": 1, "drift": power_drift(5.0)}, "substeps"),
    ],
)
def test_bad_input(change, argument):
    arguments = {
        "initial_density": np.ones(8),
        "eigenvalues": GRID,
        "times": TIMES,
        "drift": power_drift(0.5),
    }
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        solve_transport(**(arguments | change))


def test_bad_drift_and_grid():
    with pytest.raises(TypeError, match=r"^drift: expected"):
        solve_transport(np.ones(8), GRID, TIMES, drift=0.5)
    with pytest.raises(ValueError, match=r"^lambda_max: expected"):
        log_grid(2.0, 1.0, 8)
    with pytest.raises(ValueError, match=r"^num_points: expected"):
        log_grid(1.0, 2.0, 3)
