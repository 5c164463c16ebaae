"""Networks that differentiate, or take batches, in ways of their own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax


def mean_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((outputs - targets) ** 2)


def iterate(function: Any, start: jax.Array) -> jax.Array:
    """The fixed point that the iteration leads to, by a loop that JAX cannot transpose."""

    def moves(pair: Any) -> jax.Array:
        return jnp.max(jnp.abs(pair[0] - pair[1])) > 1e-6

    def follow(pair: Any) -> Any:
        return pair[1], function(pair[1])

    return jax.lax.while_loop(moves, follow, (start + 1, function(start)))[1]


@jax.custom_vjp
def fixed_point(w: jax.Array, x: jax.Array) -> jax.Array:
    """``z = tanh(z W + x)``, differentiated by the implicit function theorem."""
    return iterate(lambda z: jnp.tanh(z @ w + x), jnp.zeros_like(x))


def _forward(w: jax.Array, x: jax.Array) -> Any:
    z = fixed_point(w, x)
    return z, (w, x, z)


def _backward(stored: Any, cotangent: jax.Array) -> Any:
    w, x, z = stored
    pull = jax.vjp(lambda z: jnp.tanh(z @ w + x), z)[1]
    u = iterate(lambda u: cotangent + pull(u)[0], cotangent)
    return jax.vjp(lambda w, x: jnp.tanh(z @ w + x), w, x)[1](u)


fixed_point.defvjp(_forward, _backward)

WEIGHTS = 0.3 * jax.random.normal(jax.random.key(0), (4, 4))
INPUTS = jax.random.normal(jax.random.key(1), (3, 4))


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """J of the fixed points: ``dz_i = (I - D W^T)^-1 D dW^T z_i`` for each sample, in float64."""
    w, states = (np.asarray(a, np.float64) for a in (WEIGHTS, fixed_point(WEIGHTS, INPUTS)))
    blocks = []
    for z in states:
        slope = np.diag(1 - z**2)
        solved = np.linalg.solve(np.eye(4) - slope @ w.T, slope)
        blocks.append(np.einsum("ak,j->ajk", solved, z).reshape(4, 16))
    return np.concatenate(blocks)


@pytest.mark.parametrize("method", ["auto", "structured", "contraction", "products", "batch"])
def test_kernels_of_fixed_points(rows, method):
    with pytest.warns() if method == "batch" else np.errstate():
        kernel = lnpjax.entk(fixed_point, WEIGHTS, INPUTS, method=method)
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-4, atol=1e-5)


def test_auto_contracts_where_products_would_be_cheaper():
    """Many outputs of one wide layer: products take fewer operations, but have no transpose."""

    def wide(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.concatenate([fixed_point(w, x)] * 8, axis=-1)

    def plain(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.tanh(x @ w)] * 8, axis=-1)

    def chosen(network: Any) -> str:
        side = lnpjax.kernel._fill.BatchJacobian(network, WEIGHTS, INPUTS[:1], None)
        return lnpjax.kernel._plan.choose_plan(
            side, side, method="auto", chunk_size=None, symmetric=True
        ).method

    assert (chosen(plain), chosen(wide)) == ("products", "contraction")


def test_products_with_the_jacobian_of_fixed_points(rows):
    J = lnpjax.linearize(fixed_point, WEIGHTS, INPUTS)
    tangents = jax.random.normal(jax.random.key(2), WEIGHTS.shape)
    vector = jax.random.normal(jax.random.key(3), INPUTS.shape)
    with pytest.warns(UserWarning, match=r"cannot be transposed.* 12 pullbacks.*while_loop"):
        pushed = jax.jit(lambda t: J.jvp(t))(tangents)
    assert not J.transposable
    assert lnpjax.linearize(lambda w, x: jnp.tanh(x @ w), WEIGHTS, INPUTS).transposable
    np.testing.assert_allclose(pushed.ravel(), rows @ np.ravel(tangents), rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match="cannot be transposed"):
        measure = lnpjax.spectral_measure(fixed_point, WEIGHTS, INPUTS, vector, num_matvecs=12)
    eigenvalues, vectors = np.linalg.eigh(rows @ rows.T)
    weights = (vectors.T @ np.ravel(vector)) ** 2 / np.sum(np.square(vector))
    for power in (1, 2):
        np.testing.assert_allclose(
            np.sum(measure.weights * measure.nodes**power),
            np.sum(weights * eigenvalues**power),
            rtol=1e-3,
        )


def in_pairs(w: jax.Array, x: jax.Array) -> jax.Array:
    return (x.reshape(2, len(x) // 2, 3) * w).reshape(-1, 3)


def routed(w: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.ragged_dot(x, w, jnp.array([1, len(x) - 1]))


def over_devices(w: jax.Array, x: jax.Array) -> jax.Array:
    if len(x) % 2:  # as sharding over two devices would
        raise RuntimeError("a batch of an odd size does not divide over the axis 'data'")
    return x * w


WHOLE_BATCHES = {
    "a batch that has to be even": (in_pairs, jnp.array([1.0, 2.0, 3.0])),
    "an operation without a rule for vmap": (routed, jnp.arange(18.0).reshape(2, 3, 3)),
    "a batch over devices": (over_devices, jnp.array([1.0, 2.0, 3.0])),
}


@pytest.mark.parametrize("name", WHOLE_BATCHES)
def test_networks_that_take_no_single_samples(name):
    network, params = WHOLE_BATCHES[name]
    x = jax.random.normal(jax.random.key(0), (4, 3))
    y, key = jnp.zeros((4, 3)), jax.random.key(1)
    refusal = r"apply_fn: expected .* one sample at a time .*GlobalHutchinson.*method='batch'.*got "
    calls = {
        "lnp": lambda: lnpjax.lnp(network, mean_squared_error)(params, (x, y), key=key),
        "norm": lambda: lnpjax.squared_jacobian_norm(network, params, x, key=key),
        "contraction": lambda: lnpjax.entk(network, params, x, method="contraction"),
        "products": lambda: lnpjax.entk(network, params, x, method="products"),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=refusal):
            call()
    pullback = jax.vjp(lambda p: network(p, x), params)[1]
    rows = np.stack([np.ravel(pullback(unit.reshape(4, 3))[0]) for unit in jnp.eye(12)])
    # What the message recommends.
    np.testing.assert_allclose(lnpjax.entk(network, params, x), rows @ rows.T, rtol=1e-5)
    whole = lnpjax.lnp(network, mean_squared_error, estimator=lnpjax.GlobalHutchinson(1))
    out = whole(params, (x, y), key=key)
    gradient = jax.grad(lambda p: mean_squared_error(network(p, x), y))(params)
    np.testing.assert_allclose(out.delta_loss, jnp.sum(gradient**2), rtol=1e-5)


def scaled(params: Any, x: jax.Array) -> jax.Array:
    return x * params["a"]


@pytest.mark.parametrize("wrt", [None, "a"])
@pytest.mark.parametrize("leaf", [jnp.tanh, "relu", object()])
def test_leaves_that_are_not_numbers_are_named(leaf, wrt):
    params = {"a": jnp.ones(3), "odd": leaf}
    x, y = jnp.ones((4, 3)), jnp.zeros((4, 3))
    refusal = r"params/odd: expected an array or a number .*apply_fn"
    for call in (
        lambda: lnpjax.lnp(scaled, mean_squared_error, wrt=wrt)(params, (x, y)),
        lambda: lnpjax.entk(scaled, params, x, wrt=wrt),
        lambda: lnpjax.linearize(scaled, params, x, wrt=wrt),
        lambda: lnpjax.spectral_measure(scaled, params, x, y, num_matvecs=1, wrt=wrt),
        lambda: lnpjax.lens.per_sample_gradients(
            scaled, mean_squared_error, params, (x, y), weights="a"
        ),
    ):
        with pytest.raises(TypeError, match=refusal):
            call()


def test_random_keys_among_the_parameters_are_frozen_or_named():
    params = {"a": jnp.arange(3.0), "key": jax.random.key(0)}
    x = jnp.ones((2, 3))
    with pytest.raises(TypeError, match=r"leave 'key' out with wrt=.*got 'key' of dtype key<fry>"):
        lnpjax.entk(scaled, params, x)
    kernel = lnpjax.entk(scaled, params, x, wrt="a")
    np.testing.assert_array_equal(kernel, np.tile(np.eye(3), (2, 2)))
    measure = lnpjax.lnp(scaled, mean_squared_error, wrt="a", estimator=lnpjax.Exact())
    out = jax.jit(measure)(params, (x, jnp.zeros((2, 3))), params_after=params)
    assert (float(out.chi_net), float(out.nu)) == (3.0, 0.0)
