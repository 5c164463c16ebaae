"""Products with the kernel that is never formed are those of the dense one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import zoo

import lnpjax
from lnpjax.kernel import entk_operator

AWKWARD = ["tied_embeddings", "convolution_and_norm", "scan_over_layers", "frozen_subset"]


def dense_rows(case, inputs):
    parts = oracles.dense_jacobian(case.apply_fn, case.params, inputs, case.selected)
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("name", AWKWARD)
def test_products_of_two_batches(x64, name):
    case = zoo.build(name)
    inputs, inputs2 = (jax.tree.map(lambda leaf: leaf[:3], case.batch_a[0]), case.batch_b[0])
    first, second = dense_rows(case, inputs), dense_rows(case, inputs2)

    @jax.jit
    def multiplied(params, inputs, inputs2, key):
        operator = entk_operator(case.apply_fn, params, inputs, inputs2=inputs2, wrt=case.wrt)
        vectors = jax.random.normal(key, (2, *operator.right.outputs.shape))
        other = jax.random.normal(key, operator.left.outputs.shape)
        return vectors, jax.vmap(operator)(vectors), other, operator.T(other)

    vectors, products, other, transposed = multiplied(
        case.params, inputs, inputs2, jax.random.key(0)
    )
    expected = vectors.reshape(2, -1) @ (second @ first.T)
    np.testing.assert_allclose(products.reshape(2, -1), expected, rtol=1e-9, atol=1e-9)
    expected = second @ (first.T @ other.ravel())
    np.testing.assert_allclose(transposed.ravel(), expected, rtol=1e-9, atol=1e-9)


def test_weighted_products_of_some_outputs(x64):
    case = zoo.build("mlp")
    weights = jax.tree.map(
        lambda leaf: jnp.arange(1.0, leaf.size + 1).reshape(leaf.shape), case.params
    )
    options = {"outputs": [1], "preconditioner": weights}
    arguments = (case.apply_fn, case.params, case.batch_a[0])
    kernel = lnpjax.entk(*arguments, inputs2=case.batch_b[0], **options)
    operator = entk_operator(*arguments, inputs2=case.batch_b[0], **options)
    assert operator.shape == kernel.shape
    vector = jnp.arange(1.0, kernel.shape[1] + 1)[:, None]
    np.testing.assert_allclose(operator(vector), kernel @ vector, rtol=1e-11)
    np.testing.assert_allclose(operator.T(operator(vector)), kernel.T @ kernel @ vector, rtol=1e-11)


def test_samples_may_interact(x64):
    def centred(weights, inputs):
        return jnp.tanh(inputs - inputs.mean(0)) @ weights

    arguments = (centred, jnp.ones((2, 2)), jnp.arange(6.0).reshape(3, 2) ** 2)
    kernel = lnpjax.entk(*arguments, method="batch")
    vector = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(
        entk_operator(*arguments)(vector).ravel(), kernel @ vector.ravel(), rtol=1e-12
    )


def test_what_does_not_fit_is_refused():
    weights, inputs = jnp.ones((2, 3)), jnp.ones((4, 2))
    operator = entk_operator(lambda w, x: x @ w, weights, inputs)
    with pytest.raises(ValueError, match=r"vector: expected the shape of .* \(4, 3\), got \(4,\)"):
        operator(jnp.ones(4))
    with pytest.raises(ValueError, match=r"inputs2: expected samples with outputs of shape \(2,\)"):
        entk_operator(lambda w, x: x * w, jnp.ones(()), inputs, inputs2=jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="preconditioner: expected entries >= 0"):
        entk_operator(lambda w, x: x @ w, weights, inputs, preconditioner=-weights)
