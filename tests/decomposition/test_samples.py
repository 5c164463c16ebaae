"""Samples one by one: their means are the components of the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import zoo

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, Status
from lnpjax.decomposition import sample_components


@pytest.mark.parametrize("name", ["tied_embeddings", "one_sample", "raw_parameters"])
def test_means_are_the_components_of_the_batch(x64, name):
    case = zoo.build(name)
    batch = case.batch_a
    whole = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Exact(), wrt=case.wrt)
    each = sample_components(case.apply_fn, case.loss_fn, estimator=Exact(), wrt=case.wrt)
    out, parts = jax.jit(whole)(case.params, batch), jax.jit(each)(case.params, batch)
    np.testing.assert_allclose(jnp.mean(parts.loss), out.loss_a, rtol=1e-10)
    np.testing.assert_allclose(jnp.mean(parts.chi_loss), out.chi_loss, rtol=1e-10)
    norms = sum(np.sum(b**2, axis=(1, 2)) for b in oracles.dense_blocks(name))
    np.testing.assert_allclose(parts.chi_net, norms, rtol=1e-10)
    assert int(parts.status) == 0


def squared_error(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def test_draws_are_unbiased_for_each_sample():
    weights = jax.random.normal(jax.random.key(0), (3, 4))
    batch = (jax.random.normal(jax.random.key(1), (5, 3)), jnp.ones((5, 3)))

    def apply_fn(w, x):
        return jnp.tanh(x @ w) @ w.T

    measure = sample_components(apply_fn, squared_error, estimator=Hutchinson(2))
    keys = jax.random.split(jax.random.key(2), 300)
    draws = jax.jit(jax.vmap(lambda key: measure(weights, batch, key=key).chi_net))(keys)
    true = sample_components(apply_fn, squared_error, estimator=Exact())
    exact = jax.jit(true)(weights, batch).chi_net
    mean, sem = np.mean(draws, axis=0), np.std(draws, axis=0) / np.sqrt(len(draws))
    assert np.all(np.abs(mean - exact) < 4 * sem)
    assert np.all(np.abs(1.5 * mean - exact) > 4 * sem)  # the control


def test_bad_input_and_trouble_are_told():
    batch = (jnp.ones((2, 3)), jnp.array([[1.0], [jnp.inf]]))
    with pytest.raises(ValueError, match=r"estimator: expected Exact or Hutchinson, .* got Global"):
        sample_components(lambda w, x: x @ w, squared_error, estimator=GlobalHutchinson(2))
    measure = sample_components(lambda w, x: x @ w, squared_error, estimator=Exact())
    assert int(jax.jit(measure)(jnp.ones((3, 1)), batch).status) & Status.NON_FINITE
    total = sample_components(
        lambda w, x: x @ w, lambda f, y: jnp.sum((f - y) ** 2), estimator=Exact()
    )
    fine = (batch[0], jnp.ones((2, 1)))
    with pytest.raises(ValueError, match="loss_fn: expected the mean over samples"):
        total(jnp.ones((3, 1)), fine)
    assert int(jax.jit(total)(jnp.ones((3, 1)), fine).status) & Status.LOSS_NOT_A_MEAN
