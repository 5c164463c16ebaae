"""Scaling the width of dense networks, through the NTK (NTK Lens, sections 4, 5; Figs. 1-3, 5-8).

Networks of three and four layers learn 100 images; each width is an ensemble over initialisations.
What the paper leaves open is listed in `lnpjax.experiments.ntk_scaling`; the widths are ours.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lnpjax._checks import require
from lnpjax.data.image_classes import ImageClasses, load_image_classes
from lnpjax.experiments.ntk_claims import judge_model_scaling
from lnpjax.experiments.ntk_figures import draw_model_scaling
from lnpjax.experiments.ntk_scaling import EnsembleOptions, measure_ensemble
from lnpjax.experiments.ntk_training import (
    DenseEnsemble,
    KernelDirections,
    Problem,
    TrainingRule,
)
from lnpjax.experiments.reproduction import Experiment
from lnpjax.experiments.sweep import Sweep, UnitResult

DEFAULT_SETS = ("digits",)
"""What is learned where no folder of data is named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelScalingConfig:
    """One size of the experiment.

    Attributes:
        image_sets: those read from the folder of data; without one, the digits are learned.
        depths: layers with weights, the read-out among them.
        widths: of the hidden layers, ascending.
        num_train: images that are learned, the same for all members.
        ensemble: members, measurements, and the training rule.
        wide_from: width from which on ensembles have `wide_members`, for the sake of time.
        wide_members: members of those.
        timed_widths: where the ensemble is timed against a loop over its members.
    """

    image_sets: tuple[str, ...] = ("mnist", "fashion_mnist", "cifar10")
    depths: tuple[int, ...] = (3, 4)
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    num_train: int = 100
    ensemble: EnsembleOptions = dataclasses.field(default_factory=EnsembleOptions)
    wide_from: int = 8192
    wide_members: int = 20
    timed_widths: tuple[int, ...] = (8, 64, 512)

    def __post_init__(self) -> None:
        require(
            len(self.widths) >= 2 and bool(np.all(np.diff(self.widths) > 0)),
            "widths",
            expected="at least two ascending widths",
            got=self.widths,
        )

    def options_at(self, width: int) -> EnsembleOptions:
        """The options of the ensembles of a width."""
        if width < self.wide_from:
            return self.ensemble
        members = min(self.wide_members, self.ensemble.members)
        spectra = min(members, self.ensemble.dynamics_members)
        return dataclasses.replace(self.ensemble, members=members, dynamics_members=spectra)


PRESETS = {
    "smoke": ModelScalingConfig(
        image_sets=("mnist",),
        depths=(3,),
        widths=(4, 8),
        num_train=20,
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
        timed_widths=(4,),
    ),
    "cpu": ModelScalingConfig(
        image_sets=("mnist", "fashion_mnist"),
        widths=(8, 16, 32, 64, 128, 256, 512, 1024),
        wide_from=1024,
        wide_members=6,
        ensemble=EnsembleOptions(
            num_test=500,
            dynamics_points=8,
            dynamics_members=4,
            rule=TrainingRule(
                epochs=240, every=4, earliest=60, latest=220, first_rate=6e-4, attempts=5
            ),
        ),
    ),
    "paper": ModelScalingConfig(),
}  # fmt: skip


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


def ensembles_of(options: EnsembleOptions) -> Callable[[tuple[int, ...]], DenseEnsemble]:
    """Makes the ensemble of given sizes, the same one again for the same sizes."""
    directions = KernelDirections()

    @functools.cache
    def ensemble(sizes: tuple[int, ...]) -> DenseEnsemble:
        return DenseEnsemble(
            sizes, num_ntk=options.num_ntk, every=options.rule.every, directions=directions
        )

    return ensemble


def num_units(config: ModelScalingConfig, data: Path | None) -> int:
    """How many units `measure` asks for.

    Example:
        >>> num_units(PRESETS["cpu"], Path("data"))
        35
    """
    per_set = len(config.depths) * len(config.widths)
    return num_sets(config.image_sets, data) * per_set + len(config.timed_widths)


def load_sets(names: Sequence[str], data: Path | None) -> list[ImageClasses]:
    """The sets of that name from a folder, or the digits where there is none."""
    return [load_image_classes(name, data) for name in (DEFAULT_SETS if data is None else names)]


def num_sets(names: Sequence[str], data: Path | None) -> int:
    """How many sets `load_sets` gives."""
    return len(DEFAULT_SETS if data is None else names)


def dense_sizes(images: ImageClasses, depth: int, width: int) -> tuple[int, ...]:
    """Widths of a network of `depth` layers from the pixels to the classes.

    Example:
        >>> dense_sizes(load_image_classes("digits"), 3, 16)
        (64, 16, 16, 10)
    """
    pixels = int(np.prod(images.train.images.shape[1:]))
    return (pixels, *[width] * (depth - 1), images.num_classes)


def shared_problem(images: ImageClasses, num_train: int, options: EnsembleOptions) -> Problem:
    """The same training images for all members, drawn at random."""
    rng = np.random.default_rng(options.seed)
    rows = rng.choice(len(images.train), num_train, replace=False)
    return problem_of(images, np.broadcast_to(rows, (options.members, num_train)), options)


def problem_of(images: ImageClasses, rows: np.ndarray, options: EnsembleOptions) -> Problem:
    """What members learn who are given these rows, ``(members, n)``, of the training images."""
    inputs, labels = images.train.take(rows)
    test_inputs, test_labels = images.test.take(slice(0, options.num_test))
    require(
        len(test_labels) >= options.num_ntk,
        "num_ntk",
        expected=f"at most the {len(test_labels)} test images of {images.name}",
        got=options.num_ntk,
    )
    arrays = (inputs.reshape(*rows.shape, -1), labels, test_inputs, test_labels)
    train, train_labels, test, labels_of_test = map(jnp.asarray, arrays)
    return Problem(train, train_labels, test.reshape(len(test), -1), labels_of_test)


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


EXPERIMENT: Experiment[ModelScalingConfig] = Experiment(
    name="ntk-model-scaling",
    title="Scaling the width, through the NTK (NTK Lens, Figs. 1-3, 5, 6, 8)",
    presets=PRESETS,
    num_units=num_units,
    measure=measure,
    draw=draw_model_scaling,
    judge=judge_model_scaling,
)
