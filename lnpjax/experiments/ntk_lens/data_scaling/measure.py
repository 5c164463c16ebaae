"""Scaling the training set of a small dense network, through the NTK (NTK Lens, Figs. 1, 2, 5-8).

Networks of four layers, the hidden ones of 8 units; each ensemble is over draws of the training
set. A member's training sets are nested, and its initialisation is the same for all of them: the
paper does not say, and so sizes differ in nothing but data.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from lnpjax.data.image_classes import ImageClasses
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.data_scaling.config import DataScalingConfig
from lnpjax.experiments.ntk_lens.ensembles import measure_ensemble
from lnpjax.experiments.ntk_lens.options import EnsembleOptions
from lnpjax.experiments.ntk_lens.problems import (
    dense_sizes,
    ensembles_of,
    load_sets,
    num_sets,
    problem_of,
)
from lnpjax.experiments.ntk_lens.training import Problem


def measure(config: DataScalingConfig, sweep: Sweep, data: Path | None) -> None:
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of image sets, or None for the digits.
    """
    options, ensembles = config.ensemble, ensembles_of(config.ensemble)
    sets = load_sets(config.image_sets, data)
    for size in config.sizes:
        for images in sets:
            if size > len(images.train):
                continue
            unit = functools.partial(
                measure_ensemble,
                ensembles(dense_sizes(images, config.depth, config.width)),
                nested_problem(images, size, options),
                options,
                width=config.width,
                columns={"set": images.name, "depth": config.depth, "size": size},
            )
            sweep.unit(f"{images.name}-size{size}", unit)


def num_units(config: DataScalingConfig, data: Path | None) -> int:
    """How many units `measure` asks for, where every set is large enough.

    Example:
        >>> from lnpjax.experiments.ntk_lens.data_scaling.config import PRESETS
        >>> num_units(PRESETS["cpu"], Path("data"))
        16
    """
    return num_sets(config.image_sets, data) * len(config.sizes)


def nested_problem(images: ImageClasses, size: int, options: EnsembleOptions) -> Problem:
    """For each member the first `size` training images of an order of its own."""
    rows = np.stack(
        [
            np.random.default_rng((options.seed, member)).permutation(len(images.train))[:size]
            for member in range(options.members)
        ]
    )
    return problem_of(images, rows, options)
