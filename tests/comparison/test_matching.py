"""Where runs match: tokens to target, gains and matches against closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from lens_runs import TARGET, make_run, run_summary

from lnpjax.comparison import gains, match, token_efficiency, tokens_to_target
from lnpjax.runs import read_run


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    return read_run(make_run(folder, tokens_to_target=10_000, end=40_000, alpha=1.0, drift=0.1))


@pytest.mark.parametrize("decade", [2.0, 2.3, 4.0, 5.999, 6.0])
def test_tokens_to_target_is_exact_where_the_loss_is_linear_in_log_tokens(decade):
    run = run_summary()
    found = tokens_to_target(run.validation_tokens, run.validation_losses, 5 - 0.5 * decade)
    assert found == pytest.approx(10**decade, rel=1e-9)
    found = tokens_to_target(
        run.validation_tokens, run.validation_losses, 5 - 0.5 * decade, crossing="checkpoint"
    )
    assert found == 10 ** math.ceil(decade)


@pytest.mark.parametrize("crossing", ["interpolated", "checkpoint"])
def test_the_first_crossing_counts_and_none_is_nan(crossing):
    tokens = np.array([0.0, 10.0, 20.0, 30.0, 40.0])
    losses = np.array([5.0, 3.0, 2.0, 4.0, 1.0])
    assert tokens_to_target(tokens, losses, 2.0, crossing=crossing) == 20.0
    assert math.isnan(tokens_to_target(tokens, losses, 0.5, crossing=crossing))
    assert tokens_to_target(tokens, losses, 6.0, crossing=crossing) == 0.0
    assert tokens_to_target(tokens, losses, 4.0, crossing=crossing) == 10.0  # no logarithm of 0
    assert math.isnan(tokens_to_target(tokens, np.full(5, math.nan), 2.0, crossing=crossing))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1.0, 2.0], [1.0], 1.0), {}, "losses: expected vectors of one length"),
        (([2.0, 1.0], [1.0, 1.0], 1.0), {}, "tokens: expected ascending"),
        (([1.0], [1.0], math.nan), {}, "target: expected a loss"),
        (([1.0], [1.0], 1.0), {"crossing": "last"}, "crossing: expected one of"),
    ],
)
def test_tokens_to_target_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        tokens_to_target(*arguments, **options)


def test_efficiency_and_gains():
    np.testing.assert_array_equal(
        token_efficiency(np.array([4.0, 2.0, math.nan, 3.0])), [2.0, 1.0, math.nan, 1.5]
    )
    assert np.all(np.isnan(token_efficiency(np.array([math.nan, math.nan]))))
    there, back = gains(3e6, 2e6, 100, 80), gains(2e6, 3e6, 80, 100)
    assert there.token == pytest.approx(0.5)
    assert there.throughput == pytest.approx(-0.2)
    assert there.log_token == pytest.approx(math.log(1.5))
    assert there.log_token + back.log_token == pytest.approx(0, abs=1e-15)
    assert there.log_throughput + back.log_throughput == pytest.approx(0, abs=1e-15)
    # The sum of both is the gain in time: 3e6 / 100 s before, 2e6 / 80 s after.
    assert there.log_token + there.log_throughput == pytest.approx(math.log(30_000 / 25_000))
    unknown = gains(3e6, math.nan, 100, math.nan)
    assert all(map(math.isnan, unknown))


def test_matches_lie_between_the_measured_steps_and_say_how_near_these_are(one):
    steps = np.geomspace(512, 40_000, 9)
    nearest = steps[np.argmin(abs(np.log(steps / 10_000)))]
    for at, value in (("loss", TARGET), ("tokens", 10_000), ("fraction", 0.25)):
        found = match(one, at, value)
        assert found.spectra.tokens == found.wanted_tokens == pytest.approx(10_000, rel=1e-3)
        assert found.token_ratio == pytest.approx(nearest / 10_000, rel=1e-3)
        assert found.loss == pytest.approx(TARGET, abs=1e-3)
    at_the_end = match(one, "tokens", one.num_tokens)
    assert at_the_end.spectra is one.spectra[-1]
    assert match(one, "loss", 0.1) is None
    assert match(one, "tokens", 50_000) is None
    assert match(run_summary(), "loss", 3.0) is None  # no spectra
    unvalidated = dataclasses.replace(
        one, validation_tokens=np.zeros(0), validation_losses=np.zeros(0)
    )
    assert match(unvalidated, "tokens", 512).loss == one.spectra[0].loss


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ("step", 1.0, "at: expected one of"),
        ("fraction", 1.5, r"fraction: expected a number in \(0, 1\]"),
        ("tokens", 0.0, "tokens: expected"),
        ("loss", math.nan, "loss: expected"),
    ],
)
def test_match_refuses(at, value, message):
    with pytest.raises(ValueError, match=message):
        match(run_summary(), at, value)
