"""The estimators are unbiased and say truthfully how far off they are."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import zoo

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, parameters
from lnpjax.jacobian._probes import rademacher

NUM_KEYS = 500


@functools.cache
def estimates_of(name, estimator, x64):
    """Many independent estimates for a zoo model, with a group for every leaf."""
    del x64  # only part of the cache's key
    case = zoo.build(name)
    measure = jax.jit(
        jax.vmap(
            lambda key, params, inputs: lnpjax.squared_jacobian_norm(
                case.apply_fn,
                params,
                inputs,
                estimator=estimator,
                key=key,
                wrt=case.wrt,
                groups=lambda path: path,
            ),
            in_axes=(0, None, None),
        )
    )
    keys = jax.random.split(jax.random.key(7), NUM_KEYS)
    return jax.tree.map(np.asarray, measure(keys, case.params, case.batch_a[0]))


def in_order_of_leaves(name, groups):
    case = zoo.build(name)
    trainable, _ = parameters.partition(case.params, case.wrt)
    return np.stack([groups[path] for path in parameters.paths(trainable)], axis=-1)


def check_estimates(name, estimator, kernels, expected_covariance, *, scale=1.0, sem_scale=1.0):
    """Estimates are right on average, in all and per leaf, and so are their squared errors.

    The scales are what negative controls are made of.
    """
    estimates = estimates_of(name, estimator, x64=True)
    covariance = oracles.rademacher_covariance(kernels, estimator.num_probes)
    traces = np.einsum("giaa->g", kernels)
    variance = max(covariance.sum(), 0.0)
    oracles.assert_unbiased(scale * estimates.value, traces.sum(), variance)
    parts = in_order_of_leaves(name, estimates.groups)
    for part, trace, part_variance in zip(parts.T, traces, np.diag(covariance), strict=True):
        oracles.assert_unbiased(scale * part, trace, max(part_variance, 0.0))
    rounding = traces.sum() ** 2 * 1e-6
    oracles.assert_mean((sem_scale * estimates.sem) ** 2, expected_covariance.sum(), rounding)
    squares = (sem_scale * in_order_of_leaves(name, estimates.groups_sem)) ** 2
    oracles.assert_mean(squares, np.diag(expected_covariance), rounding)


def check_negative_controls(name, estimator, kernels, expected_covariance):
    with pytest.raises(AssertionError):
        check_estimates(name, estimator, kernels, expected_covariance, scale=1.5)
    with pytest.raises(AssertionError):
        check_estimates(name, estimator, kernels, expected_covariance, sem_scale=1.5)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_hutchinson_is_unbiased_with_a_truthful_error(x64, name):
    kernels = oracles.sample_kernels(oracles.dense_blocks(name))
    expected = oracles.rademacher_covariance(kernels, 2)
    check_estimates(name, Hutchinson(2), kernels, expected)
    if name in ("one_output", "frozen_subset", "inputs_pytree"):
        # Outputs that share no parameters: no variance, hence no error to be wrong about.
        assert expected.sum() <= 1e-12 * kernels.sum() ** 2
        return
    check_negative_controls(name, Hutchinson(2), kernels, expected)


@pytest.mark.parametrize("name", ["mlp", "frozen_subset", "tied_embeddings", "custom_vjp"])
def test_one_probe_gives_a_conservative_error(x64, name):
    """Its mean square is the variance plus n/(n-1) times the spread of the per-sample norms."""
    kernels = oracles.sample_kernels(oracles.dense_blocks(name))
    expected = oracles.single_probe_covariance(kernels)
    assert expected.sum() > oracles.rademacher_covariance(kernels, 1).sum()
    check_estimates(name, Hutchinson(1), kernels, expected)
    check_negative_controls(name, Hutchinson(1), kernels, expected)


@pytest.mark.parametrize("name", ["mlp", "one_sample", "frozen_by_mask", "scan_over_layers"])
def test_global_hutchinson_is_unbiased_with_a_truthful_error(x64, name):
    kernels = oracles.batch_kernels(oracles.dense_blocks(name))
    expected = oracles.rademacher_covariance(kernels, 2)
    check_estimates(name, GlobalHutchinson(2), kernels, expected)
    check_negative_controls(name, GlobalHutchinson(2), kernels, expected)


@pytest.mark.parametrize("name", ["mlp", "scan_over_layers"])
def test_shared_probes_are_unbiased_with_a_truthful_error(x64, name):
    """One vector of signs for all samples sees the sum of their kernels."""
    kernels = oracles.sample_kernels(oracles.dense_blocks(name))
    summed = kernels.sum(axis=1, keepdims=True)
    shared, alone = (oracles.rademacher_covariance(kernel, 2) for kernel in (summed, kernels))
    assert shared.sum() > 1.5 * alone.sum()
    check_estimates(name, Hutchinson(2, shared=True), summed, shared)
    check_negative_controls(name, Hutchinson(2, shared=True), summed, shared)
    with pytest.raises(AssertionError):  # the error of independent probes is not theirs
        check_estimates(name, Hutchinson(2, shared=True), summed, alone)


def test_one_shared_probe_says_nothing_about_its_error(x64):
    case = zoo.build("mlp")
    norm = jax.jit(
        lambda key: lnpjax.squared_jacobian_norm(
            case.apply_fn,
            case.params,
            case.batch_a[0],
            estimator=Hutchinson(1, shared=True),
            key=key,
        )
    )(jax.random.key(0))
    assert np.isnan(norm.sem)
    assert np.isfinite(norm.value)
    with pytest.raises(ValueError, match="shared: expected True or False, got 1"):
        Hutchinson(2, shared=1)


def test_oracles_agree(x64):
    """The variances used here are those of the shared oracle."""
    case, blocks = zoo.build("mlp"), oracles.dense_blocks("mlp")
    arguments = (case.apply_fn, case.params, case.batch_a[0], 3)
    shared, _ = oracles.hutchinson_variance(*arguments)
    own = oracles.rademacher_covariance(oracles.sample_kernels(blocks), 3).sum()
    np.testing.assert_allclose(own, shared, rtol=1e-10)
    whole = oracles.global_hutchinson_variance(*arguments)
    own = oracles.rademacher_covariance(oracles.batch_kernels(blocks), 3).sum()
    np.testing.assert_allclose(own, whole, rtol=1e-10)


@pytest.mark.parametrize("estimator", [Hutchinson(2), Hutchinson(1), GlobalHutchinson(2)], ids=repr)
def test_covariance_between_groups(x64, estimator):
    blocks = oracles.dense_blocks("mlp")
    if estimator.per_sample:
        kernels = oracles.sample_kernels(blocks)
    else:
        kernels = oracles.batch_kernels(blocks)
    expected = (
        oracles.single_probe_covariance(kernels)
        if estimator == Hutchinson(1)
        else oracles.rademacher_covariance(kernels, estimator.num_probes)
    )
    covariances = estimates_of("mlp", estimator, x64=True).covariance
    oracles.assert_mean(covariances, expected, np.max(np.abs(expected)))
    with pytest.raises(AssertionError):
        oracles.assert_mean(1.5 * covariances, expected, np.max(np.abs(expected)))


def test_one_draw_in_all_says_nothing_about_its_error(x64):
    case = zoo.build("one_sample")
    for estimator, inputs in (
        (Hutchinson(1), case.batch_a[0]),
        (GlobalHutchinson(1), zoo.build("mlp").batch_a[0]),
    ):
        estimate = jax.jit(
            lambda key, estimator=estimator, inputs=inputs: lnpjax.squared_jacobian_norm(
                case.apply_fn, case.params, inputs, estimator=estimator, key=key
            )
        )(jax.random.key(0))
        assert np.isfinite(estimate.value)
        assert np.isnan(estimate.sem)
        assert all(np.isnan(sem) for sem in estimate.groups_sem.values())


@pytest.mark.parametrize(("num_probes", "sizes"), [(1, (4,)), (3, (1, 4, 6))])
def test_a_sample_keeps_its_probes_whatever_its_company(x64, num_probes, sizes):
    case, key = zoo.build("mlp"), jax.random.key(8)

    @functools.partial(jax.jit, static_argnames="microbatch_size")
    def per_sample(inputs, key, microbatch_size=None):
        estimator = Hutchinson(num_probes, microbatch_size=microbatch_size)
        return lnpjax.squared_jacobian_norm(
            case.apply_fn, case.params, inputs, estimator=estimator, key=key
        ).per_sample

    inputs = case.batch_b[0]  # six samples
    reference = per_sample(inputs, key)
    others = per_sample(inputs.at[2].set(-3.0), key)
    keep = np.arange(6) != 2
    np.testing.assert_allclose(others[keep], reference[keep], rtol=1e-12)
    assert abs(others[2] / reference[2] - 1) > 1e-3
    np.testing.assert_allclose(per_sample(inputs[:4], key), reference[:4], rtol=1e-12)
    for microbatch_size in sizes:
        sliced = per_sample(inputs, key, microbatch_size=microbatch_size)
        np.testing.assert_allclose(sliced, reference, rtol=1e-12)
    np.testing.assert_array_equal(per_sample(inputs, key), reference)
    assert np.mean(per_sample(inputs, jax.random.key(9)) != reference) > 0.5


def test_samples_draw_independently(x64):
    """Eight copies of one sample: shared probes would give a variance eight times as large."""
    case = zoo.build("mlp")
    inputs = jnp.repeat(case.batch_a[0][:1], 8, axis=0)
    estimates = jax.jit(
        jax.vmap(
            lambda key: lnpjax.squared_jacobian_norm(
                case.apply_fn, case.params, inputs, estimator=Hutchinson(1), key=key
            )
        )
    )(jax.random.split(jax.random.key(10), 2000))
    single, _ = oracles.hutchinson_variance(case.apply_fn, case.params, inputs[:1], 1)
    # The variance of 2000 draws is known to sqrt(2/2000) = 3 %; four of those.
    np.testing.assert_allclose(np.var(estimates.value), 8 * single, rtol=0.13)
    np.testing.assert_allclose(np.mean(estimates.sem**2), 8 * single, rtol=0.13)
    correlations = np.corrcoef(estimates.per_sample.T) - np.eye(8)
    assert np.max(np.abs(correlations)) < 5 / np.sqrt(2000)


@pytest.mark.parametrize("shape", [(), (1,), (31,), (32,), (33,), (5, 13)])
def test_random_signs(shape):
    """Signs only, of mean zero, independent of each other within and across words of 32 bits."""
    num_draws = 4000
    keys = jax.random.split(jax.random.key(11), num_draws)
    draw = jax.jit(jax.vmap(lambda key: rademacher(key, shape, jnp.dtype("float32"))))
    signs = np.asarray(draw(keys), np.float64)
    assert signs.shape == (num_draws, *shape)
    assert set(np.unique(signs)) == {-1.0, 1.0}

    def check(signs):
        # Entries are z-scores; five sigma leave room for the two thousand pairs looked at.
        flat = signs.reshape(num_draws, -1)
        assert np.max(np.abs(flat.mean(axis=0))) < 5 / np.sqrt(num_draws)
        overlaps = flat.T @ flat / num_draws - np.eye(flat.shape[1])
        assert np.max(np.abs(overlaps)) < 5 / np.sqrt(num_draws)

    check(signs)
    flat = signs.reshape(num_draws, -1)
    with pytest.raises(AssertionError):  # a bit used twice would be seen
        check(np.concatenate([flat, flat[:, -1:]], axis=1))
    with pytest.raises(AssertionError):  # and so would a bias of 0.1
        check(np.where(np.random.default_rng(0).random(signs.shape) < 0.1, 1.0, signs))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_random_signs_have_the_dtype_asked_for(x64, dtype):
    draw = rademacher(jax.random.key(12), (7, 9), jnp.dtype(dtype))
    assert draw.dtype == jnp.dtype(dtype)
    reference = rademacher(jax.random.key(12), (7, 9), jnp.dtype("float64"))
    np.testing.assert_array_equal(np.asarray(draw, np.float64), reference)


def test_estimators_can_be_compared_and_hashed():
    """So that they can be static arguments of a jitted function."""
    assert Hutchinson(2) == Hutchinson(num_probes=2) != Hutchinson(1)
    assert len({Exact(), Exact(16), GlobalHutchinson(), Hutchinson()}) == 3


@functools.cache
def trained_llama():
    """A Llama that has learnt sequences ``x -> a x + b mod 32``, and 32 of them."""
    case = zoo.llama(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_layers=1, num_kv_heads=4
    )

    def batch(key, size):
        keys = jax.random.split(key, 2)
        step = jax.random.choice(keys[0], jnp.array([1, 3, 5]), (size, 1))
        start = jax.random.randint(keys[1], (size, 1), 0, 32)
        ids = (start + step * jnp.arange(9)) % 32
        return ids[:, :-1], ids[:, 1:]

    optimizer = optax.adam(1e-2)
    # The zoo scales its weights up for other tests; training starts from the usual ones.
    params = jax.tree.map(lambda p: p / 5 if p.ndim == 2 else p, case.params)

    def loss_of(params, key, size=16):
        inputs, targets = batch(key, size)
        return case.loss_fn(case.apply_fn(params, inputs), targets)

    @jax.jit
    def train(params, key):
        def step(carry, key):
            params, state = carry
            loss, gradient = jax.value_and_grad(loss_of)(params, key)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), loss

        keys = jax.random.split(key, 400)
        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params, losses

    params, losses = train(params, jax.random.key(13))
    assert losses[-20:].mean() < 0.5 * losses[0]  # it has learnt
    return case.apply_fn, params, batch(jax.random.key(14), 32)[0]


def shared_probes(apply_fn, params, inputs, key, num_probes):
    """The reference package's way: every sample is probed with the same signs."""

    def one_probe(key):
        def probed(params, sample):
            outputs = apply_fn(params, sample[None])[0]
            return jnp.vdot(rademacher(key, outputs.shape, outputs.dtype), outputs)

        gradients = jax.vmap(jax.grad(probed), in_axes=(None, 0))(params, inputs)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients))

    return jnp.mean(jax.lax.map(one_probe, jax.random.split(key, num_probes)))


