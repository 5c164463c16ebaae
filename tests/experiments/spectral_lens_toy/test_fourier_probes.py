"""Fourier probes against signals whose modes are known."""

from __future__ import annotations

import numpy as np
import pytest

from lnpjax.experiments.spectral_lens_toy.fourier_probes import (
    band_concentration,
    conditional_means,
    first_component_peak_mass,
    fourier_profile,
    gini,
    peak_mass,
    task_band,
)

MODES = {2: 3.0, 5: 1.0}  # amplitudes


def _waves(cycle: int) -> np.ndarray:
    """Each mode in directions of its own, on top of a constant."""
    angles = 2 * np.pi * np.arange(cycle) / cycle
    columns = [
        amplitude * wave(mode * angles)
        for mode, amplitude in MODES.items()
        for wave in (np.cos, np.sin)
    ]
    return np.stack(columns, axis=1) + 7.0


@pytest.mark.parametrize("cycle", [12, 13])
def test_a_sum_of_two_waves(cycle):
    hidden = _waves(cycle)
    profile = fourier_profile(hidden)
    expected = np.zeros(cycle // 2)
    expected[[1, 4]] = 0.9, 0.1
    np.testing.assert_allclose(profile, expected, atol=1e-12)
    assert peak_mass(profile) == pytest.approx(0.9)
    band = np.arange(1, cycle // 2 + 1) == 5
    assert band_concentration(profile, band) == pytest.approx(0.1)
    assert first_component_peak_mass(hidden) == pytest.approx(1.0)


def test_the_middle_mode_of_an_even_cycle_counts_once():
    alternating = np.tile([1.0, -1.0], 3)
    wave = np.sqrt(2) * np.cos(2 * np.pi * np.arange(6) / 6)
    profile = fourier_profile(np.stack([alternating, wave], axis=1))
    np.testing.assert_allclose(profile, [0.5, 0, 0.5], atol=1e-12)


def test_a_constant_has_no_profile():
    assert np.all(np.isnan(fourier_profile(np.ones((5, 2)))))


def test_gini_of_equal_shares_and_of_one_share():
    assert gini(np.full(7, 1 / 7)) == pytest.approx(0)
    assert gini(np.eye(8)[3]) == pytest.approx(7 / 8)


def test_means_over_each_place():
    rng = np.random.default_rng(0)
    place = rng.permutation(np.repeat(np.arange(4), 3))
    hidden = rng.normal(size=(12, 2))
    expected = [hidden[place == m].mean(0) for m in range(4)]
    np.testing.assert_allclose(conditional_means(hidden, place, 4), expected)
    with pytest.raises(ValueError, match="place: expected places from 0 to 4, each at least once"):
        conditional_means(hidden, place, 5)


def test_the_task_band_is_the_smallest_that_holds_the_share():
    power = np.array([5.0, 1.0, 3.0, 1.0])
    assert task_band(power, 0.5).tolist() == [True, False, False, False]
    assert task_band(power, 0.8).tolist() == [True, False, True, False]
    assert task_band(power, 1.0).all()
    with pytest.raises(ValueError, match=r"share: expected a number in \(0, 1\], got 0"):
        task_band(power, 0)
