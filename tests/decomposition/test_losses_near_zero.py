"""Losses near zero, where formulas cancel: what is flagged and what is not, against the truth."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoo

import lnpjax
from lnpjax import Exact, Status, precision
from lnpjax._base.random_rounding import rounded_at_random

SAMPLES, FEATURES, CLASSES = 24, 6, 5


def linear(weights, inputs):
    return inputs @ weights


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def gathered(logits, labels):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


def by_chunks(logits, labels):
    """As for large vocabularies: the logits of one token at a time, computed anew backwards."""

    @jax.checkpoint
    def chunk(total, pair):
        return total + optax.softmax_cross_entropy_with_integer_labels(*pair).sum(), None

    parts = logits.reshape(-1, 1, CLASSES), labels.reshape(-1, 1)
    return jax.lax.scan(chunk, jnp.zeros((), logits.dtype), parts)[0] / len(labels)


def by_margin(logits, labels):
    """The loss that `lnpjax.precision` recommends."""
    others = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool) == 0
    margins = logits - jnp.take_along_axis(logits, labels[..., None], axis=-1)
    return jnp.mean(jax.nn.softplus(jax.nn.logsumexp(margins, where=others, axis=-1)))


def saturated(margin, dtype):
    """Inputs, labels and weights of a linear model whose logits lead by about `margin`."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, SAMPLES)
    inputs = np.eye(CLASSES, FEATURES)[labels] + 0.02 * rng.normal(size=(SAMPLES, FEATURES))
    weights = margin * np.eye(FEATURES, CLASSES) + rng.normal(size=(FEATURES, CLASSES))
    return inputs.astype(dtype), labels, weights.astype(dtype)


def true_position(inputs, loss_gradient):
    """chi_pos of a linear model, whose Jacobian holds the inputs once for every output."""
    inputs = np.asarray(inputs, np.longdouble)
    gradient = inputs.T @ loss_gradient
    network = loss_gradient.shape[1] * np.sum(inputs**2)
    return float(np.sum(gradient**2) / (network * np.sum(loss_gradient**2)))


def true_softmax_gradient(inputs, labels, weights):
    """In longdouble, the entry of the label as minus the sum of the others."""
    logits = np.asarray(inputs, np.longdouble) @ np.asarray(weights, np.longdouble)
    margins = logits - np.take_along_axis(logits, labels[:, None], axis=1)
    others = np.arange(CLASSES) != labels[:, None]
    odds = np.where(others, np.exp(margins), 0)
    p = odds / (1 + odds.sum(1, keepdims=True))
    return np.where(others, p, -p.sum(1, keepdims=True)) / len(labels)


@functools.cache
def measurement(loss_fn, apply_fn):
    return jax.jit(lnpjax.lnp(apply_fn, loss_fn, estimator=Exact()))


def measured(loss_fn, inputs, targets, weights, apply_fn=linear):
    batch = jnp.asarray(inputs), jnp.asarray(targets)
    return measurement(loss_fn, apply_fn)(weights, batch)


@pytest.mark.parametrize("loss_fn", [cross_entropy, gathered, by_chunks])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saturated_softmax_is_flagged_before_it_is_wrong(x64, loss_fn, dtype):
    del x64
    digits = {"float32": (6, 10, 17, 19), "float64": (20, 28, 37, 40)}[dtype]
    errors = []
    for margin in digits:
        inputs, labels, weights = saturated(margin, dtype)
        truth = true_position(inputs, true_softmax_gradient(inputs, labels, weights))
        out = measured(loss_fn, inputs, labels, weights)
        errors.append(abs(float(out.chi_pos) / truth - 1))
        flagged = int(out.status) & Status.LOST_IN_ROUNDING
        assert flagged or errors[-1] < 0.02
        assert bool(flagged) == (margin > digits[1])
    assert max(errors) > 0.1  # the case is one


@pytest.mark.parametrize(("dtype", "margin"), [("float32", 19), ("float64", 39)])
def test_the_recommended_loss_does_not_cancel(x64, dtype, margin):
    del x64
    inputs, labels, weights = saturated(margin, dtype)
    truth = true_position(inputs, true_softmax_gradient(inputs, labels, weights))
    out = measured(by_margin, inputs, labels, weights)
    assert out.status == Status.OK
    np.testing.assert_allclose(out.chi_pos, truth, rtol=200 * jnp.finfo(dtype).eps)
    ordinary = saturated(3, dtype)
    np.testing.assert_allclose(
        by_margin(linear(ordinary[2], ordinary[0]), ordinary[1]),
        cross_entropy(linear(ordinary[2], ordinary[0]), ordinary[1]),
        rtol=20 * jnp.finfo(dtype).eps,
    )


