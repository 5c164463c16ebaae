"""Blocks on the kernel's diagonal are those of the dense kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import zoo

import lnpjax
from lnpjax.kernel import entk_diagonal

AWKWARD = [
    "tied_embeddings",
    "convolution_and_norm",
    "scan_over_layers",
    "frozen_subset",
    "one_output",
]


def dense_kernels(case, inputs2=None):
    """The kernel of all pairs, ``(n1, m, n2, m)``."""

    def rows(inputs):
        parts = oracles.dense_jacobian(case.apply_fn, case.params, inputs, case.selected)
        return np.concatenate(parts, axis=1), len(jax.tree.leaves(inputs)[0])

    (left, n1), (right, n2) = (
        rows(case.batch_a[0]),
        rows(case.batch_a[0] if inputs2 is None else inputs2),
    )
    return (left @ right.T).reshape(n1, len(left) // n1, n2, len(right) // n2)


def diagonal_of(case, inputs2=None, **options):
    @jax.jit
    def blocks(params, inputs, inputs2):
        return entk_diagonal(
            case.apply_fn, params, inputs, inputs2=inputs2, wrt=case.wrt, **options
        )

    return blocks(case.params, case.batch_a[0], inputs2)


@pytest.mark.parametrize("name", AWKWARD)
def test_blocks_over_samples(x64, name):
    case = zoo.build(name)
    blocks = diagonal_of(case, over="samples")
    expected = np.einsum("iaib->iab", dense_kernels(case))
    np.testing.assert_allclose(blocks, expected, atol=1e-10 * np.max(expected))
    np.testing.assert_array_equal(blocks, np.swapaxes(blocks, 1, 2))


@pytest.mark.parametrize("name", AWKWARD)
def test_blocks_over_outputs_of_two_batches(x64, name):
    case = zoo.build(name)
    inputs2 = case.batch_b[0]
    blocks = diagonal_of(case, inputs2, over="outputs")
    expected = np.einsum("iaja->aij", dense_kernels(case, inputs2))
    np.testing.assert_allclose(blocks, expected, atol=1e-10 * np.max(np.abs(expected)))


def test_blocks_over_outputs_add_up_to_the_kernel_between_samples(x64):
    case = zoo.build("mlp")
    weights = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 2.0), case.params)
    blocks = diagonal_of(case, over="outputs", preconditioner=weights)
    whole = lnpjax.entk(case.apply_fn, case.params, case.batch_a[0], sum_outputs=True)
    np.testing.assert_allclose(jnp.sum(blocks, 0), 2 * whole, rtol=1e-12)


def test_samples_that_interact_are_refused_or_nan():
    def centred(weights, inputs):
        return weights * (inputs - inputs.mean(0))

    arguments = (centred, jnp.ones(2), jnp.arange(6.0).reshape(3, 2))
    with pytest.raises(ValueError, match="over: expected 'outputs' where samples interact"):
        entk_diagonal(*arguments, over="samples")
    blocks = jax.jit(lambda *batch: entk_diagonal(centred, *batch, over="samples"))(*arguments[1:])
    assert np.all(np.isnan(blocks))
    by_output = entk_diagonal(*arguments, over="outputs")
    centres = arguments[2] - arguments[2].mean(0)
    np.testing.assert_allclose(by_output, [np.outer(x, x) for x in centres.T], atol=1e-6)


def test_bad_input_is_named():
    def linear(weights, inputs):
        return inputs @ weights

    arguments = (linear, jnp.ones((2, 2)), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"over: expected one of.*got 'parameters'"):
        entk_diagonal(*arguments, over="parameters")
    with pytest.raises(ValueError, match="inputs2: expected as many samples as in inputs, 3"):
        entk_diagonal(*arguments, over="samples", inputs2=jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="expected at most 10 bytes"):
        entk_diagonal(*arguments, over="samples", max_bytes=10)
