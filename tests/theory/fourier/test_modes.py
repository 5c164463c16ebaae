"""The linear model on a cyclic group against its integrated equation and averages over phases."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

from lnpjax.theory.fourier import modes as fourier_modes

PERIOD = 7


def hermitian_kernel(seed):
    """A complex positive semidefinite kernel: the autocorrelation of noise, sample by sample."""
    noise = np.random.default_rng(seed).normal(size=(2, PERIOD))
    noise = noise[0] + 1j * noise[1]
    return np.array([np.vdot(noise, np.roll(noise, -shift)) for shift in range(PERIOD)]) / PERIOD


def functions(seed):
    real, imaginary = np.random.default_rng(seed).normal(size=(2, 2, PERIOD))
    return real + 1j * imaginary


@pytest.mark.parametrize(("step", "context"), [(3, 5), (0, 4), (6, 9)])
def test_the_clean_task_is_a_shift(x64, step, context):
    """F.1, on the sequences themselves (equations 12 and 13)."""
    phases = np.arange(PERIOD)
    sequences = (phases[:, None] + step * np.arange(context + 1)) % PERIOD
    shifted = fourier_modes.cyclic_shift(jnp.asarray(phases), context * step)
    np.testing.assert_array_equal(shifted, sequences[:, context])
    # Moved by one position, a sequence is that of another phase.
    np.testing.assert_array_equal(sequences[:, 1:], sequences[(phases + step) % PERIOD, :-1])

    characters = fourier_modes.characters(PERIOD)
    eigenvalues = fourier_modes.shift_eigenvalues(PERIOD, context * step)
    np.testing.assert_allclose(
        characters[:, sequences[:, context]], eigenvalues[:, None] * characters, atol=1e-14
    )


def test_characters_are_an_orthonormal_basis(x64):
    characters = np.asarray(fourier_modes.characters(PERIOD))
    np.testing.assert_allclose(
        characters @ characters.conj().T / PERIOD, np.eye(PERIOD), atol=1e-14
    )
    values = functions(0)[0]
    coefficients = fourier_modes.fourier_coefficients(values)
    np.testing.assert_allclose(coefficients, values @ characters.conj().T / PERIOD, atol=1e-14)
    np.testing.assert_allclose(coefficients @ characters, values, atol=1e-14)
    np.testing.assert_allclose(fourier_modes.from_coefficients(coefficients), values, atol=1e-14)


def test_rates_are_the_eigenvalues_of_the_kernel(x64):
    kernel = hermitian_kernel(1)
    dense = scipy.linalg.circulant(kernel)  # K(a, a') = k(a - a')
    rates = fourier_modes.kernel_spectrum(jnp.asarray(kernel))
    np.testing.assert_allclose(np.sort(rates), np.linalg.eigvalsh(dense), rtol=1e-12)
    characters = fourier_modes.characters(PERIOD)
    np.testing.assert_allclose(dense @ characters.T, characters.T * rates, atol=1e-13)


def test_coefficients_and_loss_are_those_of_the_integrated_flow(x64):
    """F.2 (a) to (c), from the function on phases alone."""
    kernel, (target, start) = hermitian_kernel(2), functions(3)
    dense = scipy.linalg.circulant(kernel)
    times = np.array([0.0, 0.1, 0.7])
    flow = scipy.integrate.solve_ivp(
        lambda _, f: dense @ (target - f), (0, 1), start, t_eval=times, rtol=1e-11, atol=1e-13
    ).y.T
    rates = fourier_modes.kernel_spectrum(jnp.asarray(kernel))
    beta, initial = fourier_modes.fourier_coefficients(jnp.stack([target, start]))
    coefficients = fourier_modes.mode_coefficients(rates, beta, times, initial=initial)
    np.testing.assert_allclose(fourier_modes.from_coefficients(coefficients), flow, atol=1e-9)
    losses = fourier_modes.mode_loss(rates, beta, times, initial=initial)
    np.testing.assert_allclose(losses, np.mean(abs(flow - target) ** 2, axis=1) / 2, rtol=1e-9)
    assert np.all(np.diff(losses) < 0)


def test_moments_are_averages_over_phases(x64):
    """F.2(d) and F.3; the update is the velocity of the hidden state, by differences in time."""
    rates = fourier_modes.kernel_spectrum(jnp.asarray(hermitian_kernel(4)))
    beta, initial = fourier_modes.fourier_coefficients(jnp.asarray(functions(5)))
    noise = np.random.default_rng(6).normal(size=(2, PERIOD + 2, PERIOD))
    directions = np.linalg.qr(noise[0] + 1j * noise[1])[0].T
    characters = np.asarray(fourier_modes.characters(PERIOD))

    def hidden(time):
        coefficients = fourier_modes.mode_coefficients(rates, beta, time, initial=initial)
        return np.einsum("r,rw,ra->aw", coefficients, directions, characters)

    time, step = 0.3, 1e-4
    coefficients = fourier_modes.mode_coefficients(rates, beta, time, initial=initial)
    velocity = (hidden(time + step) - hidden(time - step)) / (2 * step)
    updates = fourier_modes.update_energies(rates, beta, time, initial=initial)
    for states, energies, tolerance in (
        (hidden(time), abs(coefficients) ** 2, 1e-13),
        (velocity, updates, 1e-5),
    ):
        second = states.T @ states.conj() / PERIOD
        moment = fourier_modes.moment_matrix(energies, directions)
        np.testing.assert_allclose(moment, second, atol=tolerance)
        mean = states.mean(axis=0)
        covariance = fourier_modes.moment_matrix(energies, directions, centered=True)
        np.testing.assert_allclose(covariance, second - np.outer(mean, mean.conj()), atol=tolerance)
        # The constant mode matters here: it is what makes the two differ.
        assert np.max(abs(moment - covariance)) > 100 * tolerance


def test_gradients_per_sample_have_another_moment(x64):
    """What F.2(d) calls gradients are not those of weights on the features sqrt(kappa) chi."""
    rates = np.array([3.0, 2.0, 1.0, 1.0, 2.0])
    beta = fourier_modes.fourier_coefficients(jnp.array([1.0, -2.0, 0.5, 0.3, 1.1]))
    time = 0.2
    features = np.sqrt(rates)[:, None] * np.asarray(fourier_modes.characters(5))
    coefficients = fourier_modes.mode_coefficients(rates, beta, time)
    residuals = np.asarray(fourier_modes.from_coefficients(beta - coefficients))
    per_sample = residuals * features.conj()
    # Averaged over phases they do drive every weight at its mode's rate: f = w . features.
    np.testing.assert_allclose(
        per_sample.mean(axis=1) * np.sqrt(rates), rates * (beta - coefficients), atol=1e-14
    )
    moment = per_sample @ per_sample.conj().T / 5
    assert np.max(abs(moment - np.diag(np.diag(moment)))) > 0.1 * np.max(abs(moment))
    # Even its diagonal knows one residual only, the mean over phases.
    loss = fourier_modes.mode_loss(rates, beta, time)
    np.testing.assert_allclose(np.diag(moment), 2 * loss * rates, rtol=1e-12)


def test_a_slow_mode_keeps_its_digits():
    coefficient = fourier_modes.mode_coefficients(jnp.array([1e-9]), jnp.ones(1), 1.0)
    np.testing.assert_allclose(coefficient, 1e-9, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fourier_modes.characters(0), "period: expected an integer >= 1, got 0"),
        (lambda: fourier_modes.kernel_spectrum(jnp.eye(2)), "kernel: expected a vector"),
        (lambda: fourier_modes.kernel_spectrum(jnp.array([0.0, 1.0])), "kernel: .* semidefinite"),
        (lambda: fourier_modes.kernel_spectrum(jnp.array([1.0, 0.5, 0.0])), "kernel: .*semid"),
        (lambda: fourier_modes.mode_loss(jnp.array([-1.0]), jnp.ones(1), 1.0), "rates: "),
        (lambda: fourier_modes.mode_coefficients(jnp.ones(1), jnp.ones(1), -1.0), "time: "),
        (lambda: fourier_modes.moment_matrix(jnp.ones(3), jnp.eye(2)), "directions: .* one row"),
        (lambda: fourier_modes.moment_matrix(jnp.ones(2), jnp.ones((2, 2))), "orthonormal"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
