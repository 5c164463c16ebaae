"""`after` changes no number, and costs nothing where it is mapped over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax._base.ordering import after


@pytest.mark.parametrize("done", [0.0, jnp.nan, jnp.inf, -jnp.inf])
def test_everything_comes_back_to_the_bit(done):
    tree = {
        "negative zero": jnp.array([-0.0, jnp.nan]),
        "integers": jnp.arange(3),
        "booleans": jnp.array([True, False]),
        "nothing": None,
    }
    found = jax.jit(after)(tree, {"done": jnp.float32(done), "counts": jnp.arange(2)})
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert left.dtype == right.dtype
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
    key = jax.random.key(3)
    assert jax.random.key_data(after(key, done)).tolist() == jax.random.key_data(key).tolist()


def test_what_waits_is_not_computed_for_every_member():
    """Mapped over what came first, what comes after stays one."""
    heavy = jnp.ones((64, 64))

    def function(first):
        return jnp.sum(after(heavy, first) @ heavy)

    assert str(jax.make_jaxpr(jax.vmap(function))(jnp.ones(5))).count("f32[64,64]") > 0
    assert "f32[5,64,64]" not in str(jax.make_jaxpr(jax.vmap(function))(jnp.ones(5)))


@pytest.mark.parametrize("mapped", ["keys", "batch B"])
def test_measurements_are_mapped_over_without_jit(mapped):
    case, key = zoo.build("mlp"), jax.random.key(0)
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn)
    double, one = {
        "keys": (lambda k: measure(case.params, case.batch_a, case.batch_b, key=k), key),
        "batch B": (lambda b: measure(case.params, case.batch_a, b, key=key), case.batch_b),
    }[mapped]
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)
    found, expected = jax.vmap(double)(several), double(one)
    np.testing.assert_allclose(found.chi_pos, [expected.chi_pos] * 2, rtol=1e-5)
    np.testing.assert_allclose(found.delta_loss, [expected.delta_loss] * 2, rtol=1e-5)
