"""Where networks turn from features to the kernel, at several numbers of pixels (NTK Lens, Fig. 3).

The same images at several resolutions are learned by ensembles of every width; what is measured is
what Fig. 3 draws: the trace of the kernel before training and at the lowest test loss, and its
effective rank there. What is left open by the paper is done as in
`lnpjax.experiments.ntk_lens.ensembles`, except that every member is trained in every trial of the
rate, so that the last one is the training.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.data.image_classes import ImageClasses, load_image_classes
from lnpjax.experiments._harness.estimates import lowest_point
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.ntk_lens.options import TrainingRule
from lnpjax.experiments.ntk_lens.problems import DEFAULT_SETS
from lnpjax.experiments.ntk_lens.training import (
    DenseEnsemble,
    KernelDirections,
    Parametrization,
    Problem,
    train_by_rule,
)
from lnpjax.experiments.ntk_lens.transition.config import InputSizes, TransitionConfig
from lnpjax.kernel import expected_trace, trace_ratio
from lnpjax.runs import Row


class Setting(NamedTuple):
    """What all widths of one curve share."""

    side: int
    parametrization: Parametrization
    depth: int


def measure(config: TransitionConfig, sweep: Sweep, data: Path | None) -> None:
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of image sets, or None for the digits.
    """
    for inputs in _chosen(config, data):
        images = load_image_classes(inputs.images, data)
        for setting in _settings(config, inputs):
            for width, members in zip(config.widths, config.members, strict=True):
                sweep.unit(
                    f"{images.name}-side{setting.side}-{setting.parametrization}"
                    f"-layers{setting.depth}-width{width}",
                    functools.partial(measure_width, config, images, setting, width, members),
                )


