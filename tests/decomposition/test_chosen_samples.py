"""Few samples that stand for all: unbiased, with an error that is not too small, and less work."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax import Exact, Hutchinson

SAMPLES = 12


def apply_fn(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def loss_fn(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def setting():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "first": jax.random.normal(keys[0], (3, 5)),
        "second": jax.random.normal(keys[1], (5, 4)),
    }
    # Samples of very different norms.
    inputs = jnp.exp(0.7 * jax.random.normal(keys[2], (SAMPLES, 1))) * jax.random.normal(
        keys[3], (SAMPLES, 3)
    )
    return params, (inputs, jnp.ones((SAMPLES, 4)))


def norms(estimator, mask=None, num_keys=1000):
    params, (inputs, _) = setting()

    def one(key):
        return lnpjax.squared_jacobian_norm(
            apply_fn, params, inputs, estimator=estimator, key=key, mask=mask
        )

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), num_keys))


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("num_probes", [1, 2])
def test_unbiased_with_an_error_that_is_not_too_small(masked, num_probes):
    mask = jnp.arange(SAMPLES) % 4 > 0 if masked else jnp.ones(SAMPLES, bool)
    params, (inputs, _) = setting()
    exact = jax.jit(
        lambda mask: lnpjax.squared_jacobian_norm(
            apply_fn, params, inputs, estimator=Exact(), mask=mask
        )
    )(mask)
    found = norms(Hutchinson(num_probes, samples=4), mask)
    value, spread = np.mean(found.value), np.std(found.value)
    error = spread / np.sqrt(len(found.value))
    assert abs(value - exact.value) < 4 * error
    assert abs(1.5 * value - exact.value) > 4 * error  # the control
    for name, part in exact.groups.items():
        draws = found.groups[name]
        assert abs(np.mean(draws) - part) < 4 * np.std(draws) / np.sqrt(len(draws))
    # Without replacement, so that the stated error is at most this much too large.
    fraction = 4 / int(mask.sum())
    stated = np.sqrt(np.mean(np.square(found.sem)))
    assert 0.9 * spread < stated < 1.2 * spread / np.sqrt(1 - fraction)
    probed = np.isfinite(found.per_sample) & np.asarray(mask)
    assert np.all(probed.sum(axis=1) == 4)
    assert np.all(np.asarray(found.per_sample)[:, ~np.asarray(mask)] == 0)


def test_as_many_as_there_are_is_all_of_them():
    key = jax.random.key(2)
    params, batch = setting()

    def measured(**options):
        measure = lnpjax.lnp(apply_fn, loss_fn, estimator=Hutchinson(1, **options))
        return jax.jit(measure)(params, batch, key=key)

    every = measured()
    for samples in (SAMPLES, 100):
        assert measured(samples=samples).chi_net == every.chi_net


def test_everything_but_the_norms_is_of_the_whole_batch():
    params, batch = setting()
    few = lnpjax.lnp(apply_fn, loss_fn, estimator=Hutchinson(1, samples=3))
    exact = lnpjax.lnp(apply_fn, loss_fn, estimator=Exact())
    other = jax.tree.map(lambda leaf: leaf[::-1] + 0.1, batch)
    out = jax.jit(few)(params, batch, other, key=jax.random.key(0))
    true = jax.jit(exact)(params, batch, other)
    for name in ("loss_a", "loss_b", "delta_loss", "chi_loss"):
        np.testing.assert_allclose(getattr(out, name), getattr(true, name), rtol=1e-5)
    assert out.chi_pos != true.chi_pos
    np.testing.assert_allclose(out.delta_loss, out.chi_loss * out.chi_net * out.chi_pos, rtol=1e-5)


def test_the_backward_passes_of_norms_are_of_few_samples():
    """By the operations of the compiled program: a batch costs a gradient and little more."""
    params = {"w": jnp.ones((64, 64))}
    inputs = jnp.ones((64, 64))

    def deep(params, x):
        for _ in range(4):
            x = jnp.tanh(x @ jnp.sin(params["w"]))  # else no gradient would be made
        return x

    def cost(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    def norm(estimator):
        return lambda x, key: (
            lnpjax.squared_jacobian_norm(deep, params, x, estimator=estimator, key=key).value
        )

    key = jax.random.key(0)
    forward = cost(lambda x: deep(params, x), inputs)
    few = cost(norm(Hutchinson(1, samples=4)), inputs, key)
    every = cost(norm(Hutchinson(1)), inputs, key)
    assert few < 2.2 * forward
    assert every > 2.8 * forward


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="samples: expected an integer >= 1, got 0"):
        Hutchinson(1, samples=0)
    with pytest.raises(ValueError, match="samples: expected None where probes are shared, got 2"):
        Hutchinson(2, shared=True, samples=2)
