"""Profiles of states whose spectrum is known, and what is said of them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.plotting import plot_shell_profile
from lnpjax.shells import (
    Profile,
    ProfileOptions,
    average_over_batches,
    detect_frontier,
    log_shells,
    profiles_of,
    shell_energies,
)
from lnpjax.shells._profiles import (
    StateSpectra,
    describe_collapse,
    falls_above,
    jackknife_sem,
    slope_in_doubt,
)
from lnpjax.spectra._lanczos import measure_at

CENTERS = jnp.geomspace(0.01, 10.0, 14)


_detect_each = jax.jit(jax.vmap(detect_frontier, (None, 0)))


def profile_of(batches):
    energies = average_over_batches(batches)
    without = _detect_each(CENTERS, (jnp.sum(batches, axis=0) - batches) / (len(batches) - 1))
    frontier = jax.tree.map(lambda value: value[0], _detect_each(CENTERS, energies.mean[None]))
    return Profile("", CENTERS, *[energies] * 3, jnp.zeros(()), frontier, None, without)


def profile_with_minima(minima):
    average = average_over_batches(minima, where=~jnp.isnan(minima))
    return Profile("", CENTERS, *[average] * 3, jnp.zeros(()), None, None)


def batches_of(energies, spread):
    noise = np.random.default_rng(0).normal(size=(6, len(CENTERS)))
    return jnp.asarray(energies * np.exp(spread * noise))


@pytest.mark.parametrize(
    ("rate", "spread", "said"),
    [
        (2.0, 0.05, "it collapses: "),
        (0.05, 0.05, "it does not collapse: "),
        (0.55, 1.0, "do not tell"),
    ],
)
def test_a_collapse_is_judged_with_its_errors(rate, spread, said):
    minima = np.asarray(jnp.exp(-rate * CENTERS)) * (1 + 0.1 * np.asarray(CENTERS < 0.02))
    profile = profile_with_minima(batches_of(minima, spread))
    assert said in describe_collapse(profile)


def test_a_shell_that_one_batch_lacks_is_judged_by_the_others():
    minima = batches_of(np.exp(-2.0 * np.asarray(CENTERS)), 0.05).at[0, -1].set(jnp.nan)
    assert "it collapses: " in describe_collapse(profile_with_minima(minima))


def test_a_slope_is_in_doubt_where_its_error_or_the_scatter_says_so():
    energies = np.asarray(CENTERS * jnp.exp(-CENTERS))
    assert not slope_in_doubt(profile_of(batches_of(energies, 0.02)))
    assert slope_in_doubt(profile_of(batches_of(energies * np.resize([1, 30.0], 14), 0.02)))
    assert slope_in_doubt(profile_of(batches_of(np.asarray(CENTERS**-0.5), 0.02)))


def test_a_profile_that_stays_level_above_its_peak_is_not_called_exponential():
    falling = np.asarray(CENTERS * jnp.exp(-CENTERS / 0.3))
    levelling = np.where(CENTERS > 0.3, np.maximum(falling, 0.03), falling)
    falls, level = (profile_of(batches_of(one, 0.2)) for one in (falling, levelling))
    assert falls_above(falls)
    assert not falls_above(level)
    assert plot_shell_profile(level).axes[1].texts[0].get_text().endswith("no exponential fall")
    assert plot_shell_profile(falls).axes[1].texts[0].get_text().endswith("exponential above")


def test_the_jackknife_of_a_mean_is_its_standard_error():
    draws = np.random.default_rng(1).normal(size=(9, 3))
    without = (draws.sum(0) - draws) / 8
    expected = draws.std(0, ddof=1) / 3
    np.testing.assert_allclose(jackknife_sem(jnp.asarray(without)), expected, rtol=1e-5)


EIGENVALUES = jnp.geomspace(0.02, 8.0, 40)
STARTS = jnp.asarray(np.random.default_rng(2).normal(size=(3, 40)), jnp.float32)


def spectra_of(num_matvecs, tokens=1):
    """The spectra of three batches with these eigenvalues, each token taken `tokens` times."""

    def measured(start):
        return measure_at(lambda v: EIGENVALUES * v, start, num_matvecs=num_matvecs)

    error = jax.jit(jax.vmap(measured))(STARTS)
    error = dataclasses.replace(error, nodes=error.nodes * tokens, total=error.total * tokens)
    return StateSpectra(error, None, jnp.full(3, 40 * tokens))


def test_per_token_profiles_do_not_depend_on_how_many_tokens_there_are():
    options = ProfileOptions(ratio=3.0, decades=2.0, per_token=True)
    once, eight = (profiles_of({"a": spectra_of(10, n)}, options)[0] for n in (1, 8))
    np.testing.assert_allclose(once.centers, eight.centers, rtol=1e-5)
    np.testing.assert_allclose(once.energies.mean, eight.energies.mean, rtol=1e-4)
    expected = np.sum(np.asarray(STARTS) ** 2) / 3 / 40 / 2
    np.testing.assert_allclose(once.energies.mean.sum() + once.remainder, expected, rtol=1e-4)


def test_half_the_products_follow_from_all_of_them():
    options = ProfileOptions(ratio=3.0, decades=2.0)
    (whole,) = profiles_of({"a": spectra_of(10)}, options)
    half = spectra_of(5).error
    edges = log_shells(float(whole.centers[0]) / 3**0.5, float(whole.centers[-1]) * 1.7, ratio=3.0)
    sums = jax.jit(jax.vmap(lambda n, w, total: shell_energies(n, w * total, edges)))
    energies = sums(half.nodes, half.weights, half.total).mean(0)[1:]
    mean = whole.energies.mean
    change = jnp.max(jnp.where(mean >= mean.max() / 100, jnp.abs(energies / mean - 1), 0))
    assert change > 0
    assert whole.convergence is not None
    np.testing.assert_allclose(whole.convergence.shell_change, change, rtol=1e-2)
    assert 0.1 < whole.convergence.unresolved <= 1


def test_a_shell_that_only_one_batch_reaches_decides_nothing():
    minima = batches_of(np.exp(-2.0 * np.asarray(CENTERS)), 0.05).at[:, -1].set(jnp.nan)
    assert "it collapses: " in describe_collapse(profile_with_minima(minima.at[0, -1].set(9.0)))
