"""Scaling the training set of a small dense network, through the NTK (NTK Lens, Figs. 1, 2, 5-8).

Networks of four layers, the hidden ones of 8 units; each ensemble is over draws of the training
set. A member's training sets are nested, and its initialisation is the same for all of them: the
paper does not say, and so sizes differ in nothing but data.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from lnpjax._checks import require
from lnpjax.data.image_classes import ImageClasses
from lnpjax.experiments.ntk_claims import judge_data_scaling
from lnpjax.experiments.ntk_figures import draw_data_scaling
from lnpjax.experiments.ntk_model_scaling import (
    dense_sizes,
    ensembles_of,
    load_sets,
    num_sets,
    problem_of,
)
from lnpjax.experiments.ntk_scaling import EnsembleOptions, measure_ensemble
from lnpjax.experiments.ntk_training import Problem, TrainingRule
from lnpjax.experiments.reproduction import Experiment
from lnpjax.experiments.sweep import Sweep


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataScalingConfig:
    """One size of the experiment.

    Attributes:
        image_sets: those read from the folder of data; without one, the digits are learned.
        depth: layers with weights, the read-out among them.
        width: of the hidden layers.
        sizes: of the training set, ascending; those that a set does not hold are left out.
        ensemble: members, measurements, and the training rule.
    """

    image_sets: tuple[str, ...] = ("mnist", "fashion_mnist", "cifar10")
    depth: int = 4
    width: int = 8
    sizes: tuple[int, ...] = (50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600)
    ensemble: EnsembleOptions = dataclasses.field(
        default_factory=lambda: EnsembleOptions(rule=TrainingRule(first_rate=2e-4))
    )

    def __post_init__(self) -> None:
        require(
            len(self.sizes) >= 2 and bool(np.all(np.diff(self.sizes) > 0)),
            "sizes",
            expected="at least two ascending sizes",
            got=self.sizes,
        )


PRESETS = {
    "smoke": DataScalingConfig(
        image_sets=("mnist",),
        width=4,
        sizes=(16, 32),
        ensemble=EnsembleOptions(
            members=3,
            num_test=32,
            num_ntk=8,
            dynamics_points=3,
            dynamics_members=2,
            rule=TrainingRule(
                epochs=24, every=2, earliest=6, latest=22, first_rate=0.02, pilots=3, attempts=1,
                window=6,
            ),
        ),
    ),
    "cpu": DataScalingConfig(
        image_sets=("mnist", "fashion_mnist"),
        sizes=(50, 100, 200, 400, 800, 1600, 3200, 6400),
        ensemble=EnsembleOptions(
            num_test=1000,
            dynamics_points=8,
            dynamics_members=4,
            rule=TrainingRule(
                epochs=240, every=4, earliest=60, latest=220, first_rate=1e-3, attempts=5
            ),
        ),
    ),
    "paper": DataScalingConfig(),
}  # fmt: skip


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


EXPERIMENT: Experiment[DataScalingConfig] = Experiment(
    name="ntk-data-scaling",
    title="Scaling the training set, through the NTK (NTK Lens, Figs. 1, 2, 5, 6, 8)",
    presets=PRESETS,
    num_units=num_units,
    measure=measure,
    draw=draw_data_scaling,
    judge=judge_data_scaling,
)