def squared_error(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e7])
def test_an_offset_hides_the_residuals(offset):
    """Residuals of about 1 beside an offset: float32 has a spacing of 1 at 1e7."""
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    weights, residuals = rng.normal(size=(FEATURES, 2)).astype(np.float32), rng.normal(size=2)
    targets = (offset + inputs @ (weights + residuals.astype(np.float32))).astype(np.float32)

    def inside_the_loss(outputs, targets):
        return squared_error(outputs + offset, targets)

    def inside_the_model(weights, inputs):
        return inputs @ weights + offset

    truth = true_position(inputs, np.asarray(inputs @ weights + offset - targets, np.longdouble))
    wrong = {0.0: False, 1e2: False, 1e7: True}[offset]
    for out in (
        measured(inside_the_loss, inputs, targets, weights),
        measured(squared_error, inputs, targets, weights, inside_the_model),
    ):
        assert bool(int(out.status) & Status.LOST_IN_ROUNDING) == wrong
        assert wrong or abs(float(out.chi_pos) / truth - 1) < 1e-3
    formed_first = measured(squared_error, inputs, targets - np.float32(offset), weights)
    assert formed_first.status == Status.OK


@pytest.mark.parametrize(("residual", "lost"), [(1e-2, False), (1e-4, False), (1e-7, True)])
def test_residuals_of_the_size_of_rounding(residual, lost):
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    weights = rng.normal(size=(FEATURES, 2)).astype(np.float32)
    change = residual * rng.normal(size=weights.shape)
    exact = inputs.astype(np.float64)
    targets = (exact @ (weights - change)).astype(np.float32)
    truth = true_position(inputs, np.asarray(exact @ weights, np.longdouble) - targets)
    out = measured(squared_error, inputs, targets, weights)
    error = abs(float(out.chi_pos) / truth - 1)
    assert bool(int(out.status) & Status.LOST_IN_ROUNDING) == lost
    assert (error > 0.01) == lost


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("steps", [0, 400])
def test_a_healthy_network_is_not_flagged(x64, dtype, steps):
    """The control: fresh, and trained until its loss is a few hundredths of what it was."""
    del x64
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(SAMPLES, FEATURES)).astype(dtype)
    labels = rng.integers(0, CLASSES, SAMPLES)
    targets = np.eye(CLASSES, dtype=dtype)[labels]
    shapes = ((FEATURES, 32), (32, CLASSES))
    params = [rng.normal(size=s, scale=s[0] ** -0.5).astype(dtype) for s in shapes]

    def network(params, inputs):
        return jnp.tanh(inputs @ params[0]) @ params[1]

    for loss_fn, labelled in ((cross_entropy, labels), (squared_error, targets)):
        loss = lambda p, f=loss_fn, y=labelled: f(network(p, inputs), y)  # noqa: E731

        def step(_, params, loss=loss):
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(loss)(params))

        trained = jax.jit(lambda p, step=step: jax.lax.fori_loop(0, steps, step, p))(params)
        assert steps == 0 or loss(trained) < 0.1 * loss(params)
        out = measured(loss_fn, inputs, labelled, trained, network)
        assert out.status == Status.OK


@pytest.mark.parametrize("name", ["llama", "tied_embeddings"])
def test_a_fresh_language_model_is_not_flagged(name):
    case = zoo.build(name)
    measure = jax.jit(lnpjax.lnp(case.apply_fn, case.loss_fn))
    out = measure(case.params, case.batch_a, case.batch_b, key=jax.random.key(0))
    assert out.status == Status.OK


def test_the_estimate_is_the_error_within_an_order_of_magnitude():
    for margin in (6, 10, 14, 18):
        inputs, labels, weights = saturated(margin, np.float32)
        logits = jnp.asarray(inputs) @ weights
        gradient = jax.grad(cross_entropy)(logits, labels)
        truth = true_softmax_gradient(np.eye(SAMPLES), labels, np.asarray(logits))
        error = float(
            np.linalg.norm((np.asarray(gradient) - truth).astype(float))
            / np.linalg.norm(truth.astype(float))
        )
        sensitivity = precision.loss_sensitivity(
            lambda f, y=labels: jax.grad(cross_entropy)(f, y), logits, gradient, eps=2.0**-23
        )
        assert error < float(sensitivity) * 2.0**-24 < 20 * error


def test_masks_at_the_end_of_the_range_survive():
    """Logits of -finfo.max must not overflow when they are moved, nor 0 * inf come of it."""
    logits = jnp.array([[1.0, -jnp.finfo(jnp.float32).max], [0.5, -jnp.inf]])
    moved = rounded_at_random(
        jax.grad(lambda f: cross_entropy(f, jnp.array([0, 0]))), logits, eps=1.0
    )
    assert jnp.all(jnp.isfinite(moved))


def test_steps_that_move_numbers_round_none():
    def moving(x):
        x = jnp.concatenate([x[::-1], -x]).reshape(2, -1).T
        return jnp.sort(jnp.where(x > 0, x, jnp.abs(x)).astype(jnp.float32), axis=0)

    x = jnp.array([3.0, -1.0, 2.0])
    np.testing.assert_array_equal(rounded_at_random(moving, x, eps=0.0), moving(x))
    half = x.astype(jnp.bfloat16)
    np.testing.assert_array_equal(rounded_at_random(moving, half, eps=0.0), moving(half))
    assert jnp.any(rounded_at_random(lambda x: 2 * x, x, eps=0.0) != 2 * x)
