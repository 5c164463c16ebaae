"""Noisy regression by trained and by frozen kernels (Spectral Shells, section 6).

Networks of one hidden layer learn a noisy teacher by gradient flow, and next to each of them its
own kernel of the start, frozen: ``e(t) = exp(-M t) e(0)``, without any transport (section 4.6).
The paper's mechanism needs transport; what test losses do without any is its control. Both samples
have noise: the mismatch is one of samples alone ("in-domain").

What the paper leaves open, and what is done here: the set-up; which mismatch weights are meant
(`lnpjax.theory.shells.sample_mismatch`; the integral of section 6.4 as printed counts modes twice),
and which part of the spectrum is "high-resolution": the paper calls large eigenvalues that in
sections 1 to 5 and small ones in section 6; here, as there, the small ones, below a hundredth of
the largest.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_shells.double_descent.config import DoubleDescentConfig
from lnpjax.experiments.spectral_shells.double_descent.results import COLUMNS
from lnpjax.experiments.spectral_shells.flows import (
    Batch,
    Moment,
    Network,
    Params,
    flowed,
    moment,
    network,
    seed_key,
    teacher_targets,
)
from lnpjax.kernel import entk
from lnpjax.theory.shells import SampleMismatch, mismatch_terms, sample_mismatch

LOW = 0.01
"""Modes below this part of the largest eigenvalue at the start count as high-resolution."""


def measure(config: DoubleDescentConfig, sweep: Sweep, data: Path | None) -> None:  # noqa: ARG001
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: not used: samples are drawn.
    """
    for width in config.widths:
        sweep.unit(f"width{width}", functools.partial(width_unit, config, width))


def num_units(config: DoubleDescentConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_shells.double_descent.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        8
    """
    return len(config.widths)


class Samples(NamedTuple):
    """What is learned, and what is only tested."""

    train: Batch
    test: Batch


def samples_of(config: DoubleDescentConfig, seed: int) -> Samples:
    """Return two samples of one noisy teacher."""
    inputs_key, teacher_key, noise_key = jax.random.split(seed_key(config.seed, seed, 0), 3)
    count = config.num_train + config.num_test
    inputs = jax.random.normal(inputs_key, (count, config.num_inputs), jnp.float64)
    targets = teacher_targets(teacher_key, inputs, config.teacher_width)
    targets += config.noise * jax.random.normal(noise_key, (count,), jnp.float64)
    first = slice(config.num_train), slice(config.num_train, None)
    train, test = ((inputs[part], targets[part]) for part in first)
    return Samples(train, test)


def width_unit(config: DoubleDescentConfig, width: int) -> UnitResult:
    """Follow all seeds of one width, trained and frozen."""
    rows: list[dict[str, Any]] = []
    series: dict[str, list[np.ndarray]] = {"trained": [], "frozen": []}
    with jax.enable_x64(True):
        model = network("lazy", config.num_inputs, width, 1)
        for seed in range(config.num_seeds):
            params = model.init(seed_key(config.seed, seed, 1))
            found = one_seed(config, model, params, samples_of(config, seed))
            for kernel, path in found.paths.items():
                series[kernel].append(path)
                row = {"kind": "network", "width": width, "seed": seed, "kernel": kernel}
                rows.append(row | found.row)
    arrays = {name: np.stack(paths).astype(np.float32) for name, paths in series.items()}
    return UnitResult(rows, arrays)


class Followed(NamedTuple):
    """One network: scalars, and by kernel the columns `COLUMNS` at all times."""

    row: dict[str, float]
    paths: dict[str, Float[np.ndarray, "time column"]]


def one_seed(
    config: DoubleDescentConfig, model: Network, params: Params, samples: Samples
) -> Followed:
    """Follow one network by gradient flow, and its first kernel without training.

    Args:
        config: the size.
        model: the network.
        params: where it starts.
        samples: both of them.

    Returns:
        What was found; among the scalars, by transport, the energy that flowed down to the modes of
        high resolution over what was dissipated.
    """
    start = mismatch_of(model, params, samples)
    top = float(start.eigenvalues[0])
    edges = jnp.array([LOW * top, 100 * top])
    times = config.steps * config.step / top
    first_errors = errors_of(model, params, samples)
    frozen = [terms(start, *frozen_errors(start, *first_errors, time)) for time in times]
    trained = [terms(start, *first_errors)]
    moments: list[Moment] = [moment(model, params, samples.train, edges)]
    for before, after in zip(config.steps[:-1], config.steps[1:], strict=True):
        # Kernels of narrow networks grow, and with them what a step may be.
        finer = math.ceil(float(moments[-1].eigenvalues[0]) / top)
        step, count = config.step / top / finer, (after - before) * finer
        params = flowed(model, params, samples.train, step, count)
        trained.append(
            terms(mismatch_of(model, params, samples), *errors_of(model, params, samples))
        )
        moments.append(moment(model, params, samples.train, edges))
    down = np.trapezoid([float(one.net[0]) for one in moments], times)
    dissipated = np.trapezoid([float(jnp.sum(one.dissipation)) for one in moments], times)
    resolved = np.asarray(start.resolved)
    weights = np.abs(np.asarray(start.weights))
    low = np.asarray(start.eigenvalues) < LOW * top
    row = {
        "first_eigenvalue": top,
        "last_eigenvalue": float(moments[-1].eigenvalues[0]),
        "flowed_down": down / dissipated,
        "weight_low": _mean(weights[low & resolved]),
        "weight_high": _mean(weights[~low & resolved]),
    }
    return Followed(row, {"trained": np.array(trained), "frozen": np.array(frozen)})


@functools.partial(jax.jit, static_argnums=0)
def mismatch_of(model: Network, params: Params, samples: Samples) -> SampleMismatch:
    """Return the mismatch of both samples in the modes of the training kernel."""
    train = entk(model.error, params, samples.train, method="batch")
    across = entk(model, params, samples.test[0], inputs2=samples.train[0])
    return sample_mismatch(train, across)


@functools.partial(jax.jit, static_argnums=0)
def errors_of(model: Network, params: Params, samples: Samples) -> tuple[Array, Array]:
    """Return the errors on both samples."""
    return model.error(params, samples.train), model.error(params, samples.test)


@jax.jit
def frozen_errors(
    mismatch: SampleMismatch, train: Array, test: Array, time: Array
) -> tuple[Array, Array]:
    """Return the errors after a time of training with the kernel frozen.

    ``de/dt = -M e`` on the training points (section 2.2); on the test points the modes continue.
    """
    g = train @ mismatch.train_modes / len(train)
    learned = -jnp.expm1(-mismatch.eigenvalues * time) * g
    return train - mismatch.train_modes @ learned, test - mismatch.test_modes @ learned


@jax.jit
def terms(mismatch: SampleMismatch, train: Array, test: Array) -> Float[Array, " column"]:
    """Return the columns `COLUMNS` of one moment."""
    parts = mismatch_terms(mismatch, train, test)
    losses = jnp.mean(train**2) / 2, jnp.mean(test**2) / 2
    found = [*losses, parts.diagonal, parts.off_diagonal, parts.outside]
    assert len(found) == len(COLUMNS)
    return jnp.stack(found)


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return float(values.mean()) if len(values) else float("nan")
