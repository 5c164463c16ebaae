"""Which learning rates to try next."""

from __future__ import annotations

from collections.abc import Mapping

from lnpjax.experiments._harness.estimates import lowest_point

MOST_EXTENSIONS = 2
"""How often a grid of learning rates is continued beyond an edge where the best one lies."""


def rates_beyond(tried: Mapping[float, float], count: int) -> tuple[float, ...]:
    """Return the rates that continue a grid whose best rate is its lowest or its highest.

    Args:
        tried: validation losses by rate, three or more.
        count: how many to return.

    Returns:
        Rates in the ratio of the two at that edge; none where the best is inside.

    Example:
        >>> rates_beyond({1.0: 3.0, 2.0: 2.0, 4.0: 1.0}, 2)
        (8.0, 16.0)
        >>> rates_beyond({1.0: 3.0, 2.0: 1.0, 4.0: 2.0}, 2)
        ()
    """
    rates = sorted(tried)
    lowest = rates[lowest_point([tried[rate] for rate in rates])]
    if lowest not in (rates[0], rates[-1]):
        return ()
    inner = rates[1] if lowest == rates[0] else rates[-2]
    return tuple(lowest * (lowest / inner) ** power for power in range(1, count + 1))
