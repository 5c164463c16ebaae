"""Adaptation rate and trace ratio."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.kernel import adaptation_rate, trace_ratio
from lnpjax.kernel._dynamics import running_mean


def uneven_losses(n, seed=0):
    return np.exp(-np.cumsum(np.random.default_rng(seed).uniform(0.01, 0.3, n)))


@pytest.mark.parametrize("window", [1, 4, 9])
def test_running_mean_is_over_full_windows(x64, window):
    values = np.random.default_rng(0).normal(size=(2, 9))
    expected = np.stack([np.convolve(row, np.ones(window) / window, "valid") for row in values])
    out = running_mean(jnp.asarray(values), window=window)
    assert out.shape == (2, 9 - window + 1)
    np.testing.assert_allclose(out, expected, rtol=1e-12)


@pytest.mark.parametrize("window", [1, 5, 20])
def test_linear_in_the_log_loss(x64, window):
    """Model scaling in NTK Lens: a constant rate, however unevenly the loss falls."""
    losses = uneven_losses(40)
    rate = adaptation_rate(
        jnp.asarray(3 - 2.5 * np.log(losses)), jnp.asarray(losses), window=window
    )
    assert rate.shape == (41 - window,)
    np.testing.assert_allclose(rate, -2.5, rtol=1e-11)


def test_a_rate_that_grows(x64):
    """Tr = s^2 along log L = -s: the rate is -2 s, exact for central differences of even steps."""
    s = np.arange(30) * 0.1
    rate = adaptation_rate(jnp.asarray(s**2), jnp.asarray(np.exp(-s)), window=5)
    centres = s[2:-2]
    np.testing.assert_allclose(rate[1:-1], -2 * centres[1:-1], rtol=1e-11)
    # One-sided at the ends: the slope half a step inside.
    ends = [-2 * (centres[0] + 0.05), -2 * (centres[-1] - 0.05)]
    np.testing.assert_allclose(rate[jnp.array([0, -1])], ends, rtol=1e-11)


def test_averages_come_before_the_derivative(x64):
    """The same by plain numpy, with noise that averaging changes."""
    rng = np.random.default_rng(1)
    losses = uneven_losses(30, seed=2)
    traces = rng.uniform(1, 2, 30)
    box = np.ones(7) / 7
    trace, log_loss = (np.convolve(v, box, "valid") for v in (traces, np.log(losses)))
    expected = np.gradient(trace) / np.gradient(log_loss)
    out = adaptation_rate(jnp.asarray(traces), jnp.asarray(losses), window=7)
    np.testing.assert_allclose(out, expected, rtol=1e-11)


def test_where_the_loss_stands_still():
    """No division by zero: NaN exactly where the averaged log loss does not change."""
    losses = np.array([1.0, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25, 0.1], np.float32)
    traces = np.arange(8, dtype=np.float32)
    out = adaptation_rate(jnp.asarray(traces), jnp.asarray(losses), window=2)
    np.testing.assert_array_equal(np.isnan(out), [0, 0, 0, 1, 1, 0, 0])
    assert not np.any(np.isinf(out))
    rounding = jnp.asarray(losses) * (1 + 1e-7 * np.arange(8)[::-1])
    out = adaptation_rate(jnp.asarray(traces), rounding, window=2)
    np.testing.assert_array_equal(np.isnan(out), [0, 0, 0, 1, 1, 0, 0])


def test_batches_jit_vmap_and_float32():
    losses = jnp.asarray(np.stack([uneven_losses(25, seed) for seed in range(3)]), jnp.float32)
    traces = 1 / losses
    rates = [adaptation_rate(t, loss, window=6) for t, loss in zip(traces, losses, strict=True)]
    calls = (
        adaptation_rate(traces, losses, window=6),
        jax.jit(adaptation_rate, static_argnames="window")(traces, losses, window=6),
        jax.vmap(lambda t, loss: adaptation_rate(t, loss, window=6))(traces, losses),
    )
    for out in calls:
        assert out.shape == (3, 20)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(out, np.stack(rates), rtol=1e-4)


def test_the_window_of_the_paper():
    losses = jnp.asarray(uneven_losses(50), jnp.float32)
    assert adaptation_rate(losses, losses).shape == (31,)


def test_trace_ratio(x64):
    assert trace_ratio(3.0, 2.0) == 0.5
    assert trace_ratio(2.0, 2.0) == 0
    np.testing.assert_allclose(
        jax.jit(trace_ratio)(jnp.array([2.0, 0.5]), jnp.array([1.0, 1.0])), [1, -0.5]
    )


FALLING = np.exp(-np.arange(10, dtype=np.float32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: adaptation_rate(FALLING, FALLING[1:]), ValueError, r"^losses: .*\(10,\)"),
        (lambda: adaptation_rate(FALLING, FALLING), ValueError, "^window: .* 1 to 9.* got 20"),
        (lambda: adaptation_rate(FALLING, FALLING, window=10), ValueError, "^window: .* got 10"),
        (lambda: adaptation_rate(FALLING, FALLING, window=2.0), ValueError, "^window: .* integer"),
        (lambda: adaptation_rate(FALLING, 0 * FALLING, window=2), ValueError, "^losses: .* above"),
        (lambda: adaptation_rate(FALLING, -FALLING, window=2), ValueError, "^losses: .* above"),
        (
            lambda: adaptation_rate(FALLING * np.nan, FALLING, window=2),
            ValueError,
            "^traces: .* finite",
        ),
        (lambda: adaptation_rate(np.arange(10), FALLING, window=2), TypeError, "^traces: .* int64"),
        (lambda: running_mean(FALLING, window=11), ValueError, "^window: .* from 1 to 10"),
        (lambda: running_mean(jnp.ones(()), window=1), ValueError, "^values: "),
        (lambda: trace_ratio(1.0, 0.0), ValueError, "^trace_at_start: .* > 0, got .*0.0"),
        (lambda: trace_ratio(-1.0, 1.0), ValueError, "^trace_at_minimum: .* >= 0, got .*-1.0"),
        (lambda: trace_ratio(1.0, np.nan), ValueError, "^trace_at_start: "),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
