"""What the figures and the claims of the Spectral Lens toy read off its finished sweep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.comparison import RankCorrelation, spearman
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_toy.config import STAGES

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_lens_toy.config import ToyConfig


FRACTIONS = tuple(round(0.05 * count, 2) for count in range(1, 21))
JUMP_FRACTIONS = (0.1, 0.2, 0.3)  # of the run; the authors' checkpoints 500, 1000, 1500 of 5000
TRANSITIONS = tuple(itertools.pairwise(STAGES))


class Matched(NamedTuple):
    """A run at its target loss.

    Attributes:
        batch_size: of the run.
        seed: of the run.
        tokens: that it took, between evaluations by a straight line.
        loss: at the evaluation that met the target.
        exponent: tail exponent there.
        exponent_error: its sampling error, from two halves of the sequences.
        spectrum: shares of the eigenvalues there.
    """

    batch_size: int
    seed: int
    tokens: float
    loss: float
    exponent: float
    exponent_error: float
    spectrum: Float[np.ndarray, " hidden"]


def matched_runs(sweep: Sweep, stage: str) -> list[Matched]:
    """The runs of a stage that met the target loss, by batch size."""
    found = []
    for row in sweep.rows(kind="target", stage=stage, control=False):
        error = abs(row["alpha_half_a"] - row["alpha_half_b"]) / 2
        spectrum = sweep.arrays(row["unit"])["spectrum_at_target"]
        numbers = (row["batch_size"], row["seed"], row["tokens_to_target"], row["loss"])
        found.append(Matched(*numbers, row["alpha"], error, spectrum))
    return sorted(found, key=lambda run: (run.batch_size, run.seed))


def early_prediction(sweep: Sweep, stage: str, seed: int | None = None) -> list[RankCorrelation]:
    """Rank correlation of the tail exponent with the tokens to target (Fig. 4a).

    The exponent of each run is taken at a share of its own way to the target, as the paper does
    ("training progress"), between checkpoints by a straight line.

    Args:
        sweep: the sweep.
        stage: whose runs are compared.
        seed: of the runs; all of them by default.

    Returns:
        A correlation over the runs that met the target, for each of `FRACTIONS`.
    """
    runs = [run for run in matched_runs(sweep, stage) if seed in (None, run.seed)]
    tokens = np.array([run.tokens for run in runs])
    correlations = []
    for fraction in FRACTIONS:
        exponents = [
            _at(
                sweep,
                "spectrum",
                "alpha",
                fraction * run.tokens,
                stage=stage,
                batch_size=run.batch_size,
                seed=run.seed,
            )
            for run in runs
        ]
        correlations.append(spearman(np.array(exponents), tokens))
    return correlations


def over_training(
    config: ToyConfig, sweep: Sweep, stage: str, statistic: str
) -> Mapping[int, Float[np.ndarray, " checkpoints"]]:
    """A probe's statistic at every checkpoint, mean over seeds and tracked bands, by batch size."""
    curves = {}
    for batch_size in config.batch_sizes:
        rows = sweep.rows(kind="probe", stage=stage, batch_size=batch_size, control=False)
        curves[batch_size] = np.array(
            [
                np.mean([row[statistic] for row in rows if _tracked_at(config, row, block)])
                for block in config.checkpoints
            ]
        )
    return curves


def peak_jumps(
    config: ToyConfig, sweep: Sweep
) -> Mapping[tuple[str, str], Float[np.ndarray, "batch_sizes checkpoints"]]:
    """Change of H_peak from a stage to the next, at each of `JUMP_FRACTIONS` (Fig. 11b)."""
    tokens = np.array(config.checkpoints) * config.tokens_per_block
    at = np.array(JUMP_FRACTIONS) * tokens[-1]
    heights = {
        stage: np.stack(
            [
                np.interp(at, tokens, curve)
                for curve in over_training(config, sweep, stage, "H_peak").values()
            ]
        )
        for stage in STAGES
    }
    return {(first, second): heights[second] - heights[first] for first, second in TRANSITIONS}


def control_jump(config: ToyConfig, sweep: Sweep) -> tuple[float, float]:
    """The jump from Muon to Untied at one batch size, and that of the control (mean of Fig. 11b).

    The control has the same small initial embedding in both stages, so that a tied read-out does
    not start by predicting the current token.
    """
    jumps = []
    for control in (False, True):
        heights = []
        for stage in STAGES[2:]:
            values = [
                _at(
                    sweep,
                    "probe",
                    "H_peak",
                    fraction * config.num_blocks * config.tokens_per_block,
                    control=control,
                    band=f"{cycle}:{offset}",
                    stage=stage,
                    batch_size=config.control_batch_size,
                    seed=seed,
                )
                for fraction in JUMP_FRACTIONS
                for cycle, offset in config.tracked_bands
                for seed in config.seeds
            ]
            heights.append(float(np.mean(values)))
        jumps.append(heights[1] - heights[0])
    return jumps[0], jumps[1]


def final_by_band(
    config: ToyConfig, sweep: Sweep, stage: str, statistic: str
) -> Float[np.ndarray, "batch_sizes bands"]:
    """A statistic at the end of training, mean over seeds (Fig. 11c)."""
    last = config.num_blocks * config.tokens_per_block
    rows = sweep.rows(kind="probe", stage=stage, tokens=last, control=False)
    return np.array(
        [
            [
                np.mean(
                    [
                        row[statistic]
                        for row in rows
                        if (row["band"], row["batch_size"]) == (f"{cycle}:{offset}", batch_size)
                    ]
                )
                for cycle, offset in config.bands
            ]
            for batch_size in config.batch_sizes
        ]
    )


def best_run(sweep: Sweep, stage: str) -> dict[str, Any]:
    """The last loss row of the run of a stage that ends with the smallest loss."""
    rows = sweep.rows(kind="loss", stage=stage, control=False)
    last = max(row["tokens"] for row in rows)
    return min((row for row in rows if row["tokens"] == last), key=_loss)


def modes_for_share(profile: Float[np.ndarray, " modes"], share: float = 0.5) -> int:
    """The fewest modes that hold that share of a profile's energy.

    Example:
        >>> modes_for_share(np.array([0.1, 0.6, 0.3]))
        1
    """
    return 1 + int(np.searchsorted(np.cumsum(np.sort(profile)[::-1]), share - 1e-12))


def _loss(row: Mapping[str, Any]) -> float:
    loss = row["loss"]
    return math.inf if math.isnan(loss) else loss


def _tracked_at(config: ToyConfig, row: Mapping[str, Any], block: int) -> bool:
    tracked = {f"{cycle}:{offset}" for cycle, offset in config.tracked_bands}
    return row["band"] in tracked and row["tokens"] == block * config.tokens_per_block


def _at(
    sweep: Sweep, kind: str, column: str, tokens: float, *, control: bool = False, **where: Any
) -> float:
    """A column of one run after that many tokens, between checkpoints by a straight line."""
    rows = sweep.rows(kind=kind, control=control, **where)
    return float(np.interp(tokens, [row["tokens"] for row in rows], [row[column] for row in rows]))
