"""When, in which ranks and in which layer the tail exponent orders runs, on spectra made for it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from lens_runs import LAYERS, WIDTH, make_run, summary

from lnpjax.comparison import correlation_over_fraction, correlation_over_layers, early_exponents
from lnpjax.comparison._early import fit_windows
from lnpjax.runs import MeasuredSpectra, RunSummary, read_run

WINDOWS = ((1, 10), (11, 90))
TOKENS_TO_TARGET = np.array([30_000.0, 20_000.0, 40_000.0, 60_000.0])


def run_of(exponents, *, grid, breaks=None):
    """A run whose spectrum at each point of the grid is a power law, or one with a break."""
    ranks = np.arange(1.0, WIDTH + 1)
    spectra = []
    for step, (tokens, alpha) in enumerate(zip(grid, exponents, strict=True)):
        values = ranks**-alpha
        if breaks is not None:  # another exponent beyond rank 10, without a jump
            values = np.where(ranks <= 10, values, 10.0**-alpha * (ranks / 10) ** -breaks[step])
        summaries = {"activations": {"layer": summary(alpha)}}
        spectra.append(MeasuredSpectra(step, tokens, 0.0, summaries, {"activations/layer": values}))
    empty = np.zeros(0)
    return RunSummary("run", {}, empty, empty, grid[-1], math.nan, math.nan, tuple(spectra))


def test_windows_scale_with_the_width_and_stay_inside():
    assert fit_windows(1600) == fit_windows(200) == ((10, 40), (40, 90), (90, 200))
    for width in (3, 16, 64, 199):
        for first, last in fit_windows(width):
            assert 1 <= first <= last - 2 <= width - 2
        for (_, last), (first, _) in itertools.pairwise(fit_windows(width)):
            assert first >= last
    assert fit_windows(3) == ((1, 3),)


def test_early_exponents_are_interpolated_in_log_tokens():
    grid = np.geomspace(100, 10_000, 5)
    runs = [run_of(1 + 0.1 * slope * np.log(grid), grid=grid) for slope in (1, 2)]
    np.testing.assert_allclose(
        early_exponents(runs, 777.0), [1 + 0.1 * math.log(777), 1 + 0.2 * math.log(777)]
    )
    assert np.all(np.isnan(early_exponents(runs, 50.0)))
    assert np.all(np.isnan(early_exponents(runs, 777.0, quantity="colour")))


def test_windows_see_their_own_ranks():
    """Head exponents rank the runs like their cost, exponents beyond rank 10 in reverse."""
    grid = np.geomspace(100, 100_000, 6)
    like, reverse = 1 + TOKENS_TO_TARGET / 1e5, 2 - TOKENS_TO_TARGET / 1e5
    runs = [
        run_of(np.full(6, a), grid=grid, breaks=np.full(6, b))
        for a, b in zip(like, reverse, strict=True)
    ]
    found = correlation_over_fraction(runs, TOKENS_TO_TARGET, fractions=[0.1, 1.0], windows=WINDOWS)
    assert [[one.rho for one in row] for row in found.correlations] == [
        pytest.approx([1, 1]),
        pytest.approx([-1, -1]),
    ]
    assert found.correlations[0][0].p_value == pytest.approx(2 / 24)
    assert found.windows == WINDOWS


def test_progress_in_percent_of_each_run_finds_an_order_where_spectra_know_nothing():
    """All exponents follow one curve over tokens. Read at 20 % of T, the longer runs are later."""
    grid = np.geomspace(100, 100_000, 6)
    runs = [run_of(0.5 + 0.1 * np.log(grid), grid=grid) for _ in TOKENS_TO_TARGET]
    own, common = (
        correlation_over_fraction(
            runs, TOKENS_TO_TARGET, fractions=[0.2], windows=WINDOWS, progress=progress
        ).correlations[0][0]
        for progress in ("own", "common")
    )
    assert own.rho == pytest.approx(1)
    assert math.isnan(common.rho)


def test_runs_that_were_not_measured_there_take_no_part():
    grid = np.geomspace(100, 100_000, 6)
    late = np.geomspace(10_000, 100_000, 6)
    runs = [run_of(np.full(6, 1.0 + i), grid=grid if i else late) for i in range(4)]
    found = correlation_over_fraction(
        runs, TOKENS_TO_TARGET, fractions=[0.05, 1.0], windows=WINDOWS
    )
    assert [one.num_runs for one in found.correlations[0]] == [3, 4]
    tokens = np.where(np.arange(4) == 3, math.nan, TOKENS_TO_TARGET)
    found = correlation_over_fraction(runs, tokens, fractions=[1.0], windows=WINDOWS)
    assert found.correlations[0][0].num_runs == 3
    bare = RunSummary("", {}, np.zeros(0), np.zeros(0), 1.0, math.nan, math.nan, ())
    assert correlation_over_fraction([bare], np.ones(1)).correlations == ()


def test_layers(tmp_path):
    """rho of the layers by construction: 1, -1 and 1 - 6 * 2 / (4 * 15) = 0.8."""
    layer_ranks = {LAYERS[0]: [2, 1, 3, 4], LAYERS[1]: [3, 4, 2, 1], LAYERS[2]: [1, 2, 3, 4]}
    runs = [
        read_run(
            make_run(
                tmp_path / str(i),
                tokens_to_target=tokens,
                end=80_000,
                spectra=3,
                layer_alphas={layer: ranks[i] / 2 for layer, ranks in layer_ranks.items()},
            )
        )
        for i, tokens in enumerate(TOKENS_TO_TARGET)
    ]
    found = correlation_over_layers(runs, TOKENS_TO_TARGET, at_tokens=4000)
    assert found.layers == LAYERS
    assert [one.rho for one in found.correlations] == pytest.approx([1, -1, 0.8])
    assert found.late_advantage == pytest.approx(0.8)
    none = correlation_over_layers([], np.zeros(0), at_tokens=1.0)
    assert none.layers == ()
    assert math.isnan(none.late_advantage)


def test_bad_input():
    with pytest.raises(ValueError, match="progress: expected one of"):
        correlation_over_fraction([], np.zeros(0), progress="all")
    with pytest.raises(ValueError, match="tokens: expected one number for each of 0 runs"):
        correlation_over_fraction([], np.zeros(1))
    run = run_of([1.0], grid=np.array([10.0]))
    with pytest.raises(ValueError, match="ranks"):
        correlation_over_fraction([run], np.ones(1), windows=[(1, WIDTH + 1)])
