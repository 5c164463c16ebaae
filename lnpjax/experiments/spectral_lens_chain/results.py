"""What the figures and the claims of the chain read off its finished sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lnpjax.comparison import tokens_to_target
from lnpjax.experiments._harness.estimates import Groups
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens.reading import curve_of, lowest_common_target, shares
from lnpjax.experiments.spectral_lens_chain.config import CHAIN, ChainConfig
from lnpjax.models import LSWA_ADAM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def before(variant: str) -> str:
    """Return the variant that another one changes.

    Example:
        >>> before("RoPE"), before("LSWA-Adam")
        ('Baseline', 'LSWA')
    """
    return "LSWA" if variant == LSWA_ADAM else CHAIN[CHAIN.index(variant) - 1]


def changes(config: ChainConfig) -> list[str]:
    """Return the variants that were trained as well as the one before them."""
    return [
        variant
        for variant in (*CHAIN[1:], LSWA_ADAM)
        if variant in config.variants and before(variant) in config.variants
    ]


def lowest_target(config: ChainConfig, sweep: Sweep, variants: Sequence[str]) -> float | None:
    """Return the lowest target that all runs of some variants met; None if there is none."""
    runs = [
        {"variant": variant, "seed": seed}
        for variant in variants
        for seed in config.seeds_of(variant)
    ]
    return lowest_common_target(sweep, runs)


def targets_of_changes(config: ChainConfig, sweep: Sweep) -> dict[str, float | None]:
    """Return the loss that each change is judged at, the lowest that all runs on both sides met."""
    return {
        variant: lowest_target(config, sweep, (before(variant), variant))
        for variant in changes(config)
    }


def common_target(config: ChainConfig, sweep: Sweep) -> float | None:
    """Return the lowest target that all runs met but those of the first variant."""
    return lowest_target(config, sweep, config.variants[1:])


def log_tokens(config: ChainConfig, sweep: Sweep, target: float) -> Groups:
    """Return the logarithm of the tokens to the target, of the variants whose runs all met it."""
    groups = {
        variant: np.log(
            [
                tokens_to_target(*curve_of(sweep, variant=variant, seed=seed), target)
                for seed in config.seeds_of(variant)
            ]
        )
        for variant in config.variants
    }
    return _known(groups)


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
    """Return a number of a spectrum where the target was met, of variants whose runs all met it.

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

    groups = {
        variant: np.array([number(variant, seed) for seed in config.seeds_of(variant)])
        for variant in config.variants
    }
    return _known(groups)


def _known(groups: Groups) -> Groups:
    return {name: values for name, values in groups.items() if np.all(np.isfinite(values))}


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
    measured = [(row, shares(stored[row["index"]])) for row in rows]
    return sorted(measured, key=lambda pair: (pair[0]["tokens"], pair[0]["index"]))


def step_weights(changes: Mapping[str, float]) -> dict[str, float]:
    """Return the weights of variants in a weighted sum of the changes that lead to some of them.

    Example:
        >>> step_weights({"RoPE": 0.5, "Muon": 0.5})
        {'Baseline': -0.5, 'RoPE': 0.0, 'Muon': 0.5}
    """
    weights: dict[str, float] = {}
    for name, weight in changes.items():
        for variant, signed in ((before(name), -weight), (name, weight)):
            weights[variant] = weights.get(variant, 0.0) + signed
    return weights
