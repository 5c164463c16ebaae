"""Summaries of known spectra, and exponents of noisy power laws within their standard error."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax.spectra import _power_law as power_laws
from lnpjax.spectra import _summary as spectrum_summary
from lnpjax.spectra import spectral_resolution, tail_window
from lnpjax.status import Status

# One program each, not one for every operation.
power_law = jax.jit(power_laws.power_law, static_argnames=("ranks", "resolution"))
cumulative_variance = jax.jit(spectrum_summary.cumulative_variance)
effective_dimension = jax.jit(spectrum_summary.effective_dimension, static_argnums=1)
jensen_shannon_divergence = jax.jit(spectrum_summary.jensen_shannon_divergence)
summarize_spectrum = jax.jit(
    spectrum_summary.summarize_spectrum, static_argnames=("head", "tail", "resolution")
)


def power(k, exponent):
    return jnp.arange(1.0, k + 1) ** -exponent


def noisy_fits(exponent, noise, *, errors=None, window=(10, 60), repeats=1000):
    """Fits to many spectra ``rank^(-exponent) exp(noise)``."""
    rank = np.arange(1.0, 101.0)
    if errors is None:
        errors = np.random.default_rng(0).normal(size=(repeats, len(rank)))
    values = jnp.asarray(rank**-exponent * np.exp(noise * errors), jnp.float32)
    return jax.jit(jax.vmap(lambda v: power_law(v, window)))(values)


@pytest.mark.parametrize("exponent", [0.7, 2.0])
@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_exponents_are_recovered_within_their_standard_error(exponent, noise):
    """95.4 % within two standard errors, a little less for Student's t with 49 degrees."""
    fits = noisy_fits(exponent, noise)
    error = np.asarray(fits.exponent) - exponent
    covered = np.mean(np.abs(error) < 2 * fits.exponent_sem)
    expected = 0.949
    assert abs(covered - expected) < 3 * np.sqrt(expected * (1 - expected) / len(error))
    assert abs(np.mean(error)) < 3 * np.std(error) / np.sqrt(len(error))
    assert np.sqrt(np.mean(np.square(fits.exponent_sem))) == pytest.approx(np.std(error), rel=0.07)


def test_the_standard_error_is_too_small_for_errors_that_are_not_independent():
    """Negative control of the coverage: a random walk of errors."""
    steps = np.random.default_rng(0).normal(size=(1000, 100))
    fits = noisy_fits(1.0, 0.1, errors=np.cumsum(steps, axis=1))
    assert np.mean(np.abs(fits.exponent - 1.0) < 2 * fits.exponent_sem) < 0.7


def test_standard_error_is_that_of_least_squares(x64):
    values = np.exp(np.random.default_rng(0).normal(size=40)) * np.arange(1.0, 41.0) ** -1.2
    x, y = np.log(np.arange(5, 31)), np.log(values[4:30])
    # polyfit scales its covariance with the residuals over n - 2.
    _, covariance = np.polyfit(x, y, 1, cov=True)
    fit = power_law(jnp.asarray(values), ((5, 30), (4, 6), (4, 5)))
    assert fit.exponent_sem[0] == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-12)
    assert np.isfinite(fit.exponent_sem[1])
    assert np.isnan(fit.exponent_sem[2])


def test_an_exact_power_law_has_no_error(x64):
    assert power_law(power(50, 1.5), (3, 50)).exponent_sem < 1e-14


def test_values_under_the_resolution_are_left_out_counted_and_flagged(x64):
    """The trap: a floor of rounding noise under a power law makes an exponent of its own."""
    floor = 2e-6 * np.random.default_rng(0).uniform(size=200)
    values = jnp.asarray(np.maximum(np.arange(1.0, 201.0) ** -3.0, np.sort(floor)[::-1]))
    spurious = power_law(values, (50, 200))
    assert spurious.status == Status.OK
    assert abs(spurious.exponent - 3) > 5 * spurious.exponent_sem
    fit = power_law(values, ((50, 200), (5, 50), (190, 200)), resolution=4e-6)
    np.testing.assert_allclose(fit.exponent[:2], 3, rtol=1e-12)
    last = int(np.floor(4e-6 ** (-1 / 3)))
    np.testing.assert_array_equal(fit.num_points, [last - 49, 46, 0])
    np.testing.assert_array_equal(fit.num_left_out, [200 - last, 0, 11])
    vanishing = Status.VANISHING_EIGENVALUES
    np.testing.assert_array_equal(fit.status, [vanishing, 0, vanishing | Status.TOO_FEW_POINTS])


