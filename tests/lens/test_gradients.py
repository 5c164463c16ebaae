"""Gradient spectra against a dense SVD, in numpy, of gradients that are taken one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import parameters
from lnpjax.lens import (
    attention_probes,
    gradient_gram,
    gradient_singular_values,
    gradient_spectra,
    per_sample_gradients,
    weight_spectra,
)
from lnpjax.lens._gradients import gram_resolution
from lnpjax.status import Status

PROBES = {
    "one_sample": ("layer1/kernel",),
    "tied_embeddings": ("table",),
    "layer_used_twice": ("shared/kernel",),
    "raw_parameters": ("1", "2"),
    "convolution_and_norm": ("Conv_0/kernel",),
    "scan_over_layers": ("layers/kernel",),
    "custom_vjp": ("w",),
    "llama": ("layers/0/attention/output/kernel", "norm/scale"),
}


def dense_gradients(case, batch, names):
    """G of every weight, in float64: one sample after the other, each differentiated alone."""
    leaves, treedef = jax.tree.flatten(case.params)
    paths = parameters.paths(case.params)

    @jax.jit
    @jax.jacrev
    def gradient(chosen, inputs, targets):
        merged = [chosen.get(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
        return case.loss_fn(case.apply_fn(jax.tree.unflatten(treedef, merged), inputs), targets)

    chosen = {path: leaf for path, leaf in zip(paths, leaves, strict=True) if path in names}
    rows = [
        gradient(chosen, *jax.tree.map(lambda leaf, m=m: leaf[m : m + 1], batch))
        for m in range(len(jax.tree.leaves(batch[0])[0]))
    ]
    return {name: np.stack([np.asarray(row[name], np.float64) for row in rows]) for name in names}


def singular_values(gradients):
    return np.linalg.svd(gradients.reshape(len(gradients), -1), compute_uv=False)


def grams(case, batch, names, **options):
    compute = jax.jit(
        lambda params, batch: gradient_gram(
            case.apply_fn, case.loss_fn, params, batch, weights=names, **options
        )
    )
    return compute(case.params, batch)


@pytest.mark.parametrize("name", PROBES)
def test_singular_values_are_those_of_a_dense_svd(x64, name):
    case, names = zoo.build(name), PROBES[name]
    dense = dense_gradients(case, case.batch_a, names)
    found = grams(case, case.batch_a, names, block_size=2, microbatch_size=1)
    for weight in names:
        expected = singular_values(dense[weight])
        values = np.asarray(gradient_singular_values(found[weight]))[: len(expected)]
        # Through a Gram matrix, what is below sqrt(eps) of the largest is lost.
        known = expected > 1e-6 * expected[0]
        assert known.any()
        np.testing.assert_allclose(values[known], expected[known], rtol=1e-9)
        assert np.all(values[~known] < 1e-6 * expected[0])


@pytest.mark.parametrize(("block_size", "microbatch_size"), [(1, 1), (3, 2), (7, 3), (None, 32)])
def test_blocks_change_nothing(x64, block_size, microbatch_size):
    case = zoo.mlp(batch_sizes=(7, 1))
    names = ("layer1/kernel", "layer0/kernel")
    found = grams(case, case.batch_a, names, block_size=block_size, microbatch_size=microbatch_size)
    assert found.keys() == set(names)
    for name, gradients in dense_gradients(case, case.batch_a, names).items():
        rows = gradients.reshape(7, -1)
        np.testing.assert_allclose(found[name], rows @ rows.T, rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(found[name], found[name].T)


def test_rows_are_gradients_of_the_samples_own_mean_loss(x64):
    case = zoo.build("llama")
    names = ("norm/scale", "layers/0/attention/query/kernel")
    rows = jax.jit(
        lambda params, batch: per_sample_gradients(
            case.apply_fn, case.loss_fn, params, batch, weights=names
        )
    )(case.params, case.batch_a)
    for name, expected in dense_gradients(case, case.batch_a, names).items():
        np.testing.assert_allclose(rows[name], expected, rtol=1e-10, atol=1e-14)


def test_only_the_chosen_weights_are_differentiated():
    """A cast that has no gradient, below the weight, does not matter."""

    def apply_fn(params, x):
        hidden = jax.lax.stop_gradient(x @ params["body"])

        @jax.custom_vjp
        def guarded(h):
            return h

        def refuse(*_):
            raise AssertionError("the backward pass reached below the chosen weight")

        guarded.defvjp(lambda h: (h, None), refuse)
        return guarded(hidden) @ params["head"]

    params = {"body": jnp.ones((2, 3)), "head": jnp.ones((3, 1))}
    batch = (jnp.eye(2), jnp.ones((2, 1)))
    rows = per_sample_gradients(apply_fn, zoo.mean_squared_error, params, batch, weights="head")
    np.testing.assert_allclose(rows["head"], 4.0)


def test_split_models_and_their_outer_weights(x64):
    def body(params, embedded):
        return jnp.tanh(embedded * params["gain"])

    split = lnpjax.SplitModel(body, embedding="table", readout="kernel")
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "table": jax.random.normal(keys[0], (11, 4)),
        "gain": jnp.ones(4),
        "kernel": jax.random.normal(keys[1], (4, 11)),
    }
    tokens = jax.random.randint(jax.random.key(1), (4, 6), 0, 11)
    batch = (tokens[:, :-1], tokens[:, 1:])
    names = ("table", "gain", "kernel")
    case = zoo.Case(split, zoo.cross_entropy, params, batch, batch)
    found = grams(case, batch, names)
    for name, gradients in dense_gradients(case, batch, names).items():
        rows = gradients.reshape(4, -1)
        np.testing.assert_allclose(found[name], rows @ rows.T, rtol=1e-10, atol=1e-15)


def test_float32_agrees_to_its_resolution():
    case, weight = zoo.build("mlp"), "layer0/kernel"
    expected = singular_values(dense_gradients(case, case.batch_a, (weight,))[weight])
    gram = grams(case, case.batch_a, weight)[weight]
    assert gram.dtype == jnp.float32
    np.testing.assert_allclose(gradient_singular_values(gram), expected, rtol=1e-3)


def test_bfloat16_agrees_to_its_own_precision():
    case = zoo.llama(dtype="bfloat16", param_dtype="bfloat16")
    exact = zoo.llama(dtype="float32", param_dtype="float32")
    exact.params = jax.tree.map(lambda p: p.astype(jnp.float32), case.params)
    weight = "layers/0/attention/output/kernel"
    gram = grams(case, case.batch_a, weight)[weight]
    assert gram.dtype == jnp.float32
    expected = singular_values(dense_gradients(exact, case.batch_a, (weight,))[weight])
    difference = np.abs(gradient_singular_values(gram) - expected)
    assert np.max(difference) < 2**-7 * expected[0]
    assert gram_resolution(case.apply_fn, case.params, case.batch_a[0]) == 2.0**-14


def test_naive_matrix_is_not_in_the_memory_plan():
    num_samples, width = 64, 512

    def apply_fn(params, x):
        return x @ params["w"]

    params = {"w": jax.ShapeDtypeStruct((width, width), jnp.float32)}
    batch = (jax.ShapeDtypeStruct((num_samples, width), jnp.float32),) * 2

    def gram(params, batch):
        return gradient_gram(
            apply_fn,
            zoo.mean_squared_error,
            params,
            batch,
            weights="w",
            block_size=8,
            microbatch_size=4,
        )

    naive = 4 * num_samples * width**2
    planned = jax.jit(gram).lower(params, batch).compile().memory_analysis().temp_size_in_bytes
    assert planned < naive / 4


def wide_case(num_samples=24):
    return zoo.mlp(sizes=(12, 16, 4), batch_sizes=(num_samples, num_samples))


def test_summary_is_that_of_the_dense_spectrum(x64):
    case, name = wide_case(), "layer0/kernel"
    measure = gradient_spectra(
        case.apply_fn, case.loss_fn, weights=name, pool=case.batch_b, block_size=10, tail=(8, 16)
    )
    summary = jax.jit(measure)(case.params, case.batch_a)[name]
    expected = singular_values(dense_gradients(case, case.batch_b, (name,))[name]) ** 2
    np.testing.assert_allclose(summary.eigenvalues, expected, rtol=1e-9)
    shares = expected / expected.sum()
    np.testing.assert_allclose(summary.rank_me, np.exp(-np.sum(shares * np.log(shares))))
    np.testing.assert_allclose(summary.trace, expected.sum())
    for fit, (first, last) in ((summary.head, (1, 10)), (summary.tail, (8, 16))):
        window = np.arange(first, last + 1)
        slope = np.polyfit(np.log(window), np.log(expected[first - 1 : last]), 1)[0]
        np.testing.assert_allclose(fit.exponent, -slope, rtol=1e-9)
    assert int(summary.status) == Status.OK


def test_batch_b_is_measured_where_there_is_no_pool():
    case = wide_case()
    measure = jax.jit(gradient_spectra(case.apply_fn, case.loss_fn, weights="layer0/kernel"))
    of_b = measure(case.params, case.batch_a, case.batch_b)
    alone = measure(case.params, case.batch_b)
    other = measure(case.params, case.batch_a)
    np.testing.assert_array_equal(*(s["layer0/kernel"].eigenvalues for s in (of_b, alone)))
    assert not np.allclose(*(s["layer0/kernel"].eigenvalues for s in (of_b, other)))


def test_weight_with_fewer_parameters_than_samples_has_as_many_eigenvalues():
    case = wide_case()
    measure = gradient_spectra(case.apply_fn, case.loss_fn, weights="layer1/bias", head=None)
    assert jax.jit(measure)(case.params, case.batch_a)["layer1/bias"].eigenvalues.shape == (4,)


def test_within_instrument_and_scan():
    case, name = wide_case(12), "layer0/kernel"
    measure = gradient_spectra(case.apply_fn, case.loss_fn, weights=name, pool=case.batch_b)

    def train_step(state, batch):
        params, step = state
        gradient = jax.grad(lambda p: case.loss_fn(case.apply_fn(p, batch[0]), batch[1]))(params)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), step + 1), None

    step = lnpjax.instrument(
        train_step,
        measure,
        lnpjax.Windows((0, 2), 1),
        params_of=lambda state: state[0],
        step_of=lambda state: state[1],
    )

    def body(state, _):
        before = state[0]
        state, _, record = step(state, case.batch_a, None, jax.random.key(0))
        return state, (record, before)

    _, (records, params) = jax.jit(lambda state: jax.lax.scan(body, state, None, length=3))(
        (case.params, jnp.int32(0))
    )
    assert records.measured.tolist() == [True, False, True]
    summaries = records.measurement[name]
    assert np.isnan(summaries.eigenvalues[1]).all()
    assert int(summaries.status[1]) == Status.NOT_MEASURED
    third = jax.tree.map(lambda leaf: leaf[2], params)
    np.testing.assert_allclose(
        summaries.eigenvalues[2],
        jax.jit(measure)(third, case.batch_a)[name].eigenvalues,
        rtol=1e-4,
        atol=1e-5 * summaries.trace[2],
    )


def test_default_weight_and_probes_of_a_llama():
    case = zoo.llama(num_layers=2)
    probes = attention_probes(case.params)
    assert probes == {
        "query": "layers/1/attention/query/kernel",
        "value": "layers/1/attention/value/kernel",
        "output": "layers/1/attention/output/kernel",
        "mlp_output": "layers/1/feed_forward/down/kernel",
    }
    measure = gradient_spectra(case.apply_fn, case.loss_fn, head=(1, 3))
    assert list(jax.eval_shape(measure, case.params, case.batch_a)) == [probes["output"]]
    with pytest.raises(ValueError, match=r"weights: .*matrices 'layer0/kernel', 'layer1/kernel'"):
        gradient_spectra(wide_case().apply_fn, zoo.mean_squared_error)(
            wide_case().params, wide_case().batch_a
        )


def test_what_is_refused():
    case = wide_case()

    def gram(weights, batch=case.batch_a, **options):
        return gradient_gram(
            case.apply_fn, case.loss_fn, case.params, batch, weights=weights, **options
        )

    with pytest.raises(ValueError, match=r"weights: .*'layer0/kernel'.* got 'layer0/kernle'"):
        gram("layer0/kernle")
    with pytest.raises(ValueError, match=r"weights: .* got none"):
        gram(())
    with pytest.raises(ValueError, match=r"block_size: expected an integer >= 1, got 0"):
        gram("layer0/kernel", block_size=0)
    with pytest.raises(ValueError, match=r"microbatch_size: expected an integer >= 1, got None"):
        gram("layer0/kernel", microbatch_size=None)
    with pytest.raises(ValueError, match="first axis of 24"):
        gram("layer0/kernel", batch=(case.batch_a[0], case.batch_a[1][:-1]))
    few = jax.tree.map(lambda leaf: leaf[:9], case.batch_a)
    measure = gradient_spectra(case.apply_fn, case.loss_fn, weights="layer0/kernel", head=(1, 10))
    with pytest.raises(ValueError, match=r"head: .* <= 9, the number of samples .* got \(1, 10\)"):
        measure(case.params, few)


def test_gradients_that_are_not_finite():
    case, name = wide_case(12), "layer0/kernel"
    inputs, targets = case.batch_a
    broken = (inputs.at[3, 0].set(jnp.nan), targets)
    measure = gradient_spectra(case.apply_fn, case.loss_fn, weights=name)
    summary = jax.jit(measure)(case.params, broken)[name]
    assert int(summary.status) & Status.NON_FINITE
    assert np.isnan(summary.eigenvalues).all()
    assert np.isnan(summary.rank_me)
    with pytest.raises(ValueError, match=r"params: expected finite gradients in 'layer0/kernel'"):
        measure(case.params, broken)


def test_samples_that_interact():
    def centred(params, x):
        return (x - x.mean(axis=0)) @ params["w"]

    params = {"w": jnp.ones((12, 4))}
    measure = gradient_spectra(centred, zoo.mean_squared_error, weights="w")
    batch = wide_case(12).batch_a
    assert int(jax.jit(measure)(params, batch)["w"].status) & Status.SAMPLES_INTERACT
    with pytest.raises(ValueError, match="apply_fn: a sample's output depends on the rest"):
        measure(params, batch)


def test_names_of_weights_may_come_from_an_iterator():
    case = wide_case(12)
    names = iter(["layer0/kernel"])
    measure = gradient_spectra(case.apply_fn, case.loss_fn, weights=names)
    for _ in range(2):
        # Traced anew: JAX remembers functions.
        shapes = jax.eval_shape(lambda params: measure(params, case.batch_a), case.params)
        assert list(shapes) == ["layer0/kernel"]


def test_weight_spectra_are_squared_singular_values(x64):
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "dense": jax.random.normal(keys[0], (12, 20)),
        "conv": jax.random.normal(keys[1], (2, 3, 4, 15)),
        "bias": jnp.ones(3),
    }
    summaries = jax.jit(lambda params: weight_spectra(params, ("conv", "dense")))(params)
    for name, matrix in (("dense", params["dense"]), ("conv", params["conv"].reshape(24, 15))):
        expected = np.linalg.svd(np.asarray(matrix), compute_uv=False) ** 2
        np.testing.assert_allclose(summaries[name].eigenvalues, expected, rtol=1e-12)
        slope = np.polyfit(np.log(np.arange(1, 11)), np.log(expected[:10]), 1)[0]
        np.testing.assert_allclose(summaries[name].head.exponent, -slope, rtol=1e-9)
    with pytest.raises(
        ValueError, match=r"weights: .*two axes or more, got 'bias' of shape \(3,\)"
    ):
        weight_spectra(params, "bias")
    with pytest.raises(ValueError, match=r"tail: .* <= 12, the number of singular values"):
        weight_spectra(params, "dense", tail=(5, 20))
