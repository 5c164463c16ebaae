"""Every rule on spectral shells on synthetic truth, at the sizes of the presets `cpu`."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_truth import mostly, rarely, verdicts

from lnpjax.experiments.spectral_shells.balance import claims as balance
from lnpjax.experiments.spectral_shells.balance.config import PRESETS as BALANCE
from lnpjax.experiments.spectral_shells.double_descent import claims as descent
from lnpjax.experiments.spectral_shells.double_descent.config import PRESETS as DESCENT
from lnpjax.experiments.spectral_shells.families import claims as families
from lnpjax.experiments.spectral_shells.families.config import PRESETS as FAMILIES
from lnpjax.experiments.spectral_shells.families.results import (
    Convergence,
    Family,
    convergence,
    end_of_shells,
    second_maximum,
)
from lnpjax.experiments.spectral_shells.scale_free import claims as scale_free
from lnpjax.experiments.spectral_shells.scale_free.config import PRESETS as SCALE_FREE
from lnpjax.experiments.spectral_shells.scale_free.results import Transport, jackknife

WIDTHS, SEEDS = BALANCE["cpu"].widths, BALANCE["cpu"].num_seeds
TRIALS = 40
FEW = 20  # where every profile is fitted


def scattered(rng, mean, scatter, shape):
    """Positive numbers about a mean, with that relative scatter."""
    width = np.log1p(scatter**2) ** 0.5
    return mean * np.exp(width * rng.standard_normal(shape) - width**2 / 2)


# The balance of shells


@pytest.mark.parametrize(("level", "verdict"), [(-9.0, "holds"), (-4.0, "does not hold")])
def test_an_identity_is_judged_by_what_is_left_of_it(level, verdict):
    def claim(rng):
        columns = {"lazy": {w: level + rng.standard_normal(SEEDS) for w in WIDTHS}}
        return balance.identity("", "", "", columns, balance.DIFFERENCES, [])

    assert mostly(verdicts(claim, TRIALS), verdict)


@pytest.mark.parametrize(("ratio", "verdict"), [(0.03, "holds"), (1.0, "does not hold")])
def test_what_crossings_move_next_to_fluxes(ratio, verdict):
    def claim(rng):
        fluxes = {w: scattered(rng, 0.05, 0.5, SEEDS) for w in WIDTHS}
        crossings = {w: ratio * one * scattered(rng, 1.0, 0.5, SEEDS) for w, one in fluxes.items()}
        return balance.nothing_else({"feature": fluxes}, {"feature": crossings}, [])

    assert mostly(verdicts(claim, TRIALS), verdict)


@pytest.mark.parametrize(("ratio", "inside"), [(0.3, True), (4.0, False)])
def test_a_bound_of_order_one(ratio, inside):
    low, high = balance.OF_ORDER_ONE
    for trial in range(TRIALS):
        rng = np.random.default_rng(trial)
        found = balance.typical({w: scattered(rng, ratio, 0.8, SEEDS) for w in WIDTHS})
        ends = found.interval(0.95)
        assert (low <= ends.low and ends.high <= high) == inside


@pytest.mark.parametrize(
    ("power", "lazy", "feature"),
    [
        (-1.0, "holds", "does not hold"),
        (0.0, "cannot tell", "holds"),
        (0.6, "does not hold", "does not hold"),
    ],
)
def test_how_transport_depends_on_the_width(power, lazy, feature):
    def claim(index):
        def one(rng):
            shares = {w: scattered(rng, 0.1 * w**power, 0.4, SEEDS) for w in WIDTHS}
            return balance.regimes({"lazy": shares, "feature": shares}, [])[index]

        return one

    counts = verdicts(claim(0), TRIALS)
    assert rarely(counts, "holds") if power == 0 else mostly(counts, lazy)
    assert mostly(verdicts(claim(1), TRIALS), feature)


# Double descent

SHAPE = (4, DESCENT["cpu"].num_seeds, 30)


def noisy(rng, mean, scatter, shape=SHAPE[:2]):
    """Numbers about a mean; half of the scatter is that of seeds, which all widths share."""
    return mean + scatter * (rng.standard_normal(shape) + rng.standard_normal((1, shape[1]))) / 2


@pytest.mark.parametrize(("rise", "verdict"), [(0.0, "holds"), (0.1, "does not hold")])
def test_a_training_loss_that_never_rises(rise, verdict):
    def claim(rng):
        losses = (
            np.exp(-np.linspace(0, 6, SHAPE[2])) * scattered(rng, 1.0, 0.2, SHAPE[:2])[..., None]
        )
        losses[..., 20:] += rise * losses[..., :1]
        return descent.training_falls(losses, [])

    assert mostly(verdicts(claim, TRIALS), verdict)


@pytest.mark.parametrize(("mean", "verdict"), [(1.0, "holds"), (-1.0, "does not hold")])
def test_where_the_mismatch_is_and_where_energy_flows(mean, verdict):
    def where(rng):
        return descent.at_small_eigenvalues(np.exp(noisy(rng, mean, 0.6)), np.ones(SHAPE[:2]), [])

    def flows(rng):
        return descent.flows_down(noisy(rng, 0.03 * mean, 0.04), [])

    assert mostly(verdicts(where, TRIALS), verdict)
    assert mostly(verdicts(flows, TRIALS), verdict)


@pytest.mark.parametrize(("share", "verdict"), [(1.0, "holds"), (0.3, "does not hold")])
def test_what_the_diagonal_explains(share, verdict):
    def claim(rng):
        gap = scattered(rng, 0.2, 0.3, SHAPE)
        return descent.diagonal_leads(noisy(rng, share, 0.2)[..., None] * gap, gap, [])

    assert mostly(verdicts(claim, TRIALS), verdict)


@pytest.mark.parametrize(
    ("frozen", "verdict"), [(0.02, "holds"), (0.25, "cannot tell"), (0.5, "does not hold")]
)
def test_a_rise_that_takes_transport(frozen, verdict):
    def claim(rng):
        return descent.frozen_does_not(noisy(rng, frozen, 0.1), noisy(rng, 0.5, 0.1), [])

    counts = verdicts(claim, TRIALS)
    assert rarely(counts, "holds") if verdict == "cannot tell" else mostly(counts, verdict)


@pytest.mark.parametrize(("rise", "verdict"), [(0.5, "holds"), (0.0, "does not hold")])
def test_a_test_loss_that_rises_again(rise, verdict):
    def claim(rng):
        return descent.test_rises(np.abs(noisy(rng, rise, 0.02)), [])

    assert mostly(verdicts(claim, TRIALS), verdict)


@pytest.mark.parametrize(("height", "verdict"), [(0.6, "holds"), (-0.6, "does not hold")])
def test_a_peak_over_the_width(height, verdict):
    config = DESCENT["cpu"]

    def claim(rng):
        bump = height * (np.array(config.widths) == config.threshold)
        losses = 0.3 * np.exp(bump[:, None] + noisy(rng, 0.0, 0.3, (len(bump), SHAPE[1])))
        return descent.peak_over_width(config, losses[..., None], [])

    assert mostly(verdicts(claim, TRIALS), verdict)


# Scale-free transport


def transport(rng, *, c0=0.5, flux=0.5, late=0.0, high=0.0, power=0.0):
    """Energy that crosses edges with a drift, and a loss that falls as eq. 7 says."""
    config = SCALE_FREE["cpu"]
    times = config.steps * config.step
    shape = (config.num_seeds, len(times) - 1, 16)
    supposed = scattered(rng, 1.0, 0.3, shape)
    drift = c0 + late * np.linspace(-1, 1, shape[1])[:, None] + high * np.linspace(-1, 1, 16)
    seeds = 0.05 * rng.standard_normal((shape[0], 1, 1))
    losses = times**-power * scattered(rng, 1.0, 0.05, (shape[0], len(times)))
    moved = (drift + seeds) * supposed
    return Transport(times, losses, flux / c0 * moved, moved, supposed)


@pytest.mark.parametrize(
    ("shape", "verdict"),
    [({}, "holds"), ({"late": 0.6}, "does not hold"), ({"high": 0.6}, "does not hold")],
)
def test_one_drift_for_all_times_and_eigenvalues(shape, verdict):
    assert mostly(
        verdicts(lambda rng: scale_free.linear_drift(transport(rng, **shape), []), TRIALS), verdict
    )


@pytest.mark.parametrize(("flux", "verdict"), [(0.5, "holds"), (0.0, "does not hold")])
def test_a_drift_that_fluxes_carry(flux, verdict):
    assert mostly(
        verdicts(lambda rng: scale_free.fluxes_carry(transport(rng, flux=flux), []), TRIALS),
        verdict,
    )


@pytest.mark.parametrize(
    ("c0", "p", "paper", "ours"),
    [
        (0.6, 0.5, "does not hold", "holds"),  # the loss falls as eq. 7 says
        (0.05, 0.5, "set-up short of the paper", "set-up short of the paper"),
    ],
)
def test_the_exponent_of_the_loss(c0, p, paper, ours):
    def claim(index):
        def one(rng):
            found = transport(rng, c0=c0, flux=c0, power=(1 + c0) * (p + 1))
            errors = 0.02 * rng.standard_normal(8)
            power = jackknife(p, p + errors / 7)
            powers = {"advective": power, "conservative": power}
            return scale_free.exponents(found, powers, [])[index]

        return one

    assert mostly(verdicts(claim(0), TRIALS), paper)
    assert mostly(verdicts(claim(1), TRIALS), ours)


# Families of language models

RUNS, STEPS = FAMILIES["cpu"].num_runs, np.array(FAMILIES["cpu"].checkpoints, float)
CENTERS = FAMILIES["cpu"].centers


def family(rng, *, peak=0.5, moves=-0.3, slope=1.5, bends=0.0, grows=0.5, bump=0.0, end=1e-4):
    """Runs whose profiles are powers with an exponential cut-off, at every checkpoint."""
    place = np.log(STEPS / STEPS[0])
    slopes = slope + bends * place[:, None]
    peaks = peak * np.exp(moves * place + 0.1 * rng.standard_normal((RUNS, 1)))[..., None]
    amplitudes = np.exp(grows * place)[:, None] * scattered(rng, 1.0, 0.1, (RUNS, 1, 1))
    energies = amplitudes * CENTERS**slopes * np.exp(-slopes * CENTERS / peaks)
    largest = energies.max(axis=-1, keepdims=True)
    energies += bump * largest * np.exp(-(np.log(CENTERS / (peaks / 60)) ** 2))
    energies = np.maximum(energies, end * largest)
    energies *= scattered(rng, 1.0, 0.08, energies.shape)
    return Family("37K", STEPS, CENTERS, energies, energies, np.ones(energies.shape))


@pytest.mark.parametrize(("bump", "verdict"), [(0.0, "holds"), (0.6, "does not hold")])
def test_one_maximum(bump, verdict):
    def claim(rng):
        return families.one_maximum([family(rng, bump=bump)], [])

    assert mostly(verdicts(claim, TRIALS), verdict)


@pytest.mark.parametrize(("end", "verdict"), [(1e-4, "holds"), (0.1, "does not hold")])
def test_a_cut_off_within_the_shells(end, verdict):
    def claim(rng):
        return families.cut_off([family(rng, end=end)], [])

    assert mostly(verdicts(claim, TRIALS), verdict)


@pytest.mark.parametrize(("moves", "verdict"), [(-0.3, "holds"), (0.3, "does not hold")])
def test_where_the_peak_moves(moves, verdict):
    def claim(rng):
        return families.peak_moves_down([family(rng, moves=moves)], [])

    assert mostly(verdicts(claim, TRIALS), verdict)


@pytest.mark.parametrize(("bends", "verdict"), [(0.0, "holds"), (0.8, "does not hold")])
def test_low_sides_that_are_parallel(bends, verdict):
    def claim(rng):
        return families.parallel([family(rng, bends=bends, moves=-0.05)], [])

    assert mostly(verdicts(claim, FEW), verdict)


@pytest.mark.parametrize(("grows", "verdict"), [(0.5, "holds"), (-0.5, "does not hold")])
def test_an_amplitude_that_grows(grows, verdict):
    def claim(rng):
        return families.amplitude_grows([family(rng, grows=grows)], [])

    assert mostly(verdicts(claim, FEW), verdict)


@pytest.mark.parametrize(
    ("slope", "peak", "verdict"), [(1.5, 0.55, "holds"), (2.6, 2.5, "does not hold")]
)
def test_two_sizes_that_agree(slope, peak, verdict):
    def claim(index):
        def one(rng):
            both = [family(rng), family(rng, slope=slope, peak=peak)]
            return families.sizes_agree(both, [])[index]

        return one

    assert mostly(verdicts(claim(0), FEW), verdict)
    assert mostly(verdicts(claim(1), FEW), verdict)


def test_products_that_are_too_few_are_a_need():
    found = [family(np.random.default_rng(0))]
    assert convergence(found[0]) == (0, 0)
    for doubled, met in ((Convergence(0.01, 0.1), True), (Convergence(0.2, 0.1), False)):
        assert families.measured_well(found, [doubled])[1].met == met


def test_a_shell_that_few_batches_reach_is_not_the_end():
    found = family(np.random.default_rng(0))
    found.reached[..., -3:] = 0.2
    found.energies[..., -4] = found.energies.max(axis=-1)
    assert np.all(end_of_shells(found) == 0)


@pytest.mark.parametrize(
    ("energies", "expected"),
    [([1, 2, 4, 2, 1], 0), ([3, 1, 4, 2, 1], np.log(3)), ([1, 4, 2, 1, 1.5], np.log(1.5))],
)
def test_a_second_maximum_by_hand(energies, expected):
    assert second_maximum(np.log(energies)) == pytest.approx(expected)
