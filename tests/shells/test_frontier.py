"""Frontiers of profiles whose frontier is known."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax import Status
from lnpjax.shells import Frontier, detect_frontier, frontier_displacement

CENTERS = np.geomspace(0.005, 8.0, 40)


def product(centers, exponent, rate):
    """Equation 16."""
    return centers**exponent * np.exp(-rate * centers)


def blended(centers, *, exponent=1.5, rate=3.0, center=0.8, width=0.3, low=3.0, high=8.0):
    x = np.log(centers)
    share = 1 / (1 + np.exp(-(x - np.log(center)) / width))
    below, above = np.log(low) + exponent * x, np.log(high) - rate * centers
    return np.exp((1 - share) * below + share * above)


def detect(centers, energies):
    return _detect(jnp.asarray(centers), jnp.asarray(energies))


_detect = jax.jit(detect_frontier)
_profile = jax.jit(Frontier.profile)


@pytest.mark.parametrize(
    "truth",
    [
        {},
        {"exponent": 0.5, "rate": 1.0, "center": 1.5, "width": 0.1},
        {"exponent": 2.0, "rate": 9.0, "center": 0.3, "width": 0.4, "low": 1e-6, "high": 1e-6},
    ],
    ids=["typical", "sharp", "small energies"],
)
def test_a_profile_of_the_fitted_form_is_recovered(x64, truth):
    energies = blended(CENTERS, **truth)
    frontier = detect(CENTERS, energies)
    expected = {"exponent": 1.5, "rate": 3.0, "center": 0.8, "width": 0.3, "low": 3.0, "high": 8.0}
    expected |= truth
    np.testing.assert_allclose(frontier.exponent, expected["exponent"], rtol=1e-2)
    np.testing.assert_allclose(frontier.rate, expected["rate"], rtol=1e-2)
    np.testing.assert_allclose(frontier.blend_center, expected["center"], rtol=2e-2)
    np.testing.assert_allclose(frontier.blend_width, expected["width"], rtol=5e-2)
    np.testing.assert_allclose(frontier.low_amplitude, expected["low"], rtol=5e-2)
    np.testing.assert_allclose(frontier.high_amplitude, expected["high"], rtol=5e-2)
    assert float(frontier.residual) < 1e-2
    np.testing.assert_allclose(_profile(frontier, jnp.asarray(CENTERS)), energies, rtol=5e-2)
    assert int(frontier.status) == 0
    above = CENTERS[np.argmax(energies)] < CENTERS
    assert int(frontier.num_points) == np.sum(~above | (energies >= 1e-6 * energies.max()))


@pytest.mark.parametrize(("exponent", "rate"), [(2.0, 2.0), (1.0, 4.0), (0.5, 0.5)])
def test_peak_and_cutoff_of_the_papers_form(x64, exponent, rate):
    """Equation 16 peaks at s / kappa; its cut-off by bisection."""
    frontier = detect(CENTERS, product(CENTERS, exponent, rate))
    peak = exponent / rate
    np.testing.assert_allclose(frontier.peak, peak, rtol=1e-2)
    np.testing.assert_allclose(frontier.peak_energy, product(peak, exponent, rate), rtol=1e-2)
    low, high = peak, 100 * peak
    for _ in range(60):
        middle = (low + high) / 2
        above = product(middle, exponent, rate) > 0.01 * product(peak, exponent, rate)
        low, high = (middle, high) if above else (low, middle)
    if high < CENTERS[-1]:
        np.testing.assert_allclose(frontier.cutoff, high, rtol=2e-2)
    else:
        assert bool(jnp.isnan(frontier.cutoff))


def test_a_parabola_in_logarithms_has_its_top_where_it_is(x64):
    """Between shells, with uneven centres."""
    centers = CENTERS * np.exp(0.03 * np.random.default_rng(1).uniform(-1, 1, size=40))
    frontier = detect(centers, 7 * np.exp(-(np.log(centers / 0.6) ** 2)))
    np.testing.assert_allclose([frontier.peak, frontier.peak_energy], [0.6, 7], rtol=1e-10)
    np.testing.assert_allclose(frontier.cutoff, 0.6 * np.exp(np.log(100) ** 0.5), rtol=1e-2)


def test_what_the_docstring_says_of_the_fits_bias(x64):
    for exponent, rate in ((2.0, 2.0), (2.0, 4.0), (1.0, 2.0)):
        fit = detect(CENTERS, product(CENTERS, exponent, rate))
        assert 0.78 < float(fit.exponent) / exponent < 0.9
        assert 0.6 < float(fit.rate) / rate < 0.85
        assert float(fit.residual) > 0.1


def test_noise_of_a_tenth_moves_the_fit_little(x64):
    noise = np.exp(0.1 * np.random.default_rng(0).normal(size=(20, 40)))
    frontier = jax.jit(jax.vmap(detect_frontier, (None, 0)))(
        jnp.asarray(CENTERS), jnp.asarray(blended(CENTERS) * noise)
    )
    np.testing.assert_allclose(np.median(frontier.exponent), 1.5, rtol=0.05)
    np.testing.assert_allclose(np.median(frontier.rate), 3.0, rtol=0.05)
    np.testing.assert_allclose(np.median(frontier.residual), 0.1, rtol=0.3)
    assert not np.any(np.asarray(frontier.status))


def test_units_and_scale_do_not_matter(x64):
    """Eigenvalues a thousand times larger, energies a million times smaller."""
    energies = blended(CENTERS)
    here = detect(CENTERS, energies)
    there = detect(1e3 * CENTERS, 1e-6 * energies)
    for name, factor in (("peak", 1e3), ("cutoff", 1e3), ("exponent", 1), ("rate", 1e-3)):
        np.testing.assert_allclose(getattr(there, name), factor * getattr(here, name), rtol=1e-6)
    moved = frontier_displacement(here, there)
    np.testing.assert_allclose(moved.peak, np.log(1e3), rtol=1e-6)


def test_displacement_of_a_spreading_frontier(x64):
    """Equation 15 with p = 1: the frontier moves like 1/t, the amplitude like ``t^(-c0 p)``."""
    early = detect(CENTERS, product(CENTERS, 2.0, 4.0))
    late = detect(CENTERS, product(CENTERS, 2.0, 8.0) / 5)
    moved = frontier_displacement(early, late)
    np.testing.assert_allclose(moved.peak, -np.log(2), rtol=2e-2)
    np.testing.assert_allclose(moved.cutoff, -np.log(2), rtol=2e-2)
    fitted = [detect(CENTERS, blended(CENTERS, rate=k, center=c)) for k, c in ((3, 0.8), (6, 0.4))]
    np.testing.assert_allclose(frontier_displacement(*fitted).rate, np.log(2), rtol=2e-2)
    same = frontier_displacement(early, early)
    assert [float(value) for value in jax.tree.leaves(same)] == [0.0] * 5
    reweighted = detect(CENTERS, 3 * product(CENTERS, 2.0, 4.0))
    np.testing.assert_allclose(
        frontier_displacement(early, reweighted).amplitude, np.log(3), rtol=1e-6
    )


@pytest.mark.parametrize("rest", [1e-300, 1e-12, 1e-8])
@pytest.mark.parametrize("factor", [10.0, 100.0])
def test_amplitude_is_that_of_the_side_both_profiles_have(x64, factor, rest):
    """The low side grows threefold while the frontier moves down, by up to two decades.

    Beyond its cut-off the profile falls without end, or ends at the floor of rounding.
    """
    centers = np.geomspace(1e-4, 10.0, 40)
    early = detect(centers, product(centers, 1.0, 1.0))
    energies = 3 * product(centers, 1.0, factor)
    late = detect(centers, np.maximum(energies, rest * energies.max()))
    amplitude = frontier_displacement(early, late).amplitude
    np.testing.assert_allclose(amplitude, np.log(3), atol=0.2)


def test_a_slope_from_too_few_shells_is_flagged(x64):
    """One shell far below a broad rise: the steep line that meets it alone is no power law."""
    centers = np.geomspace(0.1, 100.0, 12)
    energies = np.exp(-(np.log(centers / 10) ** 2) / 8)
    energies[0] = 1e-8
    frontier = detect(centers, energies)
    assert bool(jnp.isfinite(frontier.exponent))
    assert int(np.sum(centers < float(frontier.blend_center))) < 3
    assert Status(int(frontier.status)) == Status.TOO_FEW_POINTS


def test_empty_shells_are_left_out(x64):
    energies = blended(CENTERS)
    whole = detect(CENTERS, energies)
    energies[[3, 7, 31]] = 0
    holes = detect(CENTERS, energies)
    assert int(holes.num_points) == int(whole.num_points) - 3
    np.testing.assert_allclose(holes.exponent, whole.exponent, rtol=1e-2)
    np.testing.assert_allclose(holes.peak, whole.peak, rtol=1e-12)


def test_energy_that_ends_at_once_is_cut_off_between_two_shells(x64):
    centers = jnp.asarray(2.0 ** np.arange(8))
    energies = jnp.array([1.0, 2.0, 4.0, 8.0, 6.0, 0.0, 0.0, 0.0])
    frontier = detect(centers, energies)
    np.testing.assert_allclose(frontier.cutoff, 2.0**4.5, rtol=1e-12)
    assert Status(int(frontier.status)) == Status.TOO_FEW_POINTS
    assert bool(jnp.isnan(frontier.rate))
    assert 4.0 < float(frontier.peak) < 16.0


@pytest.mark.parametrize("direction", [1, -1])
def test_a_monotone_profile_has_no_peak(direction):
    centers = jnp.geomspace(1.0, 100.0, 12)
    frontier = detect(centers, centers ** (2.0 * direction))
    assert Status.TOO_FEW_POINTS in Status(int(frontier.status))
    for name in ("peak", "peak_energy", "exponent", "rate", "blend_center", "residual"):
        assert bool(jnp.isnan(getattr(frontier, name))), name
    # Where energy only falls, a cut-off exists all the same.
    assert bool(jnp.isnan(frontier.cutoff)) == (direction == 1)


def test_no_energy_at_all_is_flagged():
    frontier = detect(jnp.arange(1.0, 9.0), jnp.zeros(8))
    assert Status(int(frontier.status)) == Status.TOO_FEW_POINTS
    assert bool(jnp.isnan(frontier.cutoff) & jnp.isnan(frontier.peak))


def test_structure_and_dtypes_are_fixed():
    centers = jnp.asarray(CENTERS, jnp.float32)
    good = detect(centers, product(centers, 1.0, 2.0))
    bad = detect(centers, jnp.full(40, jnp.nan))
    assert Status.NON_FINITE in Status(int(bad.status))
    for field in dataclasses.fields(Frontier):
        a, b = getattr(good, field.name), getattr(bad, field.name)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_allclose(good.peak, 0.5, rtol=2e-2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"centers": jnp.ones(2), "energies": jnp.ones(2)}, ValueError, r"centers: .*at least 3"),
        ({"centers": jnp.array([1.0, 1.0, 2.0, 3.0])}, ValueError, r"centers: .*ascending"),
        ({"energies": jnp.ones(5)}, ValueError, r"energies: .*the remainder has no centre"),
        ({"energies": -jnp.ones(4)}, ValueError, r"energies: expected finite numbers >= 0"),
        ({"energies": jnp.full(4, jnp.nan)}, ValueError, r"energies: .*got \[nan"),
        ({"energies": [1.0] * 4}, TypeError, r"energies: .*got list"),
        ({"cutoff_fraction": 0.0}, ValueError, r"cutoff_fraction: .*got 0.0"),
        ({"cutoff_fraction": 1.0}, ValueError, r"cutoff_fraction: .*got 1.0"),
        ({"max_blend_width": 0.0}, ValueError, r"max_blend_width: .*got 0.0"),
    ],
)
def test_bad_profiles_are_refused(changes, error, message):
    good = {"centers": jnp.arange(1.0, 5.0), "energies": jnp.ones(4)}
    with pytest.raises(error, match=message):
        detect_frontier(**(good | changes))


def test_displacement_wants_frontiers():
    with pytest.raises(TypeError, match=r"before: expected a Frontier.*got float"):
        frontier_displacement(1.0, 2.0)
