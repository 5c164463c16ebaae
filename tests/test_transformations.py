"""Measurements of each estimator under jit, vmap, scan and cond, and differentiated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson

ESTIMATORS = [Exact(), Hutchinson(2), Hutchinson(1, microbatch_size=3), GlobalHutchinson(2)]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)


def norm_of(case, estimator):
    return lambda params, inputs, key: lnpjax.squared_jacobian_norm(
        case.apply_fn, params, inputs, estimator=estimator, key=key, wrt=case.wrt
    )


def measure_of(case, estimator):
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=estimator, wrt=case.wrt)
    return lambda params, key: measure(params, case.batch_a, case.batch_b, key=key)


def assert_same(left, right, rtol=1e-10):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(
    "estimator", [Hutchinson(2, microbatch_size=3), GlobalHutchinson(2)], ids=repr
)
def test_jit_changes_nothing(x64, estimator):
    case, key = zoo.build("frozen_subset"), jax.random.key(0)
    norm, measure = norm_of(case, estimator), measure_of(case, estimator)
    inputs = case.batch_a[0]
    assert_same(jax.jit(norm)(case.params, inputs, key), norm(case.params, inputs, key))
    assert_same(jax.jit(measure)(case.params, key), measure(case.params, key))


@every_estimator
def test_an_ensemble_under_vmap_equals_a_loop(x64, estimator):
    """Over parameters, with a frozen part that differs between members too, and over keys."""
    case = zoo.build("frozen_subset")
    scales = jnp.array([0.5, 1.0, 2.0])
    ensemble = jax.tree.map(lambda leaf: jnp.tensordot(scales, leaf, 0), case.params)
    keys = jax.random.split(jax.random.key(1), 3)
    measure = jax.jit(measure_of(case, estimator))
    together = jax.jit(jax.vmap(measure))(ensemble, keys)
    for i in range(3):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], ensemble)
        alone = measure(member, keys[i])
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone)


def test_vmap_over_batches(x64):
    case = zoo.build("custom_vjp")
    batches = jnp.stack([case.batch_a[0], -case.batch_a[0]])
    norm = jax.jit(norm_of(case, Exact()))
    together = jax.jit(jax.vmap(norm, in_axes=(None, 0, None)))(case.params, batches, None)
    for i in range(2):
        expected = norm(case.params, batches[i], None)
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], together), expected)


@pytest.mark.parametrize("estimator", [Exact(), Hutchinson(1, microbatch_size=3)], ids=repr)
def test_scan_over_training_equals_a_loop(x64, estimator):
    case, keys = zoo.build("mlp"), jax.random.split(jax.random.key(2), 3)
    measure = measure_of(case, estimator)

    @jax.jit
    def step(params, key):
        return jax.tree.map(lambda leaf: 0.9 * leaf, params), measure(params, key)

    params, expected = case.params, []
    for key in keys:
        params, out = step(params, key)
        expected.append(out)
    _, scanned = jax.lax.scan(step, case.params, keys)
    assert_same(scanned, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


def test_both_branches_of_a_cond_have_one_structure():
    case = zoo.build("mlp")
    measure, norm = measure_of(case, Hutchinson(1)), norm_of(case, Hutchinson(1))

    @jax.jit
    def either(flag, key):
        def yes(key):
            return measure(case.params, key), norm(case.params, case.batch_a[0], key)

        blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(yes, key))
        return jax.lax.cond(flag, yes, lambda key: blank, key)

    key = jax.random.key(3)
    measured, blank = either(True, key), either(False, key)
    assert jax.tree.structure(measured) == jax.tree.structure(blank)
    assert measured[0].chi_net > 0
    assert blank[0].chi_net == 0


def test_gradients_flow_through_a_measurement(x64):
    """d|J|^2/d theta, against finite differences: a measurement is an ordinary function."""
    case = zoo.build("mlp")
    norm = norm_of(case, Exact())

    @jax.jit
    def value(shift):
        params = jax.tree.map(lambda leaf: leaf + shift * jnp.cos(leaf), case.params)
        return norm(params, case.batch_a[0], None).value

    slope = jax.jit(jax.grad(value))(0.0)
    np.testing.assert_allclose(slope, (value(1e-5) - value(-1e-5)) / 2e-5, rtol=1e-6)


def test_x64_agrees_with_float32(x64):
    """The same numbers to single precision: nothing depends on the precision but rounding."""
    case, key = zoo.build("tied_embeddings"), jax.random.key(4)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), case.params)
    norm = jax.jit(norm_of(case, Exact()))
    tokens = case.batch_a[0]
    wide, narrow = norm(case.params, tokens, key), norm(single, tokens, key)
    np.testing.assert_allclose(narrow.value, wide.value, rtol=1e-5)
