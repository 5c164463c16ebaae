"""What Spectral Reach says of Hutchinson's estimator (B.1, Fig. 6), judged by a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, Uncertain
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.hutchinson_convergence.measure import WAYS
from lnpjax.experiments.spectral_reach.hutchinson_convergence.results import (
    Convergence,
    convergence,
)

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.hutchinson_convergence.config import HutchinsonConfig

INVERSE_ROOT = Bounds(-0.6, -0.4)
PAPERS_VARIATION = Bounds(0.23 * 0.75, 0.23 * 1.25)
AS_EXACT = Bounds(0.6, 1.65)
UNBIASED = Bounds(0.95, 1.05)
FEWER = Bounds(1.0)
LEAST_REPEATS = 30
LEAST_PROBES = 5
PAPERS_MODEL, PAPERS_SAMPLES, PAPERS_PROBES = "7.2M", 32, 10
WAY_NAMES = {
    "shared": "shared by all samples",
    "independent": "of each sample's own",
    "closed_forms": "of each sample's own, with closed forms",
}


def judge(config: HutchinsonConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    ways = {way: convergence(config, sweep, way) for way in WAYS}
    enough = needs(config)
    return [
        inverse_root(ways, enough),
        variation_at_ten(ways["shared"], [*enough, papers_model(config)]),
        steps_are_as_good_as_probes(ways["shared"], enough),
        unbiased(ways, enough),
        worth_of_a_probe(ways, enough),
        observed(config, ways),
    ]


def needs(config: HutchinsonConfig) -> list[Need]:
    """What every claim needs."""
    repeats, numbers = config.num_repeats, len(config.probes)
    return [
        Need.at_least(LEAST_REPEATS, "repeats", repeats),
        Need.at_least(LEAST_PROBES, "numbers of probes", numbers),
    ]


def papers_model(config: HutchinsonConfig) -> Need:
    """The model of Fig. 6, on as many samples."""
    met = (config.model, config.num_samples) == (PAPERS_MODEL, PAPERS_SAMPLES)
    what = f"a Llama of {PAPERS_MODEL} parameters and {PAPERS_SAMPLES} samples"
    return Need(what, met, f"{config.model}, {config.num_samples}")


def inverse_root(ways: dict[str, Convergence], enough: list[Need]) -> Claim:
    """Judge the rate of Hutchinson's estimator."""
    return Claim(
        source="Fig. 6, B.1",
        statement="The coefficient of variation falls as 1/sqrt(M).",
        quantity="exponent of the coefficient of variation as a power of M",
        findings=[
            Finding(WAY_NAMES[way], one.exponent(), INVERSE_ROOT) for way, one in ways.items()
        ],
        needs=enough,
    )


def variation_at_ten(shared: Convergence, enough: list[Need]) -> Claim:
    """Judge the paper's number at M = 10."""
    estimate = shared.for_one_probe()
    at_ten = estimate.estimate(np.exp(estimate.rows[:, 0]) / PAPERS_PROBES**0.5)
    return Claim(
        source="Fig. 6, B.1",
        statement=f"At M = {PAPERS_PROBES} it is 23 %.",
        quantity="coefficient of variation by the fitted law, probes shared by all samples",
        findings=[Finding("", at_ten, PAPERS_VARIATION)],
        needs=enough,
    )


def steps_are_as_good_as_probes(shared: Convergence, enough: list[Need]) -> Claim:
    """Judge whether a mean over steps does what more probes would do at one step."""
    few, many = _index_of(shared, PAPERS_PROBES), len(shared.probes) - 1
    steps = shared.probes[many] / shared.probes[few]
    means = shared.variations()
    ratio = np.exp(means.rows[:, few] - means.rows[:, many]) / steps**0.5
    return Claim(
        source="B.1",
        statement=f"The mean over {steps:g} steps of {shared.probes[few]} probes each is as exact "
        f"as {shared.probes[many]} probes at one step.",
        quantity="ratio of the coefficients of variation",
        findings=[Finding("", means.estimate(ratio), AS_EXACT)],
        needs=enough,
    )


def unbiased(ways: dict[str, Convergence], enough: list[Need]) -> Claim:
    """Judge whether shared probes are right in the mean."""
    shared, other = (ways[way].mean for way in ("shared", "closed_forms"))
    relative = (shared.error**2 + other.error**2) ** 0.5 / other.value
    ratio = Uncertain(shared.value / other.value, relative, min(shared.df, other.df))
    return Claim(
        source="eq. 51, ours",
        statement="Shared probes are unbiased: they agree in the mean with independent ones.",
        quantity="mean of all draws, over that with closed forms",
        findings=[Finding("", ratio, UNBIASED)],
        needs=enough,
    )


def worth_of_a_probe(ways: dict[str, Convergence], enough: list[Need]) -> Claim:
    """Judge how many shared probes one independent probe is worth, at the same cost each."""
    shared = ways["shared"].for_one_probe(seed=0)
    findings = []
    for seed, way in enumerate(WAYS[1:], start=1):
        other = ways[way].for_one_probe(seed=seed)
        worth = np.exp(2 * (shared.rows - other.rows)[:, 0])
        findings.append(Finding(WAY_NAMES[way], shared.estimate(worth), FEWER))
    return Claim(
        source="ours",
        statement="At the same cost, independent probes are more exact than shared ones.",
        quantity="how many shared probes one is worth",
        findings=findings,
        needs=enough,
    )


def observed(config: HutchinsonConfig, ways: dict[str, Convergence]) -> Observation:
    """Say what the coefficients of variation are at the paper's number of probes."""
    parts = [
        f"{WAY_NAMES[way]} {one.fitted(np.array([float(PAPERS_PROBES)]))[0]:.1%}"
        for way, one in ways.items()
    ]
    return Observation(
        source="Fig. 6",
        statement=f"23 % at M = {PAPERS_PROBES}, of a trained model with 7.2M parameters, on 32 "
        "samples.",
        seen=f"a Llama of {config.model} parameters, {config.num_samples} samples of "
        f"{config.context_length} tokens: {'; '.join(parts)}",
    )


def _index_of(one: Convergence, probes: int) -> int:
    """Return where a number of probes stands, or the middle one where it was not tried."""
    return one.probes.index(probes) if probes in one.probes else len(one.probes) // 2
