"""What NTK Lens claims of classes with less to learn (Figs. 4 and 7), judged by a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lnpjax.comparison import spearman
from lnpjax.experiments._harness.claims import Claim, decide
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import SET_NAMES
from lnpjax.experiments.ntk_lens.noise_scaling.results import curves, networks_by_set

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.noise_scaling.config import NoiseConfig


ORDERED = 0.8
CONVERGED = 0.95
LEAST_SHARES = 4


def judge(config: NoiseConfig, sweep: Sweep) -> list[Claim]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims with what was measured.
    """
    pairs = [
        (images, network) for images, names in networks_by_set(sweep).items() for network in names
    ]
    enough = len(config.replaced) >= LEAST_SHARES
    kept = 1 - np.array(config.replaced)
    names, two_stages, rises, finals, accuracies = [], [], [], [], []
    for images, network in pairs:
        names.append(f"{SET_NAMES[images]}, {network}")
        by_share = [{"set": images, "network": network, "replaced": s} for s in config.replaced]
        ranks = [curves(sweep, "rank", **where)[1].mean(0) for where in by_share]
        first, lowest, last = ranks[0][0], ranks[0].min(), ranks[0][-1]
        two_stages.append((first, lowest, last))
        rises.append(np.array([values[-1] / values.min() for values in ranks]))
        finals.append([curves(sweep, "train_accuracy", **w)[1].mean(0)[-1] for w in by_share])
        accuracies.append([curves(sweep, "test_accuracy", **w)[1].mean(0)[-1] for w in by_share])
    orders = [spearman(kept, rise).rho for rise in rises]
    losses = [spearman(kept, np.array(values)).rho for values in accuracies]
    rule = f"; cannot tell with fewer than {LEAST_SHARES} shares"

    def listed(values: list[str]) -> str:
        return "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))

    return [
        Claim(
            source="Fig. 4",
            statement="The effective rank falls at first, then rises again.",
            measured=listed([f"{a:.1f}, {b:.1f}, {c:.1f}" for a, b, c in two_stages]),
            verdict=decide(
                all(low < first and last > 1.05 * low for first, low, last in two_stages)
            ),
            rule="of the networks with nothing replaced, at the start, at its lowest, and at the "
            "end: holds if the lowest is below the first and 5 % below the last, for both networks",
        ),
        Claim(
            source="Fig. 4",
            statement="The more features the data has, the further the effective rank rises.",
            measured=listed(
                [
                    f"rho = {order:.2f} (" + ", ".join(f"{rise:.2f}" for rise in found) + ")"
                    for order, found in zip(orders, rises, strict=True)
                ]
            ),
            verdict=decide(all(order >= ORDERED for order in orders), known=enough),
            rule="holds if Spearman's rho of the share that is kept and the rise (last over "
            f"lowest) is at least {ORDERED} for both networks" + rule,
        ),
        Claim(
            source="Fig. 7",
            statement="All networks are trained until they converge.",
            measured=listed([f"training accuracy {min(values):.3f} at least" for values in finals]),
            verdict=decide(min(min(values) for values in finals) >= CONVERGED),
            rule=f"holds if the mean training accuracy at the end is at least {CONVERGED} for all",
        ),
        Claim(
            source="Fig. 7",
            statement="Performance falls as more is replaced.",
            measured=listed(
                [
                    f"rho = {loss:.2f} (" + ", ".join(f"{value:.3f}" for value in found) + ")"
                    for loss, found in zip(losses, accuracies, strict=True)
                ]
            ),
            verdict=decide(all(loss >= ORDERED for loss in losses), known=enough),
            rule="holds if Spearman's rho of the share that is kept and the test accuracy at the "
            f"end is at least {ORDERED} for both networks" + rule,
        ),
    ]