def num_units(config: TransitionConfig, data: Path | None) -> int:
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.ntk_lens.transition.config import PRESETS
        >>> num_units(PRESETS["smoke"], None)
        12
    """
    curves = sum(len(list(_settings(config, inputs))) for inputs in _chosen(config, data))
    return curves * len(config.widths)


def _chosen(config: TransitionConfig, data: Path | None) -> list[InputSizes]:
    return [one for one in config.inputs if data is not None or one.images in DEFAULT_SETS]


def _settings(config: TransitionConfig, inputs: InputSizes) -> Iterator[Setting]:
    for depth in config.depths:
        for side in inputs.sides:
            yield Setting(side, "standard", depth)
            if side in inputs.ntk_sides:
                yield Setting(side, "ntk", depth)


def measure_width(
    config: TransitionConfig, images: ImageClasses, setting: Setting, width: int, members: int
) -> UnitResult:
    """Train one ensemble, and say what happened up to the lowest test loss of each member.

    Args:
        config: the size.
        images: the set as published.
        setting: resolution, parametrisation and depth.
        width: of the hidden layers.
        members: of the ensemble.

    Returns:
        Rows of two kinds. "member": where the test loss of each was lowest; "ensemble": what
        belongs to all, with `inside`, which says whether the minimum of their mean test loss fell
        between the epochs that the rule names.
    """
    problem = problem_at(config, images, setting.side, members)
    sizes = (setting.side**2, *[width] * (setting.depth - 1), images.num_classes)
    rule = rule_for(config.rule, sizes, setting.parametrization)
    ensemble = DenseEnsemble(
        sizes,
        num_ntk=config.num_ntk,
        every=rule.every,
        directions=KernelDirections(),
        parametrization=setting.parametrization,
    )
    keys = jax.random.split(jax.random.key(config.seed), members)
    trial = train_by_rule(ensemble, problem, keys, width, rule)
    epochs, record = rule.measured_epochs, trial.record
    lowest = np.array([lowest_point(losses) for losses in record.test_loss])
    traces = record.trace[:, 0], record.trace[np.arange(members), lowest]
    table = {
        "best_epoch": epochs[lowest],
        "test_loss": record.test_loss[np.arange(members), lowest],
        "trace_start": traces[0],
        "trace_at_minimum": traces[1],
        "trace_ratio": np.asarray(trace_ratio(traces[1], traces[0])),
    }
    ranks = ensemble.effective_ranks(trial.state.best, problem, min(members, config.rank_members))
    best = int(epochs[lowest_point(np.mean(record.test_loss, axis=0))])
    ntk_inputs = problem.test_inputs[: config.num_ntk]
    columns = {"set": images.name, "pixels": sizes[0], "width": width}
    columns |= {"parametrization": setting.parametrization, "depth": setting.depth}
    rows: list[Row] = [
        {
            "kind": "ensemble",
            **columns,
            "learning_rate": trial.rate,
            "attempts": trial.attempts,
            "best_epoch": best,
            "inside": bool(rule.earliest <= best <= rule.latest),
            "trace_expected": float(expected_trace(sizes, ntk_inputs, scales=ensemble.scales)),
            "squared_norm": float(jnp.mean(jnp.sum(ntk_inputs**2, axis=1))),
            "num_params": ensemble.num_params,
        }
    ]
    for member, values in enumerate(
        zip(*(array.tolist() for array in table.values()), strict=True)
    ):
        row = {
            "kind": "member",
            **columns,
            "member": member,
            **dict(zip(table, values, strict=True)),
        }
        known = {"rank_at_minimum": float(ranks[member])} if member < len(ranks) else {}
        rows.append(row | known)
    return UnitResult(rows)


def rule_for(
    rule: TrainingRule, sizes: tuple[int, ...], parametrization: Parametrization
) -> TrainingRule:
    """Return the rule with its first trial made fit for these sizes.

    Only the number of trials depends on it: any rate that the rule accepts will do.

    Args:
        rule: its first rate is for 784 pixels and three layers.
        sizes: widths from the pixels to the classes.
        parametrization: of the network.
    """
    depth = len(sizes) - 1
    # Steps of the first layer add up over pixels, until those of wide hidden layers add up to more.
    summed = max(sizes[0], sizes[1] / 4)
    factor = 16.0 if parametrization == "ntk" else (784 / summed) ** 0.25
    return dataclasses.replace(rule, first_rate=rule.first_rate * factor * (3 / depth) ** 0.75)


def problem_at(config: TransitionConfig, images: ImageClasses, side: int, members: int) -> Problem:
    """Return what all members learn: the same images at every resolution, of the same mean norm.

    One factor for all images of a resolution makes the mean squared norm of the training images
    ``config.squared_norm``. So the first layer's share of the trace is the same at every number of
    pixels, and the biases' share is small.

    Args:
        config: how many images, and which.
        images: the set as published.
        side: pixels along a side.
        members: of the ensemble.
    """
    rng = np.random.default_rng(config.seed)
    rows = rng.choice(len(images.train), config.num_train, replace=False)
    train, train_labels = images.train.take(rows)
    test, test_labels = images.test.take(slice(0, config.num_test))
    train, test = (resized(part, side).reshape(len(part), -1) for part in (train, test))
    factor = (config.squared_norm / np.mean(np.sum(train**2, axis=1))) ** 0.5
    return Problem(
        jnp.asarray(np.broadcast_to(factor * train, (members, *train.shape)), jnp.float32),
        jnp.asarray(np.broadcast_to(train_labels, (members, len(train_labels)))),
        jnp.asarray(factor * test, jnp.float32),
        jnp.asarray(test_labels),
    )


def resized(
    images: Float[np.ndarray, "n height height 1"], side: int
) -> Float[np.ndarray, "n side side 1"]:
    """Return square images at another resolution: means of blocks of pixels, or pixels repeated.

    Args:
        images: square.
        side: a divisor or a multiple of theirs.

    Raises:
        ValueError: if it is neither.

    Example:
        >>> image = np.array([[1.0, 3.0], [5.0, 7.0]])[None, :, :, None]
        >>> resized(image, 1).item(), resized(image, 4)[0, :, 0, 0].tolist()
        (4.0, [1.0, 1.0, 5.0, 5.0])
    """
    n, height, width, channels = images.shape
    require(
        height == width and (height % side == 0 or side % height == 0),
        "side",
        expected=f"a divisor or a multiple of the side of images of {height} x {width}",
        got=side,
    )
    if side >= height:
        return images.repeat(side // height, axis=1).repeat(side // height, axis=2)
    block = height // side
    blocks = images.reshape(n, side, block, side, block, channels)
    return blocks.mean(axis=(2, 4))
