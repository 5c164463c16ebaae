"""Shell energies against plain binning, their sums, and what is refused."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from lnpjax import eigenmodes, entk, spectral_measure
from lnpjax.jacobian import observable, residual
from lnpjax.shells import (
    function_space_measure,
    log_shells,
    shell_centers,
    shell_dissipation,
    shell_energies,
    shell_minimum_energies,
)
from lnpjax.shells._energies import shell_indices


def random_measure(seed=0, size=200):
    generator = np.random.default_rng(seed)
    nodes = 10 ** generator.uniform(-4, 3, size)
    return jnp.asarray(nodes), jnp.asarray(generator.exponential(size=size))


@functools.cache
def mlp_error():
    case = zoo.build("mlp")
    error = observable(case.apply_fn, residual)
    kernel = jax.jit(lambda params: entk(error, params, case.batch_a))(case.params)
    return case, error, kernel, error(case.params, case.batch_a)


@pytest.mark.parametrize(
    ("low", "high", "ratio", "num_shells"),
    [(1e-3, 1.0, 10.0, 3), (1.0, 1024.0, 2.0, 10), (1.0, 1025.0, 2.0, 11), (1.0, 1.5, 2.0, 1)],
)
def test_edges_are_geometric_and_cover_the_range(x64, low, high, ratio, num_shells):
    edges = log_shells(low, high, ratio=ratio)
    np.testing.assert_allclose(edges, low * ratio ** np.arange(num_shells + 1), rtol=1e-14)
    assert edges[-1] >= high * (1 - 1e-14)
    np.testing.assert_allclose(shell_centers(edges), edges[:-1] * ratio**0.5, rtol=1e-14)


def test_shells_are_half_open_with_a_remainder_below_and_none_above():
    edges = jnp.array([1.0, 2.0, 4.0])
    nodes = jnp.array([-1.0, 0.0, 0.999, 1.0, 1.999, 2.0, 3.999, 4.0, 1e30])
    assert shell_indices(nodes, edges).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]


def test_energies_dissipation_and_minima_against_a_loop(x64):
    nodes, weights = random_measure()
    edges = log_shells(1e-3, 100.0, ratio=3.0)
    bounds = [-np.inf, *np.asarray(edges)[:-1], np.inf]
    energies = shell_energies(nodes, weights, edges)
    dissipation = shell_dissipation(nodes, weights, edges)
    minima = shell_minimum_energies(nodes, weights, edges)
    assert energies.shape == dissipation.shape == minima.shape == edges.shape
    for i in range(len(edges)):
        inside = [
            (n, w)
            for n, w in zip(nodes.tolist(), weights.tolist(), strict=True)
            if bounds[i] <= n < bounds[i + 1]
        ]
        assert inside
        np.testing.assert_allclose(energies[i], sum(w / 2 for _, w in inside), rtol=1e-13)
        np.testing.assert_allclose(dissipation[i], sum(n * w for n, w in inside), rtol=1e-13)
        np.testing.assert_allclose(minima[i], min(w / 2 for _, w in inside), rtol=1e-15)
    assert jnp.isnan(shell_minimum_energies(nodes[:1], weights[:1], edges)).sum() == len(edges) - 1


def test_energies_of_a_network_add_up_to_its_loss(x64):
    """Section 3.2; and the dissipation to the rate of the loss under gradient flow."""
    _, _, kernel, error = mlp_error()
    modes = jax.jit(eigenmodes)(kernel, error)
    edges = log_shells(1.0, 10.0)
    measure = modes.eigenvalues, modes.projections**2
    np.testing.assert_allclose(
        jnp.sum(shell_energies(*measure, edges)), jnp.sum(error**2) / 2, rtol=1e-12
    )
    flat = error.ravel()
    np.testing.assert_allclose(
        jnp.sum(shell_dissipation(*measure, edges)), flat @ kernel @ flat, rtol=1e-12
    )


def test_lanczos_measure_gives_the_energies_of_exact_modes(x64):
    case, error_fn, kernel, error = mlp_error()
    modes = jax.jit(eigenmodes)(kernel, error)
    measure = jax.jit(
        lambda params: spectral_measure(
            error_fn, params, case.batch_a, error, num_matvecs=error.size
        )
    )(case.params)
    edges = log_shells(float(modes.eigenvalues[-2]), float(modes.eigenvalues[0]), ratio=3.0)
    np.testing.assert_allclose(
        shell_energies(measure.nodes, measure.weights * measure.total, edges * 0.9),
        shell_energies(modes.eigenvalues, modes.projections**2, edges * 0.9),
        rtol=1e-8,
    )


def test_function_space_measure_is_that_of_means_over_samples(x64):
    """Section 2: eigenvalues of ``J J^T / n``, and components with ``<f, g> = mean f g``."""
    _, _, kernel, error = mlp_error()
    kernel, error = kernel[::3, ::3], error.ravel()[::3]  # the first output of each sample
    num_points = error.size
    values, vectors = np.linalg.eigh(kernel / num_points)
    functions = vectors * np.sqrt(num_points)  # of unit mean square
    components = np.mean(functions * np.asarray(error)[:, None], axis=0)
    modes = jax.jit(eigenmodes)(kernel, error)
    nodes, weights = function_space_measure(
        modes.eigenvalues, modes.projections**2, num_points=num_points
    )
    np.testing.assert_allclose(nodes[::-1], values, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(weights[::-1], components**2, rtol=1e-8, atol=1e-12)


def test_jit_and_vmap_change_nothing():
    nodes, weights = random_measure()
    edges = log_shells(1e-3, 100.0)
    for function in (shell_energies, shell_dissipation, shell_minimum_energies):
        plain = function(nodes, weights, edges)
        np.testing.assert_allclose(jax.jit(function)(nodes, weights, edges), plain, rtol=1e-6)
        stacked = jax.vmap(function, (0, 0, None))(
            jnp.stack([nodes, nodes[::-1]]), jnp.stack([weights, weights[::-1]]), edges
        )
        np.testing.assert_allclose(stacked, jnp.stack([plain, plain]), rtol=1e-5)
        assert plain.dtype == jnp.float32


def test_nan_is_not_lost():
    edges = jnp.array([1.0, 2.0])
    energies = jax.jit(shell_energies)(jnp.array([0.5, jnp.nan]), jnp.ones(2), edges)
    assert energies[0] == 0.5
    assert jnp.isnan(energies[1])


GOOD = {"nodes": jnp.ones(2), "weights": jnp.ones(2), "edges": jnp.array([1.0, 2.0])}


@pytest.mark.parametrize("function", [shell_energies, shell_dissipation, shell_minimum_energies])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"nodes": [1.0, 2.0]}, TypeError, "nodes: .* got list"),
        ({"nodes": jnp.ones(3)}, ValueError, r"weights: .*shape \(3,\)"),
        ({"nodes": jnp.ones((1, 2))}, ValueError, "nodes: expected a vector"),
        ({"nodes": jnp.array([1.0, jnp.inf])}, ValueError, "nodes: expected finite"),
        ({"nodes": jnp.ones(0), "weights": jnp.ones(0)}, ValueError, "nodes: .*at least one"),
        ({"weights": jnp.array([1.0, -1.0])}, ValueError, r"weights: .*got \[-1.0\]"),
        ({"weights": jnp.array([1, 1])}, TypeError, "weights: .*int32"),
        ({"edges": jnp.array([1.0])}, ValueError, "edges: .*at least 2 shell edges"),
        ({"edges": jnp.array([1.0, 1.0])}, ValueError, "edges: .*strictly ascending"),
        ({"edges": jnp.array([0.0, 1.0])}, ValueError, "edges: expected positive"),
        ({"edges": jnp.array([1, 2])}, TypeError, "edges: .*int32"),
    ],
)
def test_bad_measures_are_refused(function, changes, error, message):
    with pytest.raises(error, match=message):
        function(**(GOOD | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ratio": 1.0}, ValueError, "ratio: .*> 1, got 1.0"),
        ({"ratio": jnp.nan}, ValueError, "ratio: .*got nan"),
        ({"low": 0.0}, ValueError, "low: expected a number > 0, got 0.0"),
        ({"low": 1e-39}, ValueError, "low: .*smallest normal one, got 1e-39"),
        ({"high": 1.0}, ValueError, "high: .*above low=1.0"),
        ({"high": jnp.inf}, ValueError, "high: .*got inf"),
        ({"low": "1"}, TypeError, "low: expected a number"),
    ],
)
def test_bad_shells_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        log_shells(**({"low": 1.0, "high": 8.0} | changes))


def test_shells_must_be_known_outside_of_jit():
    with pytest.raises(TypeError, match=r"high: .*known outside of jit"):
        jax.jit(lambda high: log_shells(1.0, high))(8.0)


@pytest.mark.parametrize("num_points", [0, -1, 2.0])
def test_bad_number_of_points_is_refused(num_points):
    with pytest.raises(ValueError, match="num_points: expected an integer >= 1"):
        function_space_measure(jnp.ones(1), jnp.ones(1), num_points=num_points)
