"""Runs of several sizes in worlds in which a claim on scaling is true or false."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lnpjax.experiments.spectral_reach.options import short_count
from lnpjax.experiments.spectral_reach.runs import Runs
from lnpjax.experiments.spectral_reach.scaling_laws.config import PRESETS

RECIPE = PRESETS["cpu"].recipe
STEPS = min(task.steps for task in PRESETS["cpu"].tasks)
TOKENS_PER_STEP = 1560
PARAMETERS = (13_392, 26_232, 52_308, 107_800, 223_992)


def chi_pos_law(
    steps: np.ndarray, *, floor: float, fall: float = 1.3, amplitude: float = 1e-3
) -> np.ndarray:
    """A position that is constant at first, then a power of the step that tends to a floor."""
    return floor + amplitude / (1 + (steps / 10) ** fall)


def runs(
    rng: np.random.Generator,
    parameters: int,
    *,
    loss: Callable[[np.ndarray, float], np.ndarray],
    floor: float = 1e-6,
    fall: float = 1.3,
    growth: float = 1.0,
    test_gap: float = 0.0,
    seed_scatter: float = 0.003,
    step_scatter: float = 0.7,
    common: np.ndarray | None = None,
) -> Runs:
    """The runs of a size.

    Args:
        rng: draws them.
        parameters: N.
        loss: of steps and N.
        floor: of chi_pos.
        fall: exponent of chi_pos.
        growth: decades by which chi_net grows.
        test_gap: by what share of it the test loss lies above the training loss.
        seed_scatter: of the logarithm of a seed's losses; its chi_pos scatters ten times as much.
        step_scatter: relative, of chi_pos from step to step, partly common to all seeds.
        common: what measured steps have in common with other sizes, as they see the same batches.
    """
    windows = RECIPE.windows(STEPS)
    every, measured = np.arange(STEPS) + 1.0, windows.steps + 1.0
    seeds = RECIPE.num_seeds
    factor = np.exp(seed_scatter * rng.standard_normal((seeds, 1)))
    of_batches = 0.01 * rng.standard_normal(STEPS)
    train = loss(every, parameters) * factor * np.exp(of_batches)
    tests = np.arange(STEPS // RECIPE.chunk_steps + 1) * RECIPE.chunk_steps
    test = loss(np.maximum(tests, 1), parameters) * factor * (1 + test_gap)
    scatter = np.exp(10 * seed_scatter * rng.standard_normal((seeds, 1)))
    common = rng.standard_normal(len(measured)) if common is None else common
    own = rng.standard_normal((seeds, len(measured)))
    noise = 1 + step_scatter * (0.5 * common + 0.87 * own) * np.minimum(measured / 50, 1)
    position = chi_pos_law(measured, floor=floor, fall=fall) * scatter * noise
    network = 1e6 * 10 ** (growth * np.minimum(np.log(measured) / np.log(100), 1))
    network = network * np.exp(0.1 * rng.standard_normal((seeds, len(measured))))
    chi_loss = 1e-3 * train[:, windows.steps] ** 1.5
    return Runs(
        name=short_count(parameters),
        num_parameters=parameters,
        tokens_per_step=TOKENS_PER_STEP,
        rate=3e-3,
        at_edge=False,
        passes=1.5,
        status=0,
        warmup_steps=RECIPE.warmup_steps,
        starts=np.array(windows.starts),
        steps=windows.steps,
        windows=np.searchsorted(windows.starts, windows.steps, side="right") - 1,
        test_steps=tests,
        train_loss=train,
        test_loss=test,
        components={"chi_loss": chi_loss, "chi_net": network, "chi_pos": position},
    )


def power_law(exponent: float = -0.08, limit: float = 0.0) -> Callable[..., np.ndarray]:
    """Losses that fall with the step, and at the end as a power law of N above a limit."""

    def loss(steps: np.ndarray, parameters: float) -> np.ndarray:
        end = limit + 2.5 * (parameters / 2e4) ** exponent
        return end * (1 + 0.6 * np.exp(-steps / 60) + 0.3 * (steps / 10 + 1) ** -0.8)

    return loss
