"""The explicit kernel against the dense Jacobian, on every model of the zoo and by every method."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import zoo

import lnpjax
from lnpjax.jacobian import select_outputs
from lnpjax.kernel import _plan, entk_groups, trace_outputs
from lnpjax.kernel._fill import BatchJacobian
from lnpjax.kernel._plan import choose_plan

METHODS = ["structured", "contraction", "products", "batch"]
every_method = pytest.mark.parametrize("method", METHODS)


def dense_kernel(case, inputs2=None):
    """J_1 J_2^T from `jax.jacrev`."""
    left = oracles.dense_jacobian(case.apply_fn, case.params, case.batch_a[0], case.selected)
    right = left
    if inputs2 is not None:
        right = oracles.dense_jacobian(case.apply_fn, case.params, inputs2, case.selected)
    return sum(a @ b.T for a, b in zip(left, right, strict=True))


def kernel_of(case, *, eager=False, **options):
    def kernel(params, inputs):
        return lnpjax.entk(case.apply_fn, params, inputs, wrt=case.wrt, **options)

    return (kernel if eager else jax.jit(kernel))(case.params, case.batch_a[0])


def assert_close(actual, expected, tolerance):
    """Relative to the largest entry, as an error in the spectrum is."""
    assert actual.shape == expected.shape
    assert np.max(np.abs(actual - expected)) <= tolerance * np.max(np.abs(expected))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, method) for name in zoo.MODELS for method in METHODS[:3]),
        *((name, "batch") for name in ("one_output", "inputs_pytree", "custom_vjp", "llama_tied")),
    ],
)
def test_kernel_is_the_dense_one(x64, name, method):
    """Two batches of different sizes, in chunks that divide neither."""
    case = zoo.build(name)
    inputs2 = case.batch_b[0]
    kernel = kernel_of(case, inputs2=inputs2, method=method, chunk_size=5)
    assert kernel.dtype == jnp.float64
    assert_close(np.asarray(kernel), dense_kernel(case, inputs2), 1e-10)


@pytest.mark.parametrize("name", ["convolution_and_norm", "tied_embeddings", "mlp"])
def test_kernel_in_single_precision(name):
    case = zoo.build(name)
    for method in METHODS:
        kernel = np.asarray(kernel_of(case, method=method))
        assert kernel.dtype == np.float32
        assert_close(kernel, dense_kernel(case), 1e-5)


@every_method
@pytest.mark.parametrize("chunk_size", [None, 1, 7])
def test_symmetric_to_the_bit_and_in_any_chunks(x64, method, chunk_size):
    case = zoo.build("mlp")
    kernel = np.asarray(kernel_of(case, method=method, chunk_size=chunk_size))
    assert np.array_equal(kernel, kernel.T)
    assert_close(kernel, dense_kernel(case), 1e-12)
    assert np.linalg.eigvalsh(kernel)[0] > -1e-12 * np.trace(kernel)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_all_that_can_stay_factored(x64, name, all_factored, monkeypatch):
    """Factors of every weight that has them, whatever they cost, kept or made anew."""
    case = zoo.build(name)
    monkeypatch.setattr(
        _plan, "choose_factored", lambda jacobian, _: (tuple(jacobian.factorings), 0)
    )
    kernel = np.asarray(kernel_of(case, method="structured", chunk_size=5))
    assert np.array_equal(kernel, kernel.T)
    assert_close(kernel, dense_kernel(case), 1e-12)
    monkeypatch.setattr(_plan, "STORED_BYTES", dict.fromkeys(_plan.STORED_BYTES, 0))
    inputs2 = case.batch_b[0]
    kernel = kernel_of(case, inputs2=inputs2, method="structured", chunk_size=5)
    assert_close(np.asarray(kernel), dense_kernel(case, inputs2), 1e-12)


def test_chosen_outputs_are_rows_and_columns_of_the_whole(x64):
    """Vocabulary entries at some positions of a language model (Spectral Reach, D.5)."""
    case = zoo.build("llama")
    subset = ([0, 3], [1, 2, 10])
    whole = dense_kernel(case)
    num_samples, length, vocabulary = case.apply_fn(case.params, case.batch_a[0]).shape
    places = np.arange(len(whole)).reshape(num_samples, length, vocabulary)
    chosen = places[:, subset[0]][:, :, subset[1]].ravel()
    assert np.array_equal(select_outputs(places, subset).ravel(), chosen)
    for method in METHODS:
        kernel = np.asarray(kernel_of(case, outputs=subset, method=method))
        assert_close(kernel, whole[np.ix_(chosen, chosen)], 1e-10)


def test_half_chosen_axes_and_single_axes():
    values = jnp.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(select_outputs(values, (None, [1])), values[:, :, 1])
    assert np.array_equal(select_outputs(values[..., 0], (2, 0)), values[:, [2, 0], 0])
    assert np.array_equal(select_outputs(values[:, 0, 0], None), values[:, :1, 0])


@pytest.mark.parametrize("name", ["mlp", "tied_embeddings", "scan_over_layers", "llama"])
@pytest.mark.parametrize("method", ["structured", "products"])
def test_kernel_between_samples(x64, name, method, all_factored):
    """Factors of every weight that has them, of all outputs together."""
    case = zoo.build(name)
    outputs = case.apply_fn(case.params, case.batch_a[0])
    expected = trace_outputs(dense_kernel(case), outputs[0].size)
    kernel = np.asarray(kernel_of(case, method=method, sum_outputs=True))
    assert kernel.shape == (len(outputs), len(outputs))
    assert np.array_equal(kernel, kernel.T)
    assert_close(kernel, np.asarray(expected), 1e-12)


@pytest.mark.parametrize("name", ["mlp", "tied_embeddings"])
def test_groups_add_up(x64, name):
    case = zoo.build(name)
    parts = jax.jit(lambda params: entk_groups(case.apply_fn, params, case.batch_a[0]))(case.params)
    blocks = oracles.dense_jacobian(case.apply_fn, case.params, case.batch_a[0])
    members = lnpjax.parameters.group_leaves(case.params, None)
    assert list(parts) == list(members)
    for group, leaves in members.items():
        expected = sum(blocks[index] @ blocks[index].T for index in leaves)
        assert_close(np.asarray(parts[group]), expected, 1e-10)
    assert_close(np.asarray(sum(parts.values())), dense_kernel(case), 1e-10)


@every_method
def test_preconditioned_kernel(x64, method):
    case = zoo.build("frozen_subset")
    trainable, _ = lnpjax.parameters.partition(case.params, case.wrt)
    weights = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.1, trainable)
    blocks = oracles.dense_jacobian(case.apply_fn, case.params, case.batch_a[0], case.selected)
    flat = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(weights)]
    expected = sum((block * weight) @ block.T for block, weight in zip(blocks, flat, strict=True))
    kernel = kernel_of(case, preconditioner=weights, method=method)
    assert_close(np.asarray(kernel), expected, 1e-10)
    options = {"groups": lambda path: path, "wrt": case.wrt, "preconditioner": weights}
    parts = jax.jit(lambda params: entk_groups(case.apply_fn, params, case.batch_a[0], **options))(
        case.params
    )
    assert_close(np.asarray(sum(parts.values())), expected, 1e-10)


@every_method
def test_under_jit_and_vmap(x64, method):
    case = zoo.build("mlp")

    def kernel(params, inputs):
        return lnpjax.entk(case.apply_fn, params, inputs, method=method, chunk_size=5)

    inputs = jnp.stack([case.batch_a[0], -case.batch_a[0]])
    together = jax.jit(jax.vmap(kernel, in_axes=(None, 0)))(case.params, inputs)
    for i in range(2):
        assert_close(np.asarray(together[i]), np.asarray(kernel(case.params, inputs[i])), 1e-12)


def test_interacting_samples_are_taken_as_one_batch_or_refused(x64):
    case = zoo.batch_norm_training()
    expected = dense_kernel(case)
    assert_close(np.asarray(kernel_of(case, eager=True)), expected, 1e-10)
    for method in METHODS[:3]:
        with pytest.raises(
            ValueError, match=r"method: .*'batch'.*depends on the rest of the batch"
        ):
            kernel_of(case, method=method, eager=True)
    jitted = jax.jit(
        lambda inputs, method: lnpjax.entk(case.apply_fn, case.params, inputs, method=method),
        static_argnums=1,
    )
    assert np.all(np.isnan(jitted(case.batch_a[0], "products")))
    assert_close(np.asarray(jitted(case.batch_a[0], "batch")), expected, 1e-10)


def test_interaction_is_looked_for_in_both_batches(x64):
    """A batch of one shows none, whatever the network does with larger ones."""

    def centred(weights, inputs):
        return (inputs - inputs.mean(axis=0) / 2) @ weights

    weights, inputs = jnp.ones((2, 1)), jnp.arange(6.0).reshape(3, 2) ** 2
    jacobian = jax.jit(jax.jacrev(centred))
    left, right = jacobian(weights, inputs[:1]).reshape(1, 2), jacobian(weights, inputs)
    kernel = lnpjax.entk(centred, weights, inputs[:1], inputs2=inputs)
    np.testing.assert_allclose(kernel, left @ right.reshape(3, 2).T, rtol=1e-12)


def test_half_precision_networks_are_contracted_in_single(x64):
    """The network computes in bfloat16; its inner products do not round again."""
    case = zoo.build("mlp")
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), case.params)
    inputs = case.batch_a[0].astype(jnp.bfloat16)
    kernel = jax.jit(lambda params: lnpjax.entk(case.apply_fn, params, inputs))(half)
    blocks = oracles.dense_jacobian(case.apply_fn, half, inputs)
    assert kernel.dtype == jnp.float64
    assert_close(np.asarray(kernel), sum(block @ block.T for block in blocks), 2e-2)


def plan_of(case, method="auto", **options):
    side = BatchJacobian(
        lnpjax.jacobian._outputs.restrict(case.apply_fn, None),
        case.params,
        case.batch_a[0],
        case.wrt,
    )
    return choose_plan(side, side, method=method, symmetric=True, **{"chunk_size": None} | options)


def test_the_cheaper_method_is_chosen():
    """Dense layers at one position: structured. Gains alone, few outputs: contract."""
    assert plan_of(zoo.build("mlp")).method == "structured"
    assert plan_of(dataclasses.replace(zoo.build("mlp"), wrt="layer0/bias")).method == "contraction"
    assert plan_of(zoo.build("llama")).method == "products"
    for name in ("convolution_and_norm", "llama", "mlp"):
        case = zoo.build(name)
        costs = {method: plan_of(case, method).flops for method in METHODS[:3]}
        assert plan_of(case).flops == min(costs.values())
        assert plan_of(case, chunk_size=3).chunk_size == 3


def test_a_kernel_that_does_not_fit_is_refused_before_it_is_allocated():
    rows = 2**20
    with pytest.raises(
        ValueError, match=r"1048576 x 1048576 kernel.*got 13,19\d,\d{3},\d{3},\d{3} bytes"
    ):
        lnpjax.entk(lambda w, x: w * x, jnp.ones(()), jnp.ones((rows, 1)), max_bytes=2**40)
    with pytest.raises(ValueError, match=r"at most 40 bytes .*fewer samples.*got \d+ bytes"):
        lnpjax.entk(lambda w, x: w * x, jnp.ones(()), jnp.ones((2, 1)), max_bytes=40)


def test_what_lies_behind_the_kernel_counts_as_memory():
    """A network of few parameters and large activations: the kernel itself would fit."""

    def wide(weights, inputs):
        return jnp.tanh(jnp.repeat(inputs * weights, 2**16, axis=1)).sum(axis=1, keepdims=True)

    arguments = (wide, jnp.ones(()), jnp.ones((4, 1)))
    kernel = jax.eval_shape(lambda: lnpjax.entk(*arguments, method="products", chunk_size=1))
    assert kernel.shape == (4, 4)
    with pytest.raises(ValueError, match=r"rows behind it: expected at most 1,000,000 bytes"):
        lnpjax.entk(*arguments, method="products", max_bytes=10**6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": [0, 3]}, r"outputs\[0\]: expected indices from 0 to 2, got 0 to 3"),
        ({"outputs": [-1]}, r"outputs\[0\]: expected indices from 0 to 2, got -1 to -1"),
        ({"outputs": [1, 1]}, r"outputs\[0\]: expected every index once"),
        ({"outputs": [0.5]}, r"outputs\[0\]: expected at least one integer"),
        ({"outputs": []}, r"outputs\[0\]: expected at least one integer"),
        ({"outputs": ([0], [0])}, r"outputs: expected indices for each of the 1 axes"),
        ({"backend": "torch"}, r"backend: expected one of .*got 'torch'"),
        ({"method": "fast"}, r"method: expected one of .*got 'fast'"),
        ({"chunk_size": 0}, r"chunk_size: expected an integer >= 1, got 0"),
        ({"inputs2": jnp.ones((0, 5))}, r"inputs2: expected at least one sample"),
        ({"preconditioner": jnp.ones(3)}, r"preconditioner: expected the structure"),
        ({"wrt": "nothing"}, r"wrt: expected path prefixes"),
        (
            {"preconditioner": "same", "backend": "neural_tangents"},
            r"preconditioner: expected None with backend='neural_tangents'",
        ),
    ],
    ids=str,
)
def test_bad_input_is_named(options, message):
    case = zoo.build("mlp")
    if options.get("preconditioner") == "same":
        options = options | {"preconditioner": case.params}
    with pytest.raises((ValueError, TypeError), match=message):
        lnpjax.entk(case.apply_fn, case.params, case.batch_a[0], **options)
