"""What is read off a sweep of measured runs of nanoGPT: their losses, targets and spectra."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.runs import MeasuredSpectra, RunSummary


class Curve(NamedTuple):
    """The validation loss of one run.

    Attributes:
        tokens: that were trained on, from 0.
        losses: there; NaN where it is not finite.
    """

    tokens: Float[np.ndarray, " n"]
    losses: Float[np.ndarray, " n"]


def curve_of(sweep: Sweep, **run: Any) -> Curve:
    """Return how the validation loss of a run fell, which columns of its rows tell from others."""
    rows = sweep.rows(kind="loss", **run)
    tokens, losses = (np.array([row[name] for row in rows]) for name in ("tokens", "loss"))
    return Curve(tokens.astype(float), losses.astype(float))


def lowest_common_target(sweep: Sweep, runs: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the lowest target that all runs met; None if there is none."""
    met = [
        {row["target"] for row in sweep.rows(kind="spectra", **run) if not np.isnan(row["target"])}
        for run in runs
    ]
    shared = set.intersection(*met) if met else set()
    return min(shared, default=None)


def shares(values: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Return a spectrum as shares of its sum; one that is zero, as of outputs at zero, stays so.

    Example:
        >>> shares(np.array([3.0, 1.0])).tolist(), shares(np.zeros(2)).tolist()
        ([0.75, 0.25], [0.0, 0.0])
    """
    total = values.sum()
    return values / total if total > 0 else values


def summary_of(sweep: Sweep, **run: Any) -> RunSummary:
    """Return a run as `lnpjax.comparison` takes it, with all of its spectra in their order."""
    rows = sweep.rows(kind="spectra", **run)
    curve = curve_of(sweep, **run)
    seconds = [row["seconds"] for row in sweep.rows(kind="loss", **run)]
    tokens = np.diff(curve.tokens, prepend=np.nan)
    speed = float(np.nanmedian(tokens / np.array(seconds, float)))
    arrays = sweep.arrays(rows[0]["unit"]) if rows else {}
    measured = [
        _spectra(list(of_one), arrays)
        for _, of_one in itertools.groupby(
            sorted(rows, key=lambda row: (row["tokens"], row["index"])),
            key=lambda row: (row["tokens"], row["index"]),
        )
    ]
    # Two measurements of the same parameters, at a point and at a target, are one.
    distinct = {spectra.tokens: spectra for spectra in measured}
    return RunSummary(
        name=str(run),
        config=run,
        validation_tokens=curve.tokens,
        validation_losses=curve.losses,
        num_tokens=float(curve.tokens[-1]),
        tokens_per_second=speed,
        plain_tokens_per_second=speed,
        spectra=tuple(distinct.values()),
    )


def _spectra(rows: list[dict[str, Any]], arrays: Mapping[str, np.ndarray]) -> MeasuredSpectra:
    first = rows[0]
    summaries: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        numbers = {name: value for name, value in row.items() if name not in _PLACE}
        summaries.setdefault(row["of"], {})[row["name"]] = numbers
    return MeasuredSpectra(
        step=first["step"],
        tokens=float(first["tokens"]),
        loss=first["loss"],
        summaries=summaries,
        arrays={name: stored[first["index"]] for name, stored in arrays.items()},
    )


_PLACE = {"kind", "unit", "of", "name", "step", "tokens", "loss", "target", "index"}
