"""What the figures and the claims of Muon against Adam read off the finished sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_muon_adam.updates import RULES

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_lens_muon_adam.config import MuonAdamConfig

Numbers = Float[np.ndarray, "seeds sizes matrices"]


class Updates(NamedTuple):
    """The updates of one rule at the last state of the runs that one optimizer trained.

    Attributes:
        signal: squared norm of the mean update.
        noise: that of a batch's deviation, expected.
        largest_noise: largest singular value of a deviation.
        alignment: of an update with that of the population's gradient.
        along: part of the mean update along that.
        distance: of an update from the polar factor of the population's gradient.
        rank: effective rank of an update.
    """

    signal: Numbers
    noise: Numbers
    largest_noise: Numbers
    alignment: Numbers
    along: Numbers
    distance: Numbers
    rank: Numbers

    @property
    def noise_share(self) -> Numbers:
        """The noise's part of the squared norm."""
        return self.noise / (self.signal + self.noise)

    @property
    def mean_alignment(self) -> Float[np.ndarray, "seeds sizes"]:
        """Cosine of the mean update of all matrices with that of the population's gradient.

        Of one matrix it may be unknown: no signal is seen in noise that is much larger.
        """
        signal = self.signal.mean(axis=2)
        ratio = np.divide(
            np.mean(self.along**2, axis=2),
            signal,
            out=np.full_like(signal, np.nan),
            where=signal > 0,
        )
        return np.sqrt(ratio)


def updates_of(
    config: MuonAdamConfig, sweep: Sweep, trained_by: str, rule: str, step: int | None = None
) -> Updates:
    """Return the updates of a rule after some steps, the last ones by default.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        trained_by: a key of `TRAINED_BY`.
        rule: one of `RULES`.
        step: one of `config.states`.
    """
    step = config.states[-1] if step is None else step
    where = {"kind": "update", "trained_by": trained_by, "rule": rule, "step": step}
    columns: dict[str, list[list[list[float]]]] = {name: [] for name in Updates._fields}
    for seed in config.seeds:
        by_size = [sweep.rows(**where, seed=seed, batch_size=size) for size in config.batch_sizes]
        for name, kept in columns.items():
            kept.append([[row[name] for row in rows] for rows in by_size])
    return Updates(**{name: np.array(kept, float) for name, kept in columns.items()})


def all_updates(config: MuonAdamConfig, sweep: Sweep, trained_by: str) -> dict[str, Updates]:
    """Return the updates of every rule at the last state."""
    return {rule: updates_of(config, sweep, trained_by, rule) for rule in RULES}


def log_slopes(
    batch_sizes: tuple[int, ...], values: Numbers
) -> Float[np.ndarray, "seeds matrices"]:
    """Return the slope of a logarithm on that of the batch size, by least squares.

    Example:
        >>> values = np.array([[[8.0], [4.0], [2.0]]])
        >>> log_slopes((1, 4, 16), values).round(3)
        array([[-0.5]])
    """
    x = np.log(batch_sizes) - np.mean(np.log(batch_sizes))
    return np.einsum("b,sbm->sm", x, np.log(values)) / np.sum(x**2)


def critical_batch_size(
    batch_sizes: tuple[int, ...], updates: Updates
) -> Float[np.ndarray, " seeds"]:
    """Return the batch size whose update has as much signal as noise, by interpolation.

    Of the share of noise, mean over matrices, on a logarithmic axis. 0 where the smallest batch has
    more signal than noise already, infinite where the largest has less.

    Args:
        batch_sizes: ascending.
        updates: of one rule.
    """
    shares = updates.noise_share.mean(axis=2)
    return np.array(
        [
            np.exp(np.interp(-0.5, -share, np.log(batch_sizes), left=-np.inf, right=np.inf))
            for share in shares
        ]
    )
