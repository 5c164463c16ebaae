"""Norms without gradients: found where they may be, equal to those of gradients, and smaller."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_norms import check_norms

import lnpjax
from lnpjax.jacobian._ghost_norms import tap_shapes
from lnpjax.jacobian._linearize import linearize_samples

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


def loop_of_products(params, x):
    return scanned(params, x, step=lambda x, w: jnp.tanh(x @ w[0]) * w[1])


def weight_first(params, x):
    x = jax.lax.dot_general(params["first"], x, (((0,), (x.ndim - 1,)), ((), ())))
    return scanned(params | {"first": jnp.eye(WIDTH, dtype=x.dtype)}, jnp.moveaxis(x, 0, -1))


def several_axes(params, x):
    """A kernel with two axes out and then two axes in, as attention has them."""
    kernel = params["first"].reshape(WIDTH, 2, 2) * 1
    heads = jnp.einsum("btd,dhk->bhtk", x, kernel)
    mixed = jnp.einsum("bhtk,hko->bto", heads, params["layers"].sum(0).reshape(2, 2, WIDTH))
    return mixed @ params["last"] * params["gain"].mean()


def in_a_branch(params, x):
    return jax.lax.cond(x.sum() > 0, lambda p: scanned(p, x), lambda p: 2 * scanned(p, x), params)


ENDS = {"first": (), "last": ()}
GAIN, LAYERWISE = {"gain": (LAYERS,)}, {"gain": (LAYERS,), "layers": (LAYERS,)}
MODELS = {  # and which parameters have taps, of which shape
    "scanned": (scanned, ENDS | LAYERWISE),
    "loop of products": (loop_of_products, ENDS | LAYERWISE),
    "in jit": (in_jit, ENDS | LAYERWISE),
    "with checkpoint": (with_checkpoint, ENDS | LAYERWISE),
    "cast before the loop": (cast_before_the_loop, ENDS | LAYERWISE),
    "backwards, with outputs": (backwards_with_outputs, {"last": ()} | LAYERWISE),
    "weight first": (weight_first, ENDS | LAYERWISE),
    "used twice": (used_twice, ENDS | GAIN),
    "scanned twice": (scanned_twice, {}),
    "several axes": (several_axes, {"last": ()}),
    "in a branch": (in_a_branch, {}),
    "unrolled": (unrolled, ENDS),
}


@pytest.mark.parametrize("name", MODELS)
def test_recognises_what_is_read_once(name):
    model, expected = MODELS[name]
    params = make_params()
    program = jax.make_jaxpr(lambda params, x: model(params, x[None])[0])(params, INPUTS[0])
    found = tap_shapes(program.jaxpr, len(params))
    assert {sorted(params)[index]: shape for index, shape in found.items()} == expected


def test_products_over_several_axes_are_recognised(x64):
    """Kernels of attention: one axis to two heads' axes, and back."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "query": jax.random.normal(keys[0], (6, 3, 4)),
        "output": jax.random.normal(keys[1], (3, 4, 6)),
    }
    inputs = jax.random.normal(keys[2], (BATCH, 2, 6))

    def model(params, x):
        heads = jnp.tanh(jnp.einsum("btd,dhk->bhtk", x, params["query"]))
        return jnp.einsum("bhtk,hko->bto", heads, params["output"])

    check_norms(model, params, inputs, tapped=2)


def lookup(mode):
    def model(params, ids):
        rows = (
            params["table"][ids]
            if mode is None
            else jnp.take(params["table"], ids, axis=0, mode=mode, fill_value=0.0)
        )
        return jnp.tanh(rows) @ params["kernel"]

    return model


