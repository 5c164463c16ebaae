"""What Spectral Reach hopes of optimizers that move into the tail (section 7), judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, mean_of
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.spectral_descent.results import Tuned, all_tuned

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.spectral_descent.config import DescentConfig

LOWER = Bounds(high=0.0)
LEAST_SEEDS = 4
ARM_NAMES = {
    "adamw": "AdamW",
    "muon": "Muon",
    "damped": "AdamW with damped top modes",
    "clamped": "AdamW with clamped chi_pos",
}
INTERVENTIONS = ("damped", "clamped")


def judge(config: DescentConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, then what is only observed.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    runs = all_tuned(config, sweep)
    return [
        *(moves_into_the_tail(runs, arm) for arm in INTERVENTIONS),
        *(helps(runs, arm, "adamw") for arm in INTERVENTIONS),
        *(helps(runs, arm, "muon") for arm in INTERVENTIONS),
        deeper_is_better(runs),
        observed(config, runs),
    ]


def needs(*runs: Tuned) -> list[Need]:
    """What every comparison needs: seeds, and rates around the best one."""
    seeds = min(len(run.losses) for run in runs)
    rates = ", ".join(f"{run.rate:g}" for run in runs)
    return [
        Need(f"{LEAST_SEEDS} seeds", seeds >= LEAST_SEEDS, str(seeds)),
        Need("a best rate inside of those tried", all(run.inside for run in runs), rates),
    ]


def moves_into_the_tail(runs: dict[str, Tuned], arm: str) -> Claim:
    """Judge whether an intervention does what it is for."""
    change = mean_of(runs[arm].depth - runs["adamw"].depth)
    return Claim(
        source="section 7, ours",
        statement=f"{ARM_NAMES[arm]} is deeper in the tail than AdamW at the same cost.",
        quantity="difference of the mean logarithms of chi_pos over the later half of the budget",
        findings=[Finding("", change, LOWER)],
        needs=needs(runs[arm], runs["adamw"]),
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
    better, worse = _ordered([runs["adamw"], runs["muon"]])
    return Claim(
        source="section 7, ours",
        statement="Of AdamW and Muon, the one that ends lower is deeper in the tail.",
        quantity="difference of the mean logarithms of chi_pos over the later half of the budget, "
        "better less worse",
        findings=[Finding("", mean_of(better.depth - worse.depth), LOWER)],
        needs=needs(better, worse),
    )


def observed(config: DescentConfig, runs: dict[str, Tuned]) -> Observation:
    """Say where every optimizer ended, at which rate."""
    parts = [
        f"{ARM_NAMES[arm]} {run.losses.mean():.3f} (rate {run.rate:g}, last chi_pos "
        f"{np.exp(np.log(run.chi_pos[:, -1]).mean()):.2g})"
        for arm, run in runs.items()
    ]
    return Observation(
        source="section 7, ours",
        statement=f"Last test losses after {config.budget} gradients, in nats per token.",
        seen="; ".join(parts),
    )


def _ordered(runs: Sequence[Tuned]) -> list[Tuned]:
    return sorted(runs, key=lambda run: float(run.losses.mean()))
