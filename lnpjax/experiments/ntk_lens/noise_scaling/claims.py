"""What NTK Lens claims of classes with less to learn (Figs. 4 and 7), judged by a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, Uncertain, mean_of
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.noise_scaling.results import NoiseRuns, noise_runs

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.noise_scaling.config import NoiseConfig


CONVERGED = 0.1  # of the initial training loss
CLEAR = Bounds(low=float(np.log(1.05)))  # the lowest of several is low by chance
LEAST_SHARES = 4
LEAST_MEMBERS = 3  # as many as the paper draws


def judge(config: NoiseConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    runs = noise_runs(config, sweep)
    return [
        falls_then_rises(runs),
        rises_further(runs),
        performance_falls(runs),
        *observed(runs),
    ]


def falls_then_rises(runs: Sequence[NoiseRuns]) -> Claim:
    """Judge the two stages of the effective rank, where nothing is replaced."""
    findings = []
    for run in runs:
        ranks = np.log(run.values["rank"][0])
        lowest = int(ranks.mean(0).argmin())
        findings += [
            Finding(f"{run.name}, fall", change(ranks, lowest, 0), CLEAR),
            Finding(f"{run.name}, rise", change(ranks, lowest, -1), CLEAR),
        ]
    return Claim(
        source="Fig. 4",
        statement="The effective rank falls at first, then rises again.",
        quantity="of the networks with nothing replaced, log of the rank at the start (fall) and "
        "at the end (rise) over that where the mean is lowest",
        findings=findings,
        needs=[_members(runs)],
    )


def rises_further(runs: Sequence[NoiseRuns]) -> Claim:
    """Judge how the rise of the rank depends on what there is to learn."""

    def rises(run: NoiseRuns) -> np.ndarray:
        ranks = np.log(run.values["rank"])
        lowest = ranks.mean(1).argmin(-1)[:, None, None]
        return ranks[..., -1] - np.take_along_axis(ranks, lowest, axis=-1)[..., 0]

    return Claim(
        source="Fig. 4",
        statement="The more features the data has, the further the effective rank rises.",
        quantity="slope of log(last over lowest rank) on the log of the share that is kept, mean "
        "over members, pairs",
        findings=[
            Finding(run.name, mean_of(log_slope(run.kept, rises(run).T)), Bounds(low=0.0))
            for run in runs
        ],
        needs=[_members(runs), _shares(runs), converged(runs)],
    )


def change(paths: Float[np.ndarray, "members epochs"], start: int, end: int) -> Uncertain:
    """Return the mean change of members' paths between two epochs.

    Its error is that of their scatter about the mean path, pooled over the epochs: of three members
    alone it would hardly be known.

    Example:
        >>> change(np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 3.0]]), 0, 2).value
        2.5
    """
    count, length = paths.shape
    rest = paths - paths.mean(0) - paths.mean(1, keepdims=True) + paths.mean()
    df = (count - 1) * (length - 1)
    error = (np.sum(rest**2) / max(df, 1) * 2 / count) ** 0.5
    return Uncertain(float(np.mean(paths[:, end] - paths[:, start])), float(error), df)


def performance_falls(runs: Sequence[NoiseRuns]) -> Claim:
    """Judge how the accuracy depends on what there is to learn."""
    return Claim(
        source="Fig. 7",
        statement="Performance falls as more is replaced.",
        quantity="slope of the test accuracy at the end on the log of the share that is kept, mean "
        "over members, pairs",
        findings=[
            Finding(
                run.name,
                mean_of(log_slope(run.kept, run.values["test_accuracy"][..., -1].T)),
                Bounds(low=0.0),
            )
            for run in runs
        ],
        needs=[_members(runs), _shares(runs), converged(runs)],
    )


def converged(runs: Sequence[NoiseRuns]) -> Need:
    """Return whether all networks are trained until they converge, as those of Fig. 7 are."""
    left = {
        run.name: float((losses[..., -1] / losses[..., 0]).mean(1).max())
        for run in runs
        for losses in (run.values["train_loss"],)
    }
    here = "; ".join(f"{name}: {100 * share:.0f} % at most" for name, share in left.items())
    what = f"training converged (Fig. 7): {100 * CONVERGED:.0f} % of the initial loss left"
    return Need(what, max(left.values()) <= CONVERGED, here)


def observed(runs: Sequence[NoiseRuns]) -> list[Observation]:
    """Tell what the figures show besides."""
    last = "; ".join(
        f"{run.name}: {', '.join(f'{x:.3g}' for x in run.values['train_loss'][..., -1].mean(1))}"
        for run in runs
    )
    return [
        Observation(
            source="Fig. 7",
            statement="All networks are trained until they converge in training loss.",
            seen=f"training loss at the end, by share replaced: {last}",
        )
    ]


def _members(runs: Sequence[NoiseRuns]) -> Need:
    members = min(run.values["rank"].shape[1] for run in runs)
    return Need.at_least(LEAST_MEMBERS, "networks of each kind", members)


def _shares(runs: Sequence[NoiseRuns]) -> Need:
    shares = min(len(run.kept) for run in runs)
    return Need.at_least(LEAST_SHARES, "shares", shares)
