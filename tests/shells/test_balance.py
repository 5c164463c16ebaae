"""The balance over checkpoints against exact fluxes and integrals."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.shells import (
    boundary_flux,
    energy_balance_residual,
    renormalisability_ratio,
    shell_dissipation,
    shell_energies,
)
from lnpjax.shells._fluxes import fluxes_of_kernel

EDGES = np.array([0.5, 2.0, 8.0])
VALUES = np.array([3.0, 1.0, 0.2])
SPEED = 0.7


def kernel_at(time):
    """A kernel whose first two eigenvectors turn at `SPEED`; its eigenvalues stay."""
    c, s = jnp.cos(SPEED * time), jnp.sin(SPEED * time)
    rotation = jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return rotation @ jnp.diag(jnp.asarray(VALUES)) @ rotation.T


def error_at(time):
    """The flow ``de/dt = -M e``, which is that of a constant matrix in the turning frame."""
    generator = SPEED * jnp.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    frame = -(jnp.diag(jnp.asarray(VALUES)) + generator)
    turned = jax.scipy.linalg.expm(time * frame) @ jnp.array([1.0, 2.0, 3.0])
    c, s = jnp.cos(SPEED * time), jnp.sin(SPEED * time)
    return jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ turned


TIMES = np.linspace(0.0, 0.8, 33)


@functools.cache
def exact():
    """Energies, dissipation and fluxes at `TIMES`, in float64."""

    def balance(time):
        kernel, kernel_rate = jax.jvp(kernel_at, (time,), (jnp.ones_like(time),))
        error, error_rate = jax.jvp(error_at, (time,), (jnp.ones_like(time),))
        return fluxes_of_kernel(kernel, kernel_rate, error, error_rate, jnp.asarray(EDGES))

    return jax.jit(jax.vmap(balance))(jnp.asarray(TIMES))


def test_residual_is_the_net_flux_to_second_order(x64):
    balance, errors, middle = exact(), [], 16
    for reach in (8, 4, 2):
        ends = np.array([middle - reach, middle + reach])
        found = energy_balance_residual(
            balance.energies[ends], balance.dissipation[ends], jnp.asarray(TIMES[ends])
        )
        assert found.shape == (1, len(EDGES))
        errors.append(float(jnp.max(jnp.abs(found[0] - balance.net[middle]))))
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 4, rtol=0.05)
    assert float(jnp.max(jnp.abs(balance.net[middle]))) > 50 * errors[-1]


def test_uneven_checkpoints(x64):
    balance, chosen = exact(), np.array([0, 1, 5, 32])
    energies, dissipation = np.asarray(balance.energies), np.asarray(balance.dissipation)
    found = energy_balance_residual(
        jnp.asarray(energies[chosen]), jnp.asarray(dissipation[chosen]), jnp.asarray(TIMES[chosen])
    )
    for row, (i, j) in zip(found, itertools.pairwise(chosen), strict=True):
        rate = (energies[j] - energies[i]) / (TIMES[j] - TIMES[i])
        np.testing.assert_allclose(row, rate + (dissipation[i] + dissipation[j]) / 2, rtol=1e-12)


def test_pure_dissipation_leaves_only_its_own_discretisation(x64):
    """Negative control: a frozen kernel, where each shell of one mode decays exponentially.

    What is left is the error of the trapezoidal rule, ``h^2 D'' / 12`` with ``D'' = 4 l^2 D``.
    """
    step = 0.005
    times = jnp.array([0.0, step, 2 * step])
    energies = jnp.exp(-2 * times[:, None] * jnp.asarray(VALUES)) / 2
    dissipation = 2 * jnp.asarray(VALUES) * energies
    left = energy_balance_residual(energies, dissipation, times)
    middle = (dissipation[1:] + dissipation[:-1]) / 2
    np.testing.assert_allclose(left, step**2 * VALUES**2 * middle / 3, rtol=1e-2)
    # With half the dissipation, as if an energy had no factor 1/2, the balance stays open.
    wrong = energy_balance_residual(energies, dissipation / 2, times)
    assert float(jnp.max(jnp.abs(wrong))) > 1


def test_a_mode_that_crosses_an_edge_takes_its_energy_along(x64):
    """Eigenvalues drift and eigenvectors stay: equation 3 has no flux, the balance still closes."""
    times = np.linspace(0.0, 0.01, 3)
    nodes = np.array([[1.95, 0.7], [1.99, 0.7], [2.03, 0.7]])  # past the edge at 2
    weights = np.exp(-2 * times[:, None] * nodes)
    measures = jnp.asarray(nodes), jnp.asarray(weights), jnp.asarray(EDGES)
    energies = jax.vmap(shell_energies, (0, 0, None))(*measures)
    dissipation = jax.vmap(shell_dissipation, (0, 0, None))(*measures)
    gained = energy_balance_residual(energies, dissipation, jnp.asarray(times)) * 0.005
    np.testing.assert_allclose(gained[0], 0, atol=1e-3)
    np.testing.assert_allclose(gained[1], [0, -0.5, 0.5], atol=2e-2)
    np.testing.assert_allclose(jnp.sum(gained[1]), 0, atol=1e-3)


def test_boundary_flux_is_what_crosses_the_edges(x64):
    balance = exact()
    crossing = boundary_flux(balance.net)
    np.testing.assert_allclose(crossing[:, 1], balance.fluxes[:, 2, 1], rtol=1e-12)
    np.testing.assert_allclose(crossing[:, 2], 0, atol=1e-14)
    np.testing.assert_allclose(crossing[:, 0], 0, atol=1e-14)  # the third mode does not turn
    assert float(jnp.max(jnp.abs(crossing))) > 1


def test_ratio_against_closed_integrals(x64):
    """``|J| = |cos t|`` and ``D = 2 + sin t`` over two periods."""
    times = jnp.linspace(0.0, 4 * np.pi, 4001)
    ratio = renormalisability_ratio(jnp.cos(times)[:, None], 2 + jnp.sin(times)[:, None], times)
    assert ratio.shape == (4000, 1)
    np.testing.assert_allclose(ratio[-1], 8 / (8 * np.pi), rtol=1e-5)
    quarter = 500 - 1  # end time pi / 2
    np.testing.assert_allclose(ratio[quarter], 1 / (np.pi + 1), rtol=1e-5)


def test_ratio_takes_means_over_intervals():
    times = jnp.array([0.0, 1.0, 3.0])
    dissipation = jnp.full((3, 1), 2.0)
    ratio = renormalisability_ratio(jnp.array([[-4.0], [1.0]]), dissipation, times)
    np.testing.assert_allclose(ratio, [[2.0], [1.0]])
    nothing = renormalisability_ratio(jnp.zeros((3, 1)), jnp.zeros((3, 1)), times)
    assert bool(jnp.all(jnp.isnan(nothing)))
    assert bool(jnp.all(renormalisability_ratio(dissipation, 0 * dissipation, times) == jnp.inf))


def test_jit_and_vmap_change_nothing(x64):
    balance, times = exact(), jnp.asarray(TIMES)
    plain = energy_balance_residual(balance.energies, balance.dissipation, times)
    compiled = jax.jit(energy_balance_residual)(balance.energies, balance.dissipation, times)
    np.testing.assert_allclose(compiled, plain, rtol=1e-12, atol=1e-12)
    ratio = renormalisability_ratio(balance.boundary, balance.dissipation, times)
    several = jax.jit(jax.vmap(renormalisability_ratio, (0, None, None)))(
        jnp.stack([balance.boundary, 2 * balance.boundary]), balance.dissipation, times
    )
    np.testing.assert_allclose(several, [ratio, 2 * ratio], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"times": jnp.array([0.0])}, ValueError, r"times: .*at least 2"),
        ({"times": jnp.array([0.0, 0.0])}, ValueError, r"times: .*ascending"),
        ({"times": jnp.array([0, 1])}, TypeError, r"times: .*int32"),
        ({"energies": jnp.ones((3, 2))}, ValueError, r"energies: expected 2 rows"),
        ({"energies": jnp.ones((2, 3))}, ValueError, r"dissipation: .*shape of energies"),
        ({"dissipation": jnp.ones(2)}, ValueError, r"dissipation: .*got shape \(2,\)"),
        ({"energies": jnp.full((2, 2), jnp.nan)}, ValueError, r"energies: expected finite"),
    ],
)
def test_bad_series_are_refused(changes, error, message):
    good = {
        "energies": jnp.ones((2, 2)),
        "dissipation": jnp.ones((2, 2)),
        "times": jnp.array([0.0, 1.0]),
    }
    with pytest.raises(error, match=message):
        energy_balance_residual(**(good | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boundary": jnp.ones((4, 2))}, r"boundary: expected 3 or 2 rows"),
        ({"boundary": jnp.ones((3, 1))}, r"boundary: expected 2 columns"),
        ({"dissipation": jnp.full((3, 2), -1.0)}, r"dissipation: expected finite numbers >= 0"),
    ],
)
def test_bad_ratios_are_refused(changes, message):
    good = {
        "boundary": jnp.ones((3, 2)),
        "dissipation": jnp.ones((3, 2)),
        "times": jnp.array([0.0, 1.0, 2.0]),
    }
    with pytest.raises(ValueError, match=message):
        renormalisability_ratio(**(good | changes))


def test_a_scalar_has_no_boundaries():
    with pytest.raises(ValueError, match=r"net_flux: expected an axis of shells"):
        boundary_flux(jnp.ones(()))
