"""``|J|_F^2`` against the dense Jacobian: exact sums, parts, masks, and what cannot be measured."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import zoo

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, Status, describe_status, parameters

TOLERANCE = 1e-10
ESTIMATORS = [Exact(), Hutchinson(1), Hutchinson(2), GlobalHutchinson(2)]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_exact_equals_the_dense_jacobian(x64, name):
    """Masked, preconditioned, in microbatches and odd chunks: in all, per sample and per leaf."""
    case, blocks = zoo.build(name), oracles.dense_blocks(name)
    num_samples, num_outputs = blocks[0].shape[:2]
    trainable, _ = parameters.partition(case.params, case.wrt)
    preconditioner = jax.tree.map(
        lambda leaf: np.linspace(0.5, 2.0, leaf.size).reshape(leaf.shape), trainable
    )
    mask = np.ones(num_samples, bool)
    mask[1:2] = False
    odd = Exact(chunk_size=num_outputs // 2 + 1, microbatch_size=2)
    estimate = jax.jit(
        lambda params, inputs, mask: lnpjax.squared_jacobian_norm(
            case.apply_fn,
            params,
            inputs,
            estimator=odd,
            wrt=case.wrt,
            groups=lambda path: path,
            mask=mask,
            preconditioner=preconditioner,
        )
    )(case.params, case.batch_a[0], mask)
    scales = [np.ravel(leaf) for leaf in jax.tree.leaves(preconditioner)]
    norms = mask * np.stack(
        [np.sum(b**2 * scale, axis=(1, 2)) for b, scale in zip(blocks, scales, strict=True)]
    )
    np.testing.assert_allclose(estimate.value, norms.sum(), rtol=TOLERANCE)
    np.testing.assert_allclose(estimate.per_sample, norms.sum(axis=0), rtol=TOLERANCE)
    for path, expected in zip(parameters.paths(trainable), norms.sum(axis=1), strict=True):
        np.testing.assert_allclose(estimate.groups[path], expected, rtol=TOLERANCE, err_msg=path)
    assert estimate.sem == 0
    assert not np.any(estimate.covariance)
    assert estimate.status == Status.OK


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 20, 21, 1000])
def test_exact_does_not_depend_on_the_chunk_size(x64, chunk_size):
    case = zoo.build("raw_parameters")  # 12 outputs of shape (4, 3)
    expected = sum(np.sum(b**2) for b in oracles.dense_blocks("raw_parameters"))
    estimate = jax.jit(
        lambda x: lnpjax.squared_jacobian_norm(
            case.apply_fn, case.params, x, estimator=Exact(chunk_size=chunk_size)
        )
    )(case.batch_a[0])
    np.testing.assert_allclose(estimate.value, expected, rtol=TOLERANCE)


@every_estimator
def test_parts_add_up(x64, estimator):
    case = zoo.build("layer_used_twice")
    estimate = jax.jit(
        lambda key: lnpjax.squared_jacobian_norm(
            case.apply_fn, case.params, case.batch_a[0], estimator=estimator, key=key
        )
    )(jax.random.key(1))
    assert set(estimate.groups) == {"in", "shared", "out"}
    np.testing.assert_allclose(sum(estimate.groups.values()), estimate.value, rtol=1e-12)
    if estimator.per_sample:
        np.testing.assert_allclose(estimate.per_sample.sum(), estimate.value, rtol=1e-12)
    else:
        assert np.all(np.isnan(estimate.per_sample))
    np.testing.assert_allclose(np.sum(estimate.covariance), estimate.sem**2, rtol=1e-9, atol=1e-12)


@every_estimator
def test_a_preconditioner_scales_parameters(x64, estimator):
    """Tr(J P J^T) is the norm after theta -> sqrt(P) theta, draw by draw."""
    case = zoo.build("mlp")
    weights = jax.tree.map(
        lambda leaf: jnp.linspace(0.5, 2.0, leaf.size).reshape(leaf.shape), case.params
    )
    scale = jax.tree.map(jnp.sqrt, weights)
    key = jax.random.key(2)

    @jax.jit
    def measure(inputs):
        direct = lnpjax.squared_jacobian_norm(
            case.apply_fn,
            case.params,
            inputs,
            estimator=estimator,
            key=key,
            preconditioner=weights,
        )
        scaled = lnpjax.squared_jacobian_norm(
            lambda p, x: case.apply_fn(jax.tree.map(jnp.multiply, p, scale), x),
            jax.tree.map(jnp.divide, case.params, scale),
            inputs,
            estimator=estimator,
            key=key,
        )
        return direct, scaled

    direct, scaled = measure(case.batch_a[0])
    for left, right in zip(jax.tree.leaves(direct), jax.tree.leaves(scaled), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)


@every_estimator
def test_masked_rows_count_for_nothing(x64, estimator):
    """Rows that only pad, whatever they hold, change neither the value nor its standard error."""
    case, key = zoo.build("mlp"), jax.random.key(3)
    mask = jnp.array([True, False, True, False])

    @jax.jit
    def measure(inputs, mask):
        return lnpjax.squared_jacobian_norm(
            case.apply_fn, case.params, inputs, estimator=estimator, key=key, mask=mask
        )

    inputs = case.batch_a[0]
    first = measure(inputs, mask)
    second = measure(jnp.where(mask[:, None], inputs, 1e3), mask)
    for left, right in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)
    if estimator.per_sample:
        assert np.all(first.per_sample[~mask] == 0)
        whole = measure(inputs, jnp.ones(4, bool))
        np.testing.assert_allclose(first.per_sample[mask], whole.per_sample[mask], rtol=1e-12)


def test_covariance_is_in_the_order_of_the_groups():
    """Names that do not come in alphabetical order, eager and jitted."""
    params = {"a": jnp.ones(3), "b": jnp.ones((3, 2))}
    inputs = jax.random.normal(jax.random.key(4), (4, 3))

    def measure(key):
        return lnpjax.squared_jacobian_norm(
            lambda p, x: x @ p["b"] + 10 * (x @ p["a"])[:, None],
            params,
            inputs,
            estimator=Hutchinson(3),
            key=key,
            groups={"a": "z", "b": "y"}.__getitem__,
        )

    for estimate in (measure(jax.random.key(0)), jax.jit(measure)(jax.random.key(0))):
        sems = np.array([estimate.groups_sem[name] for name in estimate.groups])
        np.testing.assert_allclose(np.sqrt(np.diag(estimate.covariance)), sems, rtol=1e-6)


def test_standard_error_of_an_estimate_without_variance_is_a_number():
    """Two groups whose errors cancel: the sum's variance is zero up to rounding, never negative."""

    def apply_fn(params, x):
        return jnp.stack([(params["a"] + params["b"]) * x, (params["a"] - params["b"]) * x], -1)

    params, inputs = {"a": 1.0, "b": 1.0}, jnp.linspace(0.3, 1.7, 5)
    for estimator in (Hutchinson(3), GlobalHutchinson(3)):
        estimates = jax.jit(
            jax.vmap(
                lambda key, estimator=estimator: lnpjax.squared_jacobian_norm(
                    apply_fn, params, inputs, estimator=estimator, key=key
                )
            )
        )(jax.random.split(jax.random.key(5), 300))
        assert np.all(np.isfinite(estimates.sem))


