"""Quadrature of spectral measures against the explicit kernel's."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import Exact, Status, eigenmodes, entk, spectral_measure
from lnpjax.spectra import ritz_modes
from lnpjax.spectra._lanczos import cumulative, measure_at, quantiles


@functools.cache
def exact_modes(name):
    case = zoo.build(name)
    inputs, targets = case.batch_a

    @jax.jit
    def gradient_and_modes(params):
        gradient = jax.grad(case.loss_fn)(case.apply_fn(params, inputs), targets)
        kernel = entk(case.apply_fn, params, inputs, wrt=case.wrt)
        return gradient, eigenmodes(kernel, gradient)

    return case, *gradient_and_modes(case.params)


def measure_of(case, vector, num_matvecs, **options):
    @jax.jit
    def measure(params, vector):
        return spectral_measure(
            case.apply_fn,
            params,
            case.batch_a[0],
            vector,
            num_matvecs=num_matvecs,
            wrt=case.wrt,
            **options,
        )

    return measure(case.params, vector)


@pytest.mark.parametrize("name", ["mlp", "raw_parameters", "tied_embeddings", "custom_vjp"])
def test_moments_up_to_degree_2k_minus_1_are_exact(x64, name):
    case, gradient, modes = exact_modes(name)
    k = 4
    nodes, weights = map(np.asarray, measure_of(case, gradient, k))
    eigenvalues, gamma2 = np.asarray(modes.eigenvalues), np.asarray(modes.gamma2)
    for degree in range(2 * k):
        exact = np.sum(gamma2 * eigenvalues**degree)
        np.testing.assert_allclose(np.sum(weights * nodes**degree), exact, rtol=1e-8)
    missed = np.sum(gamma2 * eigenvalues ** (2 * k))
    assert abs(np.sum(weights * nodes ** (2 * k)) - missed) > 1e-10 * missed


def test_with_as_many_products_as_eigenvalues_it_is_the_spectrum(x64):
    case, gradient, modes = exact_modes("mlp")
    measure = measure_of(case, gradient, len(modes.p))
    np.testing.assert_allclose(measure.nodes, modes.eigenvalues, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(measure.weights, modes.gamma2, rtol=1e-6, atol=1e-10)
    assert measure.num_nodes == measure.num_converged == len(modes.p)
    assert measure.orthogonality_loss < 1e-12


def test_first_moment_is_what_lnp_measures(x64):
    case, gradient, _ = exact_modes("tied_embeddings")
    lnp = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Exact(), normalization=None)
    cheap = jax.jit(lnp)(case.params, case.batch_a)
    mean = measure_of(case, gradient, 3).mean
    np.testing.assert_allclose(mean, cheap.chi_pos * cheap.chi_net, rtol=1e-10)


def test_error_bounds_hold_and_tell_which_nodes_are_eigenvalues(x64):
    case, gradient, modes = exact_modes("tied_embeddings")
    measure = measure_of(case, gradient, 12)
    distances = np.min(np.abs(measure.nodes[:, None] - modes.eigenvalues), axis=1)
    assert np.all(distances <= measure.error_bounds + 1e-10)
    assert 0 < measure.num_converged < 12
    converged = np.asarray(measure.converged)
    assert np.all(distances[converged] <= 0.01 * measure.nodes[converged])


def test_an_invariant_subspace_ends_the_iteration_without_dividing_by_zero(x64):
    """Exactly zero links, links that are rounding, and a start along one eigenvector."""
    diagonal = np.array([5.0, 3.0, 3.0, 1.0, 0.0])
    measured = jax.jit(lambda start: measure_at(lambda v: diagonal * v, start, num_matvecs=5))
    for vector, expected in (
        (np.array([1.0, 1.0, 0.0, 0.0, 0.0]), [5.0, 3.0]),
        (np.array([0.0, 1.0, 1.0, 0.0, 0.0]), [3.0]),
        (np.ones(5), [5.0, 3.0, 1.0, 0.0]),
    ):
        measure = jax.tree.map(np.asarray, measured(vector))
        assert int(measure.num_nodes) == len(expected)
        np.testing.assert_allclose(measure.nodes[: len(expected)], expected, atol=1e-10)
        np.testing.assert_array_equal(measure.nodes[len(expected) :], 0)
        np.testing.assert_array_equal(measure.weights[len(expected) :], 0)
        np.testing.assert_allclose(np.sum(measure.weights), 1, rtol=1e-12)
        shares = [np.sum(np.where(diagonal == e, vector, 0) ** 2) for e in expected]
        np.testing.assert_allclose(
            measure.weights[: len(expected)], np.array(shares) / measure.total, atol=1e-10
        )
        assert measure.orthogonality_loss < 1e-10
        assert measure.status == Status.OK


def test_low_rank_in_single_precision():
    """A kernel of rank two: the third link is rounding, not zero."""
    factor = jax.random.normal(jax.random.key(0), (50, 2))
    kernel = lambda v: factor @ (factor.T @ v)  # noqa: E731
    measure = jax.jit(lambda start: measure_at(kernel, start, num_matvecs=8))(jnp.ones(50))
    assert int(measure.num_nodes) <= 4
    exact = jnp.linalg.eigvalsh(factor.T @ factor)[::-1]
    np.testing.assert_allclose(measure.nodes[:2], exact, rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(measure.weights), 1, rtol=1e-5)


def test_chosen_outputs_and_preconditioner(x64):
    case, gradient, _ = exact_modes("mlp")
    part = lnpjax.jacobian.select_outputs(gradient, [0, 2])
    weights = jax.tree.map(lambda leaf: 1 + leaf**2, case.params)
    options = {"outputs": [0, 2], "preconditioner": weights}
    kernel = jax.jit(lambda p: entk(case.apply_fn, p, case.batch_a[0], **options))(case.params)
    measure = measure_of(case, part, 5, **options)
    flat = part.ravel()
    for degree in (1, 5, 9):
        exact = flat @ jnp.linalg.matrix_power(kernel, degree) @ flat / (flat @ flat)
        np.testing.assert_allclose(
            jnp.sum(measure.weights * measure.nodes**degree), exact, rtol=1e-8
        )


def test_cumulative_bounds_hold_the_truth(x64):
    case, gradient, modes = exact_modes("tied_embeddings")
    at = jnp.geomspace(1e-3, 1e2, 50)
    truth = jnp.sum(jnp.where(modes.eigenvalues <= at[:, None], modes.gamma2, 0), axis=1)
    widths = []
    for k in (4, 16):
        lower, upper = jax.jit(cumulative)(*measure_of(case, gradient, k), at)
        assert np.all(lower <= truth + 1e-9)
        assert np.all(truth <= upper + 1e-9)
        widths.append(np.mean(upper - lower))
    assert widths[1] < widths[0] < 1


def test_quantiles_settle_on_those_of_the_exact_measure(x64):
    case, gradient, modes = exact_modes("llama_tied")
    levels = jnp.array([0.1, 0.5, 0.9])
    exact = quantiles(modes.eigenvalues, modes.gamma2, levels)
    errors = []
    for k in (3, 24):
        approximate = quantiles(*measure_of(case, gradient, k), levels)
        errors.append(np.max(np.abs(np.log(approximate[1:] / exact[1:]))))
    assert errors[1] < 0.25 < errors[0] * 2
    assert np.all(np.diff(exact) > 0)


@pytest.mark.parametrize(
    ("vector", "num_matvecs", "message"),
    [
        (jnp.ones((4, 2)), 2, r"vector: expected the shape of the outputs, \(4, 3\), got \(4, 2\)"),
        (jnp.zeros((4, 3)), 2, "vector: expected finite entries, not all of them zero, got zeros"),
        (jnp.full((4, 3), jnp.nan), 2, "vector: .*got NaN"),
        (jnp.ones((4, 3), int), 2, "vector: expected an array of real floating"),
        (jnp.ones((4, 3)), 0, "num_matvecs: expected an integer from 1 to 12.*got 0"),
        (jnp.ones((4, 3)), 13, "num_matvecs: .*got 13"),
    ],
)
def test_bad_input_is_named(vector, num_matvecs, message):
    case = zoo.build("mlp")
    with pytest.raises((ValueError, TypeError), match=message):
        spectral_measure(
            case.apply_fn, case.params, case.batch_a[0], vector, num_matvecs=num_matvecs
        )


def test_mass_at_zero_is_at_the_bottom():
    """Most of the vector in the null space, exactly or up to rounding."""
    weights, levels = jnp.array([0.1, 0.9]), jnp.array([0.1, 0.5, 0.9, 0.99])
    for zero in (0.0, -1e-9, 1e-9):
        found = quantiles(jnp.array([3.0, zero]), weights, levels)
        assert found.tolist() == [0.0, 0.0, 0.0, 3.0]


def test_shell_energies_are_the_exact_ones_where_lanczos_has_converged(x64):
    case, gradient, modes = exact_modes("tied_embeddings")
    measure = measure_of(case, gradient, 40)
    smallest = float(jnp.min(jnp.where(measure.converged, measure.nodes, jnp.inf)))
    edges = lnpjax.shells.log_shells(1e-3, float(modes.eigenvalues[0]) * 1.01, ratio=2.0)
    exact = lnpjax.shells.shell_energies(modes.eigenvalues, modes.projections**2, edges)
    found = lnpjax.shells.shell_energies(measure.nodes, measure.weights * measure.total, edges)
    resolved = np.append(False, np.asarray(edges[:-1]) > smallest)
    assert resolved.sum() >= 3
    scale = float(jnp.sum(exact))
    np.testing.assert_allclose(found[resolved], exact[resolved], atol=1e-3 * scale)
    np.testing.assert_allclose(jnp.sum(found), scale, rtol=1e-9)


def test_levels_outside_the_unit_interval():
    with pytest.raises(ValueError, match="levels: expected shares between 0 and 1"):
        quantiles(jnp.ones(2), jnp.ones(2), jnp.array([1.5]))


def test_zero_under_jit_is_flagged():
    case = zoo.build("mlp")
    measure = measure_of(case, jnp.zeros((4, 3)), 3)
    assert int(measure.status) & Status.ZERO_LOSS_GRADIENT
    assert np.all(np.isnan(measure.nodes))


def test_vmap_over_start_vectors(x64):
    case, gradient, _ = exact_modes("mlp")
    vectors = jnp.stack([gradient, gradient**2])
    together = jax.vmap(
        lambda v: spectral_measure(case.apply_fn, case.params, case.batch_a[0], v, num_matvecs=3)
    )(vectors)
    for i in range(2):
        alone = measure_of(case, vectors[i], 3)
        np.testing.assert_allclose(together.nodes[i], alone.nodes, rtol=1e-9)


def symmetric(size, seed=0):
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.standard_normal((size, size)))
    values = 4.0 ** -np.arange(size)
    return (vectors * values) @ vectors.T, values, vectors, rng.standard_normal(size)


def test_ritz_vectors_are_eigenvectors_once_there_are_enough(x64):
    matrix, values, vectors, start = symmetric(6)
    modes = jax.jit(lambda v: ritz_modes(lambda v: matrix @ v, v, num_matvecs=6))(start)
    np.testing.assert_allclose(modes.values, values, rtol=1e-8)
    overlaps = np.abs(np.asarray(modes.vectors) @ vectors)
    np.testing.assert_allclose(overlaps, np.eye(6), atol=1e-6)


def test_few_ritz_vectors_hold_all_of_the_start_and_its_first_moment(x64):
    matrix, _, _, start = symmetric(9)
    start = jnp.asarray(start.reshape(3, 3))
    modes = ritz_modes(lambda v: (matrix @ v.ravel()).reshape(3, 3), start, num_matvecs=3)
    whole = modes.part(start, jnp.ones(3))
    np.testing.assert_allclose(whole, start, rtol=1e-10)
    along = jnp.tensordot(modes.vectors, start, 2)
    moment = start.ravel() @ matrix @ start.ravel()
    np.testing.assert_allclose(jnp.sum(along**2 * modes.values), moment, rtol=1e-8)
    # Left to themselves, the first vectors alone are not the whole.
    first = modes.part(start, jnp.arange(3) < 1)
    assert float(jnp.linalg.norm(first - start)) > 0.1 * float(jnp.linalg.norm(start))


def test_ritz_vectors_that_do_not_exist_are_zero(x64):
    modes = jax.jit(lambda v: ritz_modes(lambda v: 2 * v, v, num_matvecs=3))(jnp.ones(4))
    np.testing.assert_allclose(modes.values, [2, 0, 0])
    np.testing.assert_allclose(modes.vectors[1:], 0)
    with pytest.raises(ValueError, match="num_matvecs: expected an integer from 1 to 4"):
        ritz_modes(lambda v: v, jnp.ones(4), num_matvecs=5)
