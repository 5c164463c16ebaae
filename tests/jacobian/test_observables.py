"""Observables as networks: values, Jacobians by the chain rule, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import zoo

from lnpjax import entk, linearize
from lnpjax.jacobian import observable, residual, token_surprisal


def test_surprisal_averages_to_the_cross_entropy(x64):
    case = zoo.build("tied_embeddings")
    inputs, targets = case.batch_a
    logits = case.apply_fn(case.params, inputs)
    surprisal = token_surprisal(logits, targets)
    assert surprisal.shape == targets.shape
    np.testing.assert_allclose(jnp.mean(surprisal), case.loss_fn(logits, targets), rtol=1e-13)
    assert float(jnp.min(surprisal)) >= 0


def test_kernel_of_an_observable_is_that_of_the_chain_rule(x64):
    """``(do/df) Theta (do/df)^T``, with the derivative of the surprisal in closed form."""
    case = zoo.build("tied_embeddings")
    inputs, targets = case.batch_a
    logits = np.asarray(case.apply_fn(case.params, inputs))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    rows = (probabilities - np.eye(logits.shape[-1])[np.asarray(targets)]).reshape(targets.size, -1)
    num_tokens, vocabulary = rows.shape
    theta = oracles.dense_kernel(case.apply_fn, case.params, inputs)
    blocks = theta.reshape(num_tokens, vocabulary, num_tokens, vocabulary)
    expected = np.einsum("ia,iajb,jb->ij", rows, blocks, rows)
    network = observable(case.apply_fn, token_surprisal)
    kernel = jax.jit(lambda params: entk(network, params, case.batch_a))(case.params)
    np.testing.assert_allclose(kernel, expected, rtol=1e-9, atol=1e-11)


def test_residual_has_the_kernel_of_the_outputs(x64):
    case = zoo.build("mlp")
    network = observable(case.apply_fn, residual)
    kernel = jax.jit(lambda params: entk(network, params, case.batch_a))(case.params)
    expected = oracles.dense_kernel(case.apply_fn, case.params, case.batch_a[0])
    np.testing.assert_allclose(kernel, expected, rtol=1e-10, atol=1e-12)
    error = linearize(network, case.params, case.batch_a).outputs
    np.testing.assert_allclose(
        error, case.apply_fn(case.params, case.batch_a[0]) - case.batch_a[1], rtol=1e-14
    )


def test_half_the_square_is_no_approximation_of_the_surprisal(x64):
    """What the docstring says of appendix A: near q = 1 the divergence is linear in e."""
    q = 1 - jnp.array([1e-2, 1e-3, 1e-4])
    surprisal = token_surprisal(jnp.log(jnp.stack([q, 1 - q], -1)), jnp.zeros(3, int))
    np.testing.assert_allclose(surprisal / (1 - q), 1, rtol=1e-2)
    assert bool(jnp.all(jnp.diff(surprisal**2 / 2 / surprisal) < 0))
    assert float(surprisal[-1] / 2) < 1e-4


def test_low_precision_logits_are_raised_to_float32():
    logits = jnp.array([[8.0, 0.0]], jnp.bfloat16)
    surprisal = token_surprisal(logits, jnp.array([0]))
    assert surprisal.dtype == jnp.float32
    np.testing.assert_allclose(surprisal, np.log1p(np.exp(-8.0)), rtol=1e-4)
    np.testing.assert_array_equal(
        surprisal, token_surprisal(logits.astype(jnp.float32), jnp.array([0]))
    )


@pytest.mark.parametrize("target", [-1, -100, 3])
def test_what_is_no_token_becomes_nan_under_jit(target):
    logits = jnp.zeros((2, 3))
    surprisal = jax.jit(token_surprisal)(logits, jnp.array([0, target]))
    np.testing.assert_allclose(surprisal[0], np.log(3), rtol=1e-6)
    assert bool(jnp.isnan(surprisal[1]))
    with pytest.raises(ValueError, match=r"targets: expected ids from 0 to 2"):
        token_surprisal(logits, jnp.array([0, target]))


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match=r"function: expected a function, got NoneType"):
        observable(lambda w, x: x, None)
    with pytest.raises(TypeError, match=r"apply_fn: expected a function, got int"):
        observable(3, residual)
    with pytest.raises(ValueError, match=r"targets: expected the shape of the outputs, \(2, 1\)"):
        residual(jnp.ones((2, 1)), jnp.ones(2))
    with pytest.raises(TypeError, match=r"targets: .*int32"):
        residual(jnp.ones(2), jnp.array([1, 2]))
    with pytest.raises(TypeError, match=r"targets: expected integer ids"):
        token_surprisal(jnp.ones((2, 3)), jnp.ones(2))
    with pytest.raises(ValueError, match=r"targets: expected one token for each row"):
        token_surprisal(jnp.ones((2, 3)), jnp.array([1]))
    with pytest.raises(TypeError, match=r"outputs: .*int32"):
        token_surprisal(jnp.array([[1, 2]]), jnp.array([0]))
