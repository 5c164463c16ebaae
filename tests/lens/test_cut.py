from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.lens._cut import split_at_cut


def outer_products(scale, x):
    """Large results (n, n) of two vectors, the second of which takes work to compute."""
    left, right = jnp.sin(scale * x), jnp.cumsum(jnp.cos(x))
    return {"product": jnp.outer(left, right), "shared": 2 * scale, "known": jnp.float32(3.0)}


def test_halves_do_what_the_whole_does():
    x = jnp.linspace(0.0, 1.0, 16)
    split = split_at_cut(outer_products, jnp.float32(2.0), x, most_bytes=128)
    passing = jax.jit(split.first)(jnp.float32(2.0), x)
    assert split.num_bytes == sum(array.nbytes for array in passing) == 128
    results = jax.jit(split.second)(jnp.float32(2.0), passing)
    for name, expected in outer_products(2.0, x).items():
        np.testing.assert_allclose(results[name], expected, rtol=1e-6)


def test_search_stops_where_little_enough_passes():
    """What the second half repeats is no more than it has to be."""
    scale, x = jnp.float32(2.0), jnp.linspace(0.0, 1.0, 16)
    early = split_at_cut(outer_products, scale, x, most_bytes=128)
    late = split_at_cut(outer_products, scale, x, most_bytes=64)
    assert early.num_bytes == 128
    assert late.num_bytes == 64

    def repeated(split):
        passing = jax.eval_shape(split.first, scale, x)
        return str(jax.make_jaxpr(split.second)(scale, passing))

    assert "sin" not in repeated(early)
    assert "sin" in repeated(late)


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: jnp.sin(x),
        lambda _, x: jax.lax.fori_loop(0, 3, lambda _, y: y @ y.T, jnp.outer(x, x)),
    ],
)
def test_nothing_narrow_enough(function):
    assert split_at_cut(function, None, jnp.ones(8), most_bytes=16) is None
