"""Power-law modes against integrated dynamics, least-squares fits, and differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from lnpjax.theory.fourier import smooth_spectrum
from lnpjax.theory.fourier.smooth_spectrum import SmoothSpectrum

MODELS = (
    SmoothSpectrum(1.2, 0.5, 2.0, 3.0),
    SmoothSpectrum(0.7, 1.5, 0.3, 1.0),
    SmoothSpectrum(2.0, 0.1, 1.0, 0.5),
)
window_bias = jax.jit(smooth_spectrum.window_bias, static_argnames=("first", "last"))
activation_spectrum = jax.jit(smooth_spectrum.activation_spectrum)
local_exponent = jax.jit(smooth_spectrum.local_exponent)


def integrated(model, ranks, times):
    """Coefficients over targets, ``(time, rank)``, from the power laws and the flow alone."""
    rates = model.eta * ranks**-model.q
    solution = scipy.integrate.solve_ivp(
        lambda _, a: rates * (1 - a),
        (0, max(times)),
        np.zeros(len(ranks)),
        t_eval=times,
        rtol=1e-10,
        atol=1e-14,
    )
    return solution.y.T


def fitted_exponent(values, first, last):
    ranks = np.arange(first, last + 1)
    return -np.polyfit(np.log(ranks), np.log(values), 1)[0]


@pytest.mark.parametrize("model", MODELS)
def test_the_spectrum_is_that_of_the_integrated_flow(x64, model):
    """Equations 54 to 57, and what a fit over a window of it measures (F.9)."""
    ranks, times = np.arange(1.0, 41), np.array([0.5, 20.0])
    energies = model.amplitude * ranks**-model.p * integrated(model, ranks, times) ** 2
    spectrum = activation_spectrum(model, ranks, times[:, None])
    np.testing.assert_allclose(spectrum, energies, rtol=1e-8)
    for first, last in ((1, 10), (10, 40)):
        expected = [fitted_exponent(row[first - 1 : last], first, last) for row in energies]
        exponents = smooth_spectrum.window_exponent(model, times, first=first, last=last)
        np.testing.assert_allclose(exponents, expected, rtol=1e-7)


@pytest.mark.parametrize("model", MODELS)
def test_three_zones(x64, model):
    """F.6: values and slopes on both sides of the crossover, and the middle of the bend."""
    time = 7.0
    crossover = float(smooth_spectrum.crossover_rank(model, time))
    spread = 1e4 ** (1 / model.q)
    ranks = crossover * np.array([spread**-0.5, 1.0, spread])
    energies = np.asarray(activation_spectrum(model, ranks, time))
    np.testing.assert_allclose(energies[0], model.amplitude * ranks[0] ** -model.p, rtol=1e-12)
    tail = model.amplitude * (model.eta * time) ** 2 * ranks[2] ** -(model.p + 2 * model.q)
    np.testing.assert_allclose(energies[2], tail, rtol=2e-4)
    np.testing.assert_allclose(
        energies[1] / ranks[1] ** -model.p, model.amplitude * 0.3995764008937
    )

    at = np.append(ranks, smooth_spectrum.bend_rank(model, time))
    step = 1e-5
    rise = [np.log(activation_spectrum(model, at * np.exp(s), time)) for s in (-step, step)]
    slopes = np.diff(rise, axis=0)[0] / (2 * step)
    exponents = local_exponent(model, at, time)
    np.testing.assert_allclose(exponents, -slopes, rtol=1e-6)
    p, q = model.p, model.q
    expected = [p, p + 2 * q / (np.e - 1), p + 2 * q, p + q]
    np.testing.assert_allclose(exponents, expected, rtol=2e-4)


def test_a_mode_long_learned_has_a_finite_slope():
    exponent = smooth_spectrum.local_exponent(MODELS[0], 1.0, 1e30)
    np.testing.assert_allclose(exponent, MODELS[0].p)


@pytest.mark.parametrize("model", [*MODELS, SmoothSpectrum(1.0, 0.0, 2.0)])
def test_recruitment(x64, model):
    """F.7: just before the time the band is not yet learned, just after it is."""
    ranks, tolerance = np.arange(1.0, 13), 0.1
    time = float(smooth_spectrum.recruitment_time(model, 12.0, tolerance=tolerance))
    before, after = integrated(model, ranks, np.array([0.999, 1.001]) * time)
    assert not np.all(before >= 1 - tolerance)
    assert np.all(after >= 1 - tolerance)


def test_head_matched_runs_are_ordered_by_the_tail(x64):
    """F.8, and that any window beyond the anchor orders them, in the bend too."""
    early = {"anchor_rank": 5.0, "progress": 0.9, "time": 3.0}
    exponents, times, local = np.array([0.2, 0.5, 1.0, 2.0]), [], []
    for q in exponents:
        eta = float(smooth_spectrum.head_matched_rate(q, **early))
        model = SmoothSpectrum(1.0, q, eta)
        anchor = integrated(model, np.array([5.0]), np.array([3.0]))
        np.testing.assert_allclose(anchor, 0.9, rtol=1e-9)
        time = smooth_spectrum.head_matched_recruitment_time(q, 40.0, tolerance=0.05, **early)
        slowest = integrated(model, np.array([40.0]), np.array([float(time)]))
        np.testing.assert_allclose(slowest, 0.95, rtol=1e-9)
        times.append(float(time))
        ranks = np.arange(1.0, 11)
        energies = ranks**-1.0 * integrated(model, ranks, np.array([3.0]))[0] ** 2
        local.append([fitted_exponent(energies[a - 1 : b], a, b) for a, b in ((1, 4), (5, 10))])
    assert np.all(np.diff(times) > 0)
    below, beyond = np.transpose(local)
    assert np.all(np.diff(beyond) > 0)
    # All of these fits are biased; and before the anchor they order the runs the other way round.
    assert np.all(beyond[1:] < 1 + 2 * exponents[1:] - 0.1)
    assert np.all(np.diff(below[1:]) < 0)


def test_without_the_match_the_tail_misleads(x64):
    flat, steep = SmoothSpectrum(1.0, 0.5, 0.1), SmoothSpectrum(1.0, 1.0, 10.0)
    assert flat.tail_exponent < steep.tail_exponent
    slow, fast = (smooth_spectrum.recruitment_time(m, 20.0, tolerance=0.1) for m in (flat, steep))
    assert slow > fast


def test_head_matched_runs_reach_a_loss_in_another_order(x64):
    """F.8 is about recruitment: where the head holds the loss, the flat run is the last."""
    early = {"anchor_rank": 5.0, "progress": 0.5, "time": 1.0}
    ranks, times, recruited = np.arange(1.0, 201), np.linspace(1, 3, 201), []
    reached = []
    for q in (0.25, 0.5, 1.0):
        model = SmoothSpectrum(3.0, q, float(smooth_spectrum.head_matched_rate(q, **early)))
        remaining = ranks**-3.0 * (1 - integrated(model, ranks, times)) ** 2
        reached.append(times[np.argmax(remaining.sum(axis=1) < 0.01 * np.sum(ranks**-3.0))])
        recruited.append(float(smooth_spectrum.recruitment_time(model, 40.0, tolerance=0.1)))
    assert np.all(np.diff(recruited) > 0)
    np.testing.assert_allclose(reached, [2.38, 1.80, 1.32])  # all after the match, at 1


def test_a_fixed_window_enters_the_bend(x64):
    """F.9: the bias of one window grows with the crossover rank, from 0 to -2q."""
    model, times = MODELS[0], np.geomspace(1e-4, 1e2, 30)
    bias = np.asarray(window_bias(model, times, first=10, last=40))
    assert np.all(np.diff(bias) < 0)
    assert bias[0] > -1e-4
    assert bias[-1] < -2 * model.q * 0.99
    # Only the crossover rank counts: another rate at another time, the same bias.
    other = SmoothSpectrum(0.3, model.q, 10 * model.eta)
    np.testing.assert_allclose(window_bias(other, times / 10, first=10, last=40), bias, rtol=1e-12)


def test_the_bias_far_out(x64):
    """Its leading order, and small biases without loss of digits."""
    model = MODELS[0]
    times = np.array([1e-1, 1e-3, 1e-9])
    bias = window_bias(model, times, first=10, last=40)
    leading = smooth_spectrum.window_bias_far_out(model, times, first=10, last=40)
    np.testing.assert_allclose(bias / leading, [1, 1, 1], rtol=1e-2)
    np.testing.assert_allclose(bias[1:] / leading[1:], [1, 1], rtol=1e-4)
    np.testing.assert_allclose(bias[2] / leading[2], 1, rtol=1e-9)


def test_the_series_joins_the_logarithm(x64):
    x = jnp.array([0.05 * (1 - 1e-12), 0.05])
    np.testing.assert_allclose(
        smooth_spectrum._log_saturation(x), np.log(-np.expm1(-np.asarray(x)) / x), rtol=1e-13
    )


@pytest.mark.parametrize(("model", "tolerance"), [(MODELS[0], 0.02), (MODELS[1], 0.3)])
def test_a_window_far_enough_out_is_right_and_one_before_is_not(x64, model, tolerance):
    time = 2.0
    start = float(smooth_spectrum.window_start(model, time, tolerance=tolerance))
    first = int(np.ceil(start))
    for last in (first + 5, 4 * first):
        assert abs(window_bias(model, time, first=first, last=last)) < tolerance
    # Sharp: at a third of the rank, a narrow window misses the tolerance.
    third = max(first // 3, 1)
    assert abs(window_bias(model, time, first=third, last=third + 1)) > tolerance


MODEL = SmoothSpectrum(1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smooth_spectrum.activation_spectrum(MODEL, 0.0, 1.0), "ranks: "),
        (lambda: smooth_spectrum.activation_spectrum(MODEL, 1.0, 0.0), "time: "),
        (lambda: smooth_spectrum.local_exponent(SmoothSpectrum(0.0, 1.0), 1.0, 1.0), "p: "),
        (lambda: smooth_spectrum.local_exponent(SmoothSpectrum(1.0, -1.0), 1.0, 1.0), "q: "),
        (lambda: smooth_spectrum.crossover_rank(SmoothSpectrum(1.0, 0.0), 1.0), "q: "),
        (lambda: smooth_spectrum.recruitment_time(MODEL, 2.0, tolerance=1.0), "tolerance: .*fract"),
        (
            lambda: smooth_spectrum.head_matched_rate(1.0, anchor_rank=1.0, progress=0.0, time=1.0),
            "progress: expected a fraction",
        ),
        (lambda: smooth_spectrum.window_bias(MODEL, 1.0, first=4, last=4), "first: .* two ranks"),
        (lambda: smooth_spectrum.window_exponent(MODEL, 1.0, first=0, last=4), "first: "),
        (lambda: smooth_spectrum.window_start(MODEL, 1.0, tolerance=0.0), "tolerance: "),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
