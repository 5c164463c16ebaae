"""What Spectral Reach implies for networks with frozen modes (sections 4 and 6), judged by a sweep.

The paper says why larger models reach lower losses: they learn from modes of the kernel that
smaller ones do not reach. If that is so, a large network whose modes below the smallest one's
position are frozen is as good as the smallest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import COVERAGE, Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, Uncertain, mean_of
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.mode_freezing.arms import ARMS
from lnpjax.experiments.spectral_reach.mode_freezing.results import KIND_NAMES, Losses, losses_of

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.mode_freezing.config import FreezingConfig

LEAST_ADVANTAGE = math.log(1.2)
SAME = Bounds(-0.2, 0.2)
"""Of the share of an advantage that is left."""
AS_GOOD = Bounds(-math.log(1.1), math.log(1.1))
HIGHER = Bounds(math.log(1.1))
FALLS = Bounds(high=0.0)
POSITIVE = Bounds(0.0)
LEAST_SEEDS = 4


def judge(config: FreezingConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, the decisive one first.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    every = [losses_of(config, sweep, kind) for kind in KIND_NAMES]
    return [
        claim
        for losses in every
        for claim in (
            equalises(losses),
            explains_the_gap(losses),
            own_suffices(losses),
            controls_stop_higher(losses),
            tail_keeps_order(losses),
            reach_grows(losses),
        )
    ] + [observed(losses) for losses in every]


def needs(losses: Losses, advantage: Uncertain | None = None) -> list[Need]:
    """What every claim needs: seeds, and an advantage of size that could be lost."""
    advantage = mean_of(losses.advantage("free")) if advantage is None else advantage
    seeds = losses.own.shape[1]
    low = advantage.interval(COVERAGE).low
    return [
        Need.at_least(LEAST_SEEDS, "seeds", seeds),
        Need(
            "a larger network that ends at least a factor of 1.2 below the smallest",
            bool(low > LEAST_ADVANTAGE),
            f"{np.exp(advantage.value):.2f}",
        ),
    ]


def _claim(
    losses: Losses, source: str, statement: str, quantity: str, findings: Sequence[Finding]
) -> Claim:
    return Claim(
        source=source,
        statement=f"{KIND_NAMES[losses.kind]}: {statement}",
        quantity=quantity,
        findings=findings,
        needs=needs(losses),
    )


def equalises(losses: Losses) -> Claim:
    """Judge whether size stops to matter without the modes that the smallest one cannot reach."""
    return _claim(
        losses,
        "section 4, ours",
        "with all modes below the smallest one's position frozen, all sizes stop at the same loss.",
        "share of the largest size's advantage, in logarithms of the loss, that is left",
        [Finding("", losses.remaining("common"), SAME)],
    )


def explains_the_gap(losses: Losses) -> Claim:
    """Judge whether a large network without its reach is as good as a small one."""
    return _claim(
        losses,
        "section 4, ours",
        "so frozen, the largest one stops where the smallest one ends with all modes.",
        "logarithm of the ratio of these losses",
        [Finding("", losses.ratio("common", "free", -1, 0), AS_GOOD)],
    )


def own_suffices(losses: Losses) -> Claim:
    """Judge whether a network does without the modes below the position that it reached."""
    return _claim(
        losses,
        "section 4, ours",
        "a network loses nothing if all modes below the position that it reached are frozen.",
        "logarithm of its last loss over that with all modes",
        [
            Finding(f"width {size}", losses.ratio("own", "free", i, i), AS_GOOD)
            for i, size in enumerate(losses.sizes)
        ],
    )


def controls_stop_higher(losses: Losses) -> Claim:
    """Judge whether it matters which modes are frozen, and not only how many."""
    return _claim(
        losses,
        "ours",
        "as many frozen modes from the top, or at random, cost the largest network more.",
        "logarithm of its last loss over that without the tail",
        [Finding(arm, losses.ratio(arm, "common"), HIGHER) for arm in ("top", "random")],
    )


def tail_keeps_order(losses: Losses) -> Claim:
    """Judge whether larger networks learn more in the tail alone."""
    return _claim(
        losses,
        "ours",
        "if only the tail is learned, the largest network still ends below the smallest.",
        "logarithm of the smallest one's last loss over the largest one's",
        [Finding("", mean_of(losses.advantage("tail_only")), POSITIVE)],
    )


def reach_grows(losses: Losses) -> Claim:
    """Judge whether larger networks reach lower positions."""
    return _claim(
        losses,
        "section 4",
        "larger networks reach lower positions.",
        "exponent of the position reached as a power of the width",
        [Finding("", losses.reach_exponent(), FALLS)],
    )


def observed(losses: Losses) -> Observation:
    """Say where the smallest and the largest networks ended, arm by arm."""

    def means(arm: str) -> str:
        small, large = (np.exp(np.log(losses.by_arm[arm][i]).mean()) for i in (0, -1))
        return f"{arm.replace('_', ' ')} {small:.3g} and {large:.3g}"

    return Observation(
        source="ours",
        statement=f"{KIND_NAMES[losses.kind]}: last losses of the smallest and the largest size.",
        seen="; ".join(means(arm) for arm in ARMS),
    )
