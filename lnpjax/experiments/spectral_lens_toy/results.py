"""What the figures and the claims of the Spectral Lens toy read off its finished sweep."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.comparison import RankCorrelation, spearman
from lnpjax.experiments._harness.estimates import lowest_point
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_toy.bands import (
    band_name,
    chance_of_task_modes,
    task_modes,
)
from lnpjax.experiments.spectral_lens_toy.config import STAGES, SWEPT_STAGES, Band

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_lens_toy.config import ToyConfig


FRACTIONS = tuple(round(0.05 * count, 2) for count in range(1, 21))
JUMP_FRACTIONS = (0.1, 0.2, 0.3)  # of the run; the authors' checkpoints 500, 1000, 1500 of 5000
TRANSITIONS = tuple(itertools.pairwise(STAGES))
Regime = tuple[str, int]
"""A stage at a batch size: its runs differ in their seeds only."""
Groups = Mapping[Regime, Float[np.ndarray, " seeds"]]


class Matched(NamedTuple):
    """A run at its target loss.

    Attributes:
        batch_size: of the run.
        seed: of the run.
        tokens: that it took, between evaluations by a straight line.
        target: that loss.
        exponent: tail exponent there.
        spectrum: shares of the eigenvalues there.
    """

    batch_size: int
    seed: int
    tokens: float
    target: float
    exponent: float
    spectrum: Float[np.ndarray, " hidden"]


def all_met(config: ToyConfig, sweep: Sweep, stage: str) -> float | None:
    """The lowest target loss that every run of a stage met; None if there is none."""
    wanted = len(config.batch_sizes_of(stage)) * len(config.seeds)
    rows = sweep.rows(kind="target", stage=stage, control=False)
    met = [row["target"] for row in rows]
    return next((target for target in config.targets if met.count(target) == wanted), None)


def matched_runs(config: ToyConfig, sweep: Sweep, stage: str) -> list[Matched]:
    """The runs of a stage at one loss: the lowest target that all met, by batch size.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        stage: the stage.

    Returns:
        All runs of the stage; none if they have no target in common.
    """
    common = all_met(config, sweep, stage)
    found = []
    for row in sweep.rows(kind="target", stage=stage, target=common, control=False):
        spectrum = sweep.arrays(row["unit"])[f"spectrum_at_target/{common:g}"]
        numbers = (row["batch_size"], row["seed"], row["tokens_to_target"], row["target"])
        found.append(Matched(*numbers, row["alpha"], spectrum))
    return sorted(found, key=lambda run: (run.batch_size, run.seed))


def early_exponents(
    sweep: Sweep, stage: str, runs: Sequence[Matched], fraction: float
) -> Float[np.ndarray, " runs"]:
    """The tail exponents of runs after a share of each one's own way to the target.

    As in the paper ("training progress"); between checkpoints by a straight line.
    """
    exponents = []
    for run in runs:
        where = {"stage": stage, "batch_size": run.batch_size, "seed": run.seed}
        rows = sweep.rows(kind="spectrum", control=False, **where)
        tokens, alphas = ([row[name] for row in rows] for name in ("tokens", "alpha"))
        exponents.append(np.interp(fraction * run.tokens, tokens, alphas))
    return np.array(exponents)


def early_prediction(config: ToyConfig, sweep: Sweep, stage: str) -> list[RankCorrelation]:
    """Rank correlation of the tail exponent with the tokens to target (Fig. 4a).

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        stage: whose runs are compared.

    Returns:
        A correlation over all runs at their target, for each of `FRACTIONS`.
    """
    runs = matched_runs(config, sweep, stage)
    tokens = np.array([run.tokens for run in runs])
    return [
        spearman(early_exponents(sweep, stage, runs, fraction), tokens) for fraction in FRACTIONS
    ]


class Curves:
    """A probe's statistic in every run, over its tokens.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        statistic: such as "H_S".
        control: of the control's runs instead.
    """

    def __init__(
        self, config: ToyConfig, sweep: Sweep, statistic: str, *, control: bool = False
    ) -> None:
        self._config = config
        self._length = config.num_blocks * config.tokens_per_block
        self._curves: dict[tuple[Any, ...], tuple[list[float], list[float]]] = {}
        for row in sweep.rows(kind="probe", control=control):
            key = (row["stage"], row["batch_size"], row["seed"], row["band"])
            tokens, values = self._curves.setdefault(key, ([], []))
            tokens.append(row["tokens"])
            values.append(row[statistic])

    def at(
        self, stage: str, batch_size: int, band: Band, share: float
    ) -> Float[np.ndarray, " seeds"]:
        """The statistic after a share of the run, between checkpoints by a straight line."""
        found = [
            self._curves.get((stage, batch_size, seed, band_name(band)))
            for seed in self._config.seeds
        ]
        return np.array([np.interp(share * self._length, *curve) for curve in found if curve])

    def groups(
        self, bands: Sequence[Band], *shares: float, stages: Sequence[str] = STAGES
    ) -> dict[Regime, Float[np.ndarray, " seeds"]]:
        """The mean over bands and shares of the run, where stages are compared."""
        return {
            (stage, size): np.mean(
                [self.at(stage, size, band, share) for band in bands for share in shares], axis=0
            )
            if bands
            else np.full(len(self._config.seeds), np.nan)
            for stage in stages
            for size in self._config.compared_batch_sizes
        }


def room_taken(config: ToyConfig, sweep: Sweep, bands: Sequence[Band]) -> tuple[Groups, Groups]:
    """The share of the room above chance that H_S takes, at step 0 and at the end."""
    curves = Curves(config, sweep, "H_S")
    chances = [chance_of_task_modes(task_modes(config.task, cycle), cycle) for cycle, _ in bands]

    def at(share: float) -> Groups:
        taken = [
            {
                regime: (values - chance) / (1 - chance)
                for regime, values in curves.groups([band], share).items()
            }
            for band, chance in zip(bands, chances, strict=True)
        ]
        if not taken:
            return curves.groups([], share)
        return {regime: np.mean([one[regime] for one in taken], axis=0) for regime in taken[0]}

    return at(0.0), at(1.0)


def control_jump(config: ToyConfig, sweep: Sweep) -> tuple[float, float]:
    """The jump from Muon to Untied of one pair of runs, and that of the control (as Fig. 11b).

    The control has the same small initial embedding in both stages, so that a tied read-out does
    not start by predicting the current token.
    """
    jumps = []
    for control in (False, True):
        curves = Curves(config, sweep, "H_peak", control=control)
        tied, untied = (
            np.mean(
                [
                    curves.at(stage, config.control_batch_size, band, share)[0]
                    for band in config.tracked_bands
                    for share in JUMP_FRACTIONS
                ]
            )
            for stage in SWEPT_STAGES
        )
        jumps.append(float(untied - tied))
    return jumps[0], jumps[1]


def profiles_of(
    config: ToyConfig, sweep: Sweep, stage: str, band: Band
) -> dict[Regime, list[tuple[np.ndarray, np.ndarray]]]:
    """Fourier profiles at step 0 and at the end of every run of a stage, by regime."""
    profiles: dict[Regime, list[tuple[np.ndarray, np.ndarray]]] = {}
    for size in config.batch_sizes_of(stage):
        rows = sweep.rows(kind="loss", stage=stage, batch_size=size, tokens=0, control=False)
        stored = [sweep.arrays(row["unit"])[f"profiles/{band_name(band)}"] for row in rows]
        profiles[stage, size] = [(profile[0], profile[-1]) for profile in stored]
    return profiles


def best_run(sweep: Sweep, stage: str) -> dict[str, Any]:
    """The last loss row of the run of a stage that ends with the smallest loss."""
    rows = sweep.rows(kind="loss", stage=stage, control=False)
    last = max(row["tokens"] for row in rows)
    ends = [row for row in rows if row["tokens"] == last]
    return ends[lowest_point([row["loss"] for row in ends])]


def modes_for_share(profile: Float[np.ndarray, " modes"], share: float = 0.5) -> int:
    """The fewest modes that hold that share of a profile's energy.

    Example:
        >>> modes_for_share(np.array([0.1, 0.6, 0.3]))
        1
    """
    return 1 + int(np.searchsorted(np.cumsum(np.sort(profile)[::-1]), share - 1e-12))
