"""Signal and noise of updates against closed forms."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.experiments.spectral_lens_muon_adam.config import PRESETS
from lnpjax.experiments.spectral_lens_muon_adam.updates import (
    RULES,
    draw_counts,
    expected_power,
    measure_updates,
    population_of,
)

SAMPLES, DRAWS, SHAPE = 64, 400, (6, 4)
SIZES = (2, 512)


@pytest.fixture(scope="module")
def population():
    """Gaussian gradients of one variance, which is what the polar factor has a closed form for."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((SAMPLES, *SHAPE))
    noise -= noise.mean(axis=0)
    noise /= noise.std(axis=0)
    mean = np.eye(*SHAPE) * np.array([3.0, 2.0, 1.5, 1.0])
    return population_of(jnp.asarray(mean + noise, jnp.float32))


@pytest.fixture(scope="module")
def measured(population):
    def one(rule, size):
        counts = draw_counts(SAMPLES, size, DRAWS, seed=(1, size))
        sizes = jnp.array([size, SIZES[-1]], jnp.float32)
        return jax.device_get(measure_updates(rule, population, jnp.asarray(counts, float), sizes))

    return {(rule, size): one(rule, size) for rule in RULES for size in SIZES}


@pytest.mark.parametrize("rule", ["gradient", "Adam"])
@pytest.mark.parametrize("size", SIZES)
def test_power_has_a_closed_form(population, measured, rule, size):
    found, exact = measured[rule, size].power, expected_power(rule, population, size)
    np.testing.assert_allclose(found.noise, exact.noise, rtol=0.05)
    np.testing.assert_allclose(found.signal, exact.signal, rtol=0.05)


def test_little_noise_turns_the_polar_factor_as_its_derivative_says(population, measured):
    """For ``G + E``, dQ has the part ``(x_ij - x_ji) / (s_i + s_j)`` of ``x = U^T E V``.

    And outside of the span of the columns ``e_i / s_i``; here entries of E have variance 1 / B.
    """
    values = np.linalg.svd(np.asarray(population.mean), compute_uv=False)
    inside = sum(2 / (a + b) ** 2 for i, a in enumerate(values) for b in np.delete(values, i))
    outside = (SHAPE[0] - SHAPE[1]) * np.sum(1 / values**2)
    largest = SIZES[-1]
    found = measured["polar factor", largest]
    np.testing.assert_allclose(found.power.noise, (inside + outside) / largest, rtol=0.05)
    distance = ((inside + outside) / largest / SHAPE[1]) ** 0.5
    np.testing.assert_allclose(found.distance, distance, rtol=0.05)


def test_orthogonal_updates_have_full_rank_and_fixed_power(measured):
    for size in SIZES:
        polar, muon = measured["polar factor", size], measured["Muon", size]
        np.testing.assert_allclose(sum(polar.power), SHAPE[1], rtol=1e-4)
        np.testing.assert_allclose(polar.rank, SHAPE[1], rtol=1e-4)
        assert 0.68**2 * SHAPE[1] < sum(muon.power) < 1.13**2 * SHAPE[1]


def test_updates_near_that_of_the_population(measured):
    for rule in RULES:
        few, many = measured[rule, SIZES[0]], measured[rule, SIZES[1]]
        assert few.alignment < many.alignment
        assert many.alignment > 0.97 or rule == "Adam"  # which divides noise by itself
        assert many.along == pytest.approx(many.power.signal**0.5, rel=0.02)
        assert few.noise_values[0] > 4 * many.noise_values[0] or rule != "gradient"


def test_noise_of_the_gradient_falls_as_the_root(measured):
    few, many = (measured["gradient", size].noise_values[0] for size in SIZES)
    assert few / many == pytest.approx((SIZES[1] / SIZES[0]) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": (8, 4)}, "states: expected 1 or more ascending numbers"),
        ({"states": (4, 9)}, "states: expected steps of a run of 8, got"),
        ({"batch_sizes": (4,)}, "batch_sizes: expected 2 or more ascending numbers"),
        ({"num_draws": 2}, "num_draws: expected an integer >= 3"),
        ({"seeds": (1, 1)}, "seeds: expected distinct seeds"),
        ({"rate_factor": 0.0}, "rate_factor: expected a number > 0"),
        ({"num_pool": 33}, "num_pool: expected 2 to num_validation=32"),
        ({"tokens": 100}, "tokens: expected a multiple of tokens_per_step=128"),
    ],
)
def test_bad_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["smoke"], **changes)
