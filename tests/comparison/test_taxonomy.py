"""The taxonomy on synthetic numbers, and on the paper's examples in the direction of its words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lnpjax.comparison import Head, classify, displacement, seed_spread
from lnpjax.spectra import jensen_shannon_divergence

CLEAR, STILL = 8.0, 0.5


@pytest.mark.parametrize(
    ("change", "numbers", "label"),
    [
        # Fewer tokens, about the same speed, the activations' head moves most.
        ("Muon to Untied", (0.2, -0.02, CLEAR, 3.0), "activation-led"),
        ("TruncRoPE to SoftCap", (0.06, 0.0, CLEAR, STILL), "activation-led"),
        # Fewer tokens, the activations stay about where they were, the gradients do not.
        ("U-Net to FixedWin", (0.2, 0.1, STILL, CLEAR), "gradient-led"),
        ("FlexWin to VTE", (0.15, -0.05, 1.5, CLEAR), "gradient-led"),
        # Faster, with little or slightly negative change in tokens.
        ("BetterWin to SparseV", (0.01, 0.1, 1.0, 1.0), "throughput"),
        ("SparseV to TruncRoPE", (-0.02, 0.08, STILL, STILL), "throughput"),
        ("FP8Head to LSWA", (0.03, 0.15, CLEAR, CLEAR), "throughput"),
        # Better in one, comparably worse in the other.
        ("a trade-off", (0.2, -0.15, CLEAR, CLEAR), "mixed"),
        ("the reverse", (-0.15, 0.2, CLEAR, CLEAR), "mixed"),
    ],
)
def test_examples_of_the_paper_in_its_words(change, numbers, label):
    """The paper prints no numbers for these: the signs and the order of sizes are its own."""
    assert classify(*numbers).label == label, change


@pytest.mark.parametrize(
    ("numbers", "label", "reason"),
    [
        ((math.nan, 0.1, 1, 1), "undecided", "tokens to the target"),
        ((0.1, math.nan, 1, 1), "undecided", "tokens per second"),
        ((0.3, 0.0, math.nan, 9), "undecided", "activations"),
        ((0.3, 0.0, 9, math.nan), "undecided", "gradients"),
        ((0.0, 0.3, math.nan, math.nan), "throughput", "tokens per second"),  # needs no spectra
        ((0.0, 0.0, 9, 9), "mixed", "no gain"),
        ((-0.3, -0.3, 9, 9), "mixed", "no gain"),
        ((-0.5, 0.1, 9, 9), "mixed", "paid for"),
        ((0.3, 0.0, 1.9, 1.9), "mixed", "no clear displacement"),
        ((0.3, 0.0, 4, 4), "activation-led", "activations"),
    ],
)
def test_each_branch_of_the_rule(numbers, label, reason):
    verdict = classify(*numbers)
    assert verdict.label == label
    assert reason in verdict.reason


def test_thresholds_are_the_callers():
    numbers = (0.1, 0.0, 3.0, 1.0)
    assert classify(*numbers).label == "activation-led"
    assert classify(*numbers, clear_displacement=4).label == "mixed"
    assert classify(*numbers, negligible_gain=0.2).label == "mixed"
    assert classify(0.1, 0.15, 3, 1).label == "activation-led"
    assert classify(0.1, 0.15, 3, 1, comparable=0.9).label == "throughput"
    for bad in ({"negligible_gain": -1}, {"comparable": 0}, {"clear_displacement": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            classify(*numbers, **bad)


def test_displacement_does_not_depend_on_which_power_of_the_spectrum_is_fitted():
    """The exponents of singular values, and their errors, are half those of the Gram matrix."""
    gram = displacement(Head(2.0, 0.1), Head(3.0, 0.2))
    singular = displacement(Head(1.0, 0.05), Head(1.5, 0.1))
    assert gram.size == pytest.approx(singular.size)
    assert gram.size == pytest.approx(1 / math.hypot(0.1, 0.2))
    assert gram.unit == "fits"
    assert math.isnan(gram.divergence)
    assert displacement(Head(2.0, 0.1), Head(3.0, 0.2), seed_spread=0.25).size == 4
    for spread in (math.nan, 0.0):
        assert displacement(Head(2.0, 0.1), Head(3.0, 0.2), seed_spread=spread).unit == "fits"
    assert math.isnan(displacement(Head(math.nan, 0.1), Head(3.0, 0.2)).size)
    assert math.isnan(displacement(Head(2.0, 0.0), Head(3.0, 0.0)).size)


def test_spectra_of_unequal_width_differ_by_modes_without_variance():
    narrow, wide = np.array([4.0, 2.0]), np.array([4.0, 1.0, 1.0])
    found = displacement(Head(1, 1, narrow), Head(1, 1, wide)).divergence
    reference = jensen_shannon_divergence(np.array([4.0, 2.0, 0.0]), wide)
    assert found == pytest.approx(float(reference))
    assert found > 0


def test_seed_spread_pools_sets_about_their_own_means():
    sets = [np.array([1.0, 3.0]), np.array([10.0, 10.0, 13.0]), np.array([99.0, math.nan])]
    assert seed_spread(sets) == pytest.approx(math.sqrt((2 + 6) / 3))
    assert math.isnan(seed_spread([np.array([1.0])]))
