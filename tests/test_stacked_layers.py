"""Scans over stacked layers: the numbers of layers written out, and no stacked gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax.jacobian import linearize_samples
from lnpjax.stacked_layers import stacked_leaves

LAYERS, WIDTH, BATCH = 3, 4, 5
INPUTS = jax.random.normal(jax.random.key(1), (BATCH, 2, WIDTH))
TARGETS = jnp.zeros((BATCH, 2, 2))


def mean_squared_error(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def make_params():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "first": jax.random.normal(keys[0], (WIDTH, WIDTH)) / 2,
        "gain": jnp.linspace(0.5, 1.5, LAYERS),
        "layers": jax.random.normal(keys[1], (LAYERS, WIDTH, WIDTH)) / 2,
        "last": jax.random.normal(keys[2], (WIDTH, 2)) / 2,
    }


def layer(x, weights):
    kernel, gain = weights
    return gain * jnp.tanh(x @ kernel) + x @ kernel**2


def scanned(params, x, *, step=layer, layers=None):
    layers = params["layers"] if layers is None else layers
    x = x @ params["first"]
    x, _ = jax.lax.scan(lambda x, w: (step(x, w), None), x, (layers, params["gain"]))
    return x @ params["last"]


def unrolled(params, x):
    x = x @ params["first"]
    for weights in zip(params["layers"], params["gain"], strict=True):
        x = layer(x, weights)
    return x @ params["last"]


def used_twice(params, x):
    return scanned(params, x) + x.sum() * 0 + (x @ params["layers"][0])[..., :2]


def scanned_twice(params, x):
    return scanned(params, jnp.tanh(scanned(params, x) @ params["last"].T))


def in_jit(params, x):
    return jax.jit(scanned)(params, x)


def with_checkpoint(params, x):
    return scanned(params, x, step=jax.checkpoint(layer))


def cast_before_the_loop(params, x):
    return scanned(params, x, layers=params["layers"].astype(jnp.float32))


def backwards_with_outputs(params, x):
    def step(x, weights):
        return layer(x, weights), x.mean()

    x, means = jax.lax.scan(step, x, (params["layers"], params["gain"]), reverse=True, unroll=2)
    return x @ params["last"] + means.sum()


MODELS = {
    "scanned": (scanned, {1, 3}),
    "in jit": (in_jit, {1, 3}),
    "with checkpoint": (with_checkpoint, {1, 3}),
    "cast before the loop": (cast_before_the_loop, {1, 3}),
    "backwards, with outputs": (backwards_with_outputs, {1, 3}),
    "used twice": (used_twice, {1}),
    "scanned twice": (scanned_twice, set()),
    "unrolled": (unrolled, set()),
}


@pytest.mark.parametrize("name", MODELS)
def test_recognises_what_only_a_loop_reads(name):
    model, expected = MODELS[name]
    params = make_params()
    program = jax.make_jaxpr(lambda params, x: model(params, x[None])[0])(params, INPUTS[0])
    found = stacked_leaves(program.jaxpr, len(jax.tree.leaves(params)))
    # Leaves in alphabetical order: first, gain, last, layers.
    assert found == dict.fromkeys(sorted(expected), LAYERS)


@pytest.mark.parametrize("name", MODELS)
def test_norms_and_sums_equal_those_of_per_sample_gradients(name, x64):
    model, _ = MODELS[name]
    params, inputs = jax.tree.map(lambda leaf: leaf.astype(float), (make_params(), INPUTS))
    outputs = model(params, inputs)
    cotangents = jax.random.normal(jax.random.key(2), outputs.shape)
    close = {"rtol": 1e-6, "atol": 1e-6} if "cast" in name else {"rtol": 1e-10, "atol": 1e-12}

    def pulled(x, cotangent):
        return jax.vjp(lambda p: model(p, x[None])[0], params)[1](cotangent)[0]

    expected = jax.vmap(pulled)(inputs, cotangents)
    rows = linearize_samples(model, params, inputs)

    def norms(vjp, cotangent):
        return lnpjax.probes.squares(vjp(cotangent), None)

    squared = [jnp.sum(leaf**2, axis=range(1, leaf.ndim)) for leaf in jax.tree.leaves(expected)]
    np.testing.assert_allclose(
        rows.map_norms(norms, cotangents), jnp.stack(squared, axis=1), **close
    )
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(left, right.sum(0), **close),
        rows.vjp(cotangents),
        expected,
    )
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(left, right, **close),
        rows.map_vjp(lambda vjp, cotangent: vjp(cotangent), cotangents),
        expected,
    )


@pytest.mark.parametrize(
    "estimator",
    [lnpjax.Exact(chunk_size=3), lnpjax.Hutchinson(2), lnpjax.Hutchinson(1, microbatch_size=2)],
    ids=repr,
)
def test_measurements_equal_those_of_the_layers_written_out(estimator):
    params, batch, key = make_params(), (INPUTS, TARGETS), jax.random.key(3)

    def measured(model):
        measure = lnpjax.lnp(model, mean_squared_error, estimator=estimator)
        return jax.jit(lambda params: measure(params, batch, batch, key=key))(params)

    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(left, right, rtol=2e-5, atol=1e-7),
        measured(scanned),
        measured(unrolled),
    )


def test_a_preconditioner_weighs_every_layer_by_its_own():
    params, batch = make_params(), (INPUTS, TARGETS)
    weights = jax.tree.map(lambda leaf: jnp.exp(jnp.sin(jnp.arange(leaf.size))), params)
    weights = jax.tree.map(lambda w, leaf: w.reshape(leaf.shape), weights, params)

    def measured(model):
        measure = lnpjax.lnp(model, mean_squared_error, estimator=lnpjax.Exact())
        return measure(params, batch, preconditioner=weights)

    np.testing.assert_allclose(measured(scanned).chi_net, measured(unrolled).chi_net, rtol=1e-5)


class LinenLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(WIDTH)(x)), None


class LinenStack(nn.Module):
    @nn.compact
    def __call__(self, x):
        stack = nn.scan(
            LinenLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS
        )
        return nn.Dense(2)(stack()(x, None)[0])


def test_linen_scans_are_recognised():
    model = LinenStack()
    params = model.init(jax.random.key(0), INPUTS[:1])
    program = jax.make_jaxpr(model.apply)(params, INPUTS[:1])
    leaves = jax.tree.leaves(params)
    stacked = stacked_leaves(program.jaxpr, len(leaves))
    assert [leaves[i].shape for i in stacked] == [(LAYERS, WIDTH), (LAYERS, WIDTH, WIDTH)]
    batch = (INPUTS, TARGETS)
    exact = lnpjax.lnp(model.apply, mean_squared_error, estimator=lnpjax.Exact())(params, batch)
    rows = jax.jacrev(lambda p: model.apply(p, INPUTS))(params)
    expected = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(rows))
    np.testing.assert_allclose(exact.chi_net * BATCH, expected, rtol=1e-5)


def test_no_gradient_of_all_layers_exists_for_every_sample():
    width, layers, batch = 32, 16, 64
    params = jnp.ones((layers, width, width)) / width
    inputs = jnp.ones((batch, 1, width))

    def apply_fn(layers, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0]

    def temporaries(estimator):
        measure = lnpjax.lnp(apply_fn, mean_squared_error, estimator=estimator)
        compiled = jax.jit(measure).lower(params, (inputs, inputs), key=jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    every_gradient = 4 * batch * params.size
    assert temporaries(lnpjax.Hutchinson(1)) < every_gradient / 2
    rows = linearize_samples(apply_fn, params, inputs)
    stacked = jax.jit(lambda v: rows.map_vjp(lambda vjp, v: jnp.sum(vjp(v) ** 2), v))
    plan = stacked.lower(inputs).compile().memory_analysis()
    assert plan.temp_size_in_bytes > every_gradient / 2  # what the first assertion would catch