@pytest.mark.parametrize("hole", [0.0, -1.0])
def test_zeros_and_negatives_are_flagged_without_a_resolution(hole):
    fit = power_law(power(10, 1).at[7].set(hole), ((1, 10), (1, 7)))
    np.testing.assert_array_equal(fit.status, [Status.VANISHING_EIGENVALUES, 0])


def test_nan_is_left_out_but_has_not_vanished():
    fit = power_law(power(10, 1).at[7].set(jnp.nan), (1, 10))
    assert (fit.num_left_out, fit.status) == (1, 0)


@pytest.mark.parametrize("resolution", [-0.1, 1.0, float("nan")])
def test_bad_resolution(resolution):
    with pytest.raises(ValueError, match=r"^resolution: expected None or a fraction"):
        power_laws.power_law(np.ones(5), (1, 5), resolution=resolution)


@pytest.mark.parametrize("k", [96])
def test_the_resolution_separates_float32_eigenvalues_from_their_noise(k):
    """What is kept is right to 10 %, and without the threshold much is kept that is not."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(k, k)))
    exact = np.exp(-np.linspace(0, 25, k))
    found = np.asarray(jnp.linalg.eigvalsh(jnp.asarray((basis * exact) @ basis.T, jnp.float32)))
    found = found[::-1]
    kept = found >= spectral_resolution(k, jnp.float32) * found[0]
    assert 0.3 * k < np.sum(kept) < 0.6 * k
    np.testing.assert_allclose(found[kept], exact[kept], rtol=0.1)
    lost = (found > 0) & ~kept
    assert np.max(np.abs(found / exact - 1)[lost]) > 1


@pytest.mark.parametrize(
    ("dimension", "num_layers", "window"),
    [
        (768, None, (100, 200)),
        (768, 12, (100, 200)),
        (1280, 36, (200, 400)),
        (1600, 48, (400, 800)),
        (1280, None, (200, 400)),
        (1600, None, (400, 800)),
        (4096, 96, (800, 1600)),
        (4096, None, (800, 1600)),
        (1024, 24, (100, 200)),
        (200, 12, (100, 200)),
        (199, 12, (26, 52)),
        (512, 48, (67, 133)),
        (96, 4, (12, 25)),
        (16, None, (2, 4)),
        (4, None, (1, 3)),
        (2, None, (1, 2)),
        (1, None, (1, 1)),
    ],
)
def test_tail_window(dimension, num_layers, window):
    """Section 2.2: [100, 200] for d12, [200, 400] for d36, [400, 800] for d48."""
    assert tail_window(dimension, num_layers=num_layers) == window


def test_bad_tail_windows():
    with pytest.raises(ValueError, match=r"^dimension: expected an integer >= 1, got 0"):
        tail_window(0)
    with pytest.raises(ValueError, match=r"^num_layers: expected an integer >= 1, got 1.5"):
        tail_window(768, num_layers=1.5)


@pytest.mark.parametrize(
    ("eigenvalues", "fraction", "dimension"),
    [
        (np.ones(1000), 0.9, 900),
        (np.ones(1000), 0.9005, 901),
        (np.array([0.0, 7.0, 0.0]), 0.9, 1),
        (np.array([1.0, 89.0, 10.0]), 0.99, 2),
        (np.array([1.0, 89.0, 10.0]), 1.0, 3),
        (np.zeros(3), 0.9, 0),
    ],
)
def test_effective_dimension(eigenvalues, fraction, dimension):
    spectrum = jnp.asarray(eigenvalues, jnp.float32)
    assert effective_dimension(spectrum, fraction) == dimension


def test_cumulative_variance_of_a_batch():
    shares = cumulative_variance(jnp.array([[1.0, 3.0, 0.0], [2.0, 2.0, 4.0]]))
    np.testing.assert_allclose(shares, [[0.75, 1, 1], [0.5, 0.75, 1]], rtol=1e-6)


def entropy(p):
    return -np.sum(p[p > 0] * np.log(p[p > 0]))


def test_jensen_shannon_divergence_is_its_definition(x64):
    rng = np.random.default_rng(0)
    p, q = -np.sort(-rng.exponential(size=(2, 30)), axis=1)
    q[20:] = 0
    shares = p / p.sum(), q / q.sum()
    expected = entropy(sum(shares) / 2) - sum(map(entropy, shares)) / 2
    shuffled = jnp.asarray(rng.permutation(p) * 5), jnp.asarray(q)
    assert jensen_shannon_divergence(*shuffled) == pytest.approx(expected, rel=1e-12)
    assert jensen_shannon_divergence(*shuffled[::-1]) == pytest.approx(expected, rel=1e-12)


def test_jensen_shannon_divergence_keeps_its_digits():
    """Nearly equal spectra, in float32: entropies would leave nothing of 1e-9."""
    rank = np.arange(1.0, 101.0)
    p, q = rank**-1.0, rank**-1.0001
    p, q = p / p.sum(), q / q.sum()
    expected = np.sum((p - q) ** 2 / (p + q)) / 4  # to relative order of the square of 1e-4
    found = jensen_shannon_divergence(jnp.asarray(p, jnp.float32), jnp.asarray(q, jnp.float32))
    assert 1e-10 < expected < 1e-7
    assert found == pytest.approx(expected, rel=5e-3)


def test_jensen_shannon_divergence_at_its_ends():
    """Sorted spectra are never quite disjoint: one mode against k equal ones comes closest."""
    one, many = jnp.zeros(4000).at[0].set(1.0), jnp.ones(4000)
    assert 0.68 < jensen_shannon_divergence(one, many) < np.log(2)
    assert jensen_shannon_divergence(many, 2 * many) == 0
    assert np.isnan(jensen_shannon_divergence(jnp.zeros(4000), many))
    with pytest.raises(ValueError, match=r"^q_eigs: .* as p_eigs has, 4000, got 3"):
        jensen_shannon_divergence(many, jnp.ones(3))


def test_summary_of_a_power_law():
    """Two slopes: the head sees one, the tail the other."""
    rank = np.arange(1.0, 769.0)
    values = np.where(rank <= 50, rank**-0.5, 50**1.0 * rank**-1.5)
    summary = summarize_spectrum(jnp.asarray(np.random.default_rng(0).permutation(values)))
    assert summary.head.exponent == pytest.approx(0.5, abs=1e-5)
    assert summary.tail.exponent == pytest.approx(1.5, abs=1e-4)
    assert (summary.head.num_points, summary.tail.num_points) == (10, 101)
    np.testing.assert_allclose(summary.eigenvalues, values, rtol=1e-6)
    share = values / values.sum()
    assert summary.trace == pytest.approx(values.sum(), rel=1e-5)
    assert summary.rank_me == pytest.approx(np.exp(entropy(share)), rel=1e-4)
    assert summary.effective_dimension == 1 + np.sum(np.cumsum(share) < 0.9)
    assert summary.status == Status.OK


@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_rank_me_of_known_spectra(x64, ratio):
    """In closed form: ``r^(-r/(1 - r)) / (1 - r)`` for infinitely many."""
    values = ratio ** np.arange(400.0)
    infinite = ratio ** (-ratio / (1 - ratio)) / (1 - ratio)
    assert summarize_spectrum(jnp.asarray(values)).rank_me == pytest.approx(infinite, rel=1e-9)
    uniform, single = jnp.ones(400), 2 * jnp.eye(400)[3]
    assert summarize_spectrum(uniform).rank_me == pytest.approx(400, rel=1e-12)
    assert summarize_spectrum(single).rank_me == 1


def test_a_spectrum_of_low_rank_is_flagged():
    """Twenty samples span nineteen dimensions: the tail of 96 features is rounding."""
    hidden = np.random.default_rng(0).normal(size=(20, 96))
    covariance = jnp.asarray(np.cov(hidden, rowvar=False), jnp.float32)
    summary = summarize_spectrum(jnp.linalg.eigvalsh(covariance))
    assert summary.head.status == Status.OK
    assert summary.tail.num_points == 19 - 12 + 1
    assert summary.status == summary.tail.status == Status.VANISHING_EIGENVALUES
    unaware = summarize_spectrum(jnp.linalg.eigvalsh(covariance), resolution=0.0)
    assert unaware.tail.exponent > 5 * summary.tail.exponent


def test_what_is_undefined_is_flagged():
    bad = summarize_spectrum(jnp.ones(20).at[3].set(jnp.inf))
    assert int(bad.status) & Status.NON_FINITE
    floats = [bad.trace, bad.rank_me, bad.head.exponent, bad.tail.exponent, *bad.eigenvalues]
    assert np.all(np.isnan(floats))
    assert bad.effective_dimension == 0
    assert int(summarize_spectrum(jnp.linspace(-0.5, 1, 20)).status) & Status.NEGATIVE_EIGENVALUES
    zero = summarize_spectrum(jnp.zeros(20))
    assert zero.status == Status.VANISHING_EIGENVALUES | Status.TOO_FEW_POINTS
    assert np.isnan(zero.rank_me)
    assert zero.trace == 0
    carried = summarize_spectrum(jnp.ones(20), status=jnp.int32(Status.SAMPLES_INTERACT))
    assert carried.status == Status.SAMPLES_INTERACT


def test_a_trace_that_overflows_is_flagged():
    summary = summarize_spectrum(jnp.full(20, 3e38))
    assert summary.status == Status.NON_FINITE
    assert summary.rank_me == pytest.approx(20, rel=1e-5)


@pytest.mark.parametrize("reason", [Status.TOO_FEW_POINTS, Status.NON_FINITE])
def test_nan_that_the_status_explains_is_not_refused(reason):
    status = jnp.int32(reason)
    summary = spectrum_summary.summarize_spectrum(jnp.full(5, jnp.nan), status=status)
    assert summary.status == reason | Status.TOO_FEW_POINTS
    assert np.isnan(summary.rank_me)


def test_the_resolution_may_be_traced():
    fit = jax.jit(lambda r: power_laws.power_law(power(10, 1), (1, 10), resolution=r))(0.15)
    assert (fit.num_points, fit.status) == (6, Status.VANISHING_EIGENVALUES)


def test_summaries_go_through_scan_and_vmap():
    spectra = jnp.stack([power(30, a) for a in (0.5, 1.0, 2.0)])
    mapped = jax.jit(jax.vmap(spectrum_summary.summarize_spectrum))(spectra)
    _, scanned = jax.lax.scan(lambda c, e: (c, summarize_spectrum(e)), 0, spectra)
    np.testing.assert_allclose(mapped.head.exponent, [0.5, 1, 2], rtol=1e-5)
    assert jax.tree.structure(mapped) == jax.tree.structure(scanned)
    for left, right in zip(jax.tree.leaves(mapped), jax.tree.leaves(scanned), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tail": (100, 200)},
            r"^tail: .* <= 96, the number of eigenvalues, got \(100, 200\)",
        ),
        ({"head": (0, 10)}, r"^head: .* 1 <= first .* got \(0, 10\)"),
        ({"head": (5, 4)}, r"^head: .* first <= last .* got \(5, 4\)"),
        ({"tail": (1.0, 3.0)}, r"^tail: .* ranks"),
        ({"tail": 3}, r"^tail: .* got 3"),
    ],
)
def test_windows_outside_the_rank_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        spectrum_summary.summarize_spectrum(np.ones(96), **options)


def test_bad_spectra():
    with pytest.raises(ValueError, match=r"^eigenvalues: expected a vector, got shape \(2, 3\)"):
        spectrum_summary.summarize_spectrum(jnp.ones((2, 3)))
    with pytest.raises(TypeError, match=r"^eigenvalues: .* int32"):
        spectrum_summary.summarize_spectrum(jnp.arange(5))
    with pytest.raises(ValueError, match=r"^eigenvalues: expected finite"):
        spectrum_summary.summarize_spectrum(jnp.ones(5).at[0].set(jnp.nan))


def test_a_step_that_is_not_measured_says_so_in_every_status():
    step = lnpjax.instrument(
        lambda state, batch: (state, 0.0),
        lambda params, a, b, *, key: {"layer": summarize_spectrum(params)},
        lnpjax.log_windows(100, width=1),
        params_of=lambda state: state["spectrum"],
        step_of=lambda state: state["step"],
    )
    state = {"spectrum": power(20, 1), "step": jnp.int32(99)}
    _, _, record = jax.jit(step)(state, (jnp.ones(1), None), None, jax.random.key(0))
    blank = record.measurement["layer"]
    statuses = (blank.status, blank.head.status, blank.tail.status)
    assert [int(status) for status in statuses] == [Status.NOT_MEASURED] * 3
    assert np.isnan(blank.rank_me)
