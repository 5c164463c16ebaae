"""What muP is said to do, judged by three models over widths (Spectral Reach, B.2.4, D.3).

What is taken for granted of its words: what stays has an exponent over widths between -0.2 and 0.2;
what does not, one beyond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.maximal_update.config import MODELS, NAMES
from lnpjax.experiments.spectral_reach.maximal_update.measure import LAYERS
from lnpjax.experiments.spectral_reach.maximal_update.results import (
    at_edge,
    best_rates,
    changes,
    end_losses,
    growth,
)
from lnpjax.experiments.spectral_reach.parametrisations import ARMS, Arm

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.maximal_update.config import MaximalUpdateConfig

STAYS, GROWS, FALLS = Bounds(-0.2, 0.2), Bounds(low=0.2), Bounds(high=-0.2)
LEAST_RANGE = 4


def judge(config: MaximalUpdateConfig, sweep: Sweep) -> list[Claim | Observation]:
    """Judge what muP is said to do.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
    """
    ratio = config.widths[-1] / config.widths[0]
    wide = Need(f"widths a factor of {LEAST_RANGE} apart", ratio >= LEAST_RANGE, f"{ratio:g}")
    return [
        coordinates(config, sweep, "mup", STAYS, [wide]),
        coordinates(config, sweep, "standard", GROWS, [wide]),
        rates(config, sweep, "mup", STAYS, [wide]),
        rates(config, sweep, "standard", FALLS, [wide]),
        losses(config, sweep),
    ]


def coordinates(
    config: MaximalUpdateConfig, sweep: Sweep, arm: Arm, region: Bounds, needs: list[Need]
) -> Claim:
    """Judge how the change of activations goes with the width."""
    layers = LAYERS if arm == "mup" else ("outputs",)
    findings = [
        Finding(
            f"{NAMES[model]}, {layer}",
            growth(config, changes(config, sweep, model, arm, layer)[..., -1]),
            region,
        )
        for model in MODELS
        for layer in layers
    ]
    statement = {
        "mup": "Under muP, features change by as much at all widths.",
        "standard": "Under the standard parametrisation, outputs change by more in wider networks.",
    }[arm]
    return Claim(
        source="D.3; Yang et al. (2022), app. F",
        statement=statement,
        quantity=f"exponent over widths of the change after {config.checked[-1]} steps of Adam at "
        f"{config.check_rate:.3g}",
        findings=findings,
        needs=needs,
    )


def rates(
    config: MaximalUpdateConfig, sweep: Sweep, arm: Arm, region: Bounds, needs: list[Need]
) -> Claim:
    """Judge how the best learning rate goes with the width."""
    findings, edges = [], []
    for model in MODELS:
        ends = end_losses(config, sweep, model, arm)
        findings.append(Finding(NAMES[model], growth(config, best_rates(config, ends)), region))
        if at_edge(config, ends):
            edges.append(NAMES[model])
    inside = Need("best learning rates inside of the grid", not edges, ", ".join(edges))
    statement = {
        "mup": "Under muP, the best learning rate stays put as the width changes.",
        "standard": "Under the standard parametrisation, the best learning rate falls with width.",
    }[arm]
    return Claim(
        source="B.2.4; Yang et al. (2022), Fig. 1",
        statement=statement,
        quantity="exponent over widths of the learning rate of the lowest loss at the end",
        findings=findings,
        needs=[*needs, inside],
    )


def losses(config: MaximalUpdateConfig, sweep: Sweep) -> Observation:
    """Tell the lowest losses of both parametrisations at the largest width."""

    def lowest(model: str, arm: str) -> str:
        ends = end_losses(config, sweep, model, arm)[-1]  # type: ignore[arg-type]
        return f"{np.min(ends.mean(axis=0)):.4f}"

    seen = "; ".join(
        f"{NAMES[model]}: " + ", ".join(f"{NAMES[arm]} {lowest(model, arm)}" for arm in ARMS)
        for model in MODELS
    )
    return Observation(
        source="Yang et al. (2022), sec. 5",
        statement="Wider networks do better under muP.",
        seen=f"lowest losses at width {config.widths[-1]}: {seen}",
    )