@every_estimator
def test_zero_jacobian_is_flagged(estimator):
    estimate = jax.jit(
        lambda key: lnpjax.squared_jacobian_norm(
            lambda p, x: x + 0 * p, jnp.ones(()), jnp.ones((3, 2)), estimator=estimator, key=key
        )
    )(jax.random.key(0))
    assert estimate.value == 0
    assert estimate.status == Status.ZERO_JACOBIAN
    assert "no trainable parameter changes any output" in describe_status(estimate.status)


@functools.partial(jax.jit, static_argnames="estimator")
def norm_of_the_mlp(inputs, mask=None, *, estimator):
    case = zoo.build("mlp")
    return lnpjax.squared_jacobian_norm(
        case.apply_fn, case.params, inputs, estimator=estimator, key=jax.random.key(0), mask=mask
    )


@every_estimator
def test_masking_everything_is_flagged(estimator):
    inputs = zoo.build("mlp").batch_a[0]
    estimate = norm_of_the_mlp(inputs, jnp.zeros(4, bool), estimator=estimator)
    assert estimate.value == 0
    assert estimate.status == Status.ZERO_JACOBIAN


@every_estimator
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_non_finite_inputs_are_flagged(estimator, bad):
    inputs = zoo.build("mlp").batch_a[0].at[1, 2].set(bad)
    estimate = norm_of_the_mlp(inputs, estimator=estimator)
    assert not np.isfinite(estimate.value)
    assert int(estimate.status) & Status.NON_FINITE
    assert "infinite or NaN" in describe_status(estimate.status)


def test_non_finite_outputs_of_a_finite_jacobian_are_flagged():
    estimate = jax.jit(
        lambda weights: lnpjax.squared_jacobian_norm(
            lambda w, x: x @ w + jnp.where(x[:, :1] > 0, jnp.inf, 0.0),
            weights,
            jnp.eye(3),
            estimator=Exact(),
        )
    )(jnp.ones((3, 2)))
    assert int(estimate.status) & Status.NON_FINITE


def test_bfloat16_is_close_to_float32():
    """Half-precision networks: results in float32, finite, and within a few percent."""
    full = zoo.llama(num_layers=1, num_kv_heads=4)
    half = zoo.llama(num_layers=1, num_kv_heads=4, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(half.params))
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half.params)

    def measure(apply_fn, params):
        return jax.jit(
            lambda params, tokens: [
                lnpjax.squared_jacobian_norm(
                    apply_fn, params, tokens, estimator=estimator, key=jax.random.key(6)
                )
                for estimator in (Hutchinson(2), Exact())
            ]
        )(params, full.batch_a[0])

    expected = measure(full.apply_fn, rounded)
    estimates = measure(half.apply_fn, half.params)
    for estimate, reference in zip(estimates, expected, strict=True):
        assert estimate.status == Status.OK
        for leaf in jax.tree.leaves(estimate):
            assert leaf.dtype in (jnp.float32, jnp.int32)
        np.testing.assert_allclose(estimate.value, reference.value, rtol=0.05)
        for name, part in estimate.groups.items():
            np.testing.assert_allclose(part, reference.groups[name], rtol=0.1, err_msg=name)
