"""The polar factor against projected ascent, functions that it descends on, and optax's Muon."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest
import scipy.linalg

from lnpjax.theory.fourier import orthogonal_updates
from lnpjax.theory.fourier.orthogonal_updates import polar_factor


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


GRADIENTS = {
    "tall": gaussian(6, 4),
    "wide": gaussian(3, 5),
    "deficient": gaussian(6, 2) @ gaussian(2, 5, seed=1),
}


def clipped(matrix):
    """The nearest matrix of operator norm <= 1."""
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    return (left * np.minimum(singular, 1)) @ right


@pytest.mark.parametrize("name", GRADIENTS)
def test_polar_factor_is_the_steepest_direction(x64, name):
    """F.17 (1) and (2), by projected gradient ascent from a random start."""
    gradient = GRADIENTS[name]
    factor, norm = polar_factor(jnp.asarray(gradient)), orthogonal_updates.nuclear_norm(gradient)
    found = clipped(gaussian(*gradient.shape, seed=2))
    for _ in range(200):
        found = clipped(found + 0.3 * gradient)
    np.testing.assert_allclose(np.sum(gradient * found), norm, rtol=1e-10)
    np.testing.assert_allclose(np.sum(gradient * factor), norm, rtol=1e-12)
    assert np.linalg.norm(factor, 2) <= 1 + 1e-12
    # Without full rank it is one maximiser of many, and the ascent ends in another.
    full = np.linalg.matrix_rank(gradient) == min(gradient.shape)
    assert (np.max(abs(found - factor)) < 1e-8) == full == (name != "deficient")
    if full:
        np.testing.assert_allclose(factor, scipy.linalg.polar(gradient)[0], atol=1e-12)
    np.testing.assert_allclose(polar_factor(jnp.asarray(17.0 * gradient)), factor, atol=1e-12)


def test_zero_gradient_has_no_direction():
    np.testing.assert_array_equal(polar_factor(jnp.zeros((2, 3))), 0)


@pytest.mark.parametrize("name", GRADIENTS)
def test_decrease_is_sharp_on_a_round_bowl(x64, name):
    """F.17 (3) with ``f = L/2 |W|^2``: equality, and no descent beyond the largest step."""
    smoothness = 2.5
    weights = GRADIENTS[name]
    gradient = jnp.asarray(smoothness * weights)
    largest = float(orthogonal_updates.largest_step(gradient, smoothness=smoothness))

    def decrease(step):
        after = weights - step * polar_factor(gradient)
        return smoothness / 2 * (np.sum(weights**2) - np.sum(np.asarray(after) ** 2))

    for fraction in (0.1, 0.5, 0.9):
        step = fraction * largest
        guaranteed = orthogonal_updates.guaranteed_decrease(gradient, step, smoothness=smoothness)
        np.testing.assert_allclose(decrease(step), guaranteed, rtol=1e-10)
        assert guaranteed > 0
    assert decrease(1.001 * largest) < 0
    # The guarantee of gradient descent is never the worse one.
    best = orthogonal_updates.guaranteed_decrease(gradient, largest / 2, smoothness=smoothness)
    rank = np.linalg.matrix_rank(gradient)
    nuclear = np.linalg.svd(gradient, compute_uv=False).sum()
    np.testing.assert_allclose(best, nuclear**2 / (2 * smoothness * rank), rtol=1e-12)
    assert best < np.sum(np.asarray(gradient) ** 2) / (2 * smoothness)


def test_decrease_holds_on_a_regression(x64):
    """A bowl that is not round: least squares, smooth with the largest curvature."""
    inputs, outputs = gaussian(30, 4), gaussian(30, 6, seed=3)
    smoothness = float(np.linalg.eigvalsh(inputs.T @ inputs)[-1])

    def loss(weights):
        return jnp.sum((inputs @ weights - outputs) ** 2) / 2

    weights = jnp.asarray(gaussian(4, 6, seed=4))
    gradient = jax.grad(loss)(weights)
    largest = orthogonal_updates.largest_step(gradient, smoothness=smoothness)
    for fraction in (0.01, 0.5, 0.99):
        step = fraction * float(largest)
        decrease = loss(weights) - loss(weights - step * polar_factor(gradient))
        guaranteed = orthogonal_updates.guaranteed_decrease(gradient, step, smoothness=smoothness)
        assert decrease >= guaranteed > 0


def muon_update(gradient, **options):
    muon = optax.contrib.scale_by_muon(beta=0.0, nesterov=False, **options)
    update = jax.jit(lambda g: muon.update(g, muon.init(g))[0])
    return update(jnp.asarray(gradient))


def test_muon_comes_near_the_polar_factor(x64):
    """Singular vectors to rounding, singular values in a band around 1 that never closes."""
    gradient = gaussian(24, 96, seed=5)
    factor = polar_factor(jnp.asarray(gradient))
    for steps in (5, 20):
        update = muon_update(gradient, ns_steps=steps)
        singular = np.linalg.svd(update, compute_uv=False)
        assert 0.681 < singular.min() < 0.8
        assert 1 < singular.max() < 1.135
        np.testing.assert_allclose(polar_factor(update), factor, atol=1e-10)
        distance = np.linalg.norm(update - factor) / np.linalg.norm(factor)
        assert 0.15 < distance < 0.25


def test_newton_schulz_with_coefficients_that_add_up_converges(x64):
    gradient = gaussian(24, 96, seed=5)
    converged = muon_update(gradient, ns_coeffs=(2.0, -1.5, 0.5), ns_steps=12)
    np.testing.assert_allclose(converged, polar_factor(jnp.asarray(gradient)), atol=1e-12)


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (ValueError, lambda: polar_factor(jnp.ones(3)), "gradient: expected a matrix"),
        (TypeError, lambda: polar_factor([[1.0]]), "gradient: "),
        (
            ValueError,
            lambda: orthogonal_updates.guaranteed_decrease(jnp.eye(2), 0.0, smoothness=1.0),
            "step: ",
        ),
        (
            ValueError,
            lambda: orthogonal_updates.largest_step(jnp.eye(2), smoothness=-1.0),
            "smoothness: ",
        ),
    ],
)
def test_bad_input(error, call, message):
    with pytest.raises(error, match=message):
        call()
