"""Whether an early tail exponent ranks runs as their later cost does: when, and in which layer.

*Spectral Lens*, section 3 and E.
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
    """Return a number of each run's spectra after a fixed number of tokens.

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

    Example:
        >>> from lnpjax.runs import MeasuredSpectra
        >>> def spectra_at(tokens, alpha):
        ...     summaries = {"activations": {"layers/0": {"alpha_tail": alpha}}}
        ...     return MeasuredSpectra(0, tokens, 3.0, summaries, {})
        >>> spectra = (spectra_at(100.0, 1.0), spectra_at(10_000.0, 1.4))
        >>> run = RunSummary("small", {}, np.zeros(0), np.zeros(0), 1e4, 9e4, 9e4, spectra)
        >>> early_exponents([run], 1000.0)
        array([1.2])
    """
    curves = ((run.spectra_tokens(), run.series(kind, quantity, name)) for run in runs)
    return np.array([_between(measured_at, values, tokens) for measured_at, values in curves])


def _between(measured_at: np.ndarray, values: np.ndarray, tokens: float) -> float:
    usable = np.isfinite(values) & (measured_at > 0)
    if not np.any(usable) or not tokens > 0:
        return math.nan
    logarithms = np.log(measured_at[usable])
    outside = {"left": math.nan, "right": math.nan}
    return float(np.interp(math.log(tokens), logarithms, values[usable], **outside))


class CorrelationCurves(NamedTuple):
    """How well exponents order runs, by window of ranks and by how far training has come.

    Attributes:
        fractions: `(fraction,)`, of the way to the target.
        windows: `(first, last)` ranks.
        correlations: `[window][fraction]`.

    Example:
        >>> rank = spearman(np.arange(3.0), np.arange(3.0))
        >>> curves = CorrelationCurves(np.array([0.2]), ((10, 40),), ((rank,),))
        >>> curves.correlations[0][0].num_runs
        3
    """

    fractions: Float[np.ndarray, " fraction"]
    windows: tuple[tuple[int, int], ...]
    correlations: tuple[tuple[RankCorrelation, ...], ...]


def fit_windows(dimension: int) -> tuple[tuple[int, int], ...]:
    """Return the three windows of *Spectral Lens*, figure 8, scaled to narrower spectra.

    Each has three ranks at least, and begins where the one before ends. The paper's networks are
    768 wide. Its text (E.1) gives the deepest window as 100-200, its
    figure and caption as 90-200.

    Args:
        dimension: number of eigenvalues.

    Returns:
        ``(first, last)`` ranks of three windows.

    Example:
        >>> fit_windows(128), fit_windows(16)
        (((2, 7), (7, 15), (15, 33)), ((1, 3), (3, 5), (5, 7)))
    """
    if dimension >= PAPER_FIT_WINDOWS[-1][1]:
        return PAPER_FIT_WINDOWS
    scaled: list[tuple[int, int]] = []
    for window in PAPER_FIT_WINDOWS:
        first, last = (max(round(rank * dimension / _PAPER_WIDTH), 1) for rank in window)
        first = max(first, scaled[-1][1]) if scaled else first
        last = max(last, first + 2)
        if last > dimension and scaled:
            break  # narrow spectra have fewer than three
        scaled.append((first, min(last, dimension)))
    return tuple(scaled)


def correlation_over_fraction(
    runs: Sequence[RunSummary],
    tokens: Float[np.ndarray, " run"],
    *,
    fractions: Sequence[float] = tuple(np.linspace(0.05, 1, 20)),
    windows: Sequence[tuple[int, int]] | None = None,
    layer: str | None = None,
    progress: Progress = "common",
) -> CorrelationCurves:
    """Return when, and in which window of ranks, the tail exponent orders a family.

    As in *Spectral Lens*, figure 8, from new fits to the stored activation spectra. The paper plots
    progress in percent of training. If each run stops at the target, that is a percentage of the
    very number to be predicted: of runs whose exponents all follow the same curve over tokens, the
    longer ones are read later on it, and the order is perfect although the spectra say nothing. By
    default, progress is therefore common: the same tokens in every run.

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

    Example:
        >>> from lnpjax.runs import MeasuredSpectra
        >>> ranks = np.arange(1.0, 101.0)
        >>> def run_of(alpha):
        ...     arrays, none = {"activations/layers/0": ranks**-alpha}, np.zeros(0)
        ...     summaries = {"activations": {"layers/0": {}}}
        ...     spectra = (MeasuredSpectra(0, t, 3.0, summaries, arrays) for t in (1e2, 1e5))
        ...     return RunSummary("", {}, none, none, 1e5, 9e4, 9e4, tuple(spectra))
        >>> runs = [run_of(alpha) for alpha in (1.0, 1.2, 1.4)]
        >>> curves = correlation_over_fraction(runs, np.array([1e4, 2e4, 3e4]), fractions=[0.2])
        >>> [round(correlations[0].rho, 6) for correlations in curves.correlations]
        [1.0, 1.0, 1.0]
    """
    choices = get_args(Progress)
    require(progress in choices, "progress", expected=f"one of {choices}", got=repr(progress))
    tokens = np.asarray(tokens, np.float64)
    expected = f"one number for each of {len(runs)} runs"
    require(tokens.shape == (len(runs),), "tokens", expected=expected, got=tokens.shape)
    stored = [_stored_spectra(run, layer) for run in runs]
    spectra = [eigenvalues for of_run in stored for _, eigenvalues in of_run]
    points = np.asarray(fractions, np.float64)
    if not spectra:
        return CorrelationCurves(points, tuple(windows or ()), ())
    windows = tuple(fit_windows(len(spectra[0])) if windows is None else windows)
    fitted = iter(jax.vmap(lambda values: power_law(values, windows))(jnp.stack(spectra)).exponent)
    curves = [
        (
            np.array([measured_at for measured_at, _ in of_run]),
            np.array([next(fitted) for _ in of_run]).reshape(-1, len(windows)),
        )
        for of_run in stored
    ]
    fewest = np.min(tokens, initial=math.inf, where=np.isfinite(tokens))
    ends = tokens if progress == "own" else np.where(np.isfinite(tokens), fewest, math.nan)

    def correlation(window: int, fraction: float) -> RankCorrelation:
        exponents = [
            _between(measured_at, values[:, window], fraction * end)
            for (measured_at, values), end in zip(curves, ends, strict=True)
        ]
        return spearman(np.array(exponents), tokens)

    correlations = tuple(
        tuple(correlation(window, fraction) for fraction in points)
        for window in range(len(windows))
    )
    return CorrelationCurves(points, windows, correlations)


def _stored_spectra(run: RunSummary, layer: str | None) -> list[tuple[float, np.ndarray]]:
    """Return the tokens and the activation spectrum of each measured step that has one."""
    spectra = ((step.tokens, step.eigenvalues("activations", layer)) for step in run.spectra)
    return [(tokens, values) for tokens, values in spectra if values is not None]


class LayerCorrelations(NamedTuple):
    """How well the early tail exponent of each layer orders runs.

    Attributes:
        layers: that all runs measured, the deepest last.
        correlations: one per layer.
        late_advantage: rho of the deepest layer minus the mean of the two earliest (panel b); NaN
            with fewer than three layers.

    Example:
        >>> rank = spearman(np.arange(3.0), np.arange(3.0))
        >>> LayerCorrelations(("layers/0",), (rank,), math.nan).correlations[0].num_runs
        3
    """

    layers: tuple[str, ...]
    correlations: tuple[RankCorrelation, ...]
    late_advantage: float


def correlation_over_layers(
    runs: Sequence[RunSummary], tokens: Float[np.ndarray, " run"], *, at_tokens: float
) -> LayerCorrelations:
    """Return how each layer's early tail exponent orders a family.

    As in *Spectral Lens*, figure 10 and E.3.

    Args:
        runs: of one family.
        tokens: to the target, `(run,)`.
        at_tokens: where the exponents are read, in every run.

    Returns:
        The correlations, and ``rho(last) - (rho(first) + rho(second)) / 2``.

    Example:
        >>> from lnpjax.runs import MeasuredSpectra
        >>> def run_of(alpha):
        ...     summaries = {"activations": {"layers/0": {"alpha_tail": alpha}}}
        ...     spectra = (MeasuredSpectra(0, t, 3.0, summaries, {}) for t in (1e2, 1e5))
        ...     none = np.zeros(0)
        ...     return RunSummary("", {}, none, none, 1e5, 9e4, 9e4, tuple(spectra))
        >>> runs = [run_of(alpha) for alpha in (1.0, 1.2, 1.4)]
        >>> by_layer = correlation_over_layers(runs, np.array([3e4, 2e4, 1e4]), at_tokens=1e3)
        >>> by_layer.layers, round(by_layer.correlations[0].rho, 6)
        (('layers/0',), -1.0)
    """
    measured = [step.names("activations") for run in runs for step in run.spectra[:1]]
    layers = tuple(
        name
        for name in (measured[0] if measured else ())
        if all(name in names for names in measured)
    )
    correlations = tuple(
        spearman(early_exponents(runs, at_tokens, name=layer), tokens) for layer in layers
    )
    rho = [correlation.rho for correlation in correlations]
    advantage = rho[-1] - (rho[0] + rho[1]) / 2 if len(rho) > 2 else math.nan
    return LayerCorrelations(layers, correlations, advantage)
