"""The arithmetic that turns spreads and times into a comparison at equal error."""

import numpy as np
import pytest

from benchmarks import rival_errors

SAMPLES, PROBES = 16, 20_000


@pytest.fixture(scope="module")
def draws():
    """Per-sample squared norms whose noise is partly the probe's (common) and partly their own."""
    rng = np.random.default_rng(0)
    common = 0.3 * rng.normal(size=(PROBES, 1))
    return 1 + common + 0.4 * rng.normal(size=(PROBES, SAMPLES))


def test_shared_probes_keep_the_common_noise_and_own_probes_average_it(draws):
    shared, own = 0.3**2 + 0.4**2 / SAMPLES, (0.3**2 + 0.4**2) / SAMPLES
    assert rival_errors.shared_variance(draws) == pytest.approx(shared, rel=0.05)
    assert rival_errors.independent_variance(draws) == pytest.approx(own, rel=0.05)


def test_without_common_noise_sharing_costs_nothing(draws):
    rng = np.random.default_rng(1)
    alone = rng.permuted(draws, axis=0)  # every sample keeps its spread and loses its company
    ratio = rival_errors.shared_variance(alone) / rival_errors.independent_variance(alone)
    assert ratio == pytest.approx(1, rel=0.05)


def test_network_error_is_the_spread_of_the_geometric_mean():
    rng = np.random.default_rng(0)
    variances, num_probes = (0.02, 0.05), 4
    norms = [
        rng.normal(7, 7 * np.sqrt(v / num_probes), size=200_000).clip(min=0) for v in variances
    ]
    chi_net = np.sqrt(np.prod(norms, axis=0))
    error = rival_errors.network_error(variances, num_probes)
    assert error == pytest.approx(chi_net.std() / chi_net.mean(), rel=0.01)


def test_probes_for_error_inverts_network_error():
    variances = (0.02, 0.05)
    error = rival_errors.network_error(variances, 6)
    assert rival_errors.probes_for_error(variances, error) == pytest.approx(6)
    assert rival_errors.probes_for_error(variances, error / 2) == pytest.approx(24)


def test_equal_probes_are_the_ratio_of_the_variances(draws):
    expected = (0.3**2 + 0.4**2 / SAMPLES) / ((0.3**2 + 0.4**2) / SAMPLES)
    pair = [draws, draws]
    assert rival_errors.equal_probes(pair, pair) == pytest.approx(expected, rel=0.05)
    few = [draws[:400], draws[400:800]]
    low, high = rival_errors.probes_interval(few, few, resamples=100)
    assert 0.7 * expected < low < expected < high < 1.4 * expected


def test_a_line_gives_time_and_probes_back():
    line = rival_errors.fit_line({1: 5.0, 4: 11.0, 10: 23.0})
    assert line == pytest.approx((3, 2))
    assert rival_errors.at(line, 7) == pytest.approx(17)
    assert rival_errors.probes_in(line, 17) == pytest.approx(7)
