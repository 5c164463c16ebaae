"""Rows that only pad a batch, and losses that are not means over samples."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, Status

KEY = jax.random.key(0)
WEIGHTS = {"w": jax.random.normal(jax.random.key(1), (4, 2))}
INPUTS = jax.random.normal(jax.random.key(2), (3, 4))
TARGETS = jnp.ones((3, 2))


def on_the_sphere(params, x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True) @ params["w"]


def mean_over_labels(outputs, targets):
    """Of each sample, over the targets that are there; 0 / 0 where there are none."""
    there = targets > 0
    errors = jnp.where(there, (outputs - targets) ** 2, 0).sum(axis=1) / there.sum(axis=1)
    return errors.mean()


def padded(batch, value):
    """A row in front and one at the end that are not meant to be seen."""
    inputs, targets = batch
    rows = jnp.full((1, *inputs.shape[1:]), value)
    zeros = jnp.zeros((1, *targets.shape[1:]))
    return jnp.concatenate([rows, inputs, rows]), jnp.concatenate([zeros, targets, zeros])


MASK = jnp.array([False, True, True, True, False])
MASK_B = jnp.array([False, True, True, False])


@pytest.mark.parametrize("value", [0.0, jnp.nan, jnp.inf])
@pytest.mark.parametrize("estimator", [Exact(), Exact(microbatch_size=2)], ids=str)
def test_padding_may_hold_anything(value, estimator):
    measure = jax.jit(lnpjax.lnp(on_the_sphere, mean_over_labels, estimator=estimator))
    batch_b = (INPUTS[:2] + 1, TARGETS[:2])
    for other, mask_b in ((None, None), (batch_b, None), (padded(batch_b, value), MASK_B)):
        wanted = measure(WEIGHTS, (INPUTS, TARGETS), other and batch_b)
        out = measure(WEIGHTS, padded((INPUTS, TARGETS), value), other, mask_a=MASK, mask_b=mask_b)
        assert int(out.status) == Status.OK
        for got, want in zip(jax.tree.leaves(out), jax.tree.leaves(wanted), strict=True):
            assert np.allclose(got, want, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("estimator", [Hutchinson(3), GlobalHutchinson(3)], ids=str)
def test_padding_may_hold_anything_where_norms_are_drawn(estimator):
    def norm(value):
        inputs, _ = padded((INPUTS, TARGETS), value)
        return lnpjax.squared_jacobian_norm(
            on_the_sphere, WEIGHTS, inputs, estimator=estimator, key=KEY, mask=MASK
        )

    healthy, broken = norm(1.0), norm(jnp.nan)
    assert broken.status == Status.OK
    assert np.allclose(broken.value, healthy.value)
    assert np.allclose(healthy.value, 6, rtol=0.5)


def test_padding_of_integers_and_keys():
    ids = jnp.array([[7, 7], [0, 1], [2, 1]])
    inputs = {"ids": ids, "key": jax.random.split(KEY, 3), "flag": jnp.array([True, False, True])}
    filled = lnpjax.jacobian._masks.fill_masked(inputs, jnp.array([False, True, True]))
    assert filled["ids"].tolist() == [[0, 1], [0, 1], [2, 1]]
    assert filled["flag"].tolist() == [False, False, True]
    assert jnp.all(filled["key"][0] == inputs["key"][1])


def test_a_mask_that_masks_nothing_changes_nothing():
    case = zoo.build("convolution_and_norm")
    measure = jax.jit(lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Exact()))
    plain = measure(case.params, case.batch_a)
    masked = measure(case.params, case.batch_a, mask_a=jnp.ones(len(case.batch_a[0]), bool))
    assert plain.status == masked.status == Status.OK
    for got, want in zip(jax.tree.leaves(masked), jax.tree.leaves(plain), strict=True):
        assert np.allclose(got, want, rtol=1e-5, equal_nan=True)


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
    status = jax.jit(functools.partial(lnpjax.jacobian._losses.loss_status, loss_fn))
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
    status = jax.jit(lambda f: lnpjax.jacobian._losses.loss_status(loss_fn, f, jnp.zeros(64, int)))(
        logits
    )
    assert status == Status.OK
