"""What the figures and the claims of the balance of shells read off the finished sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.sweep import Sweep

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_shells.balance.config import BalanceConfig

UPPER_DECADES = 2.0
"""How far below the largest eigenvalue "large alpha" of definition 4.1 reaches."""


def by_width(
    config: BalanceConfig, sweep: Sweep, regime: str, name: str
) -> dict[int, Float[np.ndarray, " seeds"]]:
    """Return a column of the rows of a regime, one value per seed, by width."""
    rows = sweep.rows(kind="network", regime=regime)
    return {
        width: np.array([row[name] for row in rows if row["width"] == width], float)
        for width in config.widths
    }


def flux_share(
    config: BalanceConfig, sweep: Sweep, regime: str
) -> dict[int, Float[np.ndarray, " seeds"]]:
    """Return the energy that fluxes moved, as a part of what was dissipated."""
    moved = by_width(config, sweep, regime, "moved_by_flux")
    dissipated = by_width(config, sweep, regime, "dissipated")
    return {width: moved[width] / dissipated[width] for width in config.widths}


def upper_edges(config: BalanceConfig) -> Float[np.ndarray, " bin"]:
    """Return the upper edge of every bin; that of the remainder first."""
    return config.lowest * config.ratio ** np.arange(config.num_shells + 1.0)


def largest_ratios(
    config: BalanceConfig, sweep: Sweep, regime: str, name: str
) -> dict[int, Float[np.ndarray, " seeds"]]:
    """Return the largest ratio over upper shells that always have a mode, by width.

    Args:
        config: the size.
        sweep: finished.
        regime: which of `REGIMES`.
        name: of an array of ratios by bin.
    """
    tops = by_width(config, sweep, regime, "first_eigenvalue")
    edges = upper_edges(config)
    result = {}
    for width in config.widths:
        arrays = sweep.arrays(f"{regime}-width{width}")
        near = edges > tops[width][:, None] * 10.0**-UPPER_DECADES
        chosen = near & (arrays["occupied"] == 1)
        ratios = np.where(chosen, arrays[name], -np.inf)
        result[width] = np.where(chosen.any(axis=1), np.max(ratios, axis=1), np.nan)
    return result