def test_one_independent_probe_beats_ten_shared_ones_on_a_trained_model():
    """At 32 samples: by the exact variances, and by the spread over many keys."""
    apply_fn, params, inputs = trained_llama()

    @jax.jit
    def kernel(params, sample):
        jacobian = jax.jacrev(lambda p: apply_fn(p, sample[None]).reshape(-1))(params)
        rows = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(jacobian)]
        return sum(row @ row.T for row in rows)

    kernels = np.stack([np.asarray(kernel(params, x), np.float64) for x in inputs])[None]
    independent = oracles.rademacher_covariance(kernels, 1).item()
    shared = oracles.rademacher_covariance(kernels.sum(axis=1, keepdims=True), 10).item()
    assert independent <= shared
    trace = np.einsum("giaa->", kernels)

    @jax.jit
    def both(keys):
        def one(key):
            own = lnpjax.squared_jacobian_norm(apply_fn, params, inputs, key=key)
            return own.value, shared_probes(apply_fn, params, inputs, key, 10)

        return jax.lax.map(one, keys)

    num_keys = 200
    values = both(jax.random.split(jax.random.key(15), num_keys))
    for draws, variance in zip(values, (independent, shared), strict=True):
        oracles.assert_unbiased(draws, trace, variance * 1.05)
        # A standard deviation from 200 draws is known to 5 %; four of those.
        np.testing.assert_allclose(np.std(draws, ddof=1), np.sqrt(variance), rtol=0.2)
    assert np.std(values[0]) <= np.std(values[1])
