"""Student's t, intervals from it, and the degrees of freedom of what probes tell."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, SplitModel
from lnpjax._base.intervals import scale_interval, student_t
from lnpjax.jacobian._probe_noise import degrees_of_freedom, probe_noise

DEGREES = np.array([1, 1.3, 2, 3.7, 10, 19.99, 20, 55.5, 300, 1e5, 1e8, np.inf])


@pytest.mark.parametrize("coverage", [0.05, 0.5, 0.68, 0.95, 0.99, 0.9999])
@pytest.mark.parametrize("double", [False, True])
def test_students_t(coverage, double):
    with jax.enable_x64(double):
        found = jax.jit(lambda df: student_t(coverage, df))(jnp.asarray(DEGREES))
        assert found.dtype == (jnp.float64 if double else jnp.float32)
        expected = scipy.stats.t.ppf((1 + coverage) / 2, DEGREES)
        np.testing.assert_allclose(found, expected, rtol=4e-5 if double else 2e-4)


def test_an_unknown_number_of_degrees_of_freedom_gives_no_interval():
    @jax.jit
    def unknown(df):
        return student_t(0.95, df), *scale_interval(jnp.ones(()), jnp.ones(()), df, 0.95)

    assert np.all(np.isnan(unknown(jnp.array(jnp.nan))))


def test_intervals_of_a_scale():
    """By hand; negative values mirror, a value without error is its own interval, and so is 0."""
    t = scipy.stats.t.ppf(0.975, 4)
    values, sems = jnp.array([2.0, -2.0, 2.0, 0.0]), jnp.array([1.0, 1.0, 0.0, 0.0])
    low, high = jax.jit(lambda *given: scale_interval(*given, 0.95))(values, sems, jnp.full(4, 4.0))
    small, large = 2 * np.exp(-t / 2), 2 * np.exp(t / 2)
    np.testing.assert_allclose(low, [small, -large, 2, 0], rtol=1e-5)
    np.testing.assert_allclose(high, [large, -small, 2, 0], rtol=1e-5)


@pytest.mark.parametrize("bad", [0, 1, 95, -0.5, float("nan"), "0.95", None])
def test_a_coverage_that_is_not_a_probability_is_refused(bad):
    with pytest.raises(ValueError, match="coverage: expected a probability between 0 and 1"):
        student_t(bad, jnp.ones(()))


def noise_of(draws, exact=(), mask=None):
    draws = jnp.asarray(draws, jnp.float32)
    mask = jnp.ones(len(draws), bool) if mask is None else jnp.asarray(mask)
    members = {str(leaf): (leaf,) for leaf in range(draws.shape[2])}
    return jax.jit(lambda draws, mask: probe_noise(draws, members, mask, exact))(draws, mask)


@jax.jit
def df_of(*noises):
    count = noises[0].sizes.shape[1]
    return degrees_of_freedom(noises, [jnp.eye(count)] * len(noises))


def test_degrees_of_freedom_by_hand():
    """V_i = 1, 4 with one degree each and sizes 2, 4: 3 * 25/17 - 2 and 1 * 20^2 / (16 + 256)."""
    noise = noise_of([[[1], [3]], [[2], [6]]])
    np.testing.assert_allclose(noise.covariance, [[5]], rtol=1e-6)
    np.testing.assert_allclose(df_of(noise), min(3 * 25 / 17 - 2, 400 / 272), rtol=1e-6)


def test_degrees_of_freedom_of_equal_rows_are_their_number():
    rng = np.random.default_rng(0)
    draws = 100 + rng.normal(size=(400, 3, 1))
    limit = 400 * 2
    assert 0.8 * limit < df_of(noise_of(draws)).item() <= limit
    assert 0.8 * 399 < df_of(noise_of(draws[:, :1])).item() <= 399


def test_degrees_of_freedom_see_a_row_that_dominates_even_where_its_draws_agree():
    draws = np.concatenate([np.full((1, 2, 1), 1e4), 1 + np.arange(40).reshape(20, 2, 1) % 3])
    np.testing.assert_allclose(df_of(noise_of(draws)), 1, rtol=1e-3)


def test_degrees_of_freedom_of_two_estimates_add_up():
    """Of two alike twice those of one, and where one has no error those of the other."""
    draws = 100 + np.random.default_rng(1).normal(size=(50, 3, 1))
    single = df_of(noise_of(draws))
    pair = df_of(noise_of(draws), noise_of(draws))
    assert 1.9 < (pair / single).item() < 2.1
    np.testing.assert_allclose(df_of(noise_of(draws), noise_of(draws, exact=(0,))), single)


def test_masked_rows_and_large_numbers_change_no_degrees_of_freedom():
    draws = np.random.default_rng(2).chisquare(3, size=(6, 2, 1))
    padded = np.concatenate([draws, np.zeros((2, 2, 1))])
    mask = np.arange(8) < 6
    np.testing.assert_allclose(df_of(noise_of(padded, mask=mask)), df_of(noise_of(draws)))
    np.testing.assert_allclose(df_of(noise_of(1e18 * draws)), df_of(noise_of(draws)), rtol=1e-5)
    one = noise_of(padded[:, :1], mask=mask)
    np.testing.assert_allclose(df_of(one), df_of(noise_of(draws[:, :1])), rtol=1e-5)


def norm(apply_fn, params, inputs, estimator):
    return jax.jit(
        lambda: lnpjax.squared_jacobian_norm(
            apply_fn, params, inputs, estimator=estimator, key=jax.random.key(0)
        )
    )()


def mixed(params, inputs):
    return jnp.tanh(inputs @ params) @ params.T


WEIGHTS = jnp.linspace(-1, 1, 6).reshape(3, 2)


@pytest.mark.parametrize(
    ("estimator", "num_samples"), [(Hutchinson(1), 1), (GlobalHutchinson(1), 4)]
)
def test_one_draw_in_all_gives_no_interval(estimator, num_samples):
    estimate = norm(mixed, WEIGHTS, jnp.ones((num_samples, 3)), estimator)
    assert np.isfinite(estimate.value)
    assert np.all(np.isnan([estimate.sem, estimate.df, *estimate.interval()]))


def test_an_exact_norm_is_its_own_interval():
    estimate = norm(mixed, WEIGHTS, jnp.ones((3, 3)), Exact())
    assert estimate.df == jnp.inf
    assert estimate.interval() == (estimate.value, estimate.value)


@pytest.mark.parametrize("num_samples", [1, 4])
def test_one_output_is_measured_without_error_by_one_probe(num_samples):
    """Its sign squared is 1; the spread of the samples' norms is not an error."""
    inputs = jnp.arange(1.0, 1 + 3 * num_samples).reshape(num_samples, 3)
    estimate = norm(lambda w, x: x @ w, jnp.ones((3, 1)), inputs, Hutchinson(1))
    np.testing.assert_allclose(estimate.value, np.sum(np.square(inputs)), rtol=1e-6)
    assert estimate.sem == 0
    assert estimate.interval() == (estimate.value, estimate.value)


def test_a_closed_form_has_no_error_with_one_probe():
    """The read-out's share is known exactly, however much samples differ."""
    params = {"table": jnp.diag(jnp.array([1.0, 10.0, 100.0])), "mid": jnp.ones((3, 3)) / 3}
    params["kernel"] = jnp.arange(12.0).reshape(3, 4)
    model = SplitModel(lambda p, x: jnp.tanh(x @ p["mid"]), embedding="table", readout="kernel")
    estimate = norm(model, params, jnp.array([[0, 1], [1, 2], [0, 2]]), Hutchinson(1))
    assert estimate.groups["kernel"] > 0
    assert estimate.groups_sem["kernel"] == 0
    assert estimate.groups_df["kernel"] == jnp.inf
    assert estimate.groups_sem["mid"] > 0
    expected = estimate.covariance.sum() ** 0.5
    np.testing.assert_allclose(estimate.sem, expected, rtol=1e-6)
