"""Which weights' gradients can stay factored, and that their factors give the kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from lnpjax.jacobian._factors import factored_jacobian
from lnpjax.kernel._structured import inner_products

KEYS = jax.random.split(jax.random.key(0), 12)


def awkward(params, batch):
    """Weights in loops within loops, by heads, both ways round, and tables read out of range."""
    x, ids = batch["x"], batch["ids"]

    def round_of(h, w):
        def inner(h, _):
            return jnp.tanh(h @ params["shared"] + h @ w), h @ w

        return jax.lax.scan(inner, h, length=2)

    x, seen = jax.checkpoint(lambda x: jax.lax.scan(round_of, x, params["layers"]))(x)
    heads = jnp.einsum("bhi,hio->bho", x.reshape(len(x), 2, 2), params["heads"])
    both = jnp.tanh(heads.reshape(len(x), 4) @ params["both"]) @ params["both"].T
    seen = jnp.mean(seen, axis=(0, 1))[:, None, :1]
    rows = jnp.take(params["table"], ids, axis=0, fill_value=0) * seen
    rows += jnp.take(params["table"], ids + 1, axis=0, mode="clip") ** 2
    return jnp.einsum("bto,b->bo", rows, jnp.sum(both, axis=1)) @ params["out"] + params["shift"]


def awkward_params():
    shapes = {
        "shared": (4, 4),
        "layers": (3, 4, 4),
        "heads": (2, 2, 2),
        "both": (4, 3),
        "table": (6, 4),
        "out": (4, 2),
        "shift": (2,),
    }
    return {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(KEYS, shapes.items(), strict=False)
    }


def batch_of(seed, size):
    key = jax.random.key(seed)
    ids = jax.random.randint(key, (size, 3), -1, 8)
    return {"x": jax.random.normal(key, (size, 4)), "ids": ids}


def test_factors_of_an_awkward_network(x64):
    params, batches = awkward_params(), [batch_of(1, 3), batch_of(2, 2)]
    jacobians = [factored_jacobian(awkward, params, batch) for batch in batches]
    names = list(params)
    names.sort()
    factored = [names[leaf] for leaf in jacobians[0].factorings]
    assert factored == ["both", "heads", "layers", "out", "shared", "table"]
    assert [names[i] for i in jacobians[0].formed(tuple(jacobians[0].factorings))] == []

    @jax.jit
    def kernel(batches):
        rows = [
            jacobian.rows(batch, jnp.arange(2), tuple(jacobian.factorings))
            for jacobian, batch in zip(jacobians, batches, strict=True)
        ]
        return inner_products(*rows)

    dense = [oracles.dense_jacobian(awkward, params, batch) for batch in batches]
    expected = sum(a @ b.T for a, b in zip(*dense, strict=True))
    actual = np.asarray(kernel(batches))
    assert np.max(np.abs(actual - expected)) < 1e-12 * np.max(np.abs(expected))


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(lambda w, x: jnp.tanh(x * w[0]), id="multiplied entry by entry"),
        pytest.param(lambda w, x: x @ (w / jnp.linalg.norm(w)), id="changed before"),
        pytest.param(lambda w, x: jnp.tanh(x @ w) + jnp.sum(w), id="read once in another way"),
        pytest.param(
            lambda w, x: jax.lax.fori_loop(0, 2, lambda _, c: (c[0] @ c[1], 2 * c[1]), (x, w))[0],
            id="carried by a loop",
        ),
        pytest.param(
            lambda w, x: jax.lax.cond(jnp.sum(x) > 0, lambda: x @ w, lambda: -x @ w),
            id="within a branch",
        ),
        pytest.param(
            lambda w, x: x @ w + x[:, :1] * (w.reshape(2, 8) @ jnp.ones(8))[0], id="cut otherwise"
        ),
    ],
)
def test_other_weights_are_formed(network):
    assert factored_jacobian(network, jnp.eye(4), jnp.ones((2, 4))).factorings == {}


def test_biases_come_with_their_weights_where_nothing_else_reads_the_product():
    params = {"bias": jnp.ones(3), "weight": jnp.ones((2, 3))}
    alone = factored_jacobian(lambda p, x: x @ p["weight"] + p["bias"], params, jnp.ones((2, 2)))
    assert alone.formed((1,)) == []

    def twice(p, x):
        y = x @ p["weight"]
        return jnp.tanh(y + p["bias"]) + y

    assert factored_jacobian(twice, params, jnp.ones((2, 2))).formed((1,)) == [0]
    positions = jnp.ones((2, 5, 2))
    many = factored_jacobian(lambda p, x: x @ p["weight"] + p["bias"], params, positions)
    assert many.formed((1,)) == [0]


def test_read_outs_are_told_from_other_products():
    def readout_of(network):
        jacobian = factored_jacobian(network, jnp.ones((4, 4)), jnp.ones((2, 3, 4)))
        return jacobian.factorings[0].readout

    assert readout_of(lambda w, x: jnp.tanh(x) @ w) == 0
    assert readout_of(lambda w, x: (jnp.tanh(x @ w) @ w.T).reshape(len(x), -1)) == 1
    assert readout_of(lambda w, x: jnp.tanh(x @ w)) is None
    assert readout_of(lambda w, x: jnp.swapaxes(x @ w, 1, 2)) is None
