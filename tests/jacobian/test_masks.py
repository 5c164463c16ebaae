"""Rows that only pad a batch, whatever they hold."""

from __future__ import annotations

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
