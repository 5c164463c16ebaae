"""Take the runs of all sizes, and read them at equal compute (Spectral Reach, D.2).

The learning rate is constant after the warm-up, so that the first part of a run is a run with less
data. The runs are those of the experiment `scaling-laws`: where a folder next to the sweep's own
holds finished ones with the same config, they are taken over, and else they are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lnpjax._base.checks import require
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach import units
from lnpjax.experiments.spectral_reach.data import load, tasks_of
from lnpjax.experiments.spectral_reach.isocompute.config import IsocomputeConfig


def measure(config: IsocomputeConfig, sweep: Sweep, data: Path | None) -> None:
    """Take over or compute what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of data, or None for digits.

    Raises:
        ValueError: before anything is computed, if too few sizes reach a budget.
    """
    tasks, recipe = config.runs.tasks, config.runs.recipe
    for task in tasks_of(tasks, data):
        split = load(task, data)
        sizes = range(len(task.sizes))
        parameters = [units.model_of(task, index, split).num_parameters for index in sizes]
        steps = (recipe.warmup_steps, task.steps)
        check_budgets(config.shares, parameters, steps, least=config.least_sizes)
    units.take_over_runs(config.runs, sweep, data)


def num_units(config: IsocomputeConfig, data: Path | None = None) -> int:
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.isocompute.config import PRESETS
        >>> num_units(PRESETS["smoke"])
        6
    """
    return units.num_units(config.runs.tasks, data)


def check_budgets(
    shares: Sequence[float], parameters: Sequence[int], steps: tuple[int, int], *, least: int
) -> None:
    """Refuse budgets that too few sizes reach between the warm-up and the end of their runs.

    Args:
        shares: of the compute that the largest size spends.
        parameters: of the sizes, ascending.
        steps: of the warm-up and of a whole run.
        least: sizes that must.

    Raises:
        ValueError: if fewer do; the message names the first such budget.

    Example:
        >>> check_budgets([0.5], [100, 200, 400], (10, 1000), least=3)
        Traceback (most recent call last):
            ...
        ValueError: shares: expected budgets that 3 sizes reach after 10 to 1000 steps, got 0.5,
            which 2 do: a size takes 2000, 1000 and 500 steps
    """
    for share in shares:
        needed = share * steps[1] * parameters[-1] / np.array(parameters, float)
        reached = int(np.sum((needed >= steps[0]) & (needed <= steps[1])))
        *most, last = (f"{number:.0f}" for number in needed)
        require(
            reached >= least,
            "shares",
            expected=f"budgets that {least} sizes reach after {steps[0]} to {steps[1]} steps",
            got=f"{share:g}, which {reached} do: a size takes {', '.join(most)} and {last} steps",
        )
