"""What the claims of the experiments of Spectral Reach share."""

from __future__ import annotations

from collections.abc import Sequence

from lnpjax.experiments._harness.claims import Need
from lnpjax.experiments.spectral_reach.runs import Runs

LEAST_SEEDS = 3
MOST_PASSES = 4.0
"""Over the data: up to four are about as good as new data (Muennighoff et al., 2023)."""


LEAST_TOKENS = 8
"""For each parameter, to compare sizes: what the largest model of the paper learns from (B.2)."""
MOST_VOID = 0.2
"""Of the measurements of a size."""


def trained_well(sizes: Sequence[Runs]) -> list[Need]:
    """Return what every claim needs of the runs.

    Args:
        sizes: all of them, of all data.
    """
    edges = [size.name for size in sizes if size.at_edge]
    broken = [size.name for size in sizes if not size.finite]
    passes = max(size.passes for size in sizes)
    void = max(size.void for size in sizes)
    seeds = min(size.num_seeds for size in sizes)
    return [
        Need.at_least(LEAST_SEEDS, "seeds", seeds),
        Need(
            "best learning rates that are not the lowest or highest of the grid",
            not edges,
            f"at the edge: {', '.join(edges)}" if edges else "",
        ),
        Need("losses that are numbers", not broken, ", ".join(broken)),
        Need(
            f"at most {MOST_VOID:.0%} of a size's measurements void",
            void <= MOST_VOID,
            f"{void:.1%}" if void else "",
        ),
        Need(
            f"training data seen at most {MOST_PASSES:g} times",
            passes <= MOST_PASSES,
            f"{passes:.1f} times",
        ),
    ]


def trained_long(sizes: Sequence[Runs]) -> Need:
    """Return what comparing sizes needs besides: one that has hardly learned is no larger model.

    Args:
        sizes: all of them, of all data.
    """
    least = min(
        size.tokens_per_step * size.train_loss.shape[1] / size.num_parameters for size in sizes
    )
    return Need(
        f"{LEAST_TOKENS} tokens for each parameter", least >= LEAST_TOKENS, f"from {least:.1f} on"
    )
