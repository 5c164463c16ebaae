"""Verdicts from estimates, and estimates that hold the truth as often as they say."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from lnpjax.experiments._harness.claims import Claim, Finding, Need
from lnpjax.experiments._harness.estimates import (
    UNKNOWN,
    Bounds,
    Uncertain,
    draws_of_log_means,
    mean_of,
    mean_of_means,
    slope_of,
)
from lnpjax.experiments._harness.tables import claims_json, claims_markdown

UNIT = Bounds(0, 1)


def claim(*estimates: Uncertain, needs=(), region=UNIT) -> Claim:
    findings = [Finding(f"case {k}", estimate, region) for k, estimate in enumerate(estimates)]
    return Claim(source="Fig. 1", statement="it is", quantity="x", findings=findings, needs=needs)


@pytest.mark.parametrize(
    ("estimates", "verdict"),
    [
        ([Uncertain(0.5, 0.1)], "holds"),
        ([Uncertain(0.9, 0.1)], "cannot tell"),
        ([Uncertain(1.3, 0.1)], "does not hold"),
        ([Uncertain(-0.3, 0.1)], "does not hold"),
        ([Uncertain(0.5, 0.1), Uncertain(0.9, 0.1)], "cannot tell"),
        ([Uncertain(0.5, 0.1), Uncertain(1.3, 0.1)], "does not hold"),
        ([UNKNOWN], "cannot tell"),
        ([], "cannot tell"),
        # 2.2 errors outside: alone too far, one of eight not.
        ([Uncertain(1.22, 0.1)], "does not hold"),
        ([Uncertain(1.22, 0.1), *[Uncertain(0.5, 0.1)] * 7], "cannot tell"),
    ],
)
def test_a_verdict_follows_from_intervals_and_regions(estimates, verdict):
    assert claim(*estimates).verdict == verdict


def test_what_a_claim_needs_comes_before_what_was_found():
    need = Need("five seeds", False, "one")
    for estimate in (Uncertain(0.5, 0.1), Uncertain(3.0, 0.1)):
        judged = claim(estimate, needs=[Need("a", True), need])
        assert judged.verdict == "set-up short of the paper"
        assert judged.missing == [need]
    assert "Lacks: five seeds (one)" in claims_markdown("x", [judged])


def test_of_many_findings_the_worst_is_shown():
    judged = claim(*[Uncertain(0.5, 0.1)] * 5, Uncertain(0.9, 0.1))
    assert judged.measured == "5 of 6 inside; worst case 5: 0.90 (0.70 to 1.10)"
    assert judged.region == "0 to 1"
    other = Finding("mean", Uncertain(0.5, 0.1), Bounds(low=0))
    mixed = dataclasses.replace(judged, findings=[other, *judged.findings])
    assert mixed.region == "mean: above 0; 6 of 7: 0 to 1"


def test_regions_in_words():
    assert [str(Bounds(0.35, 0.65)), str(Bounds(low=0)), str(Bounds(high=2))] == [
        "0.35 to 0.65", "above 0", "below 2",
    ]  # fmt: skip


def test_json_holds_what_a_verdict_rests_on():
    judged = claim(Uncertain(0.5, 0.1), UNKNOWN, region=Bounds(low=0), needs=[Need("a", True)])
    (entry,) = json.loads(json.dumps(claims_json([judged]), allow_nan=False))["claims"]
    assert entry["verdict"] == "cannot tell"
    first, second = entry["findings"]
    assert first["interval"] == pytest.approx([0.304, 0.696], abs=1e-3)
    assert first["region"] == [0, None]
    assert (second["value"], second["interval"]) == (None, [None, None])


@pytest.mark.parametrize("count", [3, 6, 20])
def test_intervals_of_means_hold_the_truth_as_often_as_they_say(count):
    rng = np.random.default_rng(count)
    held = 0
    for sample in rng.standard_normal((400, count)):
        low, high = mean_of(sample).interval(0.95)
        held += low <= 0 <= high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("count", [4, 20])
def test_draws_of_means_hold_the_truth_as_often_as_they_say(count):
    rng = np.random.default_rng(count)
    held = 0
    for seed in range(200):
        groups = list(np.exp(0.1 * rng.standard_normal((3, count))))
        means = draws_of_log_means(groups, seed=seed)
        low, high = means.estimate(means.rows[:, 0] - means.rows[:, 2]).interval(0.95)
        held += low <= 0 <= high
    assert held / 200 >= 0.92


def test_slopes_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    x, held = np.arange(5.0), 0
    for _ in range(400):
        low, high = slope_of(x, 2 * x + rng.standard_normal(5)).interval(0.95)
        held += low <= 2 <= high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_means_of_few_are_unknown_and_of_equal_values_exact():
    assert math.isnan(mean_of([]).value)
    assert math.isnan(mean_of([1.0]).interval(0.95).low)
    assert mean_of([1.0, 1.0]).interval(0.95) == (1, 1)
    exact = mean_of_means([np.ones(3), np.full(2, 3.0)])
    assert exact.interval(0.95) == (2, 2)
    assert slope_of(np.arange(2.0), np.arange(2.0)) is UNKNOWN
    assert math.isnan(Uncertain(1.0, draws=np.array([1.0, np.nan])).interval(0.95).low)


def test_a_mean_that_is_not_positive_has_no_logarithm():
    means = draws_of_log_means([np.array([-1.0, -2.0]), np.array([1.0, 2.0])])
    assert np.isnan(means.rows[:, 0]).all()
    assert np.isfinite(means.rows[:, 1]).all()
