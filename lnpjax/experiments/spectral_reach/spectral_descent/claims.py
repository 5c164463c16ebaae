"""What Spectral Reach hopes of optimizers that move into the tail (section 7), judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.comparison import spearman
from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, mean_of
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.claims import MOST_VOID
from lnpjax.experiments.spectral_reach.spectral_descent.results import (
    Depths,
    Tuned,
    all_tuned,
    depths,
)

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.spectral_descent.config import DescentConfig

LOWER = Bounds(high=0.0)
LEAST_SEEDS, LEAST_ARMS = 4, 5
ARM_NAMES = {
    "adamw": "AdamW",
    "muon": "Muon",
    "damped": "AdamW with damped top modes",
    "clamped": "AdamW with clamped chi_pos",
    "mup": "AdamW in muP",
    "small": "AdamW from small weights",
}
USUAL = ("adamw", "muon")
IN_TANDEM = Bounds(low=0.5)
"""Of a rank correlation, as at equal compute."""


def judge(config: DescentConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, then what is only observed.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    runs = all_tuned(config, sweep)
    interventions = [arm for arm in runs if arm not in USUAL]
    return [
        *(moves_into_the_tail(runs, arm) for arm in interventions),
        *(helps(runs, arm, other) for other in USUAL for arm in interventions),
        deeper_is_better(runs),
        *([in_tandem(runs)] if len(runs) >= LEAST_ARMS else []),
        observed(config, runs),
    ]


def needs(*runs: Tuned) -> list[Need]:
    """What every comparison needs: seeds, rates around the best one, and one text."""
    rates = ", ".join(f"{run.rate:g}" for run in runs)
    texts = sorted({run.text for run in runs})
    return [
        enough_seeds(min(len(run.losses) for run in runs)),
        Need("a best rate inside of those tried", all(run.inside for run in runs), rates),
        Need("the same text for all", len(texts) == 1, " and ".join(texts)),
    ]


def needs_of_depths(found: Depths, *runs: Tuned) -> list[Need]:
    """What comparing positions needs besides: seeds whose measurements are not void."""
    few = found.void <= MOST_VOID
    valid = Need(f"at most {MOST_VOID:.0%} of measurements void", few, f"{found.void:.0%}")
    return [*needs(*runs), valid, enough_seeds(found.mean.shape[1], " with valid measurements")]


def enough_seeds(count: int, which: str = "") -> Need:
    """What an error between seeds needs."""
    return Need.at_least(LEAST_SEEDS, f"seeds{which}", count)


def moves_into_the_tail(runs: dict[str, Tuned], arm: str) -> Claim:
    """Judge whether an intervention does what it is for."""
    pair = (runs[arm], runs["adamw"])
    found = depths(pair)
    return Claim(
        source="section 7, ours",
        statement=f"{ARM_NAMES[arm]} is deeper in the tail than AdamW at the same cost.",
        quantity="difference of the mean logarithms of chi_pos over the later half of the budget",
        findings=[Finding("", mean_of(found.mean[0] - found.mean[1]), LOWER)],
        needs=needs_of_depths(found, *pair),
    )


def helps(runs: dict[str, Tuned], arm: str, other: str) -> Claim:
    """Judge whether an intervention ends lower than an optimizer at the same cost."""
    change = mean_of(runs[arm].losses - runs[other].losses)
    return Claim(
        source="section 7",
        statement=f"{ARM_NAMES[arm]} ends at a lower test loss than {ARM_NAMES[other]} at the same "
        "cost.",
        quantity="difference of the last test losses in nats, mean over seeds",
        findings=[Finding("", change, LOWER)],
        needs=needs(runs[arm], runs[other]),
    )


def deeper_is_better(runs: dict[str, Tuned]) -> Claim:
    """Judge whether the better of the two usual optimizers is the one deeper in the tail."""
    pair = _ordered([runs[arm] for arm in USUAL])
    found = depths(pair)
    return Claim(
        source="section 7, ours",
        statement="Of AdamW and Muon, the one that ends lower is deeper in the tail.",
        quantity="difference of the mean logarithms of chi_pos over the later half of the budget, "
        "better less worse",
        findings=[Finding("", mean_of(found.mean[0] - found.mean[1]), LOWER)],
        needs=needs_of_depths(found, *pair),
    )


def in_tandem(runs: dict[str, Tuned]) -> Claim:
    """Judge whether arms that are deeper in the tail end lower."""
    every = list(runs.values())
    found = depths(every)
    losses = np.stack([run.losses for run in every])[:, found.counts]
    correlations = [spearman(*pair).rho for pair in zip(found.mean.T, losses.T, strict=True)]
    return Claim(
        source="section 7, ours",
        statement="Over all optimizers and starts, those that are deeper in the tail end lower.",
        quantity="Spearman's correlation of the mean logarithm of chi_pos over the later half and "
        "the last test loss over them, mean over seeds",
        findings=[Finding("", mean_of(correlations), IN_TANDEM)],
        needs=needs_of_depths(found, *every),
    )


def observed(config: DescentConfig, runs: dict[str, Tuned]) -> Observation:
    """Say where every optimizer ended, at which rate."""
    parts = [
        f"{ARM_NAMES[arm]} {run.losses.mean():.3f} (rate {run.rate:g}, last chi_pos "
        f"{np.exp(np.nanmean(run.later[:, -1])):.2g})"
        for arm, run in runs.items()
    ]
    return Observation(
        source="section 7, ours",
        statement=f"Last test losses after {config.budget} gradients, in nats per token of "
        f"{', '.join(sorted({run.text for run in runs.values()}))}.",
        seen="; ".join(parts),
    )


def _ordered(runs: Sequence[Tuned]) -> list[Tuned]:
    return sorted(runs, key=lambda run: float(run.losses.mean()))
