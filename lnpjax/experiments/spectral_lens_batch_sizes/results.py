"""What the figures and the claims of batch sizes read off the finished sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.comparison import (
    LayerCorrelations,
    correlation_over_layers,
    early_exponents,
    token_efficiency,
    tokens_to_target,
)
from lnpjax.experiments._harness.estimates import NUM_DRAWS, UNKNOWN, Uncertain
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens.reading import lowest_common_target, shares, summary_of
from lnpjax.experiments.spectral_lens.run_config import MLP_OUTPUT, OUTPUT
from lnpjax.runs import RunSummary

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_lens_batch_sizes.config import BatchSizeConfig

MATRICES = {
    "query": "/attention/query/kernel",
    "value": "/attention/value/kernel",
    "attention output": OUTPUT,
    "feed-forward output": MLP_OUTPUT,
}
EARLY = 0.2
"""Of the fewest tokens to the target in a family: where early exponents are read."""

Table = Float[np.ndarray, "sizes seeds"]


class Family(NamedTuple):
    """The runs of one variant.

    Attributes:
        tokens: to the target.
        early: tail exponent of the last layer's activations, early in training.
        tail: at the target.
        head: head exponent of them at the target.
        gradient: head exponent of the gradients of the last attention output at the target.
        matrices: logarithm of RankMe of the gradients of four matrices of the last layer there.
        late_advantage: by how much better the last layer predicts than early ones, by seed.
    """

    tokens: Table
    early: Table
    tail: Table
    head: Table
    gradient: Table
    matrices: Float[np.ndarray, "sizes matrices seeds"]
    late_advantage: Float[np.ndarray, " seeds"]


def target_of(config: BatchSizeConfig, sweep: Sweep, variants: Sequence[str]) -> float | None:
    """Return the lowest target that all runs of some variants met; None if there is none."""
    runs: list[dict[str, Any]] = [
        {"variant": variant, "batch_size": size, "seed": seed}
        for variant in variants
        for size in config.batch_sizes
        for seed in config.seeds
    ]
    return lowest_common_target(sweep, runs)


def runs_of(config: BatchSizeConfig, sweep: Sweep, variant: str, seed: int) -> list[RunSummary]:
    """Return the runs of one seed, by batch size."""
    return [
        summary_of(sweep, variant=variant, batch_size=size, seed=seed)
        for size in config.batch_sizes
    ]


def tokens_of(runs: Sequence[RunSummary], target: float) -> Float[np.ndarray, " sizes"]:
    """Return the tokens that each run took to the target."""
    return np.array(
        [tokens_to_target(run.validation_tokens, run.validation_losses, target) for run in runs]
    )


def layers_of(runs: Sequence[RunSummary], target: float) -> LayerCorrelations:
    """Return how well early exponents of each layer order the runs of a seed."""
    tokens = tokens_of(runs, target)
    return correlation_over_layers(runs, tokens, at_tokens=EARLY * float(np.nanmin(tokens)))


def family_of(config: BatchSizeConfig, sweep: Sweep, variant: str, target: float) -> Family:
    """Return all that the claims read of one variant, at a target loss.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        variant: the variant.
        target: that all of its runs met.
    """
    columns: dict[str, list[Any]] = {name: [] for name in Family._fields}
    for seed in config.seeds:
        runs = runs_of(config, sweep, variant, seed)
        tokens = tokens_of(runs, target)
        columns["tokens"].append(tokens)
        columns["early"].append(early_exponents(runs, EARLY * float(np.nanmin(tokens))))
        columns["late_advantage"].append(layers_of(runs, target).late_advantage)
        at = [_at_target(run, target) for run in runs]
        for name, kind, quantity in _AT_TARGET:
            columns[name].append([spectra.number(kind, quantity) for spectra in at])
        names = [config.deepest + part for part in MATRICES.values()]
        columns["matrices"].append(
            [
                [np.log(spectra.number("gradients", "rank_me", name)) for spectra in at]
                for name in names
            ]
        )
    return Family(**{name: np.array(kept, float).T for name, kept in columns.items()})


_AT_TARGET: tuple[tuple[str, Any, str], ...] = (
    ("tail", "activations", "alpha_tail"),
    ("head", "activations", "alpha_head"),
    ("gradient", "gradients", "alpha_head"),
)


def _at_target(run: RunSummary, target: float) -> Any:
    """Return the spectra at the first measured step that meets a target, which is that of it."""
    return next(spectra for spectra in run.spectra if spectra.loss <= target)


def spectrum_at(run: RunSummary, target: float, kind: Any) -> Float[np.ndarray, " k"]:
    """Return a spectrum where the target was met, as shares of its sum."""
    return shares(np.asarray(_at_target(run, target).eigenvalues(kind), float))


def inefficiency(family: Family) -> Table:
    """Return the tokens to the target over the fewest of the seed (*Spectral Lens*, eq. 5)."""
    return np.stack([token_efficiency(tokens) for tokens in family.tokens.T], axis=1)


def variance_ratio(tables: Sequence[Table]) -> Uncertain:
    """Return the variance between batch sizes over that among seeds.

    From mean squares of an analysis of variance, each pooled over the tables. Their ratio over that
    of the true variances, ``1 + seeds * ratio``, has Fisher's distribution, from which the draws
    come. Negative where batch sizes differ less than their seeds would make them.

    Args:
        tables: numbers by batch size and seed.

    Example:
        >>> table = np.array([[0.9, 1.1], [1.9, 2.1], [2.9, 3.1]])
        >>> round(variance_ratio([table]).value, 6)
        49.5
    """
    seeds = tables[0].shape[1]
    between = sum(len(table) - 1 for table in tables)
    within = sum(table.size - len(table) for table in tables)
    if not between or not within:
        return UNKNOWN
    means = [table.mean(axis=1, keepdims=True) for table in tables]
    above = sum(seeds * float(np.var(mean, ddof=1)) * (len(mean) - 1) for mean in means) / between
    squares = (np.sum((table - mean) ** 2) for table, mean in zip(tables, means, strict=True))
    below = float(sum(squares)) / within
    if not np.isfinite(above) or not below > 0:
        return UNKNOWN
    chance = np.random.default_rng(0).f(between, within, NUM_DRAWS)
    ratio = above / below
    return Uncertain((ratio - 1) / seeds, draws=(ratio / chance - 1) / seeds)
