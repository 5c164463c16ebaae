"""Norms of gradients in weights that are read several times, without the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_norms import check_norms

import lnpjax
from lnpjax.jacobian._factored_norms import cheap_factorings
from lnpjax.jacobian._linearize import linearize_samples

BATCH, LENGTH, WIDTH, VOCABULARY, LAYERS = 3, 2, 14, 30, 2
KEYS = jax.random.split(jax.random.key(0), 6)
IDS = jnp.array([[1, 1], [-1, 29], [3, 1]])  # a row twice, and one from the end
STATES = jax.random.normal(KEYS[0], (BATCH, LENGTH, WIDTH))
IMAGES = jax.random.normal(KEYS[1], (BATCH, 3, 3, 4))


def dense(key, *shape):
    return jax.random.normal(key, shape) / shape[-1] ** 0.5


TABLE = {"table": dense(KEYS[2], VOCABULARY, WIDTH)}
SQUARE = {"w": dense(KEYS[3], WIDTH, WIDTH)}
STACKED = {"w": dense(KEYS[4], LAYERS, WIDTH, WIDTH)}
FILTERS = {"w": dense(KEYS[5], 2, 2, 4, 8), "last": dense(KEYS[0], 8, 2)}


def tied(params, ids):
    return jnp.tanh(params["table"][ids]) @ params["table"].T


def tied_by_attend(params, ids):
    rows = jnp.take(params["table"], ids, axis=0)
    return jnp.einsum("btd,vd->btv", jnp.sin(rows), params["table"])


def looked_up_twice(params, ids):
    return params["table"][ids] * jnp.cos(params["table"][ids[:, ::-1]])


def used_twice(params, x):
    return jnp.tanh(x @ params["w"]) @ params["w"]


def used_transposed(params, x):
    return jnp.tanh(x @ params["w"]) @ params["w"].T


def of_every_layer(params, x):
    x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ params["w"]), None), x, None, length=LAYERS)
    return x


def layers_run_twice(params, x):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    x, _ = jax.lax.scan(layer, x, params["w"])
    return jax.lax.scan(layer, x, params["w"], reverse=True)[0]


def checkpointed(params, x):
    return jax.checkpoint(lambda x: used_twice(params, x))(x)


def in_jit(params, x):
    return jax.jit(used_twice)(params, x)


def convolved(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, params["w"], (2, 2), "SAME", dimension_numbers=numbers)


def convolved_once(params, x):
    return jnp.tanh(convolved(params, x)).mean((1, 2)) @ params["last"]


def convolved_twice(params, x):
    y = convolved(params, x) + convolved(params, x[:, ::-1])
    return jnp.tanh(y).mean((1, 2)) @ params["last"]


MODELS = {
    "a table that is the read-out": (tied, TABLE, IDS),
    "a table that is the read-out, by einsum": (tied_by_attend, TABLE, IDS),
    "a table that is looked up twice": (looked_up_twice, TABLE, IDS),
    "used twice": (used_twice, SQUARE, STATES),
    "used and transposed": (used_transposed, SQUARE, STATES),
    "one weight for all rounds of a loop": (of_every_layer, SQUARE, STATES),
    "layers that are run twice": (layers_run_twice, STACKED, STATES),
    "with a checkpoint": (checkpointed, SQUARE, STATES),
    "in jit": (in_jit, SQUARE, STATES),
    "a convolution": (convolved_once, FILTERS, IMAGES),
    "a convolution that is used twice": (convolved_twice, FILTERS, IMAGES[:, :2, :2]),
}


@pytest.mark.parametrize("name", MODELS)
def test_norms_equal_those_of_gradients(name, x64):
    model, params, inputs = MODELS[name]
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    inputs = inputs if inputs.dtype == IDS.dtype else inputs.astype(float)
    check_norms(model, params, inputs, factored=1)


def test_norms_of_a_whole_measurement(x64):
    """In slices, and with whatever estimator: a sum over samples of the dense Jacobian's."""
    params = jax.tree.map(lambda leaf: leaf.astype(float), TABLE)
    rows = jax.jacrev(lambda params: tied(params, IDS))(params)["table"]
    for options in ({}, {"microbatch_size": 2}):
        found = lnpjax.squared_jacobian_norm(tied, params, IDS, estimator=lnpjax.Exact(**options))
        np.testing.assert_allclose(found.value, jnp.sum(rows**2), rtol=1e-10)


def test_weights_in_eight_bits_of_mantissa():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), TABLE)
    rows = linearize_samples(tied, params, IDS, norms_only=True)
    whole = linearize_samples(tied, params, IDS)
    cotangents = jnp.ones(rows.outputs.shape, jnp.bfloat16)
    norms = [side.map_norms(lambda norms, c: norms(c), cotangents) for side in (rows, whole)]
    assert norms[0].dtype == jnp.float32
    np.testing.assert_allclose(*norms, rtol=0.02)


def test_long_sequences_make_gradients():
    """Gram matrices grow with the square of the length, gradients do not."""

    def found(length):
        ids = jnp.zeros((1, length), int)
        program = jax.make_jaxpr(tied)(TABLE, ids)
        return list(cheap_factorings(program.jaxpr, [0]))

    assert found(5) == [0]  # (2 * 5)^2 entries are a quarter of the table's
    assert found(6) == []


def test_what_is_not_only_multiplied_makes_gradients():
    programs = {
        "sliced": lambda p, x: x @ p["w"] @ p["w"][:, :4],
        "squared": lambda p, x: x @ p["w"] + x @ p["w"] ** 2,
        "carried": lambda p, x: jax.lax.scan(lambda w, _: (w / 2, x @ w), p["w"], None, length=2)[
            1
        ],
    }
    for name, model in programs.items():
        program = jax.make_jaxpr(model)(SQUARE, STATES[:1])
        assert not cheap_factorings(program.jaxpr, [0]), name


def test_gradients_of_samples_are_not_in_memory():
    large = {"table": jnp.ones((2000, 64))}
    ids = jnp.zeros((8, 2), int)

    def norms(params, ids, cotangents):
        rows = linearize_samples(tied, params, ids, norms_only=True)
        return rows.map_norms(lambda norms, c: norms(c), cotangents)

    compiled = jax.jit(norms).lower(large, ids, jnp.ones((8, 2, 2000))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < large["table"].nbytes  # of one sample
