"""The mean of chi_pos over Gaussian teachers, against sampling and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from lnpjax.spectra import inverse_participation_ratio
from lnpjax.theory.random_features import (
    expected_position,
    power_law_variances,
    relu_kernel,
)


@pytest.mark.parametrize("ratio", [1.0, 3.0, 1e3, 1e8])
def test_two_modes_in_closed_form(ratio):
    # The share of the first mode has the mean sqrt(a) / (sqrt(a) + sqrt(b)).
    a, b = ratio / (1 + ratio), 1 / (1 + ratio)
    first = np.sqrt(a) / (np.sqrt(a) + np.sqrt(b))
    expected = a * first + b * (1 - first)
    assert expected_position(np.array([ratio, 1.0])) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_against_sampled_teachers(beta):
    spectrum = power_law_variances(40, beta)
    shares = spectrum / spectrum.sum()
    energy = shares * np.random.default_rng(0).normal(size=(100_000, 40)) ** 2
    positions = energy @ shares / energy.sum(axis=1)
    error = positions.std() / np.sqrt(len(positions))
    assert abs(expected_position(spectrum) - positions.mean()) < 4 * error
    assert error < 0.003 * positions.mean()


def test_many_alike_modes_are_what_the_ratio_of_means_says():
    spectrum = np.linspace(1.0, 2.0, 4000)
    ratio_of_means = float(inverse_participation_ratio(spectrum))
    assert expected_position(spectrum) == pytest.approx(ratio_of_means, rel=1e-3)
    assert expected_position(spectrum) < ratio_of_means
    # Neither unit, order nor modes of zero matter.
    other = np.concatenate([np.zeros(7), 1e-20 * spectrum[::-1]])
    assert expected_position(other) == pytest.approx(expected_position(spectrum), rel=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="not all zero, got zeros"):
        expected_position(np.zeros(3))
    with pytest.raises(ValueError, match="eigenvalues: expected no eigenvalue below zero"):
        expected_position(np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="dimension: expected an integer >= 1, got 0"):
        power_law_variances(0, 1.0)


def test_many_features_have_the_kernel_of_infinitely_many():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((5, 3)) * np.array([2.0, 1.0, 0.5])
    weights = rng.standard_normal((3, 400_000)) / 3**0.5
    features = 2**0.5 * np.maximum(inputs @ weights, 0)
    products = features[:, None] * features[None]
    mean, error = products.mean(axis=2), products.std(axis=2) / len(weights.T) ** 0.5
    assert np.all(np.abs(relu_kernel(inputs) - mean) < 4 * error)


@pytest.mark.parametrize("inputs", [np.ones(3), np.ones((0, 3))])
def test_what_is_not_samples_has_no_kernel(inputs):
    with pytest.raises(ValueError, match="inputs"):
        relu_kernel(inputs)
