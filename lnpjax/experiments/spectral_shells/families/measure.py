"""Spectral shells of language models over checkpoints and sizes (Spectral Shells, section 7).

The paper takes Pythia at 70M, 410M and 7B, after 1000 to 8000 steps. Here Llamas learn the bytes of
TinyStories with AdamW, at checkpoints that are evenly spaced in the logarithm of the step, and
several runs of each size give the errors. The error of a token is its surprisal (eq. 24), and the
operator ``M = J J^T / tokens`` with J the derivative of all surprisals of a batch (section 2, B.4).

What the paper leaves open, and what is done here: the number of Lanczos steps (as many as a batch
has tokens in preset `cpu`: the quadrature then is the whole spectrum; half as many are the
comparison that the claims need), reorthogonalisation (full; Algorithm 1 has none, and its
quadrature then has ghosts), the smoothing (the mean of three shells), and which part
of the low side is "parallel" (`lnpjax.shells.detect_frontier` fits a power law to all of it).
Measured batches are held out, and no two runs measure the same one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lnpjax.data import Dataset
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_shells.families.config import FamiliesConfig
from lnpjax.jacobian import Batch, observable, token_surprisal
from lnpjax.pretraining import DataOptions, Experiment, PretrainConfig, TrainingOptions
from lnpjax.shells import function_space_measure, log_shells, shell_energies
from lnpjax.spectra import SpectralMeasure, spectral_measure
from lnpjax.spectra._lanczos import measure_at


def measure(config: FamiliesConfig, sweep: Sweep, data: Path | None) -> None:
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder that holds the texts, or None for the interpreter's own sources.
    """
    options = data_options(config, data)
    dataset = functools.cache(options.load)

    @functools.cache
    def programs(index: int) -> Programs:
        """Compile once for all runs of a size, which differ in seeds alone."""
        return programs_of(config, experiment_of(config, options, dataset(), index, 0))

    def unit(index: int, run: int) -> UnitResult:
        experiment = experiment_of(config, options, dataset(), index, run)
        return run_unit(config, experiment, programs(index), index, run)

    for index, name in enumerate(config.names):
        for run in range(config.num_runs):
            sweep.unit(f"{name}-run{run}", functools.partial(unit, index, run))


def num_units(config: FamiliesConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_shells.families.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        10
    """
    return len(config.sizes) * config.num_runs


def data_options(config: FamiliesConfig, data: Path | None) -> DataOptions:
    """Return where the text comes from.

    Args:
        config: the size.
        data: the folder that holds the texts, or None.
    """
    return DataOptions(
        data="stdlib" if data is None else str(data / config.text),
        context_length=config.context_length,
        num_validation=config.num_held_out,
        max_bytes=config.max_bytes,
    )


def experiment_of(
    config: FamiliesConfig, options: DataOptions, dataset: Dataset, index: int, run: int
) -> Experiment:
    """Return the pretraining of one size and seed."""
    resolved = PretrainConfig.resolve(
        dataset,
        data=options,
        model=config.model_options(index),
        training=TrainingOptions(
            steps=max(config.checkpoints[-1], 10),  # a run holds one window of measurement
            batch_size=config.batch_size,
            learning_rate=config.learning_rates[index],
            warmup_steps=config.warmup_steps,
            seed=run,
            data_seed=run,
        ),
    )
    return Experiment(resolved, dataset)


Shells = tuple[Float[Array, " bin"], Float[Array, " bin"], Float[Array, " bin"], Float[Array, ""]]


class Programs(NamedTuple):
    """What the runs of one size share.

    Attributes:
        advance: of a state and a batch, the next state and the loss.
        shells: of parameters and a batch, its energies by all products (appendix B), those by half
            of them, how many nodes every shell has, and half the mean squared surprisal, to which
            the energies add up.
    """

    advance: Callable[[Any, Batch], tuple[Any, Array]]
    shells: Callable[[PyTree, Batch], Shells]


def programs_of(config: FamiliesConfig, experiment: Experiment) -> Programs:
    """Return the compiled functions of a size."""
    surprisal = observable(experiment.apply_fn, token_surprisal)
    edges = log_shells(config.lowest, config.highest, ratio=config.ratio)

    @jax.jit
    def advance(state: Any, batch: Batch) -> tuple[Any, Array]:
        state, metrics = experiment.train_step(state, batch)
        return state, metrics["loss"]

    @jax.jit
    def shells(params: PyTree, batch: Batch) -> Shells:
        error = surprisal(params, batch)
        found = spectral_measure(surprisal, params, batch, error, num_matvecs=config.num_matvecs)
        nodes, weights = per_token(found, error.size)
        # Lanczos on the nodes, from the square roots of their weights, repeats its first steps.
        half = measure_at(
            lambda v: nodes * v, jnp.sqrt(weights), num_matvecs=config.num_matvecs // 2
        )
        return (
            shell_energies(nodes, weights, edges),
            shell_energies(half.nodes, half.weights * half.total, edges),
            2 * shell_energies(nodes, jnp.ones_like(nodes), edges),
            jnp.mean(error**2) / 2,
        )

    return Programs(advance, shells)


def run_unit(
    config: FamiliesConfig, experiment: Experiment, programs: Programs, index: int, run: int
) -> UnitResult:
    """Train one network and measure its shells at all checkpoints."""
    batches = list(measured_batches(config, experiment.dataset, run))
    rows: list[dict[str, Any]] = []
    energies, halves, reached = [], [], []
    for step, train_loss, params in trained(experiment, programs, config.checkpoints):
        by_batch = [programs.shells(params, batch) for batch in batches]
        whole, half, counts, squares = (np.stack(column) for column in zip(*by_batch, strict=True))
        energies.append(whole)
        halves.append(half)
        reached.append(counts)
        row = {"kind": "checkpoint", "size": config.names[index], "run": run, "step": step}
        row |= {"text": experiment.dataset.name, "train_loss": train_loss}
        rows.append(row | {"half_mean_square": float(np.mean(squares))})
    arrays = {"energies": energies, "half_energies": halves, "reached": reached}
    return UnitResult(rows, {name: np.stack(array) for name, array in arrays.items()})


def measured_batches(config: FamiliesConfig, dataset: Dataset, run: int) -> Iterator[Batch]:
    """Yield the held-out batches of a run."""
    size = config.measured_sequences
    first = run * config.num_batches
    for batch in range(first, first + config.num_batches):
        yield dataset.validation(np.arange(batch * size, (batch + 1) * size))


def trained(
    experiment: Experiment, programs: Programs, checkpoints: tuple[int, ...]
) -> Iterator[tuple[int, float, PyTree]]:
    """Yield step, training loss and parameters at every checkpoint."""
    state: Any = experiment.initial_state()
    loss: Any = jnp.nan
    for step in range(checkpoints[-1]):
        state, loss = programs.advance(state, experiment.batches.batch(step))
        if step + 1 in checkpoints:
            yield step + 1, float(loss), state.params


def per_token(
    found: SpectralMeasure, num_tokens: int
) -> tuple[Float[Array, " node"], Float[Array, " node"]]:
    """Return nodes and squared components as an expectation over tokens (section 2)."""
    return function_space_measure(found.nodes, found.weights * found.total, num_points=num_tokens)
