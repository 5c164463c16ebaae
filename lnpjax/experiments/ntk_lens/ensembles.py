"""One ensemble of dense networks, trained and measured through the NTK (NTK Lens, sections 4, 5).

All members are one program: `jax.vmap` over initialisations and training sets. What is common to
scaling the model and scaling the data is here: the rule for the learning rate, the training, and
the measurements along it.

What the paper leaves open, and what is done here: pixels are scaled to [0, 1]; a network of L
layers has L layers with weights, the read-out among them, and biases; the trace and the effective
rank are those of the kernel of all outputs (the paper's appendix A), alignments those of the kernel
between samples, whose rows match the label matrix of equation 16; a misalignment is that between
one measurement and the next; Adam's second momentum is 0.999.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lnpjax.experiments._harness.estimates import lowest_point
from lnpjax.experiments._harness.sweep import UnitResult
from lnpjax.experiments.ntk_lens.options import EnsembleOptions, TrainingRule
from lnpjax.experiments.ntk_lens.training import (
    DenseEnsemble,
    Problem,
    Record,
    find_rate,
)
from lnpjax.kernel import adaptation_rate, expected_trace, trace_ratio
from lnpjax.runs import Row


class Trajectory(NamedTuple):
    """An ensemble's training; arrays lead with the member, records have one column per epoch."""

    record: Record
    ranks: np.ndarray
    alignments: np.ndarray
    misalignments: np.ndarray
    rank_at_minimum: np.ndarray
    alignment_at_minimum: np.ndarray