@pytest.mark.parametrize("mode", [None, "fill", "clip", "wrap"])
def test_tables_are_read_row_by_row(mode, x64):
    """Repeated rows add up; what lies beyond the table is nobody's, or the last row's."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "table": jax.random.normal(keys[0], (40, 3)),
        "kernel": jax.random.normal(keys[1], (3, 30)),
    }
    ids = jnp.array([[1, 1, 7, 1], [-1, 39, 39, 0], [50, 39, 50, 2], [3, 4, 5, 6], [0, 0, 0, 0]])
    if mode is None:
        ids = jnp.minimum(ids, 39)
    check_norms(lookup(mode), params, ids, tapped=2)


def filter_in_frequencies(params, x):
    return jnp.fft.irfft(jnp.fft.rfft(x) @ params["w"])


def imaginary_part(params, x):
    return jnp.imag((x * (1 + 1j)) @ params["w"].astype(complex))


def product_of_weights(params, x):
    return x[..., :3] @ (params["u"] @ params["w"])


@pytest.mark.parametrize(
    ("model", "tapped"), [(filter_in_frequencies, 0), (imaginary_part, 0), (product_of_weights, 1)]
)
def test_complex_numbers_and_products_of_weights(model, tapped, x64):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "u": jax.random.normal(keys[0], (3, 9)),
        "w": jax.random.normal(keys[1], (9, 9)),
    }
    inputs = jax.random.normal(keys[2], (BATCH, 1, 9 if model is not filter_in_frequencies else 16))
    if model is not product_of_weights:
        del params["u"]
    check_norms(model, params, inputs, tapped=tapped)


def test_norms_that_cancel_are_no_less_than_zero():
    """Tokens all alike, and outputs whose mean is taken away: nothing is left but rounding."""
    params = {"w": jnp.ones((64, 64))}
    inputs = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (20, 1, 64)), (20, 8, 64))

    def centred(params, x):
        y = x @ params["w"]
        return y - y.mean(1, keepdims=True)

    norm = jax.jit(
        lambda params, key: lnpjax.squared_jacobian_norm(centred, params, inputs, key=key)
    )(params, jax.random.key(1))
    assert np.all(norm.per_sample >= 0)


@pytest.mark.parametrize("name", MODELS)
def test_norms_and_sums_equal_those_of_per_sample_gradients(name, x64):
    model, expected = MODELS[name]
    params, inputs = jax.tree.map(lambda leaf: leaf.astype(float), (make_params(), INPUTS))
    close = {"rtol": 1e-6, "atol": 1e-6} if "cast" in name else {"rtol": 1e-10, "atol": 1e-12}
    check_norms(model, params, inputs, tapped=len(expected), **close)


@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_weighted_norms_are_sums_of_weighted_squares(microbatch_size, x64):
    params, inputs = jax.tree.map(lambda leaf: leaf.astype(float), (make_params(), INPUTS))
    weights = jax.tree.map(lambda leaf: jnp.abs(jnp.sin(leaf)), params)
    rows = linearize_samples(
        scanned, params, inputs, microbatch_size=microbatch_size, norms_only=True
    )
    cotangents = jax.random.normal(jax.random.key(2), rows.outputs.shape)
    norms = rows.map_norms(lambda norms, c: norms(c), cotangents, weights=weights)
    gradients = rows.map_vjp(lambda vjp, c: vjp(c), cotangents)
    expected = jax.tree.map(
        lambda g, w: jnp.sum(g**2 * w, axis=range(1, g.ndim)), gradients, weights
    )
    np.testing.assert_allclose(norms, jnp.stack(jax.tree.leaves(expected), axis=1), rtol=1e-10)
    assert not np.allclose(norms, rows.map_norms(lambda norms, c: norms(c), cotangents))


def test_a_leaf_can_have_a_norm_of_its_own(x64):
    rows = linearize_samples(
        lambda p, x: x @ p["w"] + p["b"],
        {"b": jnp.ones(2), "w": jnp.ones((3, 2))},
        jnp.arange(12.0).reshape(4, 3),
        norms_only=True,
    )
    cotangents = jnp.arange(8.0).reshape(4, 2)
    norms = rows.map_norms(lambda norms, c: norms(c, {"b": jnp.sum}), cotangents)
    np.testing.assert_allclose(norms[:, 0], cotangents.sum(1))
    plain = rows.map_norms(lambda norms, c: norms(c), cotangents)
    np.testing.assert_allclose(plain[:, 0], (cotangents**2).sum(1))
    np.testing.assert_array_equal(norms[:, 1], plain[:, 1])


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
        lambda left, right: np.testing.assert_allclose(left, right, rtol=2e-5, atol=1e-6),
        measured(scanned),
        measured(unrolled),
    )


def test_a_preconditioner_weighs_every_layer_by_its_own():
    params, batch = make_params(), (INPUTS, TARGETS)
    weights = jax.tree.map(lambda leaf: jnp.exp(jnp.sin(jnp.arange(leaf.size))), params)
    weights = jax.tree.map(lambda w, leaf: w.reshape(leaf.shape), weights, params)

    def measured(model):
        measure = lnpjax.lnp(model, mean_squared_error, estimator=lnpjax.Exact())
        return jax.jit(measure)(params, batch, preconditioner=weights)

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
    shapes = tap_shapes(program.jaxpr, len(leaves))
    stacked = [leaves[i].shape for i, shape in shapes.items() if shape == (LAYERS,)]
    assert stacked == [(LAYERS, WIDTH), (LAYERS, WIDTH, WIDTH)]
    batch = (INPUTS, TARGETS)
    exact = lnpjax.lnp(model.apply, mean_squared_error, estimator=lnpjax.Exact())(params, batch)
    rows = jax.jacrev(lambda p: model.apply(p, INPUTS))(params)
    expected = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(rows))
    np.testing.assert_allclose(exact.chi_net * BATCH, expected, rtol=1e-5)


def test_no_gradient_of_all_layers_exists_for_every_sample():
    width, layers, batch = 32, 16, 64
    params = {"layers": jnp.ones((layers, width, width)) / width, "last": jnp.ones((width, 999))}
    inputs = jnp.ones((batch, 1, width))

    def apply_fn(params, x):
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w**2), None), x, params["layers"])
        return x @ params["last"]

    def temporaries(function, *arguments):
        compiled = jax.jit(function).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    measure = lnpjax.lnp(apply_fn, mean_squared_error)
    batch_a = (inputs, jnp.zeros((batch, 1, 999)))
    rows = linearize_samples(apply_fn, params, inputs)

    def with_gradients(cotangents):
        return rows.map_norms(lambda norms, c: norms(c), cotangents)  # rows without taps

    every_gradient = 4 * batch * params["layers"].size
    needed = temporaries(lambda p: measure(p, batch_a, key=jax.random.key(0)), params)
    assert needed < every_gradient / 2
    # What the assertion would catch.
    assert temporaries(with_gradients, batch_a[1]) > every_gradient / 2


def test_an_ensemble_is_measured_as_its_members_are():
    """An axis over parameters is none of the batch's."""
    members = [jax.tree.map(lambda leaf, f=factor: f * leaf, make_params()) for factor in (1, 2)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    measure = lnpjax.lnp(scanned, mean_squared_error, estimator=lnpjax.Exact())

    @jax.jit
    def measured(params):
        return measure(params, (INPUTS, TARGETS), (INPUTS[:3], TARGETS[:3]))

    alone = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(measured, members))
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6),
        jax.vmap(measured)(together),
        alone,
    )
