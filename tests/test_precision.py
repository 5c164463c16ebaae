"""What rounding leaves of chi_pos: the rule against arithmetic in two precisions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import Status, describe_status, precision
from lnpjax._base import numerics as parameters
from lnpjax._base.numerics import leaf_inner_products
from lnpjax.jacobian._rounding import compute_precision

SAMPLES, FEATURES, OUTPUTS = 32, 16, 8
UNIT = {"bfloat16": 2.0**-8, "float32": 2.0**-24}


def linear_model(dtype):
    """Computes in `dtype`, and gives outputs in it."""
    return lambda w, x: x.astype(dtype) @ w.astype(dtype)


def direction(position):
    """Inputs and a cotangent for which chi_pos times the number of outputs is `position`."""
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(SAMPLES, FEATURES)))
    right, _ = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))
    inputs = left * np.append(np.ones(FEATURES - 1), np.sqrt(position)) @ right.T
    cotangents = np.outer(left[:, -1], rng.choice([-1.0, 1.0], OUTPUTS))
    return inputs, cotangents


def measured(dtype, inputs, cotangents_a, cotangents_b):
    """delta_loss in `dtype`, and the estimate of its error."""
    apply_fn, weights = linear_model(dtype), jnp.zeros((FEATURES, OUTPUTS))
    inputs = jnp.asarray(inputs, jnp.float32)
    outputs, pullback = jax.vjp(lambda w: apply_fn(w, inputs), weights)
    eps = compute_precision(apply_fn, weights, inputs)
    gradients, norms, noises = [], [], []
    for cotangents in (cotangents_a, cotangents_b):
        gradient = pullback(jnp.asarray(cotangents, outputs.dtype))[0]
        norm = jnp.linalg.norm(gradient)
        gradients.append(gradient)
        norms.append(norm)
        noises.append(
            precision.gradient_noise(
                norm,
                np.linalg.norm(cotangents),
                OUTPUTS * np.sum(np.square(inputs)),
                outputs.size,
                eps=eps,
            )
        )
    delta = jnp.sum(leaf_inner_products(*gradients))
    return float(delta), float(precision.relative_error(delta, *norms, *noises))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
def test_precision_is_that_of_the_coarsest_step(dtype):
    weights, inputs = jnp.zeros((3, 2)), jnp.zeros((4, 3))
    hidden_inside = jax.jit(lambda w, x: linear_model(dtype)(w, x).astype("float32"))
    assert compute_precision(hidden_inside, weights, inputs) == jnp.finfo(dtype).eps


@pytest.mark.usefixtures("x64")
def test_precision_of_float64():
    weights, inputs = np.zeros((3, 2)), np.zeros((4, 3))
    assert compute_precision(lambda w, x: x @ w, weights, inputs) == 2.0**-52


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("decade", [0, 2, 4, 8])
def test_the_estimate_bounds_the_error_as_chi_pos_falls(dtype, decade):
    """A batch against itself, with decades of chi_pos until only rounding is left."""
    inputs, cotangents = direction(10.0**-decade)
    delta, estimate = measured(dtype, inputs, cotangents, cotangents)
    gradient = inputs.T @ cotangents
    error = abs(np.sum(gradient**2) / delta - 1)
    assert error < estimate + 1e-6
    lost = precision.rounding_flag(estimate) == Status.LOST_IN_ROUNDING
    assert lost == (10.0**-decade < 450 * UNIT[dtype] ** 2)


def test_rounding_adds_a_floor_to_chi_pos():
    """Far below it, what is measured is the floor: u^2 / M, within the spread of mantissas."""
    inputs, cotangents = direction(1e-12)
    # The weights that the samples get are not on the grid of bfloat16.
    delta, estimate = measured("bfloat16", inputs, cotangents, cotangents)
    position = delta * inputs.shape[0] / (np.sum(inputs**2) * np.sum(cotangents**2))
    assert 0.05 < position / UNIT["bfloat16"] ** 2 < 2
    assert estimate > 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("units", [1, 7, 30, 300])
def test_two_batches_lose_digits_with_their_cosine(dtype, units):
    cosine = units * UNIT[dtype]
    inputs, first = direction(1.0)
    second = np.roll(first, 1, axis=1) * np.where(np.arange(OUTPUTS) % 2, 1, -1)
    second -= np.sum(second * first) / np.sum(first**2) * first
    mixed = cosine * first + np.linalg.norm(first) / np.linalg.norm(second) * second
    delta, estimate = measured(dtype, inputs, first, mixed)
    truth = np.sum((inputs.T @ first) * (inputs.T @ mixed))
    assert abs(truth / delta - 1) < estimate
    assert (precision.rounding_flag(estimate) == Status.LOST_IN_ROUNDING) == (units < 12)


def test_a_fitted_model_has_lost_its_loss_gradient():
    """Outputs a few roundings from their targets: the difference is known to no digit."""
    targets = jnp.asarray(np.random.default_rng(1).normal(size=(16, 4)), jnp.float32)
    for distance in (1e-1, 1e-2, 1e-3):
        outputs = targets * (1 + distance)
        gradient = jax.grad(lambda f: jnp.mean(jnp.square(f - targets)))
        sensitivity = precision.loss_sensitivity(gradient, outputs, gradient(outputs), eps=2.0**-7)
        np.testing.assert_allclose(sensitivity, (1 + distance) / distance, rtol=1e-2)
        noise = precision.gradient_noise(1.0, 1.0, 1.0, 64, eps=2.0**-7, sensitivity=sensitivity)
        lost = precision.rounding_flag(precision.relative_error(1.0, 1.0, 1.0, noise, noise))
        assert lost == (Status.LOST_IN_ROUNDING if distance < 5e-2 else Status.OK)


def test_sensitivity_needs_no_forward_mode():
    @jax.custom_vjp
    def loss(outputs):
        return jnp.sum(outputs**4)

    loss.defvjp(lambda f: (loss(f), f), lambda f, c: (4 * c * f**3,))
    outputs = jnp.array([1.0, -2.0])
    found = precision.loss_sensitivity(
        jax.grad(loss), outputs, jax.grad(loss)(outputs), eps=2.0**-10
    )
    np.testing.assert_allclose(found, 3, rtol=1e-2)


@pytest.mark.parametrize("name", ["mlp", "tied_embeddings"])
def test_healthy_float32_is_far_from_the_flag(name):
    case = zoo.build(name)
    eps = compute_precision(case.apply_fn, case.params, case.batch_a[0])
    assert eps == 2.0**-23

    @jax.jit
    def side(batch):
        inputs, targets = batch
        outputs, pullback = jax.vjp(lambda p: case.apply_fn(p, inputs), case.params)
        loss_gradient = lambda f: jax.grad(case.loss_fn)(f, targets)  # noqa: E731
        cotangents = loss_gradient(outputs)
        gradient = pullback(cotangents)[0]
        norm = jnp.sqrt(jnp.sum(parameters.leaf_inner_products(gradient, gradient)))
        signs = jnp.asarray(np.random.default_rng(2).choice([-1.0, 1.0], outputs.shape))
        probe = pullback(signs.astype(outputs.dtype))[0]
        noise = precision.gradient_noise(
            norm,
            jnp.linalg.norm(cotangents),
            jnp.sum(parameters.leaf_inner_products(probe, probe)),
            outputs.size,
            eps=eps,
            sensitivity=precision.loss_sensitivity(loss_gradient, outputs, cotangents, eps=eps),
        )
        return gradient, norm, noise

    (gradient_a, *a), (gradient_b, *b) = side(case.batch_a), side(case.batch_b)
    delta = jnp.sum(parameters.leaf_inner_products(gradient_a, gradient_b))
    error = precision.relative_error(delta, a[0], b[0], a[1], b[1])
    assert 0 < error < precision.LARGEST_ERROR / 100
    assert precision.rounding_flag(error) == Status.OK


def test_what_is_zero_or_undefined_has_other_flags():
    assert precision.relative_error(0.0, 0.0, 0.0, 0.0, 0.0) == 0
    assert precision.relative_error(0.0, 1.0, 1.0, 1e-3, 1e-3) == 0  # no entry in common
    assert precision.relative_error(1e-6, 1.0, 1.0, 1e-3, 1e-3) > 100
    assert precision.rounding_flag(jnp.inf) == Status.LOST_IN_ROUNDING
    assert precision.rounding_flag(jnp.nan) == Status.OK
    assert "rounding" in describe_status(Status.LOST_IN_ROUNDING)


def test_negative_spacing_is_refused():
    with pytest.raises(ValueError, match="eps: expected a number >= 0, got -1"):
        precision.gradient_noise(1.0, 1.0, 1.0, 1.0, eps=-1.0)


def test_measurements_carry_the_flag():
    """In half precision, where the outputs are within a rounding of their targets."""
    case = zoo.build("mlp")
    inputs = case.batch_a[0]

    def half(params, x):
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
        return case.apply_fn(*low).astype(jnp.float32)

    def status(apply_fn, distance):
        measure = jax.jit(lnpjax.lnp(apply_fn, case.loss_fn))
        targets = (1 + distance) * apply_fn(case.params, inputs)
        return measure(case.params, (inputs, targets), key=jax.random.key(0)).status

    assert status(half, 1.0) == Status.OK
    assert status(half, 0.005) == Status.LOST_IN_ROUNDING
    assert status(case.apply_fn, 0.005) == Status.OK
