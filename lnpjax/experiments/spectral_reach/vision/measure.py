"""Vision transformers of several widths under two parametrisations (Spectral Reach, B.2.3, B.2.4).

AdamW, a class token, learned positions, no dropout. With ten classes the scale of the network is
computed exactly. Under the standard parametrisation every width has the best learning rate of a
grid of its own; under muP all have that of the base width. Both arms have the sizes of Table 4,
whose heads are of one width; those of Table 3, where heads grow with the width, are in
`lnpjax.models.VIT_PRESETS`.

How intensely features are learned is measured as the change of the last hidden layer (the class
token after the last norm) on test images since the start, relative to its size there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from lnpjax.decomposition import Exact
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_reach.options import short_count
from lnpjax.experiments.spectral_reach.parametrisations import Arm
from lnpjax.experiments.spectral_reach.training import Subject
from lnpjax.experiments.spectral_reach.units import Rates, Trainee, best_rate
from lnpjax.experiments.spectral_reach.vision.config import VisionConfig
from lnpjax.experiments.spectral_reach.vision.data import ImageSplit, load
from lnpjax.models import ViT, maximal_update


def measure(config: VisionConfig, sweep: Sweep, data: Path | None) -> None:
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of data; None for digits.
    """
    split = functools.cache(functools.partial(load, config, data))

    def unit(arm: Arm, width: int, what: str, make: Callable[..., UnitResult]) -> UnitResult:
        trainee = functools.cache(functools.partial(trainee_of, config, arm, width, split))
        return sweep.unit(f"{unit_name(arm, width)}-{what}", functools.partial(make, trainee))

    base_rates, base_runs = UnitResult([]), UnitResult([])
    for width in config.widths:
        rates = unit("standard", width, "rates", rates_unit)
        runs = unit("standard", width, "runs", functools.partial(runs_unit, rates=rates.rows))
        if width == config.base_width:
            base_rates, base_runs = rates, runs
    for width in config.widths:
        if width == config.base_width:
            make = functools.partial(relabelled, base_runs)
        else:
            make = functools.partial(runs_unit, rates=base_rates.rows)
        unit("mup", width, "runs", make)


def num_units(config: VisionConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.vision.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        9
    """
    return 3 * len(config.widths)


def unit_name(arm: Arm, width: int) -> str:
    """Return what the units of a width begin with."""
    return f"{arm}-{width}"


class VisionTrainee(NamedTuple):
    """A width in one of the arms: what trains it, and its last hidden layer."""

    trainee: Trainee
    hidden: Callable[[PyTree], Float[Array, "runs images width"]]


def trainee_of(
    config: VisionConfig, arm: Arm, width: int, split: Callable[[], ImageSplit]
) -> VisionTrainee:
    """Return what trains a width in an arm."""
    images = split()
    vit = images.config.model(
        width, image_size=images.image_shape[0], num_channels=images.image_shape[2]
    )
    graph, _ = nnx.split(nnx.eval_shape(lambda: ViT(vit, rngs=nnx.Rngs(0))))

    def draw(config: Any, key: Key[Array, ""]) -> PyTree:
        return nnx.state(ViT(config, rngs=nnx.Rngs(key)), nnx.Param)

    def apply_fn(params: PyTree, inputs: Array) -> Float[Array, "batch classes"]:
        return nnx.merge(graph, params)(inputs)

    def hidden(params: PyTree) -> Float[Array, "images width"]:
        inputs = jnp.asarray(images.test()[0][0])
        return nnx.merge(graph, params).hidden(inputs)

    subject = Subject(apply_fn, functools.partial(draw, vit), Exact())
    if arm == "mup" and width != config.base_width:
        base = images.config.model(
            config.base_width, image_size=vit.image_size, num_channels=vit.num_channels
        )
        first = jax.random.key(0)
        network = maximal_update(apply_fn, draw(vit, first), draw(base, first))
        subject = Subject(
            network.apply_fn,
            lambda key: network.initial(draw(vit, key)),
            Exact(),
            network.adam(),
        )
        plain = hidden

        def hidden(params: PyTree) -> Float[Array, "images width"]:
            return plain(network.as_standard(params))

    about = {
        "data": arm,
        "size": short_count(vit.num_parameters),
        "num_parameters": vit.num_parameters,
    }
    trainee = Trainee(
        subject,
        about,
        images.config.recipe,
        images,
        tokens_per_step=images.config.batch_size * vit.num_patches,
        passes=images.passes,
    )
    return VisionTrainee(trainee, jax.jit(jax.vmap(hidden)))


def rates_unit(trainee: Callable[[], VisionTrainee]) -> UnitResult:
    """Try all learning rates on a width."""
    return trainee().trainee.try_rates()


def runs_unit(trainee: Callable[[], VisionTrainee], rates: Rates) -> UnitResult:
    """Train all seeds of a width, and measure how far features go from the start."""
    own = trainee()
    trained = own.trainee.train(best_rate(rates), observe=own.hidden)
    first, *later = jax.device_get(list(trained.observed))
    result = own.trainee.result(trained, rates)
    changes = np.stack([relative_change(first, features) for features in later], axis=1)
    return UnitResult(result.rows, dict(result.arrays) | {"feature_change": changes})


def relabelled(result: UnitResult, trainee: object) -> UnitResult:  # noqa: ARG001
    """Return the runs of the standard arm as those of muP: at the base width they are the same."""
    return UnitResult([{**row, "data": "mup"} for row in result.rows], result.arrays)


def relative_change(
    before: Float[np.ndarray, "runs ..."], after: Float[np.ndarray, "runs ..."]
) -> Float[np.ndarray, " runs"]:
    """Return the norm of the change over the norm before, of each run.

    Example:
        >>> relative_change(np.array([[3.0, 4.0]]), np.array([[3.0, 5.0]]))
        array([0.2])
    """
    size = len(before)
    change = np.linalg.norm((after - before).reshape(size, -1), axis=1)
    return change / np.linalg.norm(before.reshape(size, -1), axis=1)
