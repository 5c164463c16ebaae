"""What the figures and the claims of the chain read off its finished sweep."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lnpjax.comparison import tokens_to_target
from lnpjax.experiments._harness.estimates import Groups
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens.reading import curve_of, lowest_common_target
from lnpjax.experiments.spectral_lens_chain.config import CHAIN, ChainConfig

if TYPE_CHECKING:
    from collections.abc import Sequence


def common_target(config: ChainConfig, sweep: Sweep) -> float | None:
    """Return the lowest target that all runs met; None if there is none."""
    runs = [
        {"variant": variant, "seed": seed}
        for variant in config.variants
        for seed in config.seeds_of(variant)
    ]
    return lowest_common_target(sweep, runs)


def log_tokens(config: ChainConfig, sweep: Sweep, target: float) -> Groups:
    """Return the logarithm of the tokens to the target, of every run."""
    return {
        variant: np.log(
            [
                tokens_to_target(*curve_of(sweep, variant=variant, seed=seed), target)
                for seed in config.seeds_of(variant)
            ]
        )
        for variant in config.variants
    }


def log_throughput(config: ChainConfig, sweep: Sweep) -> Groups:
    """Return the logarithm of the tokens per second of training, the median over a run."""
    tokens = config.tokens_per_step * config.steps_per_evaluation
    groups = {}
    for variant in config.variants:
        per_seed = []
        for seed in config.seeds_of(variant):
            rows = sweep.rows(kind="loss", variant=variant, seed=seed)
            per_seed.append(np.log(tokens / np.nanmedian([row["seconds"] for row in rows])))
        groups[variant] = np.array(per_seed)
    return groups


def at_target(
    config: ChainConfig, sweep: Sweep, target: float, *, of: str, part: str, quantity: str
) -> Groups:
    """Return a number of a spectrum where the target was met, of every run.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        target: the loss.
        of: "activations", "gradients" or "weights".
        part: what the name of the deepest layer or weight ends in.
        quantity: such as "alpha_head".
    """
    deepest = config.deepest + part

    def number(variant: str, seed: int) -> float:
        rows = sweep.rows(
            kind="spectra", variant=variant, seed=seed, target=target, of=of, name=deepest
        )
        return float(rows[0][quantity]) if rows else np.nan

    return {
        variant: np.array([number(variant, seed) for seed in config.seeds_of(variant)])
        for variant in config.variants
    }


def spectra_of(
    config: ChainConfig, sweep: Sweep, variant: str, *, of: str, part: str = ""
) -> list[tuple[dict[str, Any], Float[np.ndarray, " k"]]]:
    """Return what was measured in the first run of a variant, in the order of its tokens.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        variant: the variant.
        of: "activations", "gradients" or "weights".
        part: what the name of the deepest layer or weight ends in.

    Returns:
        The row of each measurement, and its eigenvalues as shares of their sum.
    """
    seed = config.seeds_of(variant)[0]
    name = config.deepest + part
    rows = sweep.rows(kind="spectra", variant=variant, seed=seed, of=of, name=name)
    if not rows:
        return []
    stored = sweep.arrays(rows[0]["unit"])[f"{of}/{name}"]
    measured = [(row, stored[row["index"]] / stored[row["index"]].sum()) for row in rows]
    return sorted(measured, key=lambda pair: (pair[0]["tokens"], pair[0]["index"]))


def step_weights(after: Sequence[str], signs: Sequence[float] | None = None) -> dict[str, float]:
    """Return the weights of the mean change that variants bring to the ones before them.

    Args:
        after: the variants that a change leads to, all of `CHAIN`.
        signs: of each change in the mean; all positive by default.

    Example:
        >>> step_weights(["RoPE", "Muon"])
        {'Baseline': -0.5, 'RoPE': 0.0, 'Muon': 0.5}
    """
    weights: dict[str, float] = {}
    signs = [1.0] * len(after) if signs is None else signs
    for name, sign in zip(after, signs, strict=True):
        before = CHAIN[CHAIN.index(name) - 1]
        for variant, weight in ((before, -1.0), (name, 1.0)):
            weights[variant] = weights.get(variant, 0.0) + sign * weight / len(after)
    return weights


def steps(config: ChainConfig) -> list[tuple[str, str]]:
    """Return the neighbours in the chain that were both trained."""
    return [
        (before, after)
        for before, after in itertools.pairwise(CHAIN)
        if before in config.variants and after in config.variants
    ]
