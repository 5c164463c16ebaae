"""Signal and noise in the updates of Muon and of Adam over the batch size (appendix D).

The appendix explains why spectra depend more on the batch size under Muon: small batches put noise
into the singular directions of the gradient, and a polar factor counts those as much as any other,
while Adam only rescales entries. Here all of that is measured, at parameters on the way of a short
training of LSWA by Muon and of LSWA by Adam. (Its Fig. 7, spectra of activations at equal loss, is
part of `batch-size-tiers`.)

What the paper leaves open, and what is done here. *Noise and signal*: at fixed parameters, the mean
of the update over batches is the signal, and the deviation of one batch's update from it the noise.
*Batches* are drawn with replacement from a pool of held-out sequences, whose mean gradient is
therefore the population's, exactly. *Updates* are those of one batch, without momentum, as in F.17,
which the appendix refers to; Adam's second moment is the one that it converges to at that batch
size, ``E[g_B^2]``. *Muon* is optax's, with five Newton-Schulz steps; the exact polar factor is
measured beside it. *Matrices* are those of Fig. 6: query, value and output of the last attention,
and the output of the last feed-forward. *Rates* are the paper's (B.3), of each optimizer its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_lens.training import ChainData, ChainTrainer, RunState
from lnpjax.experiments.spectral_lens_muon_adam.config import TRAINED_BY, MuonAdamConfig
from lnpjax.experiments.spectral_lens_muon_adam.updates import (
    RULES,
    draw_counts,
    expected_power,
    measure_updates,
    population_of,
)
from lnpjax.lens import attention_probes, per_sample_gradients
from lnpjax.pretraining.loss import cross_entropy

MICROBATCH = 64
SHOWN = "output"  # the matrix whose singular values are kept, the paper's first choice (C)
NUMBERS = ("alignment", "along", "distance", "rank")
Gradients = dict[str, Float[Array, "samples m n"]]


def measure(config: MuonAdamConfig, sweep: Sweep, data: Path | None) -> None:  # noqa: ARG001
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: not used: the text is Python's own sources.
    """
    text = ChainData(config)
    made = functools.lru_cache(maxsize=1)(lambda name: _Subject(config, text, TRAINED_BY[name]))
    for name in TRAINED_BY:
        for seed in config.seeds:
            unit = partial(_run, config, partial(made, name), name, seed)
            sweep.unit(f"updates-{name}-s{seed}", unit)


def num_units(config: MuonAdamConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_lens_muon_adam.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        10
    """
    return len(TRAINED_BY) * len(config.seeds)


class _Subject:
    """A variant that is trained, and the gradients of its sequences."""

    def __init__(self, config: MuonAdamConfig, text: ChainData, variant: str) -> None:
        self.config = config
        self.trainer = ChainTrainer(variant, config, text)
        self._gradients = jax.jit(self._of_sequences)

    def gradients(self, state: RunState, seed: int) -> Gradients:
        """The gradients of all sequences of a pool, for each of the four matrices."""
        rng = np.random.default_rng((seed, self.config.num_pool))
        rows = rng.choice(self.config.num_validation, self.config.num_pool, replace=False)
        parts = [
            self._gradients(state.params, self.trainer.held_out(part, state.step))
            for part in np.split(rows, range(MICROBATCH, len(rows), MICROBATCH))
        ]
        return {name: jnp.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _of_sequences(self, params: Any, batch: tuple[Any, Array]) -> Gradients:
        probes = attention_probes(params)
        found = per_sample_gradients(
            self.trainer.measured_fn, cross_entropy, params, batch, weights=list(probes.values())
        )
        return {probe: found[path] for probe, path in probes.items()}


def _run(
    config: MuonAdamConfig, made: Callable[[], _Subject], trained_by: str, seed: int
) -> UnitResult:
    """Train once, and measure the updates at every state."""
    subject = made()
    state = subject.trainer.initial_state(seed)
    rows: list[dict[str, Any]] = []
    spectra: dict[str, np.ndarray] = {}
    for step in config.states:
        state, _ = subject.trainer.advance(
            state, seed=seed, steps=step - state.step, factor=config.rate_factor
        )
        columns = {
            "trained_by": trained_by,
            "seed": seed,
            "step": step,
            "tokens": step * config.tokens_per_step,
            "loss": subject.trainer.validation_loss(state),
        }
        for matrix, gradients in subject.gradients(state, seed).items():
            found, values = _of_matrix(config, gradients, seed)
            rows += [{"kind": "update", **columns, "matrix": matrix, **row} for row in found]
            if step == config.states[-1] and matrix == SHOWN:
                spectra = values
    return UnitResult(rows, spectra)


def _of_matrix(
    config: MuonAdamConfig, gradients: Float[Array, "samples m n"], seed: int
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The rows of all rules and batch sizes; and singular values, of the two parts by size."""
    population = population_of(gradients)
    rows, spectra = [], {}
    for rule in RULES:
        values = []
        for size in config.batch_sizes:
            counts = draw_counts(len(gradients), size, config.num_draws, seed=(seed, size))
            sizes = jnp.array([size, config.batch_sizes[-1]], jnp.float32)
            found = jax.device_get(
                measure_updates(rule, population, jnp.asarray(counts, jnp.float32), sizes)
            )
            row = {
                "rule": rule,
                "batch_size": size,
                "signal": found.power.signal,
                "noise": found.power.noise,
                "largest_noise": found.noise_values[0],
                "largest_signal": found.signal_values[0],
                **{name: getattr(found, name) for name in NUMBERS},
            }
            if rule in ("gradient", "Adam"):
                exact = expected_power(rule, population, size)
                row |= {"exact_signal": float(exact.signal), "exact_noise": float(exact.noise)}
            rows.append({name: np.asarray(value).item() for name, value in row.items()})
            values.append(np.stack([found.signal_values, found.noise_values]))
        spectra[f"values/{rule}"] = np.stack(values).astype(np.float32)
    return rows, spectra
