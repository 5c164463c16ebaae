"""Losses that are not means over samples are refused or flagged."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax import Exact, Status
from lnpjax.jacobian._losses import loss_status

KEY = jax.random.key(0)


def linear(w, x):
    return x @ w


X = jax.random.normal(jax.random.key(3), (6, 5))
W = jax.random.normal(jax.random.key(4), (5, 1))
LABELS = jnp.arange(6.0)
COUNTED = jnp.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])

NO_MEANS = {
    "broadcast": (lambda f, t: jnp.mean((f - t) ** 2), LABELS),
    "sum": (lambda f, t: jnp.sum((f[:, 0] - t) ** 2), LABELS),
    "divided by a number": (lambda f, t: jnp.sum((f[:, 0] - t) ** 2) / 6, LABELS),
    "mean over what counts": (
        lambda f, t: jnp.sum(t[1] * (f[:, 0] - t[0]) ** 2) / jnp.sum(t[1]),
        (LABELS, COUNTED),
    ),
    "contrast": (lambda f, _: jnp.mean(jax.nn.logsumexp(f[:, 0]) - f[:, 0]), LABELS),
}


@pytest.mark.parametrize("name", NO_MEANS)
def test_losses_that_are_no_means_are_refused_or_flagged(name):
    loss_fn, targets = NO_MEANS[name]
    measure = lnpjax.lnp(linear, loss_fn, estimator=Exact())
    with pytest.raises(ValueError, match=r"loss_fn: expected the mean over samples .* broadcast"):
        measure(W, (X, targets))
    out = jax.jit(measure)(W, (X, targets))
    assert int(out.status) == Status.LOSS_NOT_A_MEAN
    # What does not depend on the normalisation is that of the loss as it is.
    gradient = jax.jit(jax.grad(lambda w: loss_fn(linear(w, X), targets)))(W)
    assert np.allclose(out.delta_loss, jnp.sum(gradient**2), rtol=1e-5)


def test_rows_at_the_end_that_do_not_count_are_found():
    """Under `jit`, where an eighth of the batch is looked at."""
    loss_fn, _ = NO_MEANS["mean over what counts"]
    status = jax.jit(functools.partial(loss_status, loss_fn))
    outputs, counted = jax.random.normal(KEY, (64, 1)), jnp.ones(64)
    assert status(outputs, (counted, counted)) == Status.OK
    padded = counted.at[-2:].set(0)
    assert status(outputs, (counted, padded)) == Status.LOSS_NOT_A_MEAN


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_means_are_not_flagged(dtype, scale):
    def loss_fn(outputs, targets):
        return jnp.mean(scale * (outputs.astype(dtype)[:, 0] - targets.astype(dtype)) ** 2)

    measure = lnpjax.lnp(linear, loss_fn, estimator=Exact())
    assert not int(jax.jit(measure)(W, (X, LABELS)).status) & Status.LOSS_NOT_A_MEAN


def test_a_loss_that_has_almost_vanished_is_not_flagged():
    """Single losses are then multiples of the spacing of floats."""

    def loss_fn(outputs, labels):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1))

    logits = 17 + 0.1 * jax.random.normal(KEY, (64, 1)) * jnp.array([[1.0, 0.0]])
    logits = logits - 17 * jnp.array([[0.0, 1.0]])
    status = jax.jit(lambda f: loss_status(loss_fn, f, jnp.zeros(64, int)))(logits)
    assert status == Status.OK