def train_ensemble(
    ensemble: DenseEnsemble,
    problem: Problem,
    keys: Key[Array, " members"],
    rate: float,
    options: EnsembleOptions,
) -> Trajectory:
    """Train an ensemble and measure it on the way, in parts where it is too large for one program.

    Args:
        ensemble: the architecture.
        problem: what each member learns.
        keys: of the initialisations.
        rate: Adam's.
        options: what is measured when.

    Returns:
        The `Trajectory` of all members.
    """
    together = max(1, options.parameters_together // ensemble.num_params)
    parts = []
    for first in range(0, len(keys), together):
        part = slice(first, first + together)
        spectra = max(0, min(together, options.dynamics_members - first))
        parts.append(_train(ensemble, problem.members(part), keys[part], rate, options, spectra))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _train(
    ensemble: DenseEnsemble,
    problem: Problem,
    keys: Key[Array, " members"],
    rate: float,
    options: EnsembleOptions,
    num_spectra: int,
) -> Trajectory:
    state = ensemble.start(keys)
    num_spectra = min(num_spectra, len(keys))
    directions, labels = ensemble.directions, ensemble.labels(problem)
    records, ranks, alignments, misalignments = [], [], [], []
    for point in range(len(options.rule.measured_epochs)):
        params = state.params
        state, record = ensemble.advance(state, problem, np.float32(rate))
        records.append(record)
        if point in options.dynamics:
            kernels = ensemble.sample_kernels(params, problem)
            alignments.append(directions.alignments(kernels, labels))
            after = ensemble.sample_kernels(state.params, problem)
            misalignments.append(directions.misalignments(kernels, after))
            if num_spectra > 0:
                ranks.append(ensemble.effective_ranks(params, problem, num_spectra))
    best = ensemble.sample_kernels(state.best, problem)
    return Trajectory(
        jax.tree.map(lambda *values: np.stack(values, axis=1), *records),
        np.stack(ranks, axis=1) if ranks else np.empty((0, len(alignments)), np.float32),
        np.stack(alignments, axis=1),
        np.stack(misalignments, axis=1),
        ensemble.effective_ranks(state.best, problem, len(keys)),
        directions.alignments(best, labels),
    )


def measure_ensemble(
    ensemble: DenseEnsemble,
    problem: Problem,
    options: EnsembleOptions,
    *,
    width: int,
    columns: Mapping[str, Any],
) -> UnitResult:
    """Find the rate of an ensemble, train it, and say what happened, in rows of four kinds.

    "member": where the test loss of each member was lowest; "curve": means at all measured epochs
    (of losses, geometric ones for training); "dynamics": means where spectra were taken;
    "ensemble": what belongs to all members, with `inside`, which says whether the minimum of their
    mean test loss fell between the epochs that the rule names.

    Args:
        ensemble: the architecture.
        problem: what each member learns.
        options: sizes and the rule.
        width: of the network, for the rule.
        columns: of every row, such as the name of the data.

    Returns:
        The rows, with the trajectories of single members as arrays.
    """
    rule, keys = options.rule, jax.random.split(jax.random.key(options.seed), options.members)
    rate, attempts = find_rate(ensemble, problem, keys, width, rule)
    found = train_ensemble(ensemble, problem, keys, rate, options)
    epochs, record = rule.measured_epochs, found.record
    lowest = np.array([lowest_point(losses) for losses in record.test_loss])
    members = np.arange(options.members)
    traces = record.trace[:, 0], record.trace[members, lowest]
    by_member = {
        "member": members,
        "best_epoch": epochs[lowest],
        "test_loss": record.test_loss[members, lowest],
        "test_accuracy": record.test_accuracy[members, lowest],
        "train_loss": record.train_loss[members, lowest],
        "trace_start": traces[0],
        "trace_at_minimum": traces[1],
        "trace_ratio": np.asarray(trace_ratio(traces[1], traces[0])),
        "rank_at_minimum": found.rank_at_minimum,
        "alignment_start": found.alignments[:, 0],
        "alignment_at_minimum": found.alignment_at_minimum,
    }
    curve = {
        "epoch": epochs,
        "train_loss": np.exp(np.mean(np.log(record.train_loss), axis=0)),
        "test_loss": np.mean(record.test_loss, axis=0),
        "test_accuracy": np.mean(record.test_accuracy, axis=0),
        "trace": np.mean(record.trace, axis=0),
    }
    curve["adaptation"] = _adaptation(curve["trace"], curve["train_loss"], rule)
    points = np.array(sorted(options.dynamics))
    dynamics = {
        "epoch": epochs[points],
        "train_loss": curve["train_loss"][points],
        "rank": np.mean(found.ranks, axis=0),
        "alignment": np.mean(found.alignments, axis=0),
        "misalignment": np.mean(found.misalignments, axis=0),
    }
    best = lowest_point(curve["test_loss"])
    shared = {
        "learning_rate": rate,
        "attempts": attempts,
        "best_epoch": int(epochs[best]),
        "inside": bool(rule.earliest <= epochs[best] <= rule.latest),
        "adaptation_at_minimum": float(_at(curve["adaptation"], best)),
        "trace_expected": float(
            expected_trace(ensemble.sizes, problem.test_inputs[: options.num_ntk])
        ),
        "num_params": ensemble.num_params,
    }
    rows: list[Row] = [{"kind": "ensemble", **columns, **shared}]
    for kind, table in (("member", by_member), ("curve", curve), ("dynamics", dynamics)):
        names, values = list(table), zip(*(array.tolist() for array in table.values()), strict=True)
        rows += [{"kind": kind, **columns, **dict(zip(names, row, strict=True))} for row in values]
    arrays = {
        "train_loss": record.train_loss,
        "test_loss": record.test_loss,
        "trace": record.trace,
        "ranks": found.ranks,
        "alignments": found.alignments,
        "misalignments": found.misalignments,
    }
    return UnitResult(rows, {name: np.asarray(array) for name, array in arrays.items()})


def _adaptation(
    traces: np.ndarray, losses: np.ndarray, rule: TrainingRule
) -> Float[np.ndarray, " points"]:
    """The adaptation rate at the middle of each running average; NaN where none fits."""
    rates = np.full(len(traces), np.nan, np.float32)
    if np.all(np.isfinite(traces) & np.isfinite(losses) & (losses > 0)):
        window = rule.window // rule.every
        found = np.asarray(adaptation_rate(jnp.asarray(traces), jnp.asarray(losses), window=window))
        first = (window - 1) // 2
        rates[first : first + len(found)] = found
    return rates


def _at(values: np.ndarray, point: int) -> float:
    """The value at a point, or the nearest that there is."""
    known = np.flatnonzero(np.isfinite(values))
    return float(values[known[np.argmin(np.abs(known - point))]]) if len(known) else np.nan
