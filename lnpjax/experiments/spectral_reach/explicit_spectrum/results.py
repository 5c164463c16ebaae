"""What the modes of explicit kernels say, before and after training."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.explicit_spectrum.measure import STATES

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.explicit_spectrum.config import ExplicitConfig


class Spectra(NamedTuple):
    """Modes of all kernels in one state, descending.

    Attributes:
        p: normalised eigenvalues.
        gamma2: shares of the loss gradient.
    """

    p: Float[np.ndarray, "model sample mode"]
    gamma2: Float[np.ndarray, "model sample mode"]

    @property
    def chi_pos(self) -> Float[np.ndarray, "model sample"]:
        """The spectral position (*Spectral Reach*, eq. 9)."""
        return np.sum(self.p * self.gamma2, axis=-1)

    @property
    def share_in_tail(self) -> Float[np.ndarray, "model sample"]:
        """Which share of the loss gradient lies beyond the modes of the first half of the trace."""
        in_tail = np.cumsum(self.p, axis=-1) > 0.5
        return np.sum(self.gamma2 * in_tail, axis=-1)


def spectra(config: ExplicitConfig, sweep: Sweep) -> dict[str, Spectra]:
    """Return the modes in both states."""

    def stacked(name: str) -> Float[np.ndarray, "model sample mode"]:
        return np.array(
            [
                [sweep.arrays(f"model{model}-sample{sample}")[name] for sample in samples]
                for model in range(config.num_models)
            ],
            float,
        )

    samples = range(config.num_samples)
    return {state: Spectra(stacked(f"{state}_p"), stacked(f"{state}_gamma2")) for state in STATES}


def by_model(
    config: ExplicitConfig, sweep: Sweep, state: str, name: str
) -> Float[np.ndarray, " model"]:
    """Return a column of the rows in a state, its mean over the sequences of every model."""
    models = range(config.num_models)
    return np.array(
        [np.mean([row[name] for row in sweep.rows(state=state, model=model)]) for model in models]
    )


def by_rank(values: Float[np.ndarray, "model sample mode"], share: float = 0.02) -> np.ndarray:
    """Return means over kernels, smoothed over a window of ranks: single coefficients are chance.

    Example:
        >>> by_rank(np.array([[[1.0, 3.0, 5.0]]]), share=1.0).round(3).tolist()
        [2.0, 3.0, 4.0]
    """
    mean = values.mean(axis=(0, 1))
    half = max(int(share * len(mean) / 2), 0)
    totals = np.concatenate([[0.0], np.cumsum(mean)])
    ranks = np.arange(len(mean))
    low, high = np.maximum(ranks - half, 0), np.minimum(ranks + half + 1, len(mean))
    return (totals[high] - totals[low]) / (high - low)
