"""Whether an early tail exponent ranks runs as their later cost does: when, and in which layer.

Spectral Lens, section 3 and appendix E.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.comparison._rank import RankCorrelation, spearman
from lnpjax.runs import Kind, RunSummary
from lnpjax.spectra import power_law

Progress: TypeAlias = Literal["common", "own"]
PAPER_FIT_WINDOWS = ((10, 40), (40, 90), (90, 200))  # Spectral Lens, figure 8
_PAPER_WIDTH = 768


def early_exponents(
    runs: Sequence[RunSummary],
    tokens: float,
    *,
    quantity: str = "alpha_tail",
    kind: Kind = "activations",
    name: str | None = None,
) -> Float[np.ndarray, " run"]:
    """A number of each run's spectra after a fixed number of tokens.

    Runs of different batch sizes are measured at different tokens; between two measured steps the
    number is interpolated, linearly in the logarithm of tokens, so that a common drift does not
    pass for a difference between runs.

    Args:
        runs: the runs.
        tokens: where to read it.
        quantity: which number of the summaries.
        kind: of which spectra.
        name: of which layer or weight; the deepest by default.

    Returns:
        `(run,)`; NaN where the run was not measured on both sides.
    """
    found = ((run.spectra_tokens(), run.series(kind, quantity, name)) for run in runs)
    return np.array([_between(measured_at, values, tokens) for measured_at, values in found])


def _between(measured_at: np.ndarray, values: np.ndarray, tokens: float) -> float:
    known = np.isfinite(values) & (measured_at > 0)
    if not np.any(known) or not tokens > 0:
        return math.nan
    logarithms = np.log(measured_at[known])
    outside = {"left": math.nan, "right": math.nan}
    return float(np.interp(math.log(tokens), logarithms, values[known], **outside))


class CorrelationCurves(NamedTuple):
    """How well exponents order runs, by window of ranks and by how far training has come.

    Attributes:
        fractions: `(fraction,)`, of the way to the target.
        windows: `(first, last)` ranks.
        correlations: `[window][fraction]`.
    """

    fractions: Float[np.ndarray, " fraction"]
    windows: tuple[tuple[int, int], ...]
    correlations: tuple[tuple[RankCorrelation, ...], ...]


def fit_windows(dimension: int) -> tuple[tuple[int, int], ...]:
    """The three windows of Spectral Lens, figure 8, or what is to `dimension` as they are to 768.

    (The paper's text, E.1, gives the deepest as 100-200, its figure and caption as 90-200.)

    Args:
        dimension: number of eigenvalues.

    Returns:
        ``(first, last)`` ranks of three windows.

    Example:
        >>> fit_windows(768), fit_windows(128)
        (((10, 40), (40, 90), (90, 200)), ((2, 7), (7, 15), (15, 33)))
    """
    if dimension >= PAPER_FIT_WINDOWS[-1][1]:
        return PAPER_FIT_WINDOWS
    scaled = []
    for window in PAPER_FIT_WINDOWS:
        first, last = (max(round(rank * dimension / _PAPER_WIDTH), 1) for rank in window)
        scaled.append((first, min(max(last, first + 2), dimension)))
    return tuple(dict.fromkeys(scaled))  # narrow spectra have fewer than three


def correlation_over_fraction(
    runs: Sequence[RunSummary],
    tokens: Float[np.ndarray, " run"],
    *,
    fractions: Sequence[float] = tuple(np.linspace(0.05, 1, 20)),
    windows: Sequence[tuple[int, int]] | None = None,
    layer: str | None = None,
    progress: Progress = "common",
) -> CorrelationCurves:
    """When, and in which window of ranks, the tail exponent orders a family.

    Spectral Lens, figure 8. The exponents are fitted anew to the stored activation spectra. The
    paper plots progress in percent of training. Where each run stops at the target, that is a
    percentage of the very number that is to be predicted: of runs whose exponents all follow one
    and the same curve over tokens, the longer ones are read later on it, and the order is perfect
    although the spectra know nothing. So by default, progress is common: the same tokens in every
    run.

    Args:
        runs: of one family.
        tokens: to the target, `(run,)`; NaN where it was not reached.
        fractions: of the way.
        windows: of ranks; by default `fit_windows`.
        layer: whose activations; the deepest by default.
        progress: "common": of the fewest tokens to the target in the family; "own" (the paper's
            percent of training): of each run's own.

    Returns:
        The curves; NaN where a run was not measured on both sides, or with too few runs.

    Raises:
        ValueError: if there is no such progress, `tokens` does not match, or a window is not within
            the spectra.
    """
    known = get_args(Progress)
    require(progress in known, "progress", expected=f"one of {known}", got=repr(progress))
    tokens = np.asarray(tokens, np.float64)
    expected = f"one number for each of {len(runs)} runs"
    require(tokens.shape == (len(runs),), "tokens", expected=expected, got=tokens.shape)
    measured = [
        [
            (s.tokens, v)
            for s in run.spectra
            if (v := s.eigenvalues("activations", layer)) is not None
        ]
        for run in runs
    ]
    spectra = [eigenvalues for run in measured for _, eigenvalues in run]
    points = np.asarray(fractions, np.float64)
    if not spectra:
        return CorrelationCurves(points, tuple(windows or ()), ())
    windows = tuple(fit_windows(len(spectra[0])) if windows is None else windows)
    fitted = iter(jax.vmap(lambda values: power_law(values, windows))(jnp.stack(spectra)).exponent)
    exponents = [
        np.array([next(fitted) for _ in run]).reshape(-1, len(windows)) for run in measured
    ]
    fewest = np.min(tokens, initial=math.inf, where=np.isfinite(tokens))
    ends = tokens if progress == "own" else np.where(np.isfinite(tokens), fewest, math.nan)
    return CorrelationCurves(
        points,
        windows,
        tuple(
            tuple(
                spearman(
                    np.array(
                        [
                            _between(
                                np.array([t for t, _ in run]), found[:, window], fraction * end
                            )
                            for run, found, end in zip(measured, exponents, ends, strict=True)
                        ]
                    ),
                    tokens,
                )
                for fraction in points
            )
            for window in range(len(windows))
        ),
    )


class LayerCorrelations(NamedTuple):
    """How well the early tail exponent of each layer orders runs.

    Attributes:
        layers: that all runs measured, the deepest last.
        correlations: one per layer.
        late_advantage: rho of the deepest layer over the mean of the two earliest (panel b); NaN
            with fewer than three layers.
    """

    layers: tuple[str, ...]
    correlations: tuple[RankCorrelation, ...]
    late_advantage: float


def correlation_over_layers(
    runs: Sequence[RunSummary], tokens: Float[np.ndarray, " run"], *, at_tokens: float
) -> LayerCorrelations:
    """Which layer's early tail exponent orders a family (Spectral Lens, figure 10 and E.3).

    Args:
        runs: of one family.
        tokens: to the target, `(run,)`.
        at_tokens: where the exponents are read, in every run.

    Returns:
        The correlations, and ``rho(last) - (rho(first) + rho(second)) / 2``.
    """
    shared = [s.names("activations") for run in runs for s in run.spectra[:1]]
    layers = tuple(name for name in (shared[0] if shared else ()) if all(name in s for s in shared))
    correlations = tuple(
        spearman(early_exponents(runs, at_tokens, name=layer), tokens) for layer in layers
    )
    rho = [found.rho for found in correlations]
    advantage = rho[-1] - (rho[0] + rho[1]) / 2 if len(rho) > 2 else math.nan
    return LayerCorrelations(layers, correlations, advantage)
