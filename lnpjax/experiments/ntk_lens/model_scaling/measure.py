"""Scaling the width of dense networks, through the NTK (NTK Lens, sections 4, 5; Figs. 1-3, 5-8).

Networks of three and four layers learn 100 images; each width is an ensemble over initialisations.
What the paper leaves open is listed in `lnpjax.experiments.ntk_lens.ensembles`; the widths are
ours.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lnpjax.data.image_classes import ImageClasses
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.ntk_lens.ensembles import measure_ensemble
from lnpjax.experiments.ntk_lens.model_scaling.config import ModelScalingConfig
from lnpjax.experiments.ntk_lens.options import EnsembleOptions
from lnpjax.experiments.ntk_lens.problems import (
    dense_sizes,
    ensembles_of,
    load_sets,
    num_sets,
    problem_of,
)
from lnpjax.experiments.ntk_lens.training import DenseEnsemble, Problem


def measure(config: ModelScalingConfig, sweep: Sweep, data: Path | None) -> None:
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of image sets, or None for the digits.
    """
    ensembles = ensembles_of(config.ensemble)
    sets = load_sets(config.image_sets, data)
    for depth in config.depths:
        for width in config.widths:
            options = config.options_at(width)
            for images in sets:
                problem = shared_problem(images, config.num_train, options)
                ensemble = ensembles(dense_sizes(images, depth, width))
                columns = {"set": images.name, "depth": depth, "width": width}
                unit = functools.partial(
                    measure_ensemble, ensemble, problem, options, width=width, columns=columns
                )
                sweep.unit(f"{images.name}-layers{depth}-width{width}", unit)
    for width in config.timed_widths:
        options = config.options_at(width)
        problem = shared_problem(sets[0], config.num_train, options)
        ensemble = ensembles(dense_sizes(sets[0], config.depths[0], width))
        timing = functools.partial(time_ensemble, ensemble, problem, options, width)
        sweep.unit(f"speed-width{width}", timing)


def num_units(config: ModelScalingConfig, data: Path | None) -> int:
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.ntk_lens.model_scaling.config import PRESETS
        >>> num_units(PRESETS["cpu"], Path("data"))
        35
    """
    per_set = len(config.depths) * len(config.widths)
    return num_sets(config.image_sets, data) * per_set + len(config.timed_widths)


def shared_problem(images: ImageClasses, num_train: int, options: EnsembleOptions) -> Problem:
    """The same training images for all members, drawn at random."""
    rng = np.random.default_rng(options.seed)
    rows = rng.choice(len(images.train), num_train, replace=False)
    return problem_of(images, np.broadcast_to(rows, (options.members, num_train)), options)


def time_ensemble(
    ensemble: DenseEnsemble, problem: Problem, options: EnsembleOptions, width: int
) -> UnitResult:
    """Time one block of all members together, and of one member after the other.

    Args:
        ensemble: the architecture.
        problem: of all members.
        options: how many there are.
        width: for the row.

    Returns:
        One row: seconds per block, the least of three tries each. Times are of this machine at this
        moment: no claim rests on them.
    """
    keys = jax.random.split(jax.random.key(options.seed), options.members)
    state, given = ensemble.start(keys), problem
    rate = np.float32(0.0)
    single = jax.jit(ensemble.one_block)
    states = [jax.tree.map(lambda leaf, i=i: leaf[i], state) for i in range(options.members)]
    parts = [
        given._replace(train_inputs=given.train_inputs[i], train_labels=given.train_labels[i])
        for i in range(options.members)
    ]

    def together() -> Any:
        return ensemble.advance(state, given, rate)

    def one_by_one() -> Any:
        return [single(*member, rate) for member in zip(states, parts, strict=True)]

    row: dict[str, Any] = {"kind": "speed", "width": width, "members": options.members}
    for name, run in (("together", together), ("one_by_one", one_by_one)):
        jax.block_until_ready(run())
        tries = []
        for _ in range(3):
            began = time.perf_counter()
            jax.block_until_ready(run())
            tries.append(time.perf_counter() - began)
        row[f"seconds_{name}"] = min(tries)
    return UnitResult([row | {"speed_up": row["seconds_one_by_one"] / row["seconds_together"]}])
