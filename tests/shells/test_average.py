"""Means over batches and their spread."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.shells import average_over_batches


def test_against_numpy(x64):
    energies = np.random.default_rng(0).exponential(size=(50, 7))
    average = average_over_batches(jnp.asarray(energies))
    np.testing.assert_allclose(average.mean, energies.mean(0), rtol=1e-13)
    np.testing.assert_allclose(average.std, energies.std(0, ddof=1), rtol=1e-13)
    np.testing.assert_allclose(average.sem, energies.std(0, ddof=1) / np.sqrt(50), rtol=1e-13)
    assert int(average.num_batches) == 50


def test_standard_error_covers_the_truth(x64):
    """In the mean and in its logarithm: the spread of repeated averages is the one stated."""
    draws = np.random.default_rng(1).gamma(4.0, size=(400, 60))
    averages = jax.vmap(average_over_batches)(jnp.asarray(draws)[..., None])
    scores = (averages.mean[:, 0] - 4.0) / averages.sem[:, 0]
    log_scores = (jnp.log(averages.mean[:, 0]) - np.log(4.0)) / averages.log_sem[:, 0]
    for deviation in (jnp.std(scores), jnp.std(log_scores)):
        assert abs(float(deviation) - 1) < 4 / np.sqrt(2 * 400)


def test_a_single_batch_has_no_spread_and_an_empty_shell_no_logarithm():
    single = average_over_batches(jnp.ones((1, 2)))
    assert single.mean.tolist() == [1.0, 1.0]
    assert bool(jnp.all(jnp.isnan(single.std) & jnp.isnan(single.sem) & jnp.isnan(single.log_sem)))
    empty = jax.jit(average_over_batches)(jnp.array([[0.0], [0.0]]))
    assert float(empty.sem[0]) == 0
    assert bool(jnp.isnan(empty.log_sem[0]))


def test_what_a_batch_lacks_does_not_count():
    energies = jnp.array([[1.0, 2.0, jnp.nan], [3.0, jnp.nan, jnp.nan], [5.0, 4.0, jnp.nan]])
    average = average_over_batches(energies, where=~jnp.isnan(energies))
    np.testing.assert_array_equal(average.num_batches, [3, 2, 0])
    np.testing.assert_allclose(average.mean, [3, 3, np.nan])
    np.testing.assert_allclose(average.sem, [2 / np.sqrt(3), 1, np.nan], rtol=1e-6)
    low, high = average.interval(0.5)
    assert bool(jnp.all(low[:2] < 3) & jnp.all(high[:2] > 3))


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match=r"energies: .*got list"):
        average_over_batches([[1.0]])
    with pytest.raises(ValueError, match=r"energies: .*got shape \(0, 3\)"):
        average_over_batches(jnp.ones((0, 3)))
    with pytest.raises(ValueError, match=r"where: .*got shape \(2,\)"):
        average_over_batches(jnp.ones((2, 3)), where=jnp.ones(2, bool))
